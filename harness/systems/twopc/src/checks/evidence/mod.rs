//! What the journals of a run prove: which records were durable when, who decided what, what was
//! reported to whom, and which reads were served. Each journal is read once, and only facts are
//! kept. Knows what a record means, not what would be a violation.

mod choices;
mod deadlines;
mod kept;
mod master;
mod refusals;
mod replica;
mod traffic;
mod transactions;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use history::TIME_MAX;
use system::{
    journal::Entry,
    protocol::{
        AbortReason, Body, Config, Effect, Event, HaltKind, Key, KeyRange, Node, Record, TxnId,
        Value, Write,
    },
};

use choices::Choices;
use deadlines::Deadlines;
pub use deadlines::Overdue;
use kept::Kept;
pub use kept::Unkept;
use refusals::Refusals;
pub use traffic::{Received, Sent, Traffic};
pub use transactions::{Abort, Transaction, Transactions};

use super::SECOND_INSTANCE_JOURNAL;
use crate::payload;

/// A line of a journal, and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JournalPosition {
    /// The node whose journal it is.
    pub node: Node,
    /// The line, from 1.
    pub line: usize,
    /// The time of the event that the line belongs to, in nanoseconds of the history.
    pub time: i64,
}

impl fmt::Display for JournalPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} journal line {}", self.node, self.line)
    }
}

impl checker::JournalLine for JournalPosition {
    fn node(&self) -> String {
        self.node.to_string()
    }

    fn line(&self) -> usize {
        self.line
    }

    fn time(&self) -> Option<i64> {
        Some(self.time)
    }
}

/// Something that a journal line proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The line.
    pub position: JournalPosition,
    /// What it proves.
    pub kind: FactKind,
}

/// What a journal line can prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FactKind {
    /// Replica: it started, with these records in its store.
    Started {
        /// It had never started before: its store was empty.
        fresh: bool,
        /// Prepared transactions without an outcome.
        undecided: Vec<(TxnId, Write)>,
    },
    /// Replica: a PREPARE was appended. The key is locked from here on.
    Prepared(TxnId, Write),
    /// Replica: that PREPARE is durable, which is a yes vote.
    Voted(TxnId),
    /// Replica: a commit was appended. The write is applied and the key is unlocked from here on.
    Committed(TxnId),
    /// Replica: an abort was appended. The key is unlocked from here on.
    Aborted(TxnId),
    /// Replica: a promise never to prepare the transaction is durable, or a veto of it.
    Refused(TxnId),
    /// Replica, commit mode votes: a veto was appended. The key is unlocked from here on.
    Vetoed(TxnId),
    /// Replica: a read was served.
    Served(Key),
    /// Replica: a page was served. The range ends before the key where the page had to end; its bounds are keys
    /// of the store, not names.
    ServedPage(KeyRange),
    /// Replica: the entry of a key was found damaged, and a peer is asked for it.
    Damaged(Key),
    /// Replica: the scrub has reported that the entry of a key is lost.
    Lost(Key),
    /// Replica: the entry of a key was replaced by a peer's copy.
    Healed {
        /// The key.
        key: Key,
        /// The version of the copy.
        version: TxnId,
        /// Its value.
        value: Value,
    },
    /// Replica: a yes vote was sent before the PREPARE was durable.
    EarlyVote(TxnId),
    /// Replica: a commit was acknowledged before it was durable.
    EarlyAck(TxnId),
    /// Replica: it told a node to abort a transaction without a durable REFUSED that keeps it from voting yes.
    EarlyAbort(TxnId, Node),
    /// Master: COMMIT was appended. In commit mode votes: the master has counted the votes.
    DecisionAppended {
        /// The transaction.
        txn: TxnId,
        /// The replicas whose yes vote had not arrived.
        missing: Vec<Node>,
    },
    /// Master: COMMIT is durable, which is the commit point. In commit mode votes, any node: it
    /// acts on the commit. The first one to do so had all votes before.
    Decided(TxnId, Key),
    /// Master: every replica has acknowledged the commit.
    Ended(TxnId),
    /// Master, logged mode: END was appended, though replicas had not acknowledged the commit.
    EarlyEnd {
        /// The transaction.
        txn: TxnId,
        /// Those replicas.
        missing: Vec<Node>,
    },
    /// Master: an abort of the transaction was reported.
    AbortReported {
        /// The transaction.
        txn: TxnId,
        /// To whom.
        to: AbortRecipient,
        /// Whether the yes vote of every replica had arrived.
        all_yes: bool,
    },
    /// Master: a replica was told to commit before COMMIT was durable.
    EarlyDecide(TxnId, Node),
    /// Master, logged mode: the watermark has passed a commit that not every replica has acknowledged.
    EarlyWatermark {
        /// The transaction.
        txn: TxnId,
        /// The watermark.
        watermark: TxnId,
    },
    /// Master, logged mode: a replica was asked to vote without a commit on the same key that it had not acknowledged.
    DecisionOmitted {
        /// The transaction that it was asked about.
        txn: TxnId,
        /// The commit that it was not told of.
        omitted: TxnId,
        /// The replica.
        to: Node,
    },
    /// Master: Ok was reported to a client.
    OkReported {
        /// The transaction.
        txn: TxnId,
        /// Whether COMMIT was durable.
        durable: bool,
    },
    /// The state machine stopped its process.
    Halted {
        /// What for.
        kind: HaltKind,
        /// Why, in words.
        why: String,
        /// The transactions that the message was about at which it stopped.
        over: Vec<TxnId>,
    },
    /// A start has not found what the node had made durable, or has found what it had not appended.
    Unkept(Unkept),
    /// Something was done too late or not at all.
    Overdue(Overdue),
    /// A write was refused because of a transaction that does not hold the key.
    FalseRefusal {
        /// Replica: the transaction that was voted no on. At the master the refused write has none.
        txn: Option<TxnId>,
        /// The transaction that was named.
        holder: TxnId,
    },
    /// A force that took long is done.
    LongForce {
        /// How long it took.
        took: Duration,
        /// The greatest age of a force that the node noticed meanwhile.
        noticed: Duration,
    },
}

