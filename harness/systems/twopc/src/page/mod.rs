//! What this store adds to the page of its runs, read from the journals of its nodes: lanes with the
//! lock intervals of replicas and the transactions of the master, traces of transactions with every message
//! and log record, quoted journal lines, and what became of indeterminate operations.

mod glossary;
mod journal_lines;
mod lanes;
mod lock_intervals;
mod selection;
mod traces;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use checker::Results;
use history::{Action, Event, Function, NemesisEvent, Operation, nemesis::InjectionKind};
use report::{
    FaultInterval, RecordedRun, ReportError, SectionRequest, SystemEvidence, SystemSections,
    fault_intervals,
    sections::{LevelChart, Links, Quote, Resolution, ShownSchedule, Term, Trace},
    summary::Tally,
};
use system::protocol::{Node, TxnId};

use self::{
    lanes::NodeTimes,
    lock_intervals::{LockInterval, lock_intervals, master_times},
    selection::Selection,
    traces::JournalExtract,
};
use crate::{
    Mutation,
    checks::{LoadError, Run, faults::lost, find_journals, version_of},
    faults::FaultName,
    matrix::Coverage,
    shortest::ShortestSchedules,
};

/// Writes the page and the plots of a run into its directory. Existing ones are replaced.
///
/// # Errors
/// A file of the run cannot be read, or the page or a plot cannot be written.
pub fn write(directory: &Path, run: &Run, results: &Results) -> Result<(), LoadError> {
    let recorded = RecordedRun {
        directory,
        events: &run.events,
        operations: &run.operations,
        torn: run.torn,
        results,
        transactions: None,
    };
    let evidence = JournalEvidence { directory, run };
    report::write(&recorded, &evidence).map_err(|error| match error {
        ReportError::File { path, source } => LoadError::File { path, source },
    })
}

/// The property that one of the store's own checks verifies.
#[must_use]
pub fn check_property(check: &str) -> Option<&'static str> {
    Some(match check {
        "atomicity" => {
            "Every transaction commits at all replicas or at none, no decision is reversed (AC1 to \
             AC5), and the replicas are equal at the end."
        }
        "reads" => {
            "No replica serves a key while a write of it is in doubt, or before it has applied the \
             last committed write of it."
        }
        "durability" => {
            "At the end, every replica holds every acknowledged write or a later version of its key."
        }
        "reply-soundness" => {
            "A client is told Ok only if its write is committed, and Aborted only if it never takes \
             effect, a get is told the transaction that wrote its value, and a put is committed once."
        }
        "conflicts" => {
            "Every write aborted for a conflict overlaps another write of its key, and the transaction \
             that is named holds the key."
        }
        "recovery" => "At each start a node finds every record that it had made durable.",
        "liveness" => {
            "A running node answers, inquires and repeats in time, gives up who is silent, and advances \
             the watermark. The time in which a node ran late does not count."
        }
        "messages" => {
            "What a node receives was sent by another one, with the same content. Without faults, and after \
             everything was repaired, no message is lost."
        }
        "read-balance" => "Each replica is asked for the share of the gets that chance gives.",
        "resources" => {
            "Descriptors, threads and memory of the nodes come back after the load, idle nodes use no \
             processor time, and a hostile client costs a node little memory."
        }
        "convergence" => {
            "After the last fault is healed, all transactions are decided and all locks released \
             within the deadline, and every key can be written and read."
        }
        "disks" => {
            "A replica without room accepts no value, a node ends at an error of its disk, notices a \
             force that takes long, and starts on flipped bits only if they damage nothing it serves."
        }
        "invariant-monitor" => "Every state that the simulator visits satisfies the invariants.",
        _ => return None,
    })
}

/// The properties of atomic commitment, as Bernstein, Hadzilacos and Goodman number them.
const COMMITMENT: &[Term] = &[
    ("AC1", "all nodes that reach a decision about a transaction reach the same one."),
    ("AC2", "a node does not reverse its decision."),
    (
        "AC3",
        "a commit needs the durable yes vote of every replica and, in logged mode, the master's durable COMMIT.",
    ),
    ("AC4", "if all voted yes and nothing fails, the decision is commit."),
    ("AC5", "when failures are repaired, all nodes decide."),
    (
        "END",
        "the master's record that every replica has acknowledged a commit. It is forgotten then, and what the master does \
         not know counts as aborted.",
    ),
    (
        "REFUSED",
        "a replica's record that it will never vote yes on a transaction. Only then may it tell others that it is aborted.",
    ),
    (
        "watermark",
        "every transaction below it is finished at every node. A replica that is in doubt about one aborts it.",
    ),
];

/// The word of findings about exits.
const HALTED: Term = (
    "halted",
    "the state machine of the node stopped its process. With exit status 4 it had met what must not happen.",
);

