//! What the journals of a run prove: which records were durable when, who decided what, what was
//! reported to whom, and which reads were served. Each journal is read once, and only facts are
//! kept. Knows what a record means, not what would be a violation.

mod master;
mod replica;
mod transactions;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt, io,
    path::{Path, PathBuf},
};

use history::TIME_MAX;
use system::{
    journal::Entry,
    protocol::{AbortReason, Config, Effect, Event, HaltKind, Key, Node, Record, TxnId, Write},
};

pub use transactions::{Abort, Transaction, Transactions};

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
    /// Replica: a yes vote was sent before the PREPARE was durable.
    EarlyVote(TxnId),
    /// Replica: a commit was acknowledged before it was durable.
    EarlyAck(TxnId),
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
    /// Master: Ok was reported to a client.
    OkReported {
        /// The transaction.
        txn: TxnId,
        /// Whether COMMIT was durable.
        durable: bool,
    },
    /// The state machine stopped its process.
    Halted(HaltKind, String),
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
    collect(node, entries, replicas, clock_origin)
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
    for entry in entries {
        let (line, entry) = entry?;
        if let Entry::Start { t, .. } | Entry::Event { t, .. } = &entry {
            time = time_of(*t, clock_origin);
        }
        let mut out =
            FactSink { facts: &mut facts, position: JournalPosition { node, line, time } };
        match entry {
            Entry::Start { config, records, .. } => {
                starts += 1;
                follow.started(&config, records, &mut out);
            }
            Entry::Event { event, .. } => follow.event(event, &mut out),
            Entry::Effect(Effect::Halt { kind, why }) => out.fact(FactKind::Halted(kind, why)),
            Entry::Effect(effect) => follow.effect(effect, &mut out),
        }
    }
    Ok(NodeFacts { facts, last_time: time, starts })
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
