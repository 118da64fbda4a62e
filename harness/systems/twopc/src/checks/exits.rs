//! Unexpected exits: no node ends unless it was told to. A node that gives up, because of a failed
//! assertion or a failing disk, does not survive a failure that the system must survive. And every
//! process that must be refused is refused, with the message of a refusal. A run that ended before its time was not
//! tested for as long as was asked, and is no better than unknown. From the history alone.

use std::collections::{BTreeMap, BTreeSet};

use checker::{CheckResult, Finding, Impact, Reference, finding};
use history::{
    Action, Event, NemesisEvent,
    nemesis::{Died, Exit, ForbiddenStart, Injected, InjectionKind},
};
use system::protocol::{HaltKind, Node};

use super::{
    Run,
    evidence::{FactKind, JournalPosition},
};

/// The name of the check.
pub const NAME: &str = "unexpected-exits";

/// Checks a run.
#[must_use]
pub fn check(run: &Run) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    let mut deaths: BTreeMap<(&str, &str, String), Vec<&Event>> = BTreeMap::new();
    for event in &run.events {
        match &event.action {
            Action::Nemesis(NemesisEvent::Injected(kind, injected)) => {
                let mut attempts = CheckResult::new(NAME);
                attempt(*kind, injected, &mut attempts);
                let node = injected.node.as_deref().unwrap_or("?");
                // What the process then finds to be missing follows from its being let in.
                let missing =
                    last_fact(run, node, event, |kind| matches!(kind, FactKind::Unkept(_)));
                let at = missing.map_or_else(|| time_of(event), |at| at.time.saturating_sub(1));
                let at = Some(at);
                let about = Reference::Node(node.to_owned());
                for finding in attempts.violations {
                    let finding = finding.with_time(at).with_impact(Impact::Divergence);
                    check_result.violation(finding.about([about.clone()]));
                }
                attempts.unknown_because.into_iter().for_each(|why| check_result.unknown(why));
            }
            Action::Nemesis(NemesisEvent::EndedEarly(ended)) => {
                check_result.unknown(format!("the run ended before its time: {}", ended.why));
            }
            Action::Nemesis(NemesisEvent::Died(Died { node, status, log })) => {
                deaths.entry((node, status, said(log))).or_default().push(event);
            }
            _ => {}
        }
    }
    for ((node, status, said), events) in deaths {
        check_result.violation(died(run, node, status, &said, &events));
    }
    check_result
}

fn time_of(event: &Event) -> i64 {
    i64::try_from(event.time).unwrap_or(i64::MAX)
}

/// Where the journal of a node has facts of a kind until an event.
fn facts<'a>(
    run: &'a Run,
    node: &str,
    until: &Event,
    is_of_kind: fn(&FactKind) -> bool,
) -> impl DoubleEndedIterator<Item = JournalPosition> + use<'a> {
    let until = time_of(until);
    let facts = node.parse::<Node>().ok().and_then(|node| run.evidence.nodes.get(&node));
    let facts = facts.map_or(&[][..], |facts| &facts.facts);
    facts
        .iter()
        .filter(move |fact| fact.position.time <= until && is_of_kind(&fact.kind))
        .map(|fact| fact.position)
}

fn last_fact(
    run: &Run,
    node: &str,
    until: &Event,
    is_of_kind: fn(&FactKind) -> bool,
) -> Option<JournalPosition> {
    facts(run, node, until, is_of_kind).next_back()
}

fn is_start(kind: &FactKind) -> bool {
    matches!(kind, FactKind::Started { .. })
}

/// Where the process of a node halted that ended at an event, and whether that is a violation, of which the check of
/// atomicity tells.
fn halt(run: &Run, node: &str, event: &Event) -> Option<(JournalPosition, bool)> {
    let start = last_fact(run, node, event, is_start)?;
    let facts = &run.evidence.nodes.get(&start.node)?.facts;
    let until = time_of(event);
    facts.iter().find_map(|fact| match &fact.kind {
        FactKind::Halted { kind, .. }
            if fact.position.line > start.line && fact.position.time <= until =>
        {
            Some((fact.position, *kind == HaltKind::Violation))
        }
        _ => None,
    })
}

