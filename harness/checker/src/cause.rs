//! The cause of an invalid verdict: of all violations, the one that came first, and which later ones
//! follow from it.
//!
//! A mistake in a replicated system shows up more than once: a node breaks a promise, later two nodes
//! decide differently, then one of them halts, and at the end a write is missing. Each check reports its
//! part. [`Cause::of`] puts the parts in order. It starts at the earliest violation that is more than a
//! broken promise, because promises can be broken hundreds of times without harm, and goes back from there
//! to the promise about the same transaction, if one was broken. Only what the findings say of themselves
//! is used: [when](Finding::at), [how bad](Finding::impact), and what they [refer to](Finding::subjects).

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

use crate::{CheckResult, Finding, Reference, Validity};

/// What a violation means for those who rely on the system. Ordered by gravity.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Impact {
    /// The system broke a promise. By itself, this has harmed nobody.
    #[default]
    BrokenPromise,
    /// A node stopped, or something was never finished.
    Stopped,
    /// A node decided what it must not, or has forgotten what it had promised to keep. Often others have decided
    /// differently.
    Divergence,
    /// A client was told something that no correct system says.
    WrongAnswer,
    /// A write that was acknowledged is missing.
    DataLost,
}

impl fmt::Display for Impact {
    /// What is so in a run in which this is the worst that was found.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Impact::BrokenPromise => "Only a promise was broken",
            Impact::Stopped => "Something stopped or was never finished",
            Impact::Divergence => "A node decided wrongly, or forgot what it had promised",
            Impact::WrongAnswer => "A client got a wrong answer",
            Impact::DataLost => "Data was lost: a write that was acknowledged is missing",
        })
    }
}

/// A violation, by its check and its place among the violations of the check, from 0.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ViolationId {
    /// The check.
    pub check: String,
    /// The place.
    pub number: usize,
}

/// What an invalid verdict comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// The violation that came first.
    #[serde(flatten)]
    pub first: ViolationId,
    /// The sentence of that violation, without a drawn timeline.
    pub finding: Finding,
    /// What made the system do that, if it is known: a sentence that its checks may add.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<Finding>,
    /// What made it matter, if that is known: the fault between it and what followed from it. A sentence that the
    /// checks of the system may add.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Finding>,
    /// The worst that any violation of the run means.
    pub impact: Impact,
    /// The check that found it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub impact_check: String,
    /// Later violations about the same transaction, key or node, and what a node that stopped leaves
    /// unfinished, in the order of time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub consequences: Vec<ViolationId>,
    /// The number of all violations besides these.
    #[serde(default)]
    pub others: usize,
    /// How many of them say the same as the cause, of other transactions, as far as they are kept.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub alike: usize,
    /// When the first of those happened, in nanoseconds of the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alike_since: Option<i64>,
    /// The checks that found no violation and could not decide everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undecided: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// A violation and where it stands.
struct Incident<'a> {
    id: ViolationId,
    finding: &'a Finding,
    /// What is without a time was found at the end.
    at: i64,
    impact: Impact,
    transactions: BTreeSet<&'a str>,
    keys: BTreeSet<&'a str>,
    nodes: BTreeSet<&'a str>,
}

impl<'a> Incident<'a> {
    fn new(check: &'a CheckResult, number: usize, finding: &'a Finding) -> Self {
        let mut incident = Incident {
            id: ViolationId { check: check.check.clone(), number },
            finding,
            at: finding.at().unwrap_or(i64::MAX),
            impact: finding.impact(),
            transactions: BTreeSet::new(),
            keys: BTreeSet::new(),
            nodes: BTreeSet::new(),
        };
        for subject in finding.subjects() {
            match subject {
                Reference::Transaction(id) => incident.transactions.insert(id),
                Reference::Key(key) => incident.keys.insert(key),
                Reference::JournalLine { node, .. } | Reference::Node(node) => {
                    incident.nodes.insert(node)
                }
                Reference::Operation { .. } => false,
            };
        }
        incident
    }

    /// The order of time. What stops a node comes after what it stops over, which its journal may record at the
    /// same time.
    fn order(&self) -> (i64, bool, Impact) {
        (self.at, self.impact == Impact::Stopped, self.impact)
    }
}

impl Cause {
    /// What the violations mean together, in a sentence. That no data was lost is said only if every check could
    /// decide.
    #[must_use]
    pub fn meaning(&self) -> String {
        let found = match self.impact_check.as_str() {
            "" => String::new(),
            check => format!(" (check {check})"),
        };
        let worse = match self.impact {
            Impact::DataLost => return format!("{}{found}.", self.impact),
            Impact::WrongAnswer => "data was lost",
            _ => "data was lost or an answer was wrong",
        };
        match (&self.undecided[..], self.impact) {
            ([], Impact::WrongAnswer) => format!("{}{found}.", self.impact),
            ([], _) => format!("{}; no data was found lost, and no answer wrong.", self.impact),
            (undecided, _) => {
                let names = undecided.join(", ");
                let found = if self.impact == Impact::WrongAnswer { &found } else { "" };
                format!("{}{found}. Whether {worse} is open (undecided: {names}).", self.impact)
            }
        }
    }

