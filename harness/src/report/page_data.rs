//! The data of a run's page: operations, fault intervals, locks and forces of every node, and the traces
//! of selected transactions. Selects what a page of a long run shows.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    path::Path,
};

use serde::Serialize;
use serde_json::{Value as Json, json};
use system::protocol::{Node, TxnId};

use super::{
    citations::{Segment, segments},
    columns::Columns,
    fault_intervals::{FaultInterval, fault_intervals},
    journals::{self, JournalExtract, LocalEvent, Selection, Trace},
    lock_intervals::{self, LockInterval, MasterTimes, Release},
};
use crate::{
    checker::{
        Results, Validity,
        linearizability::{self, Limits, NonLinearizableKey},
    },
    history::{Function, Operation, Outcome},
    twopc::{LoadError, Run, evidence::FactKind, find_journals, read_json, version_of},
};

/// The approximate number of operations that a page shows. A longer run is sampled.
const OPERATIONS_MAX: usize = 150_000;

/// The most transactions that are traced.
const TRACES_MAX: usize = 240;

/// How many of them are those that were in doubt the longest.
const LONGEST_IN_DOUBT: usize = 60;

/// Everything that a page shows.
pub(super) struct PageData<'a> {
    pub(super) run: &'a Run,
    pub(super) results: &'a Results,
    /// `test.json`.
    pub(super) test: Json,
    pub(super) faults: Vec<FaultInterval>,
    pub(super) broken: Vec<NonLinearizableKey>,
    pub(super) locks: BTreeMap<Node, Vec<LockInterval>>,
    pub(super) traces: BTreeMap<TxnId, Trace>,
    /// The journal lines that violations refer to.
    pub(super) lines: BTreeMap<(Node, usize), (i64, String)>,
    /// The transaction whose trace is shown first.
    pub(super) first: Option<TxnId>,
    /// What the page leaves out, one sentence each.
    pub(super) left_out: Vec<String>,
    /// The packed data for the script.
    pub(super) packed: String,
}

impl<'a> PageData<'a> {
    /// Collects the data of a run.
    ///
    /// # Errors
    /// A file of the run cannot be read.
    pub(super) fn of(
        directory: &Path,
        run: &'a Run,
        results: &'a Results,
    ) -> Result<Self, LoadError> {
        let file = |name: &str| {
            let path = directory.join(name);
            move |source| LoadError::File { path: path.clone(), source }
        };
        let test: Json = read_json(&directory.join("test.json"))?;
        let faults = fault_intervals(&run.events);
        let limits = Limits { time: std::time::Duration::from_secs(10), ..Limits::default() };
        let invalid = results
            .check(linearizability::NAME)
            .is_some_and(|check_result| check_result.verdict == Validity::Invalid);
        let broken = if invalid {
            linearizability::non_linearizable_keys(&run.operations, &limits)
        } else {
            Vec::new()
        };
        let locks = lock_intervals::lock_intervals(&run.evidence, &faults);
        let (selection, first) = selection(run, results, &faults, &broken, &locks);
        let journals = find_journals(directory)?;
        let extract = journals::read(&journals, &selection, run.description.clock_origin)
            .map_err(file("nodes"))?;
        let JournalExtract { forces, begun, mut traces, lines } = extract;
        let context = node_events(run, &faults);
        for trace in traces.values_mut() {
            trace.add(context.iter().cloned());
            trace.truncate();
        }
        let mut left_out = Vec::new();
        let master_times = lock_intervals::master_times(&run.evidence, &begun);
        let sample = Sample::of(run, &faults, &broken, &traces, &mut left_out);
        if !traces.is_empty() {
            left_out.push(format!(
                "the messages of {} of {} transactions are included: those that a fault, a violation or a \
                 long time in doubt concerns, and a few ordinary ones",
                traces.len(),
                run.evidence.transactions.by_id.len()
            ));
        }
        let mut data = PageData {
            run,
            results,
            test,
            faults,
            broken,
            locks,
            traces,
            lines,
            first,
            left_out,
            packed: String::new(),
        };
        data.packed = data.pack(&sample, &forces, &master_times).map_err(file("report.html"))?;
        Ok(data)
    }