/// To whom an abort was reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AbortRecipient {
    /// A client, with the reason.
    Client(AbortReason),
    /// A replica.
    Replica(Node),
}

/// The facts of one node, in the order of its journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The facts.
    pub facts: Vec<Fact>,
    /// The time of the last event, in nanoseconds of the history.
    pub last_time: i64,
    /// How often the node started.
    pub starts: usize,
    /// What it has sent and received.
    pub traffic: Traffic,
    /// Master: by replica, the gets that it was asked first for while all replicas were in service.
    pub first_reads: BTreeMap<Node, u64>,
}

/// The facts of every node that has a journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// By node.
    pub nodes: BTreeMap<Node, NodeFacts>,
    /// Nodes whose journal is missing or records no start.
    pub missing: Vec<Node>,
    /// By transaction.
    pub transactions: Transactions,
}

impl Evidence {
    /// Reads the journals of a cluster with this number of replicas, in parallel.
    ///
    /// # Errors
    /// A journal cannot be read, or a line is not an entry. The message names the file.
    pub fn read(
        journals: &BTreeMap<Node, PathBuf>,
        replicas: u8,
        clock_origin: u64,
    ) -> io::Result<Evidence> {
        let read: Vec<io::Result<(Node, NodeFacts)>> = std::thread::scope(|scope| {
            let readers: Vec<_> = journals
                .iter()
                .map(|(&node, path)| {
                    scope.spawn(move || Ok((node, facts_of(node, path, replicas, clock_origin)?)))
                })
                .collect();
            readers.into_iter().map(|reader| reader.join().expect("readers do not panic")).collect()
        });
        Ok(Evidence::of(read.into_iter().collect::<io::Result<_>>()?, replicas))
    }

    /// Combines the facts of the nodes.
    #[must_use]
    pub fn of(nodes: BTreeMap<Node, NodeFacts>, replicas: u8) -> Evidence {
        let everyone = std::iter::once(Node::Master).chain((1..=replicas).map(Node::Replica));
        let has_start = |node: &Node| nodes.get(node).is_some_and(|facts| facts.starts > 0);
        let missing = everyone.filter(|node| !has_start(node)).collect();
        let transactions = Transactions::of(&nodes);
        Evidence { nodes, missing, transactions }
    }

    /// The facts of the replicas.
    pub fn replicas(&self) -> impl Iterator<Item = (Node, &NodeFacts)> {
        self.nodes
            .iter()
            .filter(|(node, _)| **node != Node::Master)
            .map(|(node, facts)| (*node, facts))
    }

