//! power-loss: nodes lose what they have not synced, one of them, all replicas, or everything at
//! once: at random times, at points of their work, inside of a commit to disk, and once more while
//! a restart has not yet made durable what it found.

use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::{node::Role, protocol::Node};

use super::{Deck, Fault, FaultName, Harm, Span, Strike, Trigger, Whom, replicas};
use crate::disk::DiskPoint;

/// Around what the master and the replicas must not forget.
const POINTS: &[(Role, &str)] = &[
    (Role::Master, "master:before-persist:commit"),
    (Role::Master, "master:after-persist:commit"),
    (Role::Master, "master:after-send:decide:1"),
    (Role::Master, "master:after-reply:ok"),
    (Role::Replica, "replica:after-persist:prepare"),
    (Role::Replica, "replica:after-send:vote-yes"),
    (Role::Replica, "replica:after-receive:decide"),
    (Role::Replica, "replica:after-send:ack"),
];

#[derive(Clone, Debug)]
enum Moment {
    Any,
    Point(Role, String),
    /// Killed between a write of the meta page and its sync, and cut when the restart makes its
    /// first sync.
    Relapse(Role),
}

#[derive(Debug)]
pub(super) struct PowerLoss {
    moments: Deck<Moment>,
    replicas: Deck<Node>,
    masters: Deck<bool>,
    whom: Deck<Whom>,
    in_part: Deck<bool>,
    spans: Deck<Span>,
    /// It has struck.
    struck: bool,
}

impl PowerLoss {
    pub(super) fn new(count: u8) -> Self {
        let roles = [Role::Master, Role::Replica];
        let disk = roles.into_iter().flat_map(DiskPoint::all);
        let points = disk.map(|point| (point.role, point.to_string()));
        let points = points.chain(POINTS.iter().map(|(role, point)| (*role, (*point).to_owned())));
        let mut moments: Vec<_> = points.map(|(role, point)| Moment::Point(role, point)).collect();
        // Many, for each meets but what was under way when the node was killed.
        moments.extend(roles.into_iter().flat_map(|role| vec![Moment::Relapse(role); 8]));
        moments.extend(vec![Moment::Any; 8]);
        PowerLoss {
            moments: Deck::new(moments),
            replicas: replicas(count),
            masters: Deck::new(vec![true, false]),
            whom: Deck::new(vec![Whom::Victim, Whom::Victim, Whom::Replicas, Whom::Everyone]),
            in_part: Deck::new(vec![true, true, false]),
            spans: Span::deck(),
            struck: false,
        }
    }
}

impl Fault for PowerLoss {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Strike {
        let mut moment = self.moments.deal(rng);
        let mut in_part = self.in_part.deal(rng);
        if !self.struck {
            // However short the run, something is lost: what a commit has written and not synced. A
            // store that never syncs comes there, too.
            let point = "replica:after-disk-write:log".to_owned();
            (moment, in_part) = (Moment::Point(Role::Replica, point), false);
        }
        let master = match &moment {
            Moment::Any => self.masters.deal(rng),
            Moment::Point(role, _) | Moment::Relapse(role) => *role == Role::Master,
        };
        let victim = if master { Node::Master } else { self.replicas.deal(rng) };
        let part = in_part.then(|| rng.random());
        let down = self.spans.deal(rng).draw(rng);
        // The master finds a replica again, and settles with it what was open, within this time.
        let lies = Duration::from_millis(rng.random_range(50..700));
        let whom = self.whom.deal(rng);
        let cut = Harm::Cut { lies: Duration::ZERO, down, whom, part };
        let (trigger, harm, calm) = match moment {
            Moment::Any => (Trigger::Now, cut, 20..600),
            Moment::Point(_, point) => (Trigger::Point(point), cut, 5..200),
            Moment::Relapse(role) => {
                let point = format!("{}:after-disk-write:log", role.name());
                (Trigger::Point(point), Harm::Relapse { lies, down }, 5..200)
            }
        };
        let calm = Duration::from_millis(rng.random_range(calm));
        Strike::of(FaultName::PowerLoss, calm, victim, trigger, harm)
    }

    fn report(&mut self, struck: bool) {
        self.struck |= struck;
    }
}