    /// The time of each operation's completion event, including `info`.
    pub(super) fn completions(&self) -> Vec<Option<u64>> {
        let of = |operation: &Operation| Some(time_of(self.run, operation.returned_index?));
        self.run.operations.iter().map(of).collect()
    }

    /// The number of concurrent clients, as far as it is recorded.
    pub(super) fn concurrency(&self) -> u64 {
        let recorded = self.test.get("concurrency").and_then(Json::as_u64);
        recorded
            .filter(|clients| *clients > 0)
            .or_else(|| self.run.operations.iter().map(|operation| operation.process + 1).max())
            .unwrap_or(1)
    }

    /// The operation that a transaction executed: the one that returned its version, or that wrote
    /// its value.
    pub(super) fn operation_of(&self, txn: TxnId) -> Option<&Operation> {
        let operations = &self.run.operations;
        let by_version =
            operations.iter().find(|op| op.f.is_write() && version_of(op) == Some(txn));
        by_version.or_else(|| {
            let write = self.run.evidence.transactions.by_id.get(&txn)?.write.as_ref()?;
            let value = write.value.as_ref()?.to_string();
            operations.iter().find(|op| op.f == Function::Put && op.value.as_ref() == Some(&value))
        })
    }

    fn pack(
        &self,
        sample: &Sample,
        forces: &BTreeMap<Node, Vec<(i64, i64)>>,
        master_times: &BTreeMap<TxnId, MasterTimes>,
    ) -> io::Result<String> {
        #[derive(Serialize)]
        struct Head<'a> {
            name: &'a str,
            clients: u64,
            replicas: u8,
            end: u64,
            keys: Vec<&'a str>,
            values: Vec<&'a str>,
            errors: Vec<String>,
            faults: &'a [FaultInterval],
            nemesis: Vec<String>,
            traces: Vec<NamedTrace<'a>>,
            counterexamples: Vec<Json>,
            lines: Vec<(String, i64, &'a str)>,
            first_transaction: Option<String>,
            focus: Option<(i64, i64)>,
        }
        #[derive(Serialize)]
        struct NamedTrace<'a> {
            txn: String,
            write: String,
            #[serde(flatten)]
            trace: &'a Trace,
        }
        let run = self.run;
        let mut columns = Columns::default();
        let operations: Vec<&Operation> =
            sample.operations.iter().map(|at| &run.operations[*at]).collect();
        let mut names = Names::default();
        put_operations(&mut columns, &operations, run, &mut names);
        let last = run.events.last().map_or(0, |event| event.time);
        let mut keys = names.keys;
        for (node, locks) in &self.locks {
            let sampled: Vec<&LockInterval> =
                locks.iter().filter(|lock| sample.contains(lock.txn)).collect();
            put_locks(&mut columns, *node, &sampled, &mut keys);
        }
        let master_times: Vec<_> =
            master_times.iter().filter(|(txn, _)| sample.contains(**txn)).collect();
        put_master_times(&mut columns, &master_times);
        for (node, forces) in forces {
            let thinned = forces.len().div_ceil(OPERATIONS_MAX / 3).max(1);
            let forces: Vec<_> = forces.iter().step_by(thinned).collect();
            columns.deltas(&format!("{node}.force"), forces.iter().map(|(from, _)| from / 1000));
            columns.values(
                &format!("{node}.force.duration"),
                forces.iter().map(|(a, b)| (b - a) / 1000),
            );
        }
        let starts = run.evidence.nodes.iter().map(|(node, facts)| {
            let starts = facts.facts.iter().filter(|f| matches!(f.kind, FactKind::Started { .. }));
            (node, starts.map(|fact| fact.position.time / 1000).collect::<Vec<_>>())
        });
        for (node, times) in starts {
            columns.deltas(&format!("{node}.start"), times);
        }
        let nemesis = run.events.iter().filter(|event| event.is_nemesis());
        let traces = self.traces.iter().map(|(txn, trace)| {
            let known = run.evidence.transactions.by_id.get(txn).and_then(|t| t.write.as_ref());
            let write = known.map_or_else(String::new, ToString::to_string);
            NamedTrace { txn: txn.to_string(), write, trace }
        });
        let counterexamples = self.broken.iter().map(|broken| {
            let of = |number: u32| sample.positions.get(&(number as usize)).copied();
            json!({
                "key": broken.explanation.key,
                "at": of(broken.breaks_at),
                "ops": broken.explanation.operations.iter().filter_map(|op| of(op.number))
                    .collect::<Vec<_>>(),
            })
        });
        let mut keys: Vec<_> = keys.into_iter().collect();
        keys.sort_by_key(|(_, number)| *number);
        let mut values: Vec<_> = names.values.into_iter().collect();
        values.sort_by_key(|(_, number)| *number);
        let mut errors: Vec<_> = names.errors.into_iter().collect();
        errors.sort_by_key(|(_, number)| *number);
        columns.pack(&Head {
            name: self.test.get("name").and_then(Json::as_str).unwrap_or("a run"),
            clients: self.concurrency(),
            replicas: run.description.replicas,
            end: last,
            keys: keys.iter().map(|(key, _)| key.as_str()).collect(),
            values: values.iter().map(|(value, _)| value.as_str()).collect(),
            errors: errors.into_iter().map(|(error, _)| error).collect(),
            faults: &self.faults,
            nemesis: nemesis.map(serde_json::to_string).collect::<Result<_, _>>()?,
            traces: traces.collect(),
            counterexamples: counterexamples.collect(),
            lines: self
                .lines
                .iter()
                .map(|((node, line), (t, text))| (format!("{node}:{line}"), *t, text.as_str()))
                .collect(),
            first_transaction: self.first.map(|txn| txn.to_string()),
            focus: self.focus(),
        })
    }

    /// The time range that is shown first.
    fn focus(&self) -> Option<(i64, i64)> {
        let operations = &self.run.operations;
        if let Some(broken) = self.broken.first() {
            let operations_shown = broken.explanation.operations.iter();
            let times: Vec<u64> = operations_shown
                .flat_map(|op| {
                    let operation = &operations[op.number as usize];
                    [Some(operation.invoked), operation.returned]
                })
                .flatten()
                .collect();
            let (from, to) = (*times.iter().min()?, *times.iter().max()?);
            return Some((i64::try_from(from).ok()?, i64::try_from(to).ok()?));
        }
        if self.results.verdict != Validity::Invalid {
            return None;
        }
        let trace = self.traces.get(&self.first?)?;
        let messages =
            trace.messages.iter().flat_map(|message| [message.sent, message.received]).flatten();
        let times: Vec<i64> =
            trace.events.iter().map(|event| event.t).chain(messages.map(|(t, _)| t)).collect();
        Some((*times.iter().min()?, *times.iter().max()?))
    }
}

