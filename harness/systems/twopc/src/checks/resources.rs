//! Growth: what the processes of the nodes use comes back, and a hostile client cannot make one use much. Descriptors,
//! threads and memory are measured when the nodes are ready and again when the run has settled, memory during each
//! attack, and processor time while nobody asks anything. From the history alone.

use std::collections::BTreeMap;

use checker::CheckResult;
use history::{Action, NemesisEvent};
use serde::{Deserialize, Serialize};
use serde_json::json;
use system::protocol::Node;

use super::Run;

/// The name of the check.
pub const NAME: &str = "resources";

/// How often a node that is busy is measured again.
pub const WINDOWS_MAX: u32 = 8;
/// Descriptors that a node may have more than at the beginning: the connections of the last client and of the
/// harness itself. Clean runs have two at most.
const DESCRIPTORS_MAX: u64 = 8;
/// Threads that a node may have more: those of the runtime that read the store for the harness, until they
/// have been idle for some seconds.
const THREADS_MAX: u64 = 6;
/// Memory that a node may have more, in KiB: what the allocator keeps for values of a megabyte, and what the limits of a
/// node let one client hold.
const ANONYMOUS_KIB_MAX: u64 = 256 << 10;
/// A node that uses more than this share of a processor while nobody asks anything is busy.
const IDLE_SHARE: f64 = 0.3;
/// A node that was preempted this often, and never waited, is busy, however little of the processor it got.
const PREEMPTED_MIN: u64 = 3;

/// What the process of a node uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceUse {
    /// Open descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
    /// Resident memory that belongs to no file, in KiB.
    pub anonymous_kib: u64,
    /// Processor time in the window of measurement, in milliseconds.
    pub processor_ms: u64,
    /// The length of the window, in milliseconds.
    pub wall_ms: u64,
    /// How often the event loop waited in the window.
    #[serde(default)]
    pub waits: u64,
    /// How often it was preempted.
    #[serde(default)]
    pub preemptions: u64,
}

/// The event `resources`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourcesEvent {
    /// Nobody asked the nodes anything, and each was measured until it was quiet, or often.
    pub idle: bool,
    /// What a hostile client did meanwhile. Only the memory of the node that it attacked was measured, and this is the
    /// most that it had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attack: Option<String>,
    /// What each node used.
    pub nodes: BTreeMap<Node, ResourceUse>,
}

impl ResourcesEvent {
    /// The kind of the event.
    const EVENT: &str = "resources";

    /// The event that records it.
    #[must_use]
    pub fn event(&self) -> NemesisEvent {
        let value = serde_json::to_value(self).expect("the fields are plain data");
        NemesisEvent::Other { f: ResourcesEvent::EVENT.to_owned(), value }
    }

    fn read(event: &NemesisEvent) -> Option<Self> {
        match event {
            NemesisEvent::Other { f, value } if f == ResourcesEvent::EVENT => {
                ResourcesEvent::deserialize(value).ok()
            }
            _ => None,
        }
    }
}

/// Whether a node used little processor time, and waited for events. On a busy machine a loop that spins gets little
/// time, but it never waits.
#[must_use]
pub fn is_quiet(used: &ResourceUse) -> bool {
    let spins = used.waits == 0 && used.preemptions >= PREEMPTED_MIN;
    !spins && used.processor_ms as f64 <= used.wall_ms as f64 * IDLE_SHARE
}

/// Checks a run.
#[must_use]
pub fn check(run: &Run) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    let events = run.events.iter().filter_map(|event| match &event.action {
        Action::Nemesis(nemesis) => ResourcesEvent::read(nemesis),
        Action::Client(_) => None,
    });
    let (attacked, events): (Vec<_>, Vec<_>) = events.partition(|event| event.attack.is_some());
    let (idle, ready): (Vec<_>, Vec<_>) = events.into_iter().partition(|event| event.idle);
    if let Some(ready) = ready.first() {
        bounded(&ready.nodes, &attacked, &mut check_result);
    }
    if let (Some(ready), Some(settled)) = (ready.first(), idle.last()) {
        for (node, used) in &settled.nodes {
            if let Some(before) = ready.nodes.get(node) {
                compare(*node, before, used, &mut check_result);
            }
            check_result.measure(&node.to_string(), json!(used));
        }
    }
    check_result
}

