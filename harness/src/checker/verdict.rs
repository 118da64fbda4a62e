//! What a check says, and how many checks make one verdict. Knows nothing of any check.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::Finding;

/// The answer to "was it right?". Ordered by which outranks which: of several answers the greatest
/// counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Validity {
    /// It was, as far as this check looks.
    Valid,
    /// It cannot be said, and why is told beside it.
    Unknown,
    /// It was not.
    Invalid,
}

impl fmt::Display for Validity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Validity::Valid => "valid",
            Validity::Unknown => "unknown",
            Validity::Invalid => "invalid",
        })
    }
}

/// So many violations of one check are told in words; the others are counted.
const TOLD_MAX: usize = 40;

/// What one check found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckResult {
    /// The check's name.
    pub check: String,
    /// Its verdict.
    pub verdict: Validity,
    /// What is wrong, a sentence each, the first forty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<Finding>,
    /// How many violations there are in all.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub violations_total: usize,
    /// Why it cannot be said, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown_because: Vec<Finding>,
    /// What was measured on the way, by name.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub measured: Map<String, Json>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

impl CheckResult {
    /// A check_result that has found nothing wrong yet.
    #[must_use]
    pub fn new(check: &str) -> Self {
        CheckResult {
            check: check.to_owned(),
            verdict: Validity::Valid,
            violations: Vec::new(),
            violations_total: 0,
            unknown_because: Vec::new(),
            measured: Map::new(),
        }
    }

    /// Something is wrong.
    pub fn violation(&mut self, sentence: impl Into<Finding>) {
        self.verdict = Validity::Invalid;
        self.violations_total += 1;
        if self.violations.len() < TOLD_MAX {
            self.violations.push(sentence.into());
        }
    }

    /// Something cannot be said.
    pub fn unknown(&mut self, sentence: impl Into<Finding>) {
        self.verdict = self.verdict.max(Validity::Unknown);
        self.unknown_because.push(sentence.into());
    }

    /// Something was measured.
    pub fn measure(&mut self, name: &str, value: impl Into<Json>) {
        self.measured.insert(name.to_owned(), value.into());
    }
}

/// What all checks of a run found: `results.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The greatest of the checks' verdicts.
    pub verdict: Validity,
    /// What each check found, in the order in which they are described.
    pub checks: Vec<CheckResult>,
}

impl Results {
    /// Puts check_results together.
    #[must_use]
    pub fn new(checks: Vec<CheckResult>) -> Self {
        let verdict = checks.iter().map(|check| check.verdict).max().unwrap_or(Validity::Valid);
        Results { verdict, checks }
    }

    /// What a check found.
    #[must_use]
    pub fn check(&self, name: &str) -> Option<&CheckResult> {
        self.checks.iter().find(|check_result| check_result.check == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_outranks_unknown_outranks_valid() {
        let valid = CheckResult::new("a");
        let mut unknown = CheckResult::new("b");
        unknown.unknown("too large");
        let mut invalid = CheckResult::new("c");
        invalid.violation("r2 lost k");
        invalid.unknown("and more");
        let verdict = |checks: &[&CheckResult]| {
            Results::new(checks.iter().copied().cloned().collect()).verdict
        };
        assert_eq!(verdict(&[]), Validity::Valid);
        assert_eq!(verdict(&[&valid, &unknown]), Validity::Unknown);
        assert_eq!(verdict(&[&unknown, &invalid, &valid]), Validity::Invalid);
    }

    #[test]
    fn many_violations_are_counted() {
        let mut check_result = CheckResult::new("a");
        for n in 0..100 {
            check_result.violation(format!("{n}"));
        }
        assert_eq!((check_result.violations.len(), check_result.violations_total), (40, 100));
    }
}