/// The operations and transactions that a page shows.
struct Sample {
    /// The numbers of the sampled operations.
    operations: Vec<usize>,
    /// The position of each in `operations`, by number.
    positions: HashMap<usize, usize>,
    /// The sampling interval. If it is 1, everything is shown.
    every: usize,
    /// The sampled transactions, if not all are shown.
    transactions: BTreeSet<TxnId>,
}

impl Sample {
    fn of(
        run: &Run,
        faults: &[FaultInterval],
        broken: &[NonLinearizableKey],
        traces: &BTreeMap<TxnId, Trace>,
        left_out: &mut Vec<String>,
    ) -> Self {
        let all = run.operations.len();
        let every = all.div_ceil(OPERATIONS_MAX).max(1);
        let named: BTreeSet<usize> = broken
            .iter()
            .flat_map(|broken| {
                let numbers = broken.explanation.operations.iter().map(|op| op.number);
                numbers
                    .chain([broken.breaks_at])
                    .chain(broken.prefix.iter().rev().take(64).copied())
            })
            .map(|number| number as usize)
            .collect();
        // All operations near a fault, as long as that is not most of the run.
        let near =
            |t: u64| faults.iter().any(|f| t + 20_000_000 >= f.from && t <= f.from + 80_000_000);
        let mut budget = all / every / 2;
        let mut operations = Vec::with_capacity(all / every + named.len());
        for (number, operation) in run.operations.iter().enumerate() {
            let kept = number % every == 0
                || named.contains(&number)
                || operation.outcome == Outcome::Info
                || (budget > 0 && near(operation.invoked) && {
                    budget -= 1;
                    true
                });
            if kept {
                operations.push(number);
            }
        }
        if operations.len() < all {
            left_out.push(format!(
                "{} of {all} operations are shown: every {every}th, and all near faults, in \
                 counterexamples, and with an indeterminate outcome",
                operations.len()
            ));
        }
        let positions = operations.iter().enumerate().map(|(at, number)| (*number, at)).collect();
        let mut transactions: BTreeSet<TxnId> = traces.keys().copied().collect();
        transactions
            .extend(operations.iter().filter_map(|number| version_of(&run.operations[*number])));
        if every == 1 {
            transactions.clear();
        }
        Sample { operations, positions, every, transactions }
    }