    /// Whether no journal is missing. Otherwise the check is unknown, and each missing journal is a
    /// reason.
    pub fn complete(&self, check_result: &mut super::CheckResult) -> bool {
        for node in &self.missing {
            check_result.unknown(format!("{node} has no journal, or its journal records no start"));
        }
        self.missing.is_empty()
    }
}

/// Reads one journal.
fn facts_of(node: Node, path: &Path, replicas: u8, clock_origin: u64) -> io::Result<NodeFacts> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let entries = system::journal::read(path).map_err(named)?;
    let entries = entries.map(|entry| entry.map_err(named));
    let mut facts = collect(node, entries, replicas, clock_origin)?;
    let second = path.with_file_name(SECOND_INSTANCE_JOURNAL);
    if second.exists() {
        sent_by_second(node, &second, &mut facts.traffic)?;
        facts.traffic.has_second = true;
    }
    Ok(facts)
}

/// Adds what a second process sent in the name of a node before it was refused.
fn sent_by_second(node: Node, path: &Path, traffic: &mut Traffic) -> io::Result<()> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    for entry in system::journal::read(path).map_err(named)? {
        let (line, mut entry) = entry.map_err(named)?;
        payload::name_in(&mut entry);
        if let Entry::Effect(Effect::Send { to, message }) = entry {
            traffic.send(to, &message, JournalPosition { node, line, time: 0 });
        }
    }
    Ok(())
}

/// Collects the facts of a node from the entries of its journal.
///
/// # Errors
/// An entry cannot be read.
pub fn collect(
    node: Node,
    entries: impl Iterator<Item = io::Result<(usize, Entry)>>,
    replicas: u8,
    clock_origin: u64,
) -> io::Result<NodeFacts> {
    match node {
        Node::Master => scan(node, entries, clock_origin, &mut master::MasterScan::new(replicas)),
        Node::Replica(_) => scan(node, entries, clock_origin, &mut replica::ReplicaScan::default()),
    }
}

/// Follows one node through its journal.
trait JournalVisitor {
    /// The state machine was recovered from these records.
    fn started(&mut self, config: &Config, records: Vec<Record>, out: &mut FactSink<'_>);
    /// An event was passed to the state machine.
    fn event(&mut self, event: Event, out: &mut FactSink<'_>);
    /// The state machine requested an effect.
    fn effect(&mut self, effect: Effect, out: &mut FactSink<'_>);
}

/// Collects facts at the position of the current line.
struct FactSink<'a> {
    facts: &'a mut Vec<Fact>,
    position: JournalPosition,
}

impl FactSink<'_> {
    fn fact(&mut self, kind: FactKind) {
        self.facts.push(Fact { position: self.position, kind });
    }
}

/// A clock of a journal as a time of the history, in nanoseconds. Clamped to what a history can have, so that
/// differences do not overflow: a record that was tampered with may say anything.
pub(crate) fn time_of(clock: u64, clock_origin: u64) -> i64 {
    const LIMIT: i64 = TIME_MAX.cast_signed();
    let time = i128::from(clock) - i128::from(clock_origin);
    i64::try_from(time.clamp(-i128::from(LIMIT), LIMIT.into())).expect("it was clamped")
}

fn scan(
    node: Node,
    entries: impl Iterator<Item = io::Result<(usize, Entry)>>,
    clock_origin: u64,
    follow: &mut impl JournalVisitor,
) -> io::Result<NodeFacts> {
    let mut facts = Vec::new();
    let (mut time, mut starts) = (0, 0);
    let mut forces = Forces::default();
    let (mut kept, mut traffic) = (Kept::default(), Traffic::default());
    let (mut deadlines, mut refusals) = (Deadlines::default(), Refusals::default());
    let mut choices = Choices::default();
    let mut position = JournalPosition { node, line: 0, time };
    let mut about = Vec::new();
    for entry in entries {
        let (line, mut entry) = entry?;
        payload::name_in(&mut entry);
        if let Entry::Start { t, .. } | Entry::Event { t, .. } = &entry {
            time = time_of(*t, clock_origin);
        }
        position = JournalPosition { node, line, time };
        let mut out = FactSink { facts: &mut facts, position };
        match entry {
            Entry::Start { config, records, read_results, .. } => {
                starts += 1;
                traffic.lacks_values |= !read_results;
                forces = Forces::default();
                if let Some(unkept) = kept.started(&records) {
                    out.fact(FactKind::Unkept(unkept));
                }
                deadlines.started(&config, &records, time, &mut out);
                refusals.started(&config, &records);
                choices.started(&config);
                follow.started(&config, records, &mut out);
            }
            Entry::Event { event, .. } => {
                about.clear();
                if let Event::Message { message, .. } = &event {
                    about.extend(message.body.txns());
                    if let Body::Prepare { piggybacked, .. }
                    | Body::Read { piggybacked, .. }
                    | Body::Query { piggybacked, .. } = &message.body
                    {
                        about.extend(piggybacked.iter().map(|(txn, _)| *txn));
                    }
                }
                if let Some(fact) = forces.event(&event, time) {
                    out.fact(fact);
                }
                match &event {
                    Event::Message { from, message } => traffic.receive(*from, message, position),
                    Event::Persisted(lsn) => kept.persisted(*lsn),
                    _ => {}
                }
                deadlines.event(&event, time);
                refusals.event(&event);
                choices.event(&event);
                follow.event(event, &mut out);
            }
            Entry::Effect(Effect::Halt { kind, why }) => {
                out.fact(FactKind::Halted { kind, why, over: std::mem::take(&mut about) });
            }
            Entry::Effect(effect) => {
                match &effect {
                    Effect::Force(lsn) => forces.begin(*lsn, time),
                    Effect::Append(record) => kept.append(record),
                    Effect::Send { to, message } => traffic.send(*to, message, position),
                    _ => {}
                }
                deadlines.effect(&effect, &mut out);
                refusals.effect(&effect, &mut out);
                choices.effect(&effect);
                follow.effect(effect, &mut out);
            }
        }
    }
    deadlines.end(&mut FactSink { facts: &mut facts, position });
    let first_reads = choices.counts();
    Ok(NodeFacts { facts, last_time: time, starts, traffic, first_reads })
}

/// A force that takes longer than this has to be noticed.
pub const LONG_FORCE: Duration = Duration::from_secs(3);

/// The forces of a node that are under way.
#[derive(Debug, Default)]
struct Forces {
    durable: u64,
    /// Their positions and when they began, in nanoseconds of the history.
    under_way: VecDeque<(u64, i64)>,
    noticed: Duration,
}

impl Forces {
    fn begin(&mut self, lsn: u64, time: i64) {
        if lsn > self.durable {
            self.under_way.push_back((lsn, time));
        }
    }

