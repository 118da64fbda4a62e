//! No node ends unless it was told to, and none is told to and does not: a node that gives up, by
//! a failed assertion or a failing disk, is no answer to a failure that the system is to stand. And
//! none is let in that must be refused. From the history alone.

use super::{Judgement, Run};
use crate::history::Action;

/// The check's name.
pub const NAME: &str = "nodes";

/// Judges a run.
#[must_use]
pub fn check(run: &Run) -> Judgement {
    let mut judgement = Judgement::new(NAME);
    for event in &run.events {
        let Action::Nemesis(event) = &event.action else { continue };
        if event.value.get("admitted") == Some(&serde_json::Value::Bool(true)) {
            let node = event.text("node").unwrap_or("?");
            judgement.violation(match event.f.as_str() {
                "twin-master" => "a second master was let onto the store of the first".to_owned(),
                _ => format!("{node} was let in with an empty directory"),
            });
        }
        if event.f != "died" {
            continue;
        }
        let [node, status] = ["node", "status"].map(|field| event.text(field).unwrap_or("?"));
        let last = event.text("log").and_then(|log| log.lines().last()).map(str::trim);
        judgement.violation(match last.filter(|line| !line.is_empty()) {
            Some(line) => format!("{node} died, {status}; its log ends: {line}"),
            None => format!("{node} died, {status}"),
        });
    }
    judgement
}
