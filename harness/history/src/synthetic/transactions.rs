//! Synthetic histories of transactions: concurrent clients use one simulated database with an isolation
//! level. They are of that level by construction, except for one anomaly that can be planted. The same
//! options give the same history.
//!
//! The database keeps a list per key and stamps each element with the commit that appended it, so that a
//! snapshot is a number. A history on registers is the same one, with the last element in place of the
//! list.

use std::{fmt::Write as _, io, str::FromStr};

use rand::{RngExt, SeedableRng, rngs::SmallRng};

mod planted;

pub use self::planted::PlantedAnomaly;
use crate::{MalformedHistory, MicroFunction, MicroOp, NumberKind, Outcome, Sink, Value};

/// What transactions do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyntheticWorkload {
    /// They append to lists and read them.
    Append,
    /// They write registers and read them.
    Registers,
}

/// How the simulated database isolates transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Each read returns what is committed at its moment; writes become visible together. A key that is
    /// written is locked until the end, and who finds it locked fails.
    ReadCommitted,
    /// A transaction reads a snapshot of its start, and fails if somebody else has written one of its
    /// keys since.
    Snapshot,
    /// A transaction takes effect at one moment; if it only reads, this may be before its invocation.
    Serializable,
    /// A transaction takes effect at one moment between its invocation and its return.
    StrictSerializable,
}

impl Isolation {
    /// Every level.
    pub const ALL: [Isolation; 4] = [
        Isolation::ReadCommitted,
        Isolation::Snapshot,
        Isolation::Serializable,
        Isolation::StrictSerializable,
    ];

    /// The name, as typed after `--level`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Isolation::ReadCommitted => "read-committed",
            Isolation::Snapshot => "snapshot-isolation",
            Isolation::Serializable => "serializable",
            Isolation::StrictSerializable => "strict-serializable",
        }
    }
}

impl FromStr for SyntheticWorkload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "append" => Ok(SyntheticWorkload::Append),
            "rw" => Ok(SyntheticWorkload::Registers),
            _ => Err(format!("unknown workload '{text}': expected append or rw")),
        }
    }
}

/// Parameters of a synthetic history of transactions.
#[derive(Clone, Debug, PartialEq)]
pub struct TransactionOptions {
    /// Number of transactions, without those that read every key at the end.
    pub transactions: u64,
    /// Keys in use at a time.
    pub keys: u32,
    /// Writes of a key, after which another one takes its place.
    pub writes_per_key: u32,
    /// The most micro-operations of a transaction.
    pub steps: u32,
    /// Open transactions at a time.
    pub concurrency: u32,
    /// Share of transactions with writes whose outcome is unknown, from 0 to 1. Half of them take effect.
    pub indeterminate: f64,
    /// What they do.
    pub workload: SyntheticWorkload,
    /// How they are isolated.
    pub isolation: Isolation,
    /// Seed of all random choices.
    pub seed: u64,
    /// Anomaly to plant in the middle of the history.
    pub anomaly: Option<PlantedAnomaly>,
}

/// A step of a synthetic transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyntheticStep {
    /// Appends, or writes, an element to a key.
    Write(u32, u32),
    /// Reads the list of a key.
    Read(u32, Vec<u32>),
}

/// An event of a synthetic transaction.
#[derive(Debug)]
pub struct SyntheticEvent<'e> {
    /// The process.
    pub process: u64,
    /// How it completed, `None` if it is invoked.
    pub outcome: Option<Outcome>,
    /// Its steps. Reads have results if it is ok.
    pub steps: &'e [SyntheticStep],
}

