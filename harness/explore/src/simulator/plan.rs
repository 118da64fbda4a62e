//! What a seed means: the cluster, the clients and the chaos profile. Swarm testing: each seed leaves
//! some faults out and has others more often, so that runs differ in kind and not only in luck.

use std::time::Duration;

use protocol::{CommitMode, Rule, Rules, Timing};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::schedule::ScheduleSetup;

/// The configuration of a run. All times are in nanoseconds of virtual time.
#[derive(Clone, Debug, Serialize)]
pub struct SimulationPlan {
    /// The seed that this plan was derived from.
    pub seed: u64,
    /// The cluster.
    pub setup: ScheduleSetup,
    /// The number of concurrent clients.
    pub clients: u32,
    /// The number of keys, shared by the clients.
    pub keys: u32,
    /// The weights of the clients' operations: get, put, del.
    pub mix: (u32, u32, u32),
    /// The longest think time of a client between a reply and its next request.
    pub think_time_max: u64,
    /// After this time a client gives up waiting for a reply.
    pub client_timeout: u64,
    /// How long clients send requests and faults are injected.
    pub load_time: u64,
    /// The range of message delays.
    pub message_delay: (u64, u64),
    /// The range of the time that a force takes.
    pub force_time: (u64, u64),
    /// The node whose forces take ten times as long; 0 is the master.
    pub slow_disk: Option<u8>,
    /// Messages lost, per thousand.
    pub loss: u32,
    /// Messages delivered twice, per thousand.
    pub duplication: u32,
    /// Messages held back for up to four seconds, past most restarts, per thousand.
    pub long_delays: u32,
    /// The mean time between two faults of a kind. Kinds that are missing do not happen.
    pub faults: Vec<(Fault, u64)>,
    /// Critical steps (with a record, a vote or a decision) in which the process crashes, per ten
    /// thousand.
    pub mid_step_crashes: u32,
    /// Messages lost that are in flight from or to a process when it crashes, per thousand.
    pub lost_with_connection: u32,
    /// Starts that a loss of power follows within moments, per thousand.
    pub early_power_losses: u32,
    /// The longest time until a crashed process restarts.
    pub downtime_max: u64,
    /// Calls performed although the client has given up, per thousand.
    pub late_calls: u32,
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
    /// The master is paused.
    PauseMaster,
    /// A replica is paused.
    PauseReplica,
    /// Messages from one node to another are lost for a while, one way.
    Partition,
    /// A replica comes back with an empty store.
    Wipe,
    /// A second master starts on the store of a paused one.
    SecondInstance,
    /// An entry rots on a replica's disk.
    Damage,
}

const MS: u64 = 1_000_000;