    /// Takes note of an event. Returns a fact if a force that took long is done.
    fn event(&mut self, event: &Event, time: i64) -> Option<FactKind> {
        match event {
            Event::ForceAge(age) => {
                self.noticed = self.noticed.max(*age);
                None
            }
            Event::Persisted(lsn) => {
                self.durable = *lsn;
                let mut took = Duration::ZERO;
                while let Some((_, begun)) = self.under_way.front().filter(|(at, _)| at <= lsn) {
                    let time = u64::try_from(time.saturating_sub(*begun)).unwrap_or(0);
                    took = took.max(Duration::from_nanos(time));
                    self.under_way.pop_front();
                }
                let noticed = self.noticed;
                // The others were under way meanwhile.
                if self.under_way.is_empty() {
                    self.noticed = Duration::ZERO;
                }
                (took >= LONG_FORCE).then_some(FactKind::LongForce { took, noticed })
            }
            _ => None,
        }
    }
}

/// Records that were appended and are not durable yet, in order.
#[derive(Debug)]
struct Pending<T> {
    appended: u64,
    waiting: VecDeque<(u64, T)>,
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Pending { appended: 0, waiting: VecDeque::new() }
    }
}

impl<T> Pending<T> {
    /// A state machine starts. What was pending is lost or among the records that it recovers.
    fn restart(&mut self) {
        self.appended = 0;
        self.waiting.clear();
    }

    /// A record was recovered. The first sync of this incarnation makes it durable.
    fn recovered(&mut self, what: T) {
        self.waiting.push_back((0, what));
    }

    /// A record was appended. `what` is `None` if its durability does not matter.
    fn append(&mut self, what: Option<T>) {
        self.appended += 1;
        if let Some(what) = what {
            self.waiting.push_back((self.appended, what));
        }
    }

    /// Removes and returns what is durable now.
    fn persisted(&mut self, lsn: u64) -> impl Iterator<Item = T> + use<T> {
        let count = self.waiting.iter().take_while(|(at, _)| *at <= lsn).count();
        self.waiting.drain(..count).map(|(_, what)| what).collect::<Vec<_>>().into_iter()
    }
}
