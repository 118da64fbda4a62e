//! Transactions: which isolation levels the history rules out, and whether an acknowledged append is lost.
//! Judged if a level is claimed; what is found is named either way. An order that shows serializability is
//! verified before it is told.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Run, lost_data};
use crate::{
    CheckResult, Validity,
    levels::Level,
    transactions::{
        self, AxiomaticLevel, Judged, ReportedAnomaly, Standing, TransactionHistory,
        TransactionReport,
    },
};

/// The name of the check.
const NAME: &str = "transactions";

/// The result, and what was found; nothing if the history cannot be judged.
pub(super) fn check(run: &Run<'_>, claim: Level) -> (CheckResult, Option<TransactionReport>) {
    let mut check_result = CheckResult::new(NAME);
    let report = judge(run, claim, &mut check_result);
    let report = report.map_err(|why| check_result.unknown(why)).ok();
    match run.unread() {
        Some([]) => {}
        Some(unread) => check_result.unknown(format!(
            "{} reads after the end of all faults did not succeed, so what is lost is not known",
            unread.len()
        )),
        None => check_result.unknown("the keys were not read after the end of all faults"),
    }
    (check_result, report)
}

fn judge(
    run: &Run<'_>,
    claimed: Level,
    check_result: &mut CheckResult,
) -> Result<TransactionReport, String> {
    let claim = match claimed {
        Level::Isolation(level) => Some(level),
        _ => None,
    };
    let mut history = TransactionHistory::default();
    history::formats::transactions(run.events, &mut history)?;
    history.seal();
    let judged = transactions::judge(&mut history)?;
    let report = transactions::report(&history, &judged, claim);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for anomaly in &report.anomalies {
        counts.insert(&anomaly.name, anomaly.count);
        if claim.is_some_and(|claim| is_forbidden(anomaly, claim)) {
            check_result.violation(format!("{}: {}", anomaly.name, anomaly.text));
        }
    }
    for lost in &report.lost {
        check_result.violation(lost_data(format!("lost: {lost}")));
    }
    check_result.violations_total += report.lost_total - report.lost.len();
    match claimed {
        Level::Durable => {
            let why = transactions::durability_unknown_because(&history);
            why.into_iter().for_each(|why| check_result.unknown(why));
        }
        Level::Axiomatic(level) => axiomatic(&judged, level, check_result),
        _ => {}
    }
    match (report.verdict, check_result.verdict, claim) {
        // The level is ruled out in a way that no anomaly names.
        (Validity::Invalid, Validity::Valid, Some(claim)) => {
            check_result.violation(format!("no order of the transactions is {claim}"));
        }
        (Validity::Unknown, _, Some(claim)) => {
            let name = claim.to_string();
            let why = report.undecided.iter().find(|(level, _)| *level == name);
            let why = why.map_or("it is undecided", |(_, why)| why);
            check_result.unknown(format!("{name}: {why}"));
        }
        _ => {}
    }
    if let Some(found) = &judged.certificate {
        // The order was found by one algorithm and is replayed by another.
        match transactions::verify(&history, &found.order, found.level.order) {
            Ok(()) => check_result.measure("certified", found.level.to_string()),
            Err(why) => check_result.unknown(format!("the order that was found is wrong: {why}")),
        }
    }
    check_result.measure("transactions", report.transactions);
    check_result.measure("anomalies", json!(counts));
    check_result.measure("lost", report.lost_total);
    check_result.measure("strongest_levels", json!(report.strongest));
    Ok(report)
}

/// Judges a level of Biswas and Enea.
fn axiomatic(judged: &Judged, level: AxiomaticLevel, check_result: &mut CheckResult) {
    let name = Level::Axiomatic(level);
    match judged.axiomatic(level) {
        Some(Standing::Holds) => {}
        Some(Standing::RuledOut) => {
            check_result.violation(format!("no order of the transactions is {name}"));
        }
        Some(Standing::Unknown(why)) => check_result.unknown(format!("{name}: {why}")),
        None => check_result.unknown(format!(
            "{name} is a level of transactions on registers, and these are on lists"
        )),
    }
}

/// Whether an anomaly rules out what was claimed.
fn is_forbidden(anomaly: &ReportedAnomaly, claim: transactions::Level) -> bool {
    let ruled_out = anomaly.rules_out.iter().filter_map(|name| match name.parse() {
        Ok(Level::Isolation(level)) => Some(level),
        _ => None,
    });
    ruled_out.into_iter().any(|level| claim.implies(level))
}
