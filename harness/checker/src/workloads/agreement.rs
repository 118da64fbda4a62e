//! Agreement: nodes that must hold the same held the same, whenever they were compared during the run. They say
//! themselves what they hold: a hash of their state at one moment in the history of the system. Whether that
//! state is the right one is for other checks.

use std::collections::BTreeMap;

use history::{
    Action, NemesisEvent,
    nemesis::{Compared, NodeState},
};

use super::Run;
use crate::CheckResult;

/// The name of the check.
const NAME: &str = "agreement";

/// `None` if the system was never compared: not all systems offer it.
pub(super) fn check(run: &Run<'_>) -> Option<CheckResult> {
    let mut check_result = CheckResult::new(NAME);
    let (mut compared, mut failed, mut why) = (0_u64, 0_u64, None);
    let mut since: Option<(u64, &Compared)> = None;
    for event in run.events {
        let Action::Nemesis(NemesisEvent::Compared(comparison)) = &event.action else { continue };
        if comparison.nodes.len() < 2 {
            failed += 1;
            why = comparison.failed.as_deref();
            continue;
        }
        compared += 1;
        if since.is_none() && differ(&comparison.nodes) {
            since = Some((event.index, comparison));
        }
    }
    if compared + failed == 0 {
        return None;
    }
    if let Some((index, comparison)) = since {
        check_result.violation(format!(
            "the nodes differ at {} (event {index}): {}",
            comparison.at,
            described(&comparison.nodes)
        ));
    }
    if compared == 0 {
        check_result.unknown(format!(
            "the nodes could never be compared: {}",
            why.unwrap_or("fewer than two answered")
        ));
    }
    check_result.measure("compared", compared);
    check_result.measure("not_compared", failed);
    Some(check_result)
}

fn differ(nodes: &BTreeMap<String, NodeState>) -> bool {
    let mut hashes = nodes.values().map(|state| &state.hash);
    let first = hashes.next();
    hashes.any(|hash| Some(hash) != first)
}

/// `n1 and n3 have hash 17; n2 has hash 18; n1 is at revision 5, ...`.
fn described(nodes: &BTreeMap<String, NodeState>) -> String {
    let mut by_hash: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (node, state) in nodes {
        by_hash.entry(&state.hash).or_default().push(node);
    }
    let groups = by_hash.iter().map(|(hash, nodes)| {
        let verb = if nodes.len() == 1 { "has" } else { "have" };
        format!("{} {verb} hash {hash}", nodes.join(" and "))
    });
    let progress = nodes
        .iter()
        .filter(|(_, state)| !state.progress.is_empty())
        .map(|(node, state)| format!("{node} is at {}", state.progress));
    groups.chain(progress).collect::<Vec<_>>().join("; ")
}