impl SyntheticEvent<'_> {
    /// Passes the event on to a sink, as a reader of a file does.
    ///
    /// # Errors
    /// What the sink returns.
    pub fn pass_on(
        &self,
        workload: SyntheticWorkload,
        sink: &mut dyn Sink,
    ) -> Result<(), MalformedHistory> {
        let is_append = workload == SyntheticWorkload::Append;
        let is_ok = self.outcome == Some(Outcome::Ok);
        let number = |number: &u32| Value::Number(NumberKind::Integer, number.to_string().into());
        let values = self.steps.iter().map(|step| match step {
            SyntheticStep::Write(key, element) => {
                let f = if is_append { MicroFunction::Append } else { MicroFunction::Write };
                (f, number(key), number(element))
            }
            SyntheticStep::Read(key, list) => {
                let read = match list.last() {
                    _ if !is_ok => Value::Nil,
                    _ if is_append => Value::List(list.iter().map(number).collect()),
                    Some(last) => number(last),
                    None => Value::Nil,
                };
                (MicroFunction::Read, number(key), read)
            }
        });
        let values: Vec<_> = values.collect();
        let ops: Vec<MicroOp<'_, '_>> = values
            .iter()
            .map(|(f, key, value)| MicroOp { f: *f, key, value, version: None })
            .collect();
        match self.outcome {
            None => sink.invoke_transaction(self.process, &ops),
            Some(Outcome::Ok) => sink.complete_transaction(self.process, &ops, Outcome::Ok),
            Some(outcome) => sink.complete_transaction(self.process, &[], outcome),
        }
    }
}

/// A key: its elements, and the commit of each.
#[derive(Default)]
struct Key {
    elements: Vec<u32>,
    commits: Vec<u32>,
    /// The process that has written it and not ended.
    locked_by: Option<u64>,
}

impl Key {
    /// The elements that are committed at a snapshot.
    fn at(&self, snapshot: u32) -> &[u32] {
        &self.elements[..self.commits.partition_point(|commit| *commit <= snapshot)]
    }
}

struct OpenTransaction {
    process: u64,
    steps: Vec<SyntheticStep>,
    /// The next step that happens; only where each has a moment of its own.
    next: usize,
    snapshot: Option<u32>,
    outcome: Option<Outcome>,
    is_indeterminate: bool,
}

/// Generates a history and passes each event to `out`.
///
/// # Errors
/// What `out` returns.
pub fn generate(
    options: &TransactionOptions,
    mut out: impl FnMut(&SyntheticEvent<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut database = Database::new(options);
    let mut open: Vec<OpenTransaction> = Vec::new();
    let mut idle: Vec<u64> = (0..u64::from(options.concurrency.max(1))).rev().collect();
    let mut next_process = u64::from(options.concurrency.max(1));
    let mut invoked = 0;
    let mut anomaly = options.anomaly;
    while invoked < options.transactions || !open.is_empty() {
        if invoked >= options.transactions / 2
            && let Some(anomaly) = anomaly.take()
        {
            next_process = planted::plant(anomaly, next_process, &mut out)?;
        }
        let can_invoke = invoked < options.transactions && !idle.is_empty();
        if can_invoke && (open.is_empty() || database.rng.random_ratio(1, 3)) {
            let process = idle.pop().expect("one is idle");
            let steps = database.steps();
            out(&SyntheticEvent { process, outcome: None, steps: &steps })?;
            let writes = steps.iter().any(|step| matches!(step, SyntheticStep::Write(..)));
            let is_indeterminate =
                writes && database.rng.random_bool(options.indeterminate.clamp(0.0, 1.0));
            let (next, snapshot, outcome) = (0, None, None);
            open.push(OpenTransaction {
                process,
                steps,
                next,
                snapshot,
                outcome,
                is_indeterminate,
            });
            invoked += 1;
            continue;
        }
        let pick = database.rng.random_range(0..open.len());
        if open[pick].outcome.is_none() {
            database.advance(&mut open[pick]);
            if open[pick].outcome.is_none() || database.rng.random_ratio(1, 2) {
                continue;
            }
        }
        let OpenTransaction { process, steps, outcome, is_indeterminate, .. } =
            open.swap_remove(pick);
        let outcome = if is_indeterminate { Some(Outcome::Info) } else { outcome };
        out(&SyntheticEvent { process, outcome, steps: &steps })?;
        if is_indeterminate {
            idle.push(next_process);
            next_process += 1;
        } else {
            idle.push(process);
        }
    }
    for keys in (0..database.keys.len() as u32).collect::<Vec<_>>().chunks(8) {
        let read =
            |key: &u32| SyntheticStep::Read(*key, database.keys[*key as usize].elements.clone());
        let steps: Vec<SyntheticStep> = keys.iter().map(read).collect();
        out(&SyntheticEvent { process: next_process, outcome: None, steps: &steps })?;
        out(&SyntheticEvent { process: next_process, outcome: Some(Outcome::Ok), steps: &steps })?;
    }
    Ok(())
}

struct Database<'o> {
    options: &'o TransactionOptions,
    rng: SmallRng,
    keys: Vec<Key>,
    /// The keys in use, and how often each is written by transactions that were invoked.
    live: Vec<(u32, u32)>,
    commits: u32,
}

