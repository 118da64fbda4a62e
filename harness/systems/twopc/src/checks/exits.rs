//! Unexpected exits: no node ends unless it was told to. A node that gives up, because of a failed
//! assertion or a failing disk, does not survive a failure that the system must survive. And every
//! process that must be refused is refused, with the message of a refusal. From the history alone.

use checker::CheckResult;
use history::{Action, NemesisEvent};
use serde_json::Value as Json;

use super::Run;
use crate::faults::FaultName;

/// The name of the check.
pub const NAME: &str = "unexpected-exits";

/// Checks a run.
#[must_use]
pub fn check(run: &Run) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    for event in &run.events {
        let Action::Nemesis(event) = &event.action else { continue };
        attempt(event, &mut check_result);
        if event.f != "died" {
            continue;
        }
        let [node, status] = ["node", "status"].map(|field| event.text(field).unwrap_or("?"));
        let last = event.text("log").and_then(|log| log.lines().last()).map(str::trim);
        check_result.violation(match last.filter(|line| !line.is_empty()) {
            Some(line) => format!("{node} died ({status}); its log ends: {line}"),
            None => format!("{node} died ({status})"),
        });
    }
    check_result
}

/// Checks an attempt to start a process that must be refused.
fn attempt(event: &NemesisEvent, check_result: &mut CheckResult) {
    let is = |name| event.value.get(name) == Some(&Json::Bool(true));
    let [node, status] = ["node", "status"].map(|field| event.text(field));
    // `said`: the name of the field in records of earlier versions.
    let message = event.text("last_log_line").or_else(|| event.text("said"));
    let node = node.unwrap_or("?");
    let (process, admitted) = if FaultName::find(&event.f) == Some(FaultName::SecondMaster) {
        let process = "a second master on the store of the first".to_owned();
        (process, "a second master was let onto the store of the first".to_owned())
    } else if event.f == FaultName::WipeReplica.name() {
        let process = format!("{node} with an empty directory");
        (process, format!("{node} was let in with an empty directory"))
    } else {
        return;
    };
    match status {
        _ if is("admitted") => check_result.violation(admitted),
        _ if is("refused") => {}
        Some(status) => check_result.violation(format!(
            "{process} was not refused but ended with {status}: {}",
            message.unwrap_or_default()
        )),
        None => {
            check_result.unknown(format!("whether {process} is refused was not observed in time"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use checker::Validity;

    fn verdict(f: &str, value: Json) -> (Validity, String) {
        let mut check_result = CheckResult::new(NAME);
        attempt(&NemesisEvent { f: f.to_owned(), value }, &mut check_result);
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