    fn contains(&self, txn: TxnId) -> bool {
        self.every == 1 || self.transactions.contains(&txn)
    }
}

/// Interned texts, by the numbers that stand for them.
#[derive(Default)]
struct Names {
    keys: HashMap<String, usize>,
    values: HashMap<String, usize>,
    errors: HashMap<String, usize>,
}

fn intern(names: &mut HashMap<String, usize>, name: &str) -> (usize, bool) {
    if let Some(number) = names.get(name) {
        return (*number, false);
    }
    let number = names.len();
    names.insert(name.to_owned(), number);
    (number, true)
}

fn int(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// The time of an event.
fn time_of(run: &Run, index: u64) -> u64 {
    let at = run.events.binary_search_by_key(&index, |event| event.index);
    at.map_or(0, |at| run.events[at].time)
}

/// Packs the operations. The page's script can reproduce their lines of the history from them.
fn put_operations(columns: &mut Columns, operations: &[&Operation], run: &Run, names: &mut Names) {
    let each =
        |f: &dyn Fn(&Operation) -> i64| operations.iter().map(|op| f(op)).collect::<Vec<_>>();
    columns.deltas("o.index", each(&|op| int(op.invoked_index)));
    columns.deltas("o.time", each(&|op| int(op.invoked)));
    columns.values(
        "o.completion",
        each(&|op| op.returned_index.map_or(0, |end| int(end) - int(op.invoked_index))),
    );
    columns.values(
        "o.duration",
        each(&|op| op.returned_index.map_or(0, |end| int(time_of(run, end)) - int(op.invoked))),
    );
    columns.values("o.process", each(&|op| int(op.process)));
    columns.values(
        "o.kind",
        each(&|op| {
            let f = match op.f {
                Function::Get => 0,
                Function::Put => 1,
                Function::Del => 2,
            };
            let outcome = match op.outcome {
                Outcome::Ok => 0,
                Outcome::Fail => 1,
                Outcome::Info => 2,
            };
            3 * f + outcome
        }),
    );
    let keys = operations.iter().map(|op| int(intern(&mut names.keys, &op.key).0));
    columns.values("o.key", keys.collect::<Vec<_>>());
    // 0 is no value, 1 the next new value, and 1 + n the value n places before the next new one.
    let mut known = 0;
    let values = operations.iter().map(|op| match &op.value {
        None => 0,
        Some(value) => {
            let (at, new) = intern(&mut names.values, value);
            known += usize::from(new);
            if new { 1 } else { 1 + int(known - at) }
        }
    });
    columns.values("o.value", values.collect::<Vec<_>>());
    columns.values("o.epoch", each(&|op| version_of(op).map_or(0, |version| int(version.epoch))));
    columns.deltas("o.seq", each(&|op| version_of(op).map_or(0, |version| int(version.seq))));
    // The transaction that an error names is stored apart, so that errors share their texts.
    let mut about = Vec::with_capacity(operations.len());
    let errors = operations.iter().map(|op| match &op.error {
        None => {
            about.push(TxnId::default());
            0
        }
        Some(error) => {
            let named = segments(error).into_iter().find_map(|segment| match segment {
                Segment::Txn(txn) => Some(txn),
                _ => None,
            });
            about.push(named.unwrap_or_default());
            let text = named.map_or_else(
                || error.replace('%', "%%"),
                |txn| error.replace('%', "%%").replacen(&txn.to_string(), "%t", 1),
            );
            1 + int(intern(&mut names.errors, &text).0)
        }
    });
    columns.values("o.error", errors.collect::<Vec<_>>());
    columns.deltas("o.error.epoch", about.iter().map(|txn| int(txn.epoch)));
    columns.deltas("o.error.seq", about.iter().map(|txn| int(txn.seq)));
}

fn put_locks(
    columns: &mut Columns,
    node: Node,
    locks: &[&LockInterval],
    keys: &mut HashMap<String, usize>,
) {
    let name = |field: &str| format!("{node}.{field}");
    let each = |f: &dyn Fn(&LockInterval) -> i64| locks.iter().map(|t| f(t)).collect::<Vec<_>>();
    columns.deltas(&name("epoch"), each(&|t| int(t.txn.epoch)));
    columns.deltas(&name("seq"), each(&|t| int(t.txn.seq)));
    columns.deltas(&name("from"), each(&|t| t.from / 1000));
    columns.values(
        &name("in_doubt"),
        each(&|t| t.in_doubt_from.map_or(-1, |at| at / 1000 - t.from / 1000)),
    );
    columns.values(&name("duration"), each(&|t| t.to / 1000 - t.from / 1000));
    let release = |t: &LockInterval| match t.release {
        Release::Held => 0,
        Release::Applied => 1,
        Release::Aborted => 2,
        Release::Crashed => 3,
    };
    columns.values(&name("release"), each(&release));
    let numbers = locks.iter().map(|t| int(intern(keys, &t.key.to_string()).0));
    columns.values(&name("key"), numbers.collect::<Vec<_>>());
}

fn put_master_times(columns: &mut Columns, master_times: &[(&TxnId, &MasterTimes)]) {
    let mut rows: Vec<(i64, TxnId, &MasterTimes)> = Vec::with_capacity(master_times.len());
    for (txn, times) in master_times {
        let steps = [times.begun, times.commit_appended, times.committed, times.aborted];
        if let Some(from) = steps.into_iter().flatten().min() {
            rows.push((from / 1000, **txn, times));
        }
    }
    rows.sort_by_key(|(from, txn, _)| (*from, *txn));
    let each =
        |f: &dyn Fn(&(i64, TxnId, &MasterTimes)) -> i64| rows.iter().map(f).collect::<Vec<_>>();
    let since = |from: i64, t: Option<i64>| t.map_or(-1, |t| t / 1000 - from);
    columns.deltas("master.epoch", each(&|(_, txn, _)| int(txn.epoch)));
    columns.deltas("master.seq", each(&|(_, txn, _)| int(txn.seq)));
    columns.deltas("master.from", each(&|(from, ..)| *from));
    columns.values("master.appended", each(&|(from, _, r)| since(*from, r.commit_appended)));
    columns.values("master.committed", each(&|(from, _, r)| since(*from, r.committed)));
    columns.values("master.acknowledged", each(&|(from, _, r)| since(*from, r.acknowledged)));
    columns.values("master.aborted", each(&|(from, _, r)| since(*from, r.aborted)));
}

/// Selects the transactions to trace, the journal lines to quote, and the trace to show first.
fn selection(
    run: &Run,
    results: &Results,
    faults: &[FaultInterval],
    broken: &[NonLinearizableKey],
    locks: &BTreeMap<Node, Vec<LockInterval>>,
) -> (Selection, Option<TxnId>) {
    let known = &run.evidence.transactions.by_id;
    let mut selection = Selection::default();
    let mut first = None;
    let add = |selection: &mut Selection, txn: TxnId| {
        if known.contains_key(&txn) && selection.transactions.len() < TRACES_MAX {
            selection.transactions.insert(txn);
        }
    };
    for check_result in results.checks.iter().filter(|check| check.verdict == Validity::Invalid) {
        for sentence in &check_result.violations {
            for segment in segments(sentence) {
                match segment {
                    Segment::Text(_) => {}
                    Segment::Txn(txn) => {
                        add(&mut selection, txn);
                        if first.is_none() && known.contains_key(&txn) {
                            first = Some(txn);
                        }
                    }
                    Segment::Line(node, line, _) => {
                        selection.lines.insert((node, line));
                    }
                }
            }
        }
    }
    let by_value: HashMap<String, TxnId> = if broken.is_empty() {
        HashMap::new()
    } else {
        let writes = known.iter().filter_map(|(txn, t)| Some((t.write.as_ref()?, txn)));
        writes.filter_map(|(write, txn)| Some((write.value.as_ref()?.to_string(), *txn))).collect()
    };
    for broken in broken {
        for operation in &broken.explanation.operations {
            let operation = &run.operations[operation.number as usize];
            let by_value =
                || operation.value.as_ref().and_then(|value| by_value.get(value)).copied();
            if let Some(txn) = version_of(operation).or_else(by_value) {
                add(&mut selection, txn);
                first.get_or_insert(txn);
            }
        }
    }
    for fault in faults {
        if let Some(txn) = fault.txn.as_ref().and_then(|txn| txn.parse().ok()) {
            add(&mut selection, txn);
            first.get_or_insert(txn);
        }
    }
    let mut in_doubt: Vec<(i64, TxnId)> =
        locks.values().flatten().map(|lock| (lock.time_in_doubt(), lock.txn)).collect();
    in_doubt.sort_unstable_by(|a, b| b.cmp(a));
    in_doubt.dedup_by_key(|(_, txn)| *txn);
    in_doubt.iter().take(LONGEST_IN_DOUBT).for_each(|(_, txn)| add(&mut selection, *txn));
    // And some ordinary ones, spread over the run.
    let spread = known.len().div_ceil(20).max(1);
    known.keys().step_by(spread).for_each(|txn| add(&mut selection, *txn));
    let first = first.or_else(|| selection.transactions.first().copied());
    (selection, first)
}

/// Events that concern a node as a whole: they are part of every trace that is in progress.
fn node_events(run: &Run, faults: &[FaultInterval]) -> Vec<LocalEvent> {
    let mut events = Vec::new();
    for fault in faults {
        for node in fault.nodes.iter().filter_map(|node| node.parse::<Node>().ok()) {
            let at = fault.at.as_ref().map_or_else(String::new, |at| format!(" at {at}"));
            let text = format!("{}: {}{at}", fault.fault, fault.action);
            let kind = if fault.inactive { "down" } else { "fault" };
            events.push(LocalEvent { t: int(fault.from), line: None, node, kind, text });
            // The journal has the restart of a process that was killed.
            if ["pause", "hold"].contains(&fault.action.as_str()) && fault.to > fault.from {
                let text = "resumed".to_owned();
                events.push(LocalEvent { t: int(fault.to), line: None, node, kind: "up", text });
            }
        }
    }
    for (node, facts) in &run.evidence.nodes {
        for fact in &facts.facts {
            let (kind, text) = match &fact.kind {
                FactKind::Started { .. } => ("up", "start".to_owned()),
                FactKind::Halted(_, why) => ("halt", format!("halt: {why}")),
                _ => continue,
            };
            let (t, line) = (fact.position.time, Some(fact.position.line));
            events.push(LocalEvent { t, line, node: *node, kind, text });
        }
    }
    events
}