impl Database<'_> {
    fn new(options: &TransactionOptions) -> Database<'_> {
        let count = options.keys.max(1);
        let mut keys = Vec::new();
        keys.resize_with(count as usize, Key::default);
        Database {
            options,
            rng: SmallRng::seed_from_u64(options.seed),
            keys,
            live: (0..count).map(|key| (key, 0)).collect(),
            commits: 0,
        }
    }

    /// The steps of a new transaction.
    fn steps(&mut self) -> Vec<SyntheticStep> {
        let count = self.rng.random_range(1..=self.options.steps.max(1));
        let mut steps = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let at = self.rng.random_range(0..self.live.len());
            let (key, writes) = self.live[at];
            if self.rng.random_ratio(1, 2) {
                steps.push(SyntheticStep::Write(key, writes + 1));
                self.live[at].1 += 1;
                if writes + 1 >= self.options.writes_per_key.max(1) {
                    self.live[at] = (self.keys.len() as u32, 0);
                    self.keys.push(Key::default());
                }
            } else {
                steps.push(SyntheticStep::Read(key, Vec::new()));
            }
        }
        steps
    }

    /// The next thing that happens to a transaction.
    fn advance(&mut self, transaction: &mut OpenTransaction) {
        match self.options.isolation {
            Isolation::ReadCommitted if transaction.next < transaction.steps.len() => {
                let at = transaction.next;
                transaction.next += 1;
                if let SyntheticStep::Write(key, _) = &transaction.steps[at] {
                    let holder =
                        self.keys[*key as usize].locked_by.get_or_insert(transaction.process);
                    if *holder != transaction.process {
                        self.unlock(transaction);
                        transaction.outcome = Some(Outcome::Fail);
                        return;
                    }
                }
                let snapshot = self.commits;
                self.read(&mut transaction.steps, at, snapshot);
            }
            Isolation::Snapshot if transaction.snapshot.is_none() => {
                transaction.snapshot = Some(self.commits);
            }
            _ => self.finish(transaction),
        }
    }

    fn finish(&mut self, transaction: &mut OpenTransaction) {
        let isolation = self.options.isolation;
        let writes = transaction.steps.iter().any(|step| matches!(step, SyntheticStep::Write(..)));
        let mut snapshot = transaction.snapshot.unwrap_or(self.commits);
        if isolation == Isolation::Serializable && !writes {
            snapshot = snapshot.saturating_sub(self.rng.random_range(0..20));
        }
        // An unknown outcome takes effect, or not.
        let is_lost = transaction.is_indeterminate && self.rng.random_ratio(1, 2);
        let conflicts = isolation == Isolation::Snapshot
            && transaction.steps.iter().any(|step| match step {
                SyntheticStep::Write(key, _) => {
                    let key = &self.keys[*key as usize];
                    key.commits.last().is_some_and(|last| *last > snapshot)
                }
                SyntheticStep::Read(..) => false,
            });
        self.unlock(transaction);
        if conflicts || is_lost {
            transaction.outcome = Some(Outcome::Fail);
            return;
        }
        if isolation != Isolation::ReadCommitted {
            for at in 0..transaction.steps.len() {
                self.read(&mut transaction.steps, at, snapshot);
            }
        }
        self.commits += 1;
        for step in &transaction.steps {
            if let SyntheticStep::Write(key, element) = step {
                let commit = self.commits;
                let key = &mut self.keys[*key as usize];
                key.elements.push(*element);
                key.commits.push(commit);
            }
        }
        transaction.outcome = Some(Outcome::Ok);
    }

    fn unlock(&mut self, transaction: &OpenTransaction) {
        for step in &transaction.steps {
            if let SyntheticStep::Write(key, _) = step {
                let key = &mut self.keys[*key as usize];
                key.locked_by = key.locked_by.filter(|holder| *holder != transaction.process);
            }
        }
    }

    /// Gives a read its result, own writes included.
    fn read(&self, steps: &mut [SyntheticStep], at: usize, snapshot: u32) {
        let (before, rest) = steps.split_at_mut(at);
        if let SyntheticStep::Read(key, list) = &mut rest[0] {
            let written = |step: &SyntheticStep| match step {
                SyntheticStep::Write(of, element) if of == key => Some(*element),
                _ => None,
            };
            let committed = self.keys[*key as usize].at(snapshot).iter().copied();
            *list = committed.chain(before.iter().filter_map(written)).collect();
        }
    }
}

