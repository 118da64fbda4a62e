//! The shortest schedule that shows each broken rule of the protocol, as the model found it. Kept, because the
//! model takes from seconds to minutes to find them, and replayed when they are shown: what is shown is what
//! today's state machines do.
//!
//! `harness rules --seeds 0 --schedules harness/systems/twopc/src/shortest.json RULE...` renews them.

use std::{collections::BTreeMap, fs, io, path::Path};

use explore::schedule::{Property, Schedule};
use report::sections::ShownSchedule;
use serde::{Deserialize, Serialize};
use system::protocol::Rule;

/// By rule.
const KEPT: &str = include_str!("shortest.json");

/// Schedules by the rule that they show.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct ShortestSchedules(BTreeMap<String, Schedule>);

impl ShortestSchedules {
    /// The schedules that are kept.
    pub(crate) fn kept() -> Self {
        serde_json::from_str(KEPT).expect("a test reads them")
    }

    /// Adds the schedule of a rule, unless it has one.
    pub(crate) fn add(&mut self, rule: Rule, schedule: &Schedule) {
        self.0.entry(rule.name().to_owned()).or_insert_with(|| schedule.clone());
    }

    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_string(self)?;
        text.push('\n');
        fs::write(path, text)
    }

    /// The schedule of a rule, step by step, and what it violates.
    pub(crate) fn shown(&self, rule: Rule) -> Option<ShownSchedule> {
        let schedule = self.0.get(rule.name())?;
        let (steps, cluster) = schedule.trace().ok()?;
        let violated = Property::ALL.iter().filter(|property| cluster.violates(**property));
        Some(ShownSchedule {
            title: rule.name().to_owned(),
            steps,
            violated: violated.map(|it| (it.name().to_owned(), it.claim().to_owned())).collect(),
            command: schedule.origin.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kept_schedule_still_shows_its_rule() {
        let kept = ShortestSchedules::kept();
        assert!(kept.0.len() > 20, "{}", kept.0.len());
        for name in kept.0.keys() {
            let rule: Rule = name.parse().expect("a rule");
            let shown = kept.shown(rule).expect("it can be replayed");
            assert!(
                !shown.violated.is_empty(),
                "{name} violates nothing any more: {:?}",
                shown.steps
            );
        }
    }
}