/// The properties that the simulator watches.
const MONITORED: &[Term] = &[
    ("R1", "a read that is served returns the last committed write of its key."),
    COMMITMENT[0],
    COMMITMENT[1],
    COMMITMENT[2],
    COMMITMENT[3],
    COMMITMENT[4],
];

/// The terms that the sentences of a check use.
#[must_use]
pub fn terms(check: &str) -> &'static [Term] {
    match check {
        "atomicity" => COMMITMENT,
        "invariant-monitor" => MONITORED,
        "unexpected-exits" => &[HALTED],
        _ => &[],
    }
}

/// The coverage of the crash matrix in a run.
#[must_use]
pub fn coverage(events: &[Event]) -> Coverage {
    let mut coverage = Coverage::default();
    for event in events {
        if let Action::Nemesis(event) = &event.action {
            coverage.add(event);
        }
    }
    coverage
}

/// The summary of a run. It lists the injections of the crash matrix by cell, and what power losses
/// dropped.
#[must_use]
pub fn summary(events: &[Event]) -> Tally {
    let mut tally = Tally::of(events);
    let mut dropped: BTreeMap<&str, u64> = BTreeMap::new();
    for event in events {
        if let Action::Nemesis(NemesisEvent::Injected(InjectionKind::PowerLoss, injected)) =
            &event.action
            && let Some(fault) = &injected.fault
        {
            *dropped.entry(fault).or_default() += lost(injected);
        }
    }
    for (fault, dropped) in dropped.into_iter().filter(|(_, dropped)| *dropped > 0) {
        let note = format!("dropped by power losses: {dropped} pages and directory entries");
        tally.add_note(fault, note);
    }
    let coverage = coverage(events);
    if !coverage.is_empty() {
        tally.set_details(FaultName::CrashMatrix.name(), coverage.to_string());
    }
    tally
}

/// An interval during which a replica held a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaLock {
    /// The replica.
    pub node: Node,
    /// When the transaction became in doubt, in nanoseconds of the history. `None` if it never was.
    pub in_doubt_from: Option<i64>,
    /// When the lock was released or the replica crashed, in nanoseconds of the history.
    pub to: i64,
}

/// The fault intervals of a run, and every lock interval of every replica.
#[must_use]
pub fn locks(run: &Run) -> (Vec<FaultInterval>, Vec<ReplicaLock>) {
    let faults = fault_intervals(&run.events);
    let mut locks = Vec::new();
    for (node, intervals) in lock_intervals(&run.evidence, &faults) {
        let lock = |lock: LockInterval| ReplicaLock {
            node,
            in_doubt_from: lock.in_doubt_from,
            to: lock.to,
        };
        locks.extend(intervals.into_iter().map(lock));
    }
    (faults, locks)
}

/// The journals of a run as a source of sections.
struct JournalEvidence<'a> {
    directory: &'a Path,
    run: &'a Run,
}

impl SystemEvidence for JournalEvidence<'_> {
    fn mutation(&self, name: &str) -> Option<&'static str> {
        name.parse().ok().map(Mutation::does)
    }

    fn shortest_schedule(&self, name: &str) -> Option<ShownSchedule> {
        match name.parse().ok()? {
            Mutation::Rule(rule) => ShortestSchedules::kept().shown(rule),
            _ => None,
        }
    }

    fn sections(&self, request: &SectionRequest<'_>) -> Result<SystemSections, ReportError> {
        let run = self.run;
        let locks = lock_intervals(&run.evidence, request.faults);
        let selection = Selection::of(run, request, &locks);
        let extract = self.read_journals(&selection)?;
        let JournalExtract { forces, begun, mut traces, quotes } = extract;
        let node_events = traces::node_events(run, request.faults);
        for trace in traces.values_mut() {
            trace.add(&node_events);
            trace.truncate();
        }
        let masters = master_times(&run.evidence, &begun);
        let shown = shown_transactions(run, request, &selection);
        let is_shown = |txn: TxnId| shown.as_ref().is_none_or(|shown| shown.contains(&txn));
        let times = NodeTimes { forces: &forces, locks: &locks, masters: &masters };
        let all = run.evidence.transactions.by_id.len();
        let omission = format!(
            "messages are included for {} of {all} transactions: those that a fault, a violation or a long \
             time in doubt concerns, and a few ordinary ones",
            traces.len(),
        );
        Ok(SystemSections {
            nodes: run_nodes(run).map(|node| node.to_string()).collect(),
            lanes: lanes::lanes(run, &times, is_shown),
            legend: lanes::legend(),
            first_transaction: selection
                .first
                .filter(|txn| traces.contains_key(txn))
                .map(|txn| txn.to_string()),
            omissions: if (1..all).contains(&traces.len()) { vec![omission] } else { Vec::new() },
            traces: traces.into_iter().map(|(txn, trace)| self.section(txn, trace)).collect(),
            quotes,
            links: self.links(),
            charts: vec![in_doubt_chart(&locks)],
        })
    }

    fn check_property(&self, check: &str) -> Option<&'static str> {
        check_property(check)
    }

    fn terms(&self, check: &str) -> &'static [Term] {
        terms(check)
    }

    fn glossary(&self) -> &'static [Term] {
        glossary::TERMS
    }
}

