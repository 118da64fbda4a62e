//! What went wrong around the operations: clients that break their rules, nodes that exit by themselves,
//! faults that never happened. None of it shows a violation, and each leaves the run unknown.

use std::collections::BTreeMap;

use history::{
    Action, NemesisEvent,
    nemesis::{Died, InjectionKind, LostWrites},
};
use serde_json::json;

use super::Run;
use crate::CheckResult;

/// Clients: one that breaks the rules of clients may have reported anything.
pub(super) fn clients(run: &Run<'_>) -> CheckResult {
    let mut check_result = CheckResult::new("clients");
    let mut refused: BTreeMap<String, u64> = BTreeMap::new();
    for event in run.events {
        match &event.action {
            Action::Nemesis(NemesisEvent::ClientFailed(failed)) => {
                check_result.unknown(format!(
                    "process {}: {}; what such a client says is no evidence",
                    failed.process, failed.why
                ));
            }
            Action::Nemesis(NemesisEvent::OpensFailed(failed)) => {
                let node = failed.node.clone().unwrap_or_else(|| "any".to_owned());
                *refused.entry(node).or_default() += failed.count;
            }
            _ => {}
        }
    }
    check_result.measure("failed_opens", json!(refused));
    check_result
}

/// Exits: a node that ends by itself was not tested for what is asked here, and a run that ends before its time
/// was not tested for as long.
pub(super) fn exits(run: &Run<'_>) -> CheckResult {
    let mut check_result = CheckResult::new("unexpected-exits");
    for event in run.events {
        if let Action::Nemesis(NemesisEvent::Died(Died { node, status, log })) = &event.action {
            let last = log.lines().last().map(str::trim).filter(|line| !line.is_empty());
            let log = last.map_or(String::new(), |line| format!("; its log ends: {line}"));
            check_result.unknown(format!("{node} exited by itself ({status}){log}"));
        }
        if let Action::Nemesis(NemesisEvent::EndedEarly(ended)) = &event.action {
            check_result.unknown(format!("the run ended before its time: {}", ended.why));
        }
        if let Action::Nemesis(NemesisEvent::Healed(healed)) = &event.action
            && let Some(why) = &healed.failed
        {
            check_result.unknown(format!("the nodes could not all be started again: {why}"));
        }
    }
    check_result
}

/// Faults: each that was asked for was injected, with both parts if it has two. An injection is recorded before it
/// happens; a miss that names a node takes it back.
pub(super) fn faults(run: &Run<'_>) -> CheckResult {
    let mut check_result = CheckResult::new("faults");
    // By fault, then by part: one part cannot make up for the misses of the other.
    let mut injected: BTreeMap<&str, BTreeMap<Option<u8>, i64>> = BTreeMap::new();
    let mut lost: BTreeMap<&str, u64> = BTreeMap::new();
    for event in run.events {
        if let Action::Nemesis(NemesisEvent::Injected(InjectionKind::PowerLoss, fields)) =
            &event.action
        {
            let fault = fields.fault.as_deref().unwrap_or_default();
            let pages = |lost: &LostWrites| lost.pages.values().sum::<u64>() + lost.entries;
            *lost.entry(fault).or_default() += fields.dropped.values().map(pages).sum::<u64>();
        }
        let (fields, change) = match &event.action {
            Action::Nemesis(NemesisEvent::Injected(_, fields)) => (&**fields, 1),
            Action::Nemesis(NemesisEvent::Missed(missed)) => {
                (&missed.injected, -i64::from(missed.injected.node.is_some()))
            }
            _ => continue,
        };
        let parts = injected.entry(fields.fault.as_deref().unwrap_or_default()).or_default();
        *parts.entry(fields.part).or_default() += change;
    }
    for fault in run.description.real_faults() {
        let Some(parts) = injected.get(fault) else {
            check_result.unknown(format!("{fault} was asked for and never injected"));
            continue;
        };
        for (part, _) in parts.iter().filter(|(_, count)| **count <= 0) {
            let of = part.map_or_else(String::new, |part| format!("part {part} of "));
            check_result.unknown(format!("{of}{fault} was asked for and never injected"));
        }
    }
    for fault in lost.iter().filter(|(_, lost)| **lost == 0).map(|(fault, _)| fault) {
        check_result.unknown(format!(
            "{fault} was injected, but there was nothing that had not been synced: nothing was lost"
        ));
    }
    if !lost.is_empty() {
        check_result.measure("lost", json!(lost));
    }
    let all = injected.iter().map(|(fault, parts)| (*fault, parts.values().sum()));
    check_result.measure("injected", json!(all.collect::<BTreeMap<&str, i64>>()));
    check_result
}
