//! Unexpected exits: no node ends unless it was told to. A node that gives up, because of a failed
//! assertion or a failing disk, does not survive a failure that the system must survive. And every
//! process that must be refused is refused, with the message of a refusal. From the history alone.

use checker::CheckResult;
use history::{
    Action, NemesisEvent,
    nemesis::{Died, Exit, ForbiddenStart, Injected, InjectionKind},
};

use super::Run;

/// The name of the check.
pub const NAME: &str = "unexpected-exits";

/// Checks a run.
#[must_use]
pub fn check(run: &Run) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    for event in &run.events {
        match &event.action {
            Action::Nemesis(NemesisEvent::Injected(kind, injected)) => {
                attempt(*kind, injected, &mut check_result);
            }
            Action::Nemesis(NemesisEvent::Died(Died { node, status, log })) => {
                let last = log.lines().last().map(str::trim);
                check_result.violation(match last.filter(|line| !line.is_empty()) {
                    Some(line) => format!("{node} died ({status}); its log ends: {line}"),
                    None => format!("{node} died ({status})"),
                });
            }
            _ => {}
        }
    }
    check_result
}

/// Checks an attempt to start a process that must be refused.
fn attempt(kind: InjectionKind, injected: &Injected, check_result: &mut CheckResult) {
    let node = injected.node.as_deref().unwrap_or("?");
    let (process, admitted) = match kind {
        InjectionKind::SecondInstance => (
            "a second master on the store of the first".to_owned(),
            "a second master was let onto the store of the first".to_owned(),
        ),
        InjectionKind::Wipe => (
            format!("{node} with an empty directory"),
            format!("{node} was let in with an empty directory"),
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
    fn a_refusal_needs_the_message_of_a_refusal() {
        for (f, node) in [("second-master", "master"), ("wipe-replica", "r2")] {
            let refused = json!({ "node": node, "refused": true, "status": "exit status: 1" });
            assert_eq!(verdict(f, refused).0, Validity::Valid, "{f}");

            let (found, words) =
                verdict(f, json!({ "node": node, "refused": false, "admitted": true }));
            assert!(found == Validity::Invalid && words.contains("was let"), "{words}");

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