/// An exit that was not expected, once for all starts after which it happened in the same way.
fn died(run: &Run, node: &str, status: &str, said: &str, events: &[&Event]) -> Finding {
    // A process that ends before its journal begins is not among the starts.
    let after: BTreeSet<usize> = events
        .iter()
        .map(|event| facts(run, node, event, is_start).count())
        .filter(|start| *start > 0)
        .collect();
    let after: Vec<String> = after.iter().map(ToString::to_string).collect();
    let after = match &after[..] {
        [] => String::new(),
        [start] => format!(" after its start {start}"),
        [starts @ .., last] => format!(" after its starts {} and {last}", starts.join(", ")),
    };
    let finding = match events.first().and_then(|event| halt(run, node, event)) {
        Some((halt, true)) => {
            finding!(line(halt); "{node} died{after} ({status}): it halted ({halt})")
        }
        Some((halt, false)) => {
            finding!(line(halt); "{node} died{after} ({status}): it halted ({halt}){said}")
        }
        None => finding!(; "{node} died{after} ({status}){said}"),
    };
    let at = events.first().map(|event| time_of(event));
    finding.with_time(at).with_impact(Impact::Stopped).about([Reference::Node(node.to_owned())])
}

/// What a log says of the end of its process: the line of a panic and its message, or else the last line.
fn said(log: &str) -> String {
    let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if let Some(at) = lines.iter().rposition(|line| line.contains("panicked at ")) {
        let says = lines.get(at + 1).map_or("", |line| *line);
        return format!(": {} {says}", lines[at]).trim_end().to_owned();
    }
    lines.last().map_or_else(String::new, |line| format!("; its log ends: {line}"))
}

/// Checks an attempt to start a process that must be refused.
fn attempt(kind: InjectionKind, injected: &Injected, check_result: &mut CheckResult) {
    let node = injected.node.as_deref().unwrap_or("?");
    let (process, admitted) = match kind {
        InjectionKind::SecondInstance => (
            "a second master on the store of the first".to_owned(),
            "a second process of the master opened the data directory of the first, which was still running: one process \
             at a time may"
                .to_owned(),
        ),
        InjectionKind::Wipe => (
            format!("{node} with an empty directory"),
            format!("{node} was let in with an empty directory"),
        ),
        InjectionKind::RestoredCopy => (
            format!("{node} on an older copy of its disk"),
            format!("{node} was let in with an older copy of its disk"),
        ),
        _ => return,
    };
    match &injected.start {
        // A simulated node has no process that could be refused.
        ForbiddenStart::Refused(_) | ForbiddenStart::None => {}
        ForbiddenStart::Admitted => check_result.violation(admitted),
        ForbiddenStart::Exited(Exit { status, last_log_line }) => check_result.violation(format!(
            "{process} was not refused but ended with {status}: {last_log_line}"
        )),
        ForbiddenStart::Undecided { .. } => {
            check_result.unknown(format!("whether {process} is refused was not observed in time"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;
    use checker::Validity;

    fn verdict(f: &str, value: Json) -> (Validity, String) {
        let mut check_result = CheckResult::new(NAME);
        let event = NemesisEvent::new(f, value).expect("its form");
        let NemesisEvent::Injected(kind, injected) = event else { panic!("{event:?}") };
        attempt(kind, &injected, &mut check_result);
        (check_result.verdict, serde_json::to_string(&check_result).expect("it has a JSON form"))
    }

    #[test]
    fn a_panic_is_told_by_its_line() {
        let log = "INFO listens\nthread 'main' panicked at store.rs:7:5:\nrecord 3 was never appended\n\
                   note: run with `RUST_BACKTRACE=1`\nINFO closed";
        let text = said(log);
        assert!(text.ends_with("panicked at store.rs:7:5: record 3 was never appended"), "{text}");
        assert_eq!(said("INFO a\nERROR b\n"), "; its log ends: ERROR b");
        assert_eq!(said(""), "");
    }

    #[test]
    fn a_refusal_needs_the_message_of_a_refusal() {
        let cases = [
            ("second-master", "master", "opened the data directory"),
            ("wipe-replica", "r2", "was let in"),
        ];
        for (f, node, admitted) in cases {
            let refused = json!({ "node": node, "refused": true, "status": "exit status: 1" });
            assert_eq!(verdict(f, refused).0, Validity::Valid, "{f}");

            let (found, words) =
                verdict(f, json!({ "node": node, "refused": false, "admitted": true }));
            assert!(found == Validity::Invalid && words.contains(admitted), "{words}");

            let status = "signal: 6 (SIGABRT)";
            let died = json!({ "node": node, "refused": false, "status": status, "said": "oh" });
            let (found, words) = verdict(f, died);
            assert!(found == Validity::Invalid && words.contains("(SIGABRT): oh"), "{words}");

            let undecided = json!({ "node": node, "refused": false, "undecided": "in time" });
            let (found, words) = verdict(f, undecided);
            assert!(found == Validity::Unknown && words.contains("not observed"), "{words}");
        }
        assert_eq!(verdict("kill", json!({ "node": "r1" })).0, Validity::Valid);
    }
}