/// During an attack, a node has little more memory than when it was ready.
fn bounded(
    ready: &BTreeMap<Node, ResourceUse>,
    attacked: &[ResourcesEvent],
    check_result: &mut CheckResult,
) {
    let mut most = 0;
    for event in attacked {
        for (node, used) in &event.nodes {
            let Some(before) = ready.get(node) else { continue };
            let more = used.anonymous_kib.saturating_sub(before.anonymous_kib);
            most = most.max(more);
            if more > ANONYMOUS_KIB_MAX {
                check_result.violation(format!(
                    "{node} had {more} KiB of memory more than when it was ready while a client attacked it ({}): it \
                     may have {ANONYMOUS_KIB_MAX} more",
                    event.attack.as_deref().unwrap_or_default()
                ));
            }
        }
    }
    if !attacked.is_empty() {
        check_result.measure("attacked_kib_max", most);
    }
}

fn compare(node: Node, before: &ResourceUse, used: &ResourceUse, check_result: &mut CheckResult) {
    for (what, before, after, more) in [
        ("descriptors", before.descriptors, used.descriptors, DESCRIPTORS_MAX),
        ("threads", before.threads, used.threads, THREADS_MAX),
        ("KiB of memory", before.anonymous_kib, used.anonymous_kib, ANONYMOUS_KIB_MAX),
    ] {
        if after > before.saturating_add(more) {
            check_result.violation(format!(
                "{node} has {after} {what} after the run, and had {before} when it was ready: it may have \
                 {more} more"
            ));
        }
    }
    if !is_quiet(used) {
        check_result.violation(format!(
            "{node} used {} ms of processor time in {} ms in which nobody asked it anything, and waited {} \
             times, in the last of {WINDOWS_MAX} measurements",
            used.processor_ms, used.wall_ms, used.waits
        ));
    }
}

#[cfg(test)]
mod tests {
    use checker::Validity;

    use super::*;

    #[test]
    fn what_grows_and_does_not_come_back_is_reported() {
        let before = ResourceUse {
            descriptors: 20,
            threads: 3,
            anonymous_kib: 9000,
            ..ResourceUse::default()
        };
        let verdict = |used: &ResourceUse| {
            let mut check_result = CheckResult::new(NAME);
            compare(Node::Master, &before, used, &mut check_result);
            check_result.verdict
        };
        let after = ResourceUse {
            descriptors: 24,
            threads: 5,
            anonymous_kib: 90_000,
            processor_ms: 10,
            wall_ms: 150,
            waits: 5,
            preemptions: 4,
        };
        assert_eq!(verdict(&after), Validity::Valid);
        for grown in [
            ResourceUse { descriptors: 20 + DESCRIPTORS_MAX + 1, ..after.clone() },
            ResourceUse { threads: 40, ..after.clone() },
            ResourceUse { anonymous_kib: 600_000, ..after.clone() },
            ResourceUse { processor_ms: 149, ..after.clone() },
            ResourceUse { waits: 0, preemptions: 9, ..after.clone() },
        ] {
            assert_eq!(verdict(&grown), Validity::Invalid, "{grown:?}");
        }
    }

    #[test]
    fn memory_during_an_attack_is_bounded() {
        let with = |anonymous_kib| {
            let used = ResourceUse { anonymous_kib, ..ResourceUse::default() };
            BTreeMap::from([(Node::Master, used)])
        };
        let verdict = |peak| {
            let attack = Some("unread socket".to_owned());
            let event = ResourcesEvent { idle: false, attack, nodes: with(peak) };
            let mut check_result = CheckResult::new(NAME);
            bounded(&with(9000), &[event], &mut check_result);
            check_result.verdict
        };
        assert_eq!(verdict(9000 + ANONYMOUS_KIB_MAX), Validity::Valid);
        assert_eq!(verdict(9001 + ANONYMOUS_KIB_MAX), Validity::Invalid);
    }

    #[test]
    fn the_event_is_read_back() {
        let nodes = [(Node::Master, ResourceUse { descriptors: 7, ..ResourceUse::default() })];
        let nodes = nodes.into_iter().collect();
        let event = ResourcesEvent { idle: true, attack: None, nodes };
        assert_eq!(ResourcesEvent::read(&event.event()), Some(event));
    }
}