/// Writes the events of a history as lines of a `history.jsonl`.
#[derive(Debug)]
pub struct LineWriter<W> {
    out: W,
    workload: SyntheticWorkload,
    index: u64,
    line: String,
}

impl<W: io::Write> LineWriter<W> {
    /// A writer of a history with this workload.
    pub fn new(out: W, workload: SyntheticWorkload) -> Self {
        LineWriter { out, workload, index: 0, line: String::new() }
    }

    /// Writes an event.
    ///
    /// # Errors
    /// The line cannot be written.
    pub fn event(&mut self, event: &SyntheticEvent<'_>) -> io::Result<()> {
        let SyntheticEvent { process, outcome, steps } = event;
        let kind = match outcome {
            None => "invoke",
            Some(Outcome::Ok) => "ok",
            Some(Outcome::Fail) => "fail",
            Some(Outcome::Info) => "info",
        };
        let (index, time) = (self.index, self.index * 1000);
        self.line.clear();
        // Writing to a string cannot fail.
        let _ = write!(
            self.line,
            "{{\"index\":{index},\"time\":{time},\"process\":{process},\"type\":\"{kind}\",\
             \"f\":\"txn\",\"value\":["
        );
        for (at, step) in steps.iter().enumerate() {
            self.line.push_str(if at == 0 { "" } else { "," });
            self.step(step, *outcome == Some(Outcome::Ok));
        }
        self.line.push_str("]}\n");
        self.index += 1;
        self.out.write_all(self.line.as_bytes())
    }

    fn step(&mut self, step: &SyntheticStep, is_ok: bool) {
        let line = &mut self.line;
        let is_append = self.workload == SyntheticWorkload::Append;
        // Writing to a string cannot fail.
        let _ = match step {
            SyntheticStep::Write(key, element) => {
                let f = if is_append { "append" } else { "w" };
                write!(line, "[\"{f}\",\"k{key}\",\"{element}\"]")
            }
            SyntheticStep::Read(key, _) if !is_ok => write!(line, "[\"r\",\"k{key}\",null]"),
            SyntheticStep::Read(key, list) if is_append => {
                let texts: Vec<String> = list.iter().map(|one| format!("\"{one}\"")).collect();
                write!(line, "[\"r\",\"k{key}\",[{}]]", texts.join(","))
            }
            SyntheticStep::Read(key, list) => match list.last() {
                Some(last) => write!(line, "[\"r\",\"k{key}\",\"{last}\"]"),
                None => write!(line, "[\"r\",\"k{key}\",null]"),
            },
        };
    }

    /// Flushes the lines.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn finish(mut self) -> io::Result<()> {
        self.out.flush()
    }
}
