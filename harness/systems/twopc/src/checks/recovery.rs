//! Recovery, or *kept its word*: a node finds at each start every record that it had made durable before, and
//! of the records after those the first ones, whatever ended it. From each journal by itself.

use checker::{CheckResult, Finding, Impact, finding};
use system::protocol::Node;

use super::{
    Run,
    evidence::{FactKind, JournalPosition, Unkept},
};

/// The name of the check.
pub const NAME: &str = "recovery";

/// Checks a run.
#[must_use]
pub fn check(run: &Run) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    let mut starts = 0;
    for (node, facts) in &run.evidence.nodes {
        starts += facts.starts;
        for fact in &facts.facts {
            if let FactKind::Unkept(unkept) = &fact.kind {
                check_result.violation(describe(*node, fact.position, unkept));
            }
        }
    }
    check_result.measure("starts", starts);
    check_result.with_impact(Impact::Divergence)
}

fn describe(node: Node, position: JournalPosition, unkept: &Unkept) -> Finding {
    let record = &unkept.record;
    let txn = unkept
        .txn()
        .map_or_else(Finding::default, |txn| finding!(transaction(txn); " (transaction {txn})"));
    if unkept.missing {
        finding!(
            line(position), nested(txn);
            "{node} started ({position}) without {record}{txn}, which it had made durable, or \
             without what it had appended before others that are there"
        )
    } else {
        finding!(
            line(position), nested(txn);
            "{node} started ({position}) with {record}{txn}, which it had not appended"
        )
    }
}
