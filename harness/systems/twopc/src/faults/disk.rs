//! disk-full, disk-error, disk-slow, disk-stall, bit-flip and restored-copy: what disks do besides losing
//! power, to any node at random times.

use std::time::Duration;

use lab::{bag::ShuffledBag, disk::DiskFault, injection::FaultSource};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use system::protocol::{CommitMode, Node};

use super::{DiskFaultEnding, FaultAction, FaultName, Injection, Rot, Trigger};

/// The free space at which a replica accepts no values any more: less than its reserve.
const LESS_THAN_RESERVE: u64 = 200 << 20;

/// A duration that is drawn between these, in milliseconds.
type Range = std::ops::Range<u64>;

#[derive(Debug)]
pub(super) struct DiskFaults {
    fault: FaultName,
    targets: ShuffledBag<Node>,
    cases: ShuffledBag<Case>,
    /// Whether the next copy of the master lacks an epoch, rather than a commit.
    lacks_epoch: ShuffledBag<bool>,
    /// Whether bits were flipped before. The first hit the WAL, where the next start has to notice it.
    has_flipped: bool,
}

/// One way in which a fault occurs.
#[derive(Clone, Debug)]
enum Case {
    /// With this much free space.
    Full(u64),
    /// Writes or syncs fail, or both; then the power may fail.
    Error {
        writes: bool,
        syncs: bool,
        power_loss: bool,
    },
    /// Each sync takes a time in this range.
    Slow(Range),
    /// Nothing is answered for a time in this range, and then the node may be killed.
    Stall(Range, DiskFaultEnding),
    Flip(Rot),
    /// An older copy of this age.
    Copy(Range),
}

impl DiskFaults {
    /// `alone`: no other fault is injected.
    pub(super) fn new(fault: FaultName, replicas: u8, commit: CommitMode, alone: bool) -> Self {
        let cases = cases(fault);
        let mut targets = vec![Node::Master];
        // Other faults may keep the master from a copy of a replica, and a peer that the copy answers
        // first believes it. A copy of the master can do nothing without the replicas.
        if fault != FaultName::RestoredCopy || alone {
            targets.extend((1..=replicas).map(Node::Replica));
        }
        let (targets, cases) = (ShuffledBag::new(targets), ShuffledBag::new(cases));
        // Where the votes make the commits, no store of the master lacks one.
        let lacks_epoch = if commit.is_logged() { vec![false, false, true] } else { vec![true] };
        let lacks_epoch = ShuffledBag::new(lacks_epoch);
        DiskFaults { fault, targets, cases, lacks_epoch, has_flipped: false }
    }
}

fn cases(fault: FaultName) -> Vec<Case> {
    let error = |writes, syncs, power_loss| Case::Error { writes, syncs, power_loss };
    match fault {
        FaultName::DiskFull => vec![Case::Full(LESS_THAN_RESERVE), Case::Full(0)],
        FaultName::DiskError => vec![
            error(false, true, true),
            error(false, true, false),
            error(true, false, false),
            error(true, true, true),
        ],
        FaultName::DiskSlow => {
            vec![Case::Slow(50..200), Case::Slow(50..1500), Case::Slow(500..1500)]
        }
        FaultName::DiskStall => vec![
            Case::Stall(200..1500, DiskFaultEnding::GoOn),
            Case::Stall(200..1500, DiskFaultEnding::Kill),
            // Longer than a force may take.
            Case::Stall(3500..5000, DiskFaultEnding::GoOn),
        ],
        FaultName::BitFlip => {
            [Rot::Value, Rot::Wal, Rot::Key, Rot::Value, Rot::Wal, Rot::Key, Rot::Any]
                .map(Case::Flip)
                .into()
        }
        _ => vec![Case::Copy(300..1500)],
    }
}

fn millis(range: Range, rng: &mut ChaCha8Rng) -> Duration {
    Duration::from_millis(rng.random_range(range))
}

impl FaultSource<Injection> for DiskFaults {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Injection {
        let mut target = self.targets.draw(rng);
        let (duration, ending) = (millis(400..1500, rng), DiskFaultEnding::GoOn);
        let (action, delay) = match self.cases.draw(rng) {
            Case::Full(free_bytes) => {
                // Only replicas hold values.
                if free_bytes > 0 && target == Node::Master {
                    target = Node::Replica(1);
                }
                (
                    FaultAction::Disk { fault: DiskFault::Full { free_bytes }, duration, ending },
                    20..300,
                )
            }
            Case::Error { writes, syncs, power_loss } => {
                let fault = DiskFault::Error { writes, syncs };
                // Soon, before a checkpoint makes durable what the failed sync has not.
                let after = DiskFaultEnding::PowerLoss(rng.random_range(1..5));
                let ending = if power_loss { after } else { ending };
                (FaultAction::Disk { fault, duration: duration / 2, ending }, 20..600)
            }
            Case::Slow(Range { start, end }) => {
                let (shortest, longest) =
                    (Duration::from_millis(start), Duration::from_millis(end));
                let fault = DiskFault::Slow { shortest, longest, seed: rng.random() };
                (FaultAction::Disk { fault, duration: millis(800..3000, rng), ending }, 20..600)
            }
            Case::Stall(range, ending) => {
                let (fault, duration) = (DiskFault::Stall, millis(range, rng));
                (FaultAction::Disk { fault, duration, ending }, 20..400)
            }
            Case::Flip(rot) => {
                // The master holds no keys and values.
                let has_entries = target != Node::Master;
                let rot = match rot {
                    _ if !self.has_flipped => Rot::Wal,
                    Rot::Value | Rot::Key if !has_entries => Rot::Any,
                    rot => rot,
                };
                self.has_flipped = true;
                (FaultAction::BitFlip { rot, seed: rng.random() }, 100..500)
            }
            Case::Copy(range) => {
                let lacks_epoch = target == Node::Master && self.lacks_epoch.draw(rng);
                (FaultAction::RestoredCopy { age: millis(range, rng), lacks_epoch }, 50..300)
            }
        };
        let delay = millis(delay, rng);
        Injection::new(self.fault, delay, target, Trigger::Now, action)
    }
}
