//! Which records a schedule loses, and where a process or its disk must stop so that they are lost.

use std::collections::{BTreeMap, VecDeque};

use explore::schedule::{self, Schedule, Step};
use lab::disk::{Access, Side};
use system::{
    node::Role,
    protocol::{Effect, Node},
};

use crate::disk::DiskPoint;

/// A record that a crash loses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LostRecord {
    /// The node.
    pub(super) node: Node,
    /// The kind of record.
    pub(super) kind: &'static str,
    /// How many records of this kind the same step appends before it.
    pub(super) before: u32,
    /// What keeps it from becoming durable.
    pub(super) stop: Stop,
}

/// What is stopped so that a record does not become durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The process, before it writes the record.
    Process,
    /// The disk, when the record is written and not synced: a kill leaves it, a power loss does not.
    AfterWrite,
    /// The disk, at the first sync after a start, while the process continues.
    FirstSync,
}

impl Stop {
    /// The point of a node's disk, if it is the disk that stops.
    pub(super) fn point(self, node: Node) -> Option<DiskPoint> {
        let role = Role::from(node);
        match self {
            Stop::Process => None,
            Stop::AfterWrite => Some(DiskPoint::of_wal(role, Side::After, Access::Write)),
            Stop::FirstSync => Some(DiskPoint::of_wal(role, Side::Before, Access::Sync)),
        }
    }
}

/// The records of a node that are not durable at a moment of the schedule.
#[derive(Default)]
struct Undurable {
    /// Each record, with the step that appends it.
    records: VecDeque<(usize, LostRecord)>,
    /// How many of them were appended by a process that was killed since.
    inherited: usize,
}

impl Undurable {
    fn force(&mut self, upto: usize) {
        let upto = self.inherited + upto;
        self.records.drain(..upto.min(self.records.len()));
        self.inherited = 0;
    }

    /// Returns the first record that the kill loses, and the step that appends it.
    fn kill(&mut self, keep: usize) -> Option<(usize, LostRecord)> {
        let first = self.records.get(keep).cloned();
        self.records.truncate(keep);
        self.inherited = self.records.len();
        first
    }

    /// Returns the first inherited record that the power loss takes, and the first record of the
    /// present process.
    fn lose_power(&mut self, keep: usize) -> [Option<(usize, LostRecord)>; 2] {
        let inherited = self.records.get(keep).filter(|_| keep < self.inherited).cloned();
        let own = self.records.get(keep.max(self.inherited)).cloned();
        self.clear();
        [inherited, own]
    }

    fn clear(&mut self) {
        *self = Undurable::default();
    }
}

/// The first record that each crash loses, by the number of the step that appends it. If a power loss
/// takes what a kill has left, then also the first record that the restarted process appends.
pub(super) fn lost_records(schedule: &Schedule) -> BTreeMap<usize, LostRecord> {
    let mut lost = BTreeMap::new();
    let mut cluster = schedule::Cluster::new(schedule.setup.clone());
    let mut undurable: BTreeMap<Node, Undurable> = BTreeMap::new();
    for (number, step) in schedule.steps.iter().enumerate() {
        let Ok(effects) = cluster.apply(step) else { return lost };
        let node = step.node();
        let undurable = undurable.entry(node).or_default();
        match step {
            Step::Force { upto, second_instance: false, .. } => {
                undurable.force(usize::try_from(*upto).unwrap_or(usize::MAX));
            }
            Step::Kill { keep, .. } => lost.extend(undurable.kill(*keep)),
            Step::PowerLoss { keep, .. } => {
                let [inherited, own] = undurable.lose_power(*keep);
                lost.extend(
                    inherited
                        .map(|(at, record)| (at, LostRecord { stop: Stop::AfterWrite, ..record })),
                );
                lost.extend(own.map(|(at, record)| {
                    let restart = matches!(schedule.steps[at], Step::Restart { .. });
                    let stop = if restart { Stop::FirstSync } else { Stop::Process };
                    (at, LostRecord { stop, ..record })
                }));
            }
            Step::Wipe { .. } => undurable.clear(),
            _ => {}
        }
        if !is_of_second_instance(step) {
            undurable.records.extend(appended(node, &effects).map(|record| (number, record)));
        }
    }
    lost
}

