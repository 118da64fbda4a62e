//! Collects what the page of a run shows.

use std::time::Duration;

use checker::{
    Finding, Reference, Validity,
    linearizability::{self, Limits, NonLinearizableKey},
};
use history::{Operation, RunDescription};
use serde::Serialize;

use super::{
    FaultInterval, RecordedRun, ReportError, Sample, SectionRequest, SystemEvidence,
    SystemSections, fault_intervals, links::recognized, read_json,
};

/// How long counterexamples are searched for.
const SEARCH_LIMIT: Duration = Duration::from_secs(10);

/// What the page of a run shows.
pub(super) struct PageData<'a> {
    pub(super) run: &'a RecordedRun<'a>,
    /// `test.json`.
    pub(super) test: RunDescription,
    pub(super) faults: Vec<FaultInterval>,
    pub(super) counterexamples: Vec<NonLinearizableKey>,
    /// The violations whose time is known, the first one of all first.
    pub(super) errors: Vec<ShownError>,
    pub(super) sample: Sample,
    pub(super) sections: SystemSections,
}

impl<'a> PageData<'a> {
    /// Collects the data of a run.
    ///
    /// # Errors
    /// A file of the run cannot be read.
    pub(super) fn collect(
        run: &'a RecordedRun<'a>,
        evidence: &dyn SystemEvidence,
    ) -> Result<Self, ReportError> {
        let path = run.directory.join("test.json");
        let test = read_json(&path).map_err(ReportError::file(&path))?;
        let faults = fault_intervals(run.events);
        let counterexamples = counterexamples(run);
        let sample = Sample::of(run.operations, &faults, &counterexamples);
        let shown = counterexamples.iter().flat_map(|broken| &broken.explanation.operations);
        let shown: Vec<&Operation> = shown.map(|op| &run.operations[op.number as usize]).collect();
        let sections = evidence.sections(&SectionRequest {
            faults: &faults,
            references: &references(run),
            counterexamples: &shown,
            sample: &sample,
        })?;
        let errors = errors(run);
        Ok(PageData { run, test, faults, counterexamples, errors, sample, sections })
    }

    /// The name of the run.
    pub(super) fn name(&self) -> &str {
        self.test.name.as_deref().unwrap_or("a recorded run")
    }

    /// The number of concurrent clients, as far as it is recorded.
    pub(super) fn concurrency(&self) -> u64 {
        self.test
            .concurrency
            .filter(|clients| *clients > 0)
            .or_else(|| self.run.operations.iter().map(|op| op.process.saturating_add(1)).max())
            .unwrap_or(1)
    }

    /// What the page leaves out, a sentence each.
    pub(super) fn omissions(&self) -> Vec<String> {
        let sampled = self.sample.omission();
        sampled.into_iter().chain(self.sections.omissions.iter().cloned()).collect()
    }

    /// The time range that the timeline shows first: the counterexample, or the trace of the transaction
    /// that a violation is about. `None` for the whole run.
    pub(super) fn focus(&self) -> Option<(i64, i64)> {
        if let Some(broken) = self.counterexamples.first() {
            let operations = broken.explanation.operations.iter();
            let operations = operations.map(|op| &self.run.operations[op.number as usize]);
            let times = operations.flat_map(|op| [Some(op.invoked), op.returned]).flatten();
            let (from, to) = (times.clone().min()?, times.max()?);
            return Some((i64::try_from(from).ok()?, i64::try_from(to).ok()?));
        }
        if self.run.results.verdict != Validity::Invalid {
            return None;
        }
        let first = self.sections.first_transaction.as_ref()?;
        self.sections.traces.iter().find(|trace| trace.transaction == *first)?.time_range()
    }
}

/// A violation as the timeline marks it.
#[derive(Debug, Serialize)]
pub(super) struct ShownError {
    /// In nanoseconds of the history.
    at: i64,
    check: String,
    text: String,
    /// The first transaction that it is about.
    transaction: Option<String>,
}

/// The most violations that the timeline marks.
const MARKED_MAX: usize = 60;

fn errors(run: &RecordedRun<'_>) -> Vec<ShownError> {
    let Some(cause) = &run.results.cause else { return Vec::new() };
    let shown = |check: &str, finding: &Finding| {
        let transaction = finding.subjects().find_map(|subject| match subject {
            Reference::Transaction(id) => Some(id.clone()),
            _ => None,
        });
        let text = finding.split_first_line().0.text().to_owned();
        Some(ShownError { at: finding.at()?.max(0), check: check.to_owned(), text, transaction })
    };
    let first = shown(&cause.first.check, &cause.finding);
    let follow = cause
        .consequences
        .iter()
        .filter_map(|id| run.results.violation(id).and_then(|finding| shown(&id.check, finding)));
    first.into_iter().chain(follow).take(MARKED_MAX).collect()
}

/// The counterexamples, if the history is not linearizable.
fn counterexamples(run: &RecordedRun<'_>) -> Vec<NonLinearizableKey> {
    let check = run.results.check(linearizability::NAME);
    if check.is_none_or(|check| check.verdict != Validity::Invalid) {
        return Vec::new();
    }
    let limits = Limits { time: SEARCH_LIMIT, ..Limits::default() };
    linearizability::non_linearizable_keys(run.operations, &limits)
}

/// The references of all violations: the first one and what follows from it, then in the order of the checks.
fn references(run: &RecordedRun<'_>) -> Vec<Reference> {
    let cause = run.results.cause.iter();
    let first = cause.clone().map(|cause| &cause.finding);
    let follow = cause.flat_map(|cause| &cause.consequences);
    let follow = follow.filter_map(|id| run.results.violation(id));
    let subjects = first.chain(follow).flat_map(Finding::subjects).cloned();
    let invalid = run.results.checks.iter().filter(|check| check.verdict == Validity::Invalid);
    let findings = invalid.flat_map(|check| &check.violations);
    let cited =
        findings.flat_map(|finding| recognized(finding).references().cloned().collect::<Vec<_>>());
    subjects.chain(cited).collect()
}