impl SimulationPlan {
    /// The plan of a seed, for a system with this commit mode and these rules.
    ///
    /// The order of the draws is part of the meaning of a seed: a draw that is added, removed or moved
    /// changes every run.
    #[must_use]
    pub fn of(seed: u64, commit: CommitMode, rules: Rules) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut pick = |list: &[u64]| list[rng.random_range(0..list.len())];
        let setup = draw_setup(commit, rules, &mut pick);
        let quiet = pick(&[0, 0, 0, 1]) == 1;
        let faults = draw_faults(rules, quiet, &mut pick);
        let delay = pick(&[MS / 20, MS / 2, 2 * MS]);
        let force = pick(&[MS / 20, MS, 4 * MS]);
        let unless_quiet = |list: &[u64], pick: &mut dyn FnMut(&[u64]) -> u64| {
            if quiet { 0 } else { pick(list) as u32 }
        };
        let mut plan = SimulationPlan {
            seed,
            setup,
            clients: pick(&[1, 2, 4, 8, 16]) as u32,
            keys: pick(&[1, 1, 2, 4, 16]) as u32,
            mix: [(50, 40, 10), (20, 60, 20), (10, 90, 0), (80, 15, 5)]
                [pick(&[0, 1, 2, 3]) as usize],
            think_time_max: pick(&[MS / 10, 2 * MS, 20 * MS]),
            client_timeout: pick(&[200, 1000, 3000]) * MS,
            load_time: pick(&[1000, 2000, 4000]) * MS,
            message_delay: (delay / 4, delay * pick(&[1, 2, 20])),
            force_time: (force / 4, force * pick(&[1, 4])),
            loss: unless_quiet(&[0, 0, 5, 30, 150], &mut pick),
            duplication: unless_quiet(&[0, 0, 10, 100], &mut pick),
            long_delays: unless_quiet(&[0, 0, 3, 20], &mut pick),
            faults,
            mid_step_crashes: unless_quiet(&[0, 0, 10, 50, 200], &mut pick),
            lost_with_connection: unless_quiet(&[0, 500, 1000], &mut pick),
            early_power_losses: unless_quiet(&[0, 0, 100, 500], &mut pick),
            downtime_max: pick(&[2, 50, 1000]) * MS,
            late_calls: pick(&[0, 500, 1000]) as u32,
            slow_disk: [None, None, Some(0), Some(0), Some(1)][pick(&[0, 1, 2, 3, 4]) as usize],
        };
        // Where the votes decide, replicas can settle a transaction among themselves. The
        // interesting cases are those in which the master is still working on it, or the next
        // master starts.
        if commit == CommitMode::Votes && !quiet && pick(&[0, 0, 1]) == 1 {
            plan.stress_cooperative_termination(&mut pick);
        }
        // Seldom, so that the other faults are met as often as without it.
        let damage = pick(&[0, 0, 0, 0, 0, 0, 20, 100]);
        if damage > 0 && !quiet {
            plan.faults.push((Fault::Damage, damage * MS));
            plan.setup.scrub_interval = Duration::from_millis(pick(&[0, 2, 10]));
        }
        plan
    }

    /// Makes replicas inquire of each other sooner than messages arrive, and masters restart often.
    fn stress_cooperative_termination(&mut self, pick: &mut impl FnMut(&[u64]) -> u64) {
        self.setup.replicas = pick(&[2, 2, 3]) as u8;
        self.setup.peers = true;
        self.setup.timing.peer_inquiry_after = 0;
        self.setup.timing.inquiry_timeout = Duration::from_millis(pick(&[2, 5, 20]));
        self.setup.timing.vote_timeout = Duration::from_millis(pick(&[10, 30, 100]));
        self.setup.timing.heartbeat_interval = Duration::from_millis(250);
        self.clients = pick(&[1, 2, 16]) as u32;
        self.message_delay = (MS / 20, pick(&[4, 20]) * MS);
        self.force_time = (MS / 50, pick(&[1, 4]) * MS / 2);
        self.lost_with_connection = 0;
        self.downtime_max = pick(&[2, 10]) * MS;
        let frequent = [Fault::KillMaster, Fault::PowerMaster, Fault::PowerReplica];
        self.faults.retain(|(fault, _)| !frequent.contains(fault));
        self.faults.extend(frequent.map(|fault| (fault, pick(&[20, 50, 200]) * MS)));
    }
}

fn draw_setup(
    commit: CommitMode,
    rules: Rules,
    pick: &mut impl FnMut(&[u64]) -> u64,
) -> ScheduleSetup {
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
    ScheduleSetup {
        replicas: pick(&[2, 3, 3, 3, 4, 5]) as u8,
        commit,
        rules,
        timing,
        peers: pick(&[0, 1, 1]) == 1,
        handshaken: false,
        canonical: false,
        scrub_interval: Duration::ZERO,
    }
}

fn draw_faults(
    rules: Rules,
    quiet: bool,
    pick: &mut impl FnMut(&[u64]) -> u64,
) -> Vec<(Fault, u64)> {
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
    // A system that keeps these rules refuses to start after such a fault.
    for (fault, rule) in
        [(Fault::Wipe, Rule::EmptyStoreRefused), (Fault::SecondInstance, Rule::ExclusiveStore)]
    {
        if !rules.keep(rule) {
            faults.push((fault, pick(&[300, 1000]) * MS));
        }
    }
    faults
}