/// The records among the effects of a step.
fn appended(node: Node, effects: &[Effect]) -> impl Iterator<Item = LostRecord> + '_ {
    let mut counts: BTreeMap<&'static str, u32> = BTreeMap::new();
    effects.iter().filter_map(move |effect| {
        let Effect::Append(record) = effect else { return None };
        let kind = record.kind();
        let count = counts.entry(kind).or_default();
        let before = *count;
        *count += 1;
        Some(LostRecord { node, kind, before, stop: Stop::Process })
    })
}

/// Whether a step happens to the second process of its node.
pub(super) fn is_of_second_instance(step: &Step) -> bool {
    match step {
        Step::Deliver { second_instance, .. }
        | Step::Force { second_instance, .. }
        | Step::Timer { second_instance, .. } => *second_instance,
        Step::SecondInstance { .. } => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use explore::schedule::ScheduleSetup;
    use system::protocol::{CommitMode, Key, Request, Rule, Rules, Timing, Value, Write};

    use super::*;
    use crate::{Mutation, schedule_replay::options};

    fn setup() -> ScheduleSetup {
        ScheduleSetup {
            replicas: 1,
            rules: Rules::ALL.without(Rule::VoteForced),
            commit: CommitMode::Logged,
            timing: Timing::default(),
            peers: true,
            handshaken: true,
            canonical: false,
            scrub_interval: Duration::ZERO,
        }
    }

    /// A client's put, and the delivery of its Prepare.
    fn put_and_prepare() -> (Step, Step) {
        let write = Write { key: Key::from("k"), value: Some(Value::from("v")) };
        let client = Step::Client { call: 1, request: Request::Write(write) };
        let mut cluster = schedule::Cluster::new(setup());
        cluster.apply(&client).expect("a client may send a request");
        let (from, to, message) = cluster.in_flight().next().expect("a Prepare").clone();
        (client, Step::Deliver { from, to, message, second_instance: false })
    }

    fn schedule_of(steps: Vec<Step>) -> Schedule {
        Schedule { setup: setup(), steps, violated: Vec::new(), origin: String::new() }
    }

    #[test]
    fn a_record_lost_by_a_kill_is_stopped_at_the_step_that_appends_it() {
        let node = Node::Replica(1);
        let (client, deliver) = put_and_prepare();
        let kill = Step::Kill { node, keep: 0 };
        let schedule = schedule_of(vec![client, deliver, kill, Step::Restart { node }]);
        let record = LostRecord { node, kind: "prepare", before: 0, stop: Stop::Process };
        assert_eq!(lost_records(&schedule), [(1, record)].into());
        let options =
            options(&schedule, "s.json".as_ref(), "histories".into()).expect("it can be forced");
        assert_eq!(options.mutations, [Mutation::Rule(Rule::VoteForced)]);
        assert_eq!(options.label(), "twopc-schedule-without-vote-forced");
        assert_eq!(options.command(), "harness replay --real s.json");
        let timings = options.timings.to_string();
        assert!(timings.contains("vote_timeout_ms=4000"), "{timings}");
    }

    #[test]
    fn a_record_left_by_a_kill_and_lost_by_a_power_loss_is_held_by_the_disk() {
        let node = Node::Replica(1);
        let (client, deliver) = put_and_prepare();
        let lost_with = |keep| {
            let (kill, restart) = (Step::Kill { node, keep: 1 }, Step::Restart { node });
            let power_loss = Step::PowerLoss { node, keep };
            let steps = vec![client.clone(), deliver.clone(), kill, restart, power_loss];
            lost_records(&schedule_of(steps))
        };
        let prepare = LostRecord { node, kind: "prepare", before: 0, stop: Stop::AfterWrite };
        let incarnation =
            LostRecord { node, kind: "incarnation", before: 0, stop: Stop::FirstSync };
        assert_eq!(lost_with(0), [(1, prepare), (3, incarnation.clone())].into());
        // What the kill has left survives: only the record of the restart is lost.
        assert_eq!(lost_with(1), [(3, incarnation)].into());
        assert_eq!(lost_with(2), BTreeMap::new());
        let point = |stop: Stop| stop.point(node).map(|point| point.to_string());
        assert_eq!(point(Stop::AfterWrite).as_deref(), Some("replica:after-disk-write:log"));
        assert_eq!(point(Stop::FirstSync).as_deref(), Some("replica:before-disk-sync:log"));
        assert_eq!(point(Stop::Process), None);
    }
}