    /// The violations that are neither the cause nor its consequences, in words. `None` if there are none.
    #[must_use]
    pub fn others_in_words(&self) -> Option<String> {
        let counted = |n: usize| format!("{n} other violation{}", if n == 1 { "" } else { "s" });
        let since = self.alike_since.filter(|at| *at >= 0);
        let since = since.map_or_else(String::new, |at| {
            let came_to_nothing = match self.finding.at() {
                Some(own) if at < own => ", without such consequences",
                _ => "",
            };
            format!(" (the first after {:.3} s{came_to_nothing})", at as f64 / 1e9)
        });
        match (self.others, self.alike) {
            (0, _) => None,
            (others, 0) => {
                Some(format!("{} of other transactions, keys or nodes", counted(others)))
            }
            (others, alike) if others == alike => Some(format!(
                "{} that say{} the same of other transactions{since}",
                counted(others),
                if others == 1 { "s" } else { "" }
            )),
            (others, alike) => Some(format!(
                "{}; of those listed, {alike} say the same of other transactions{since}",
                counted(others)
            )),
        }
    }

    /// The cause among the violations of these checks. `None` if no check is invalid.
    #[must_use]
    pub fn of(checks: &[CheckResult]) -> Option<Cause> {
        let invalid = checks.iter().filter(|check| check.verdict == Validity::Invalid);
        let mut incidents: Vec<Incident<'_>> = invalid
            .flat_map(|check| {
                let violations = check.violations.iter().enumerate();
                violations.map(move |(number, finding)| Incident::new(check, number, finding))
            })
            .collect();
        incidents.sort_by_key(Incident::order);
        let harm = first_harm(&incidents)?;
        let first = broken_promise(&incidents, harm).unwrap_or(harm);
        let consequences = consequences(&incidents, first, harm);
        // Of equals the earliest.
        let worst = incidents.iter().rev().max_by_key(|incident| incident.impact)?;
        let total: usize = checks.iter().map(|check| check.violations_total).sum();
        let said = said(incidents[first].finding);
        let is_alike = |(n, it): &(usize, &Incident<'_>)| {
            let is_other = *n != first && !consequences.contains(n);
            is_other && it.id.check == incidents[first].id.check && said.eq(&self::said(it.finding))
        };
        let alike: Vec<&Incident<'_>> =
            incidents.iter().enumerate().filter(is_alike).map(|(_, it)| it).collect();
        Some(Cause {
            first: incidents[first].id.clone(),
            finding: incidents[first].finding.split_first_line().0,
            trigger: None,
            fault: None,
            alike: alike.len(),
            alike_since: alike.iter().filter_map(|it| it.finding.at()).min(),
            impact: worst.impact,
            impact_check: worst.id.check.clone(),
            others: total.saturating_sub(1 + consequences.len()),
            undecided: checks
                .iter()
                .filter(|check| check.verdict != Validity::Invalid)
                .filter(|check| !check.unknown_because.is_empty())
                .map(|check| check.check.clone())
                .collect(),
            consequences: consequences.into_iter().map(|n| incidents[n].id.clone()).collect(),
        })
    }
}

/// What a finding says, whatever it says it of: its words without quoted values and without any that has a digit, as
/// transactions, lines and most names of nodes have.
fn said(finding: &Finding) -> Vec<&str> {
    let first_line = finding.text().lines().next().unwrap_or_default();
    let unquoted = first_line.split('\'').step_by(2);
    let words = unquoted.flat_map(str::split_whitespace);
    words.filter(|word| !word.contains(|c: char| c.is_ascii_digit())).collect()
}