impl JournalEvidence<'_> {
    fn read_journals(&self, selection: &Selection) -> Result<JournalExtract, ReportError> {
        let journals = find_journals(self.directory).map_err(|error| {
            ReportError::file(self.directory.join("nodes"))(std::io::Error::other(error))
        })?;
        traces::read(&journals, selection, self.run.parameters.clock_origin)
            .map_err(ReportError::file(self.directory.join("nodes")))
    }

    /// A trace in the form of the page.
    fn section(&self, txn: TxnId, trace: traces::TransactionTrace) -> Trace {
        let known = self.run.evidence.transactions.by_id.get(&txn);
        let write = known.and_then(|transaction| transaction.write.as_ref());
        Trace {
            transaction: txn.to_string(),
            title: write.map_or_else(String::new, ToString::to_string),
            operation: self.operation_of(txn),
            events: trace.events.iter().map(traces::LocalEvent::section).collect(),
            messages: trace.messages,
            omitted: trace.omitted,
        }
    }

    /// The operation that a transaction executed: the one that returned its version, or that wrote its
    /// value.
    fn operation_of(&self, txn: TxnId) -> Option<usize> {
        let operations = &self.run.operations;
        let by_version =
            operations.iter().position(|op| op.f.is_write() && version_of(op) == Some(txn));
        by_version.or_else(|| {
            let write = self.run.evidence.transactions.by_id.get(&txn)?.write.as_ref()?;
            let value = write.value.as_ref()?.to_string();
            operations
                .iter()
                .position(|op| op.f == Function::Put && op.value.as_ref() == Some(&value))
        })
    }

    /// FactKind the journals show about indeterminate operations. A put is recognised by its value, which is
    /// unique.
    fn links(&self) -> Links {
        let transactions = &self.run.evidence.transactions.by_id;
        let by_value: BTreeMap<String, TxnId> = transactions
            .iter()
            .filter_map(|(txn, t)| Some((t.write.as_ref()?.value.as_ref()?.to_string(), *txn)))
            .collect();
        let resolution = |operation: &Operation| {
            if operation.f != Function::Put {
                return Resolution { text: "not identifiable".to_owned(), transaction: None };
            }
            let txn = operation.value.as_ref().and_then(|value| by_value.get(value));
            let Some((txn, transaction)) = txn.and_then(|txn| Some((txn, transactions.get(txn)?)))
            else {
                return Resolution { text: "never prepared".to_owned(), transaction: None };
            };
            let text = match (transaction.commit(), transaction.aborted.is_empty()) {
                (Some(_), true) => "committed",
                (Some(_), false) => "committed and aborted",
                (None, false) => "aborted",
                (None, true) => "undecided",
            };
            Resolution { text: text.to_owned(), transaction: Some(txn.to_string()) }
        };
        let operations = self.run.operations.iter().enumerate();
        let indeterminate = operations.filter(|(_, op)| op.is_indeterminate());
        Links { resolutions: indeterminate.map(|(number, op)| (number, resolution(op))).collect() }
    }
}

/// The master and the replicas.
fn run_nodes(run: &Run) -> impl Iterator<Item = Node> {
    std::iter::once(Node::Master).chain(run.replicas())
}

/// The transactions whose spans are shown. `None` if all are.
fn shown_transactions(
    run: &Run,
    request: &SectionRequest<'_>,
    selection: &Selection,
) -> Option<BTreeSet<TxnId>> {
    if request.sample.is_complete() {
        return None;
    }
    let sampled = request.sample.operations().iter();
    let versions = sampled.filter_map(|number| version_of(&run.operations[*number]));
    Some(versions.chain(selection.transactions.iter().copied()).collect())
}

/// The number of transactions in doubt at each replica over time.
fn in_doubt_chart(locks: &BTreeMap<Node, Vec<LockInterval>>) -> LevelChart {
    let changes = |locks: &[LockInterval]| {
        let in_doubt = locks
            .iter()
            .filter_map(|lock| Some((lock.in_doubt_from.filter(|from| *from < lock.to)?, lock.to)));
        in_doubt.flat_map(|(from, to)| [(from, 1), (to, -1)]).collect()
    };
    LevelChart {
        file: "in-doubt.svg",
        title: "Transactions in doubt by replica".to_owned(),
        caption:
            "The maximum number of transactions that a replica had prepared without knowing their \
                  outcome. Each holds the lock on its key."
                .to_owned(),
        unit: "transactions".to_owned(),
        series: locks.iter().map(|(node, locks)| (node.to_string(), changes(locks))).collect(),
    }
}
