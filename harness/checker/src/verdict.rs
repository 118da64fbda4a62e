//! Check results, and the verdict of several checks together.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::{Cause, Finding, Impact, cause::ViolationId};

/// A verdict. Ordered by precedence: of several verdicts the greatest counts, so an unknown one
/// outranks a valid one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Validity {
    /// No violation, as far as the check looks.
    Valid,
    /// Undecided. The reason is given beside it.
    Unknown,
    /// A violation was found.
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

/// The most violations of one check that are kept as sentences, and the most promises that were only broken.
/// The others are counted.
const REPORTED_MAX: usize = 40;

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckResult {
    /// The check's name.
    pub check: String,
    /// The verdict.
    pub verdict: Validity,
    /// The first forty violations and the first forty broken promises, one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<Finding>,
    /// The number of all violations.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub violations_total: usize,
    /// Why the verdict is unknown, one sentence for each reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown_because: Vec<Finding>,
    /// Measurements by name.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub measured: Map<String, Json>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

impl CheckResult {
    /// A valid result without violations or measurements.
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

    /// Adds a violation: the verdict is invalid.
    pub fn violation(&mut self, finding: impl Into<Finding>) {
        self.verdict = Validity::Invalid;
        self.violations_total += 1;
        let finding = finding.into();
        let is_promise = |it: &Finding| it.impact() == Impact::BrokenPromise;
        let alike = self.violations.iter().filter(|it| is_promise(it) == is_promise(&finding));
        if alike.count() < REPORTED_MAX {
            self.violations.push(finding);
        }
    }

    /// States what the violations mean that do not say it themselves.
    #[must_use]
    pub fn with_impact(mut self, impact: Impact) -> Self {
        self.violations.iter_mut().for_each(|finding| finding.default_impact(impact));
        self
    }

    /// Adds a reason why the check is undecided: the verdict is at least unknown.
    pub fn unknown(&mut self, reason: impl Into<Finding>) {
        self.verdict = self.verdict.max(Validity::Unknown);
        self.unknown_because.push(reason.into());
    }

    /// Adds a measurement.
    pub fn measure(&mut self, name: &str, value: impl Into<Json>) {
        self.measured.insert(name.to_owned(), value.into());
    }
}

/// The results of all checks of a run, the content of `results.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The greatest of the verdicts.
    pub verdict: Validity,
    /// Of an invalid verdict: what it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// The result of each check.
    pub checks: Vec<CheckResult>,
}

impl Results {
    /// Combines the results of checks. Orders the violations of each check by time, and those that are only
    /// broken promises after the others.
    #[must_use]
    pub fn new(mut checks: Vec<CheckResult>) -> Self {
        let verdict = checks.iter().map(|check| check.verdict).max().unwrap_or(Validity::Valid);
        for check in &mut checks {
            check.violations.sort_by_key(|finding| {
                (finding.impact() == Impact::BrokenPromise, finding.at().unwrap_or(i64::MAX))
            });
        }
        Results { verdict, cause: Cause::of(&checks), checks }
    }

    /// The finding of a violation.
    #[must_use]
    pub fn violation(&self, id: &ViolationId) -> Option<&Finding> {
        self.check(&id.check)?.violations.get(id.number)
    }

    /// The result of the check with this name.
    #[must_use]
    pub fn check(&self, name: &str) -> Option<&CheckResult> {
        self.checks.iter().find(|result| result.check == name)
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
    fn only_the_first_violations_are_kept() {
        let mut check_result = CheckResult::new("a");
        for n in 0..100 {
            check_result.violation(format!("{n}"));
        }
        assert_eq!((check_result.violations.len(), check_result.violations_total), (40, 100));
    }
}