/// The earliest violation of what clients rely on; else the earliest stop; else the earliest of all.
fn first_harm(incidents: &[Incident<'_>]) -> Option<usize> {
    let at_least = |impact| incidents.iter().position(|incident| incident.impact >= impact);
    at_least(Impact::Divergence)
        .or_else(|| at_least(Impact::Stopped))
        .or((!incidents.is_empty()).then_some(0))
}

/// Of the promises that were broken before a violation, the earliest about its transaction, at its node if possible.
fn broken_promise(incidents: &[Incident<'_>], harm: usize) -> Option<usize> {
    let (earlier, harm) = (&incidents[..harm], &incidents[harm]);
    let same = |it: &Incident<'_>| {
        it.impact == Impact::BrokenPromise && !it.transactions.is_disjoint(&harm.transactions)
    };
    let at_its_node = |it: &Incident<'_>| same(it) && !it.nodes.is_disjoint(&harm.nodes);
    earlier.iter().position(at_its_node).or_else(|| earlier.iter().position(same))
}

/// The later violations that follow from one. They share its transaction, or a key or a node where there is
/// no transaction to share. Once a node has stopped over it, everything that is not finished follows from that.
fn consequences(incidents: &[Incident<'_>], first: usize, harm: usize) -> Vec<usize> {
    let transactions = &incidents[first].transactions | &incidents[harm].transactions;
    let mut keys = &incidents[first].keys | &incidents[harm].keys;
    let mut nodes = &incidents[first].nodes | &incidents[harm].nodes;
    let mut has_stopped = [first, harm].iter().any(|n| incidents[*n].impact == Impact::Stopped);
    let mut found = Vec::new();
    for (n, it) in incidents.iter().enumerate().skip(first + 1) {
        let shares_transaction = !it.transactions.is_disjoint(&transactions);
        let is_loose = it.transactions.is_empty() || transactions.is_empty();
        let shares_key = is_loose && !it.keys.is_disjoint(&keys);
        let shares_node = (transactions.is_empty() || it.impact == Impact::Stopped)
            && !it.nodes.is_disjoint(&nodes);
        let is_unfinished = has_stopped && it.impact == Impact::Stopped;
        if shares_transaction || shares_key || shares_node || is_unfinished {
            has_stopped |= it.impact == Impact::Stopped;
            if shares_transaction {
                keys.extend(&it.keys);
                nodes.extend(&it.nodes);
            }
            found.push(n);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(text: &str, at: i64, impact: Impact, about: &[&str]) -> Finding {
        let reference = |text: &&str| match text.chars().next() {
            Some('r') => Reference::Node((*text).to_owned()),
            Some('k') => Reference::Key((*text).to_owned()),
            _ => Reference::Transaction((*text).to_owned()),
        };
        Finding::from(text)
            .with_time(Some(at))
            .with_impact(impact)
            .about(about.iter().map(reference))
    }

    fn check(name: &str, findings: impl IntoIterator<Item = Finding>) -> CheckResult {
        let mut check_result = CheckResult::new(name);
        findings.into_iter().for_each(|finding| check_result.violation(finding));
        check_result
    }

    #[test]
    fn the_broken_promise_comes_first_and_the_rest_follows() {
        let early = |n: i64| {
            let text = format!("r1 acknowledged 1.{n} early");
            finding(&text, n, Impact::BrokenPromise, &[&format!("1.{n}"), "r1"])
        };
        let reads = finding("wrong", 60, Impact::WrongAnswer, &["k1", "1.3", "1.5"]);
        let checks = [
            check("linearizability", [reads]),
            check(
                "atomicity",
                (1..9).map(early).chain([
                    finding("r1 halted over 1.5", 50, Impact::Stopped, &["1.5", "r1"]),
                    finding("AC1: 1.5", 50, Impact::Divergence, &["1.5", "r1"]),
                    finding("AC1: 1.7", 70, Impact::Divergence, &["1.7", "r2"]),
                ]),
            ),
            check(
                "convergence",
                [
                    finding("unfinished", 90, Impact::Stopped, &[]),
                    finding("k1 is locked", 91, Impact::Stopped, &["k1"]),
                ],
            ),
        ];
        let cause = Cause::of(&checks).expect("there are violations");
        assert_eq!(cause.finding.text(), "r1 acknowledged 1.5 early");
        assert_eq!(cause.impact, Impact::WrongAnswer);
        let texts: Vec<&str> = cause
            .consequences
            .iter()
            .map(|id| {
                let check = checks.iter().find(|check| check.check == id.check).expect("a check");
                check.violations[id.number].text()
            })
            .collect();
        assert_eq!(
            texts,
            ["AC1: 1.5", "r1 halted over 1.5", "wrong", "unfinished", "k1 is locked"]
        );
        assert_eq!(cause.others, 8, "seven other promises, and the other transaction");
        let words = cause.others_in_words().expect("there are others");
        assert_eq!(
            words,
            "8 other violations; of those listed, 7 say the same of other transactions (the first after 0.000 s, \
             without such consequences)"
        );
    }

    #[test]
    fn a_stop_that_nothing_explains_is_the_cause() {
        let checks = [check(
            "unexpected-exits",
            [
                finding("r2 died", 10, Impact::Stopped, &["r2"]),
                finding("r2 died again", 20, Impact::Stopped, &["r2"]),
            ],
        )];
        let mut cause = Cause::of(&checks).expect("there are violations");
        assert_eq!(
            (cause.finding.text(), cause.consequences.len(), cause.others),
            ("r2 died", 1, 0)
        );
        assert!(cause.meaning().contains("no data was found lost"), "{}", cause.meaning());
        cause.undecided.push("durability".to_owned());
        let meaning = cause.meaning();
        assert!(meaning.ends_with("is open (undecided: durability)."), "{meaning}");
        assert_eq!(Cause::of(&[CheckResult::new("a")]), None);
    }
}
