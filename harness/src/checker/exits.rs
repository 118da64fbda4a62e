//! No node ends unless it was told to, and none is told to and does not: a node that gives up, by
//! a failed assertion or a failing disk, is no answer to a failure that the system is to stand. And
//! none is let in that must be refused: each is seen to be refused, in the words of a refusal. From
//! the history alone.

use serde_json::Value as Json;

use super::{CheckResult, Run};
use crate::{
    history::{Action, NemesisEvent},
    nemesis::FaultName,
};

/// The check's name.
pub const NAME: &str = "unexpected-exits";

/// Judges a run.
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
            Some(line) => format!("{node} died, {status}; its log ends: {line}"),
            None => format!("{node} died, {status}"),
        });
    }
    check_result
}

/// Judges a start that must not succeed.
fn attempt(event: &NemesisEvent, check_result: &mut CheckResult) {
    let is = |name| event.value.get(name) == Some(&Json::Bool(true));
    let [node, status] = ["node", "status"].map(|field| event.text(field));
    let said = event.text("last_log_line").or_else(|| event.text("said"));
    let node = node.unwrap_or("?");
    let (who, let_in) = if FaultName::find(&event.f) == Some(FaultName::SecondMaster) {
        let who = "a second master on the store of the first".to_owned();
        (who, "a second master was let onto the store of the first".to_owned())
    } else if event.f == FaultName::WipeReplica.name() {
        let who = format!("{node} with an empty directory");
        (who, format!("{node} was let in with an empty directory"))
    } else {
        return;
    };
    match status {
        _ if is("admitted") => check_result.violation(let_in),
        _ if is("refused") => {}
        Some(status) => check_result.violation(format!(
            "{who} was not refused, it ended otherwise, {status}: {}",
            said.unwrap_or_default()
        )),
        None => check_result.unknown(format!("whether {who} is refused was not seen in time")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checker::Validity;

    fn verdict(f: &str, value: Json) -> (Validity, String) {
        let mut check_result = CheckResult::new(NAME);
        attempt(&NemesisEvent { f: f.to_owned(), value }, &mut check_result);
        (check_result.verdict, serde_json::to_string(&check_result).expect("it has a JSON form"))
    }

    #[test]
    fn only_a_refusal_in_the_words_of_one_is_a_refusal() {
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
            assert!(found == Validity::Unknown && words.contains("not seen"), "{words}");
        }
        assert_eq!(verdict("kill", json!({ "node": "r1" })).0, Validity::Valid);
    }
}
