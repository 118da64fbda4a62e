//! What a seed means: the cluster, its weather and its clients. Swarm testing: each seed leaves
//! some faults out and overdoes others, so that runs differ in kind and not in luck alone.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use system::protocol::{CommitMode, Rule, Rules, Timing};

use crate::{generator::Mix, schedule::ScheduleSetup};

/// A run, before it begins. All times in nanoseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The seed that means this.
    pub seed: u64,
    /// The cluster.
    pub setup: ScheduleSetup,
    /// Clients that ask side by side.
    pub clients: u32,
    /// Keys that they share.
    pub keys: u32,
    /// What they ask, by weight: get, put, del.
    pub mix: (u32, u32, u32),
    /// A client thinks for up to this long between an answer and its next question.
    pub think: u64,
    /// A client gives an operation up after this.
    pub patience: u64,
    /// For so long clients ask and faults strike.
    pub load: u64,
    /// The least and the greatest time that a message takes.
    pub delay: (u64, u64),
    /// The least and the greatest time that a force takes.
    pub disk: (u64, u64),
    /// At this node, 0 the master, it takes ten times as long.
    pub slow_disk: Option<u8>,
    /// Of a thousand messages so many are lost.
    pub loss: u32,
    /// Of a thousand messages so many arrive twice.
    pub repeats: u32,
    /// Of a thousand messages so many are held for up to four seconds, past most restarts.
    pub held: u32,
    /// The mean time between two faults of a kind; none leaves the kind out.
    pub faults: Vec<(Fault, u64)>,
    /// Of ten thousand steps on which something rests (a record, a vote, a decision) so many end in
    /// a crash, before all that was to be said has been said.
    pub points: u32,
    /// Of a thousand messages under way from or to a process that crashes so many are lost.
    pub torn: u32,
    /// Of a thousand starts so many end in a loss of power within moments.
    pub relapses: u32,
    /// A crashed process starts again within this.
    pub downtime: u64,
    /// Of a thousand calls whose client has given up so many are performed all the same.
    pub late: u32,
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The master is killed.
    KillMaster,
    /// A replica is killed.
    KillReplica,
    /// The master loses power.
    PowerMaster,
    /// A replica loses power.
    PowerReplica,
    /// The master stands still for a while.
    PauseMaster,
    /// A replica stands still for a while.
    PauseReplica,
    /// Messages from one node to another are lost for a while, one way.
    Partition,
    /// A replica comes back with an empty store.
    Wipe,
    /// A second master starts on the store of one that stands still.
    SecondInstance,
}

const MS: u64 = 1_000_000;

