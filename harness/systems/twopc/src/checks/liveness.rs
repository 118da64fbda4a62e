//! Liveness with bounds: what a running node owes is done in time. A write is answered or decided within the
//! vote timeout, a replica in doubt inquires in each period, a decision is repeated until it is
//! acknowledged, a replica that does not answer is given up, and the watermark advances. From the
//! journals; the time in which a node ran late does not count, so a busy machine breaks no bound.

use checker::{CheckResult, Finding, Impact, finding};

use super::{
    Run,
    evidence::{FactKind, JournalPosition, Overdue},
};

/// The name of the check.
pub const NAME: &str = "liveness";

/// Checks a run.
#[must_use]
pub fn check(run: &Run) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    run.evidence.complete(&mut check_result);
    for fact in run.evidence.nodes.values().flat_map(|node| &node.facts) {
        if let FactKind::Overdue(overdue) = &fact.kind {
            check_result.violation(describe(fact.position, overdue));
        }
    }
    check_result.with_impact(Impact::BrokenPromise)
}

fn describe(position: JournalPosition, overdue: &Overdue) -> Finding {
    let node = position.node;
    match overdue {
        Overdue::Answer { txn, waited, bound } => {
            let about =
                txn.map_or_else(Finding::default, |txn| finding!(transaction(txn); " {txn}"));
            finding!(
                line(position), nested(about);
                "a write{about} waited {} ms at the master ({position}) until it was answered or decided; \
                 the vote timeout is {} ms",
                waited.as_millis(), bound.as_millis()
            )
        }
        Overdue::Inquiry { txn, waited, bound } => finding!(
            line(position), transaction(txn);
            "{node} was in doubt about {txn} and did not inquire for {} ms ({position}); it has to each {} ms",
            waited.as_millis(), bound.as_millis()
        ),
        Overdue::Decision { txn, to, heartbeats, bound } => finding!(
            line(position), transaction(txn);
            "the master has not repeated its decision about {txn} to {to}, which has not acknowledged it, \
             for {heartbeats} heartbeats ({position}); it has to within {bound}"
        ),
        Overdue::GivenUp { node: silent, heartbeats, bound } => finding!(
            line(position);
            "the master takes {silent} for live, which has not answered {heartbeats} heartbeats ({position}); \
             it has to give it up within {bound}"
        ),
        Overdue::Watermark { watermark, least } => finding!(
            line(position), transaction(watermark), transaction(least);
            "the watermark is {watermark} ({position}), though every transaction below {least} is finished"
        ),
    }
}