impl Plan {
    /// What the seed means for a system that commits in this mode and keeps these rules.
    #[must_use]
    pub fn of(seed: u64, commit: CommitMode, rules: Rules) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut pick = |list: &[u64]| list[rng.random_range(0..list.len())];
        let ms = |n| Duration::from_millis(n);
        let timing = Timing {
            vote_timeout: ms(pick(&[30, 100, 300, 1000])),
            retransmit: ms(pick(&[10, 50, 250])),
            inquiry_timeout: ms(pick(&[10, 50, 200, 500])),
            peer_inquiry_after: pick(&[0, 1, 3]) as u8,
            read_wait: ms(pick(&[5, 50, 200])),
            read_slack: ms(pick(&[20, 100])),
            heartbeat_interval: ms(pick(&[25, 100, 250])),
            watermark_batch: pick(&[1, 2, 16, 256]) as u32,
            ..Timing::default()
        };
        let setup = ScheduleSetup {
            replicas: pick(&[2, 3, 3, 3, 4, 5]) as u8,
            commit,
            rules,
            timing,
            peers: pick(&[0, 1, 1]) == 1,
            settled: false,
            bare: false,
        };
        let quiet = pick(&[0, 0, 0, 1]) == 1;
        let mut faults = Vec::new();
        for fault in [
            Fault::KillMaster,
            Fault::KillReplica,
            Fault::PowerMaster,
            Fault::PowerReplica,
            Fault::PauseMaster,
            Fault::PauseReplica,
            Fault::Partition,
        ] {
            let mean = pick(&[0, 0, 50, 200, 1000, 3000]);
            if mean > 0 && !quiet {
                faults.push((fault, mean * MS));
            }
        }
        // A system that keeps these rules refuses to run at all with such a fault.
        for (fault, rule) in
            [(Fault::Wipe, Rule::EmptyStoreRefused), (Fault::SecondInstance, Rule::ExclusiveStore)]
        {
            if !rules.keep(rule) {
                faults.push((fault, pick(&[300, 1000]) * MS));
            }
        }
        let delay = pick(&[MS / 20, MS / 2, 2 * MS]);
        let disk = pick(&[MS / 20, MS, 4 * MS]);
        let rough = |list: &[u64], pick: &mut dyn FnMut(&[u64]) -> u64| {
            if quiet { 0 } else { pick(list) as u32 }
        };
        let mut plan = Plan {
            seed,
            setup,
            clients: pick(&[1, 2, 4, 8, 16]) as u32,
            keys: pick(&[1, 1, 2, 4, 16]) as u32,
            mix: [(50, 40, 10), (20, 60, 20), (10, 90, 0), (80, 15, 5)]
                [pick(&[0, 1, 2, 3]) as usize],
            think: pick(&[MS / 10, 2 * MS, 20 * MS]),
            patience: pick(&[200, 1000, 3000]) * MS,
            load: pick(&[1000, 2000, 4000]) * MS,
            delay: (delay / 4, delay * pick(&[1, 2, 20])),
            disk: (disk / 4, disk * pick(&[1, 4])),
            loss: rough(&[0, 0, 5, 30, 150], &mut pick),
            repeats: rough(&[0, 0, 10, 100], &mut pick),
            held: rough(&[0, 0, 3, 20], &mut pick),
            faults,
            points: rough(&[0, 0, 10, 50, 200], &mut pick),
            torn: rough(&[0, 500, 1000], &mut pick),
            relapses: rough(&[0, 0, 100, 500], &mut pick),
            downtime: pick(&[2, 50, 1000]) * MS,
            late: pick(&[0, 500, 1000]) as u32,
            slow_disk: [None, None, Some(0), Some(0), Some(1)][pick(&[0, 1, 2, 3, 4]) as usize],
        };
        // Where the votes decide, replicas can settle a transaction among themselves. That is worth
        // most where they do so while the master still works on it, or the next one begins.
        if commit == CommitMode::Votes && !quiet && pick(&[0, 0, 1]) == 1 {
            plan.hurry(&mut pick);
        }
        plan
    }

    /// Replicas turn to each other sooner than messages arrive, and masters follow on each other.
    fn hurry(&mut self, pick: &mut impl FnMut(&[u64]) -> u64) {
        self.setup.replicas = pick(&[2, 2, 3]) as u8;
        self.setup.peers = true;
        self.setup.timing.peer_inquiry_after = 0;
        self.setup.timing.inquiry_timeout = Duration::from_millis(pick(&[2, 5, 20]));
        self.setup.timing.vote_timeout = Duration::from_millis(pick(&[10, 30, 100]));
        self.setup.timing.heartbeat_interval = Duration::from_millis(250);
        self.clients = pick(&[1, 2, 16]) as u32;
        self.delay = (MS / 20, pick(&[4, 20]) * MS);
        self.disk = (MS / 50, pick(&[1, 4]) * MS / 2);
        self.torn = 0;
        self.downtime = pick(&[2, 10]) * MS;
        let often = [Fault::KillMaster, Fault::PowerMaster, Fault::PowerReplica];
        self.faults.retain(|(fault, _)| !often.contains(fault));
        self.faults.extend(often.map(|fault| (fault, pick(&[20, 50, 200]) * MS)));
    }

    /// What clients ask, by weight.
    #[must_use]
    pub fn weights(&self) -> Mix {
        let (get, put, del) = self.mix;
        Mix { get, put, del }
    }
}
