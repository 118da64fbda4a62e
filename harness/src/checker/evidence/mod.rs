//! What the journals of a run prove: which records were durable when, who decided what, who was
//! told what, what was served. Each journal is read once, and only facts are kept. Knows what a
//! record means, not what would be wrong.

mod master;
mod replica;
mod transactions;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt, io,
    path::{Path, PathBuf},
};

use system::{
    journal::Entry,
    protocol::{AbortReason, Config, Effect, Event, HaltKind, Key, Node, Record, TxnId, Write},
};

pub use transactions::{Abort, Transaction, Transactions};

/// A line of a journal, and when it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Whose journal.
    pub node: Node,
    /// The line, from 1.
    pub line: usize,
    /// The time of the event that it belongs to, in nanoseconds of the history.
    pub time: i64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} journal line {}", self.node, self.line)
    }
}

/// Something that a journal proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Where.
    pub place: Place,
    /// What.
    pub what: What,
}

/// What a journal can prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Replica: it started, and this is what its store had kept.
    Started {
        /// It had never started before: its store was empty.
        fresh: bool,
        /// Prepared, without an outcome.
        undecided: Vec<(TxnId, Write)>,
    },
    /// Replica: a PREPARE was appended; the key is locked from here on.
    Prepared(TxnId, Write),
    /// Replica: that PREPARE is durable: a yes vote.
    Voted(TxnId),
    /// Replica: a commit was appended; the write is applied and the key unlocked from here on.
    Committed(TxnId),
    /// Replica: an abort was appended; the key is unlocked from here on.
    Aborted(TxnId),
    /// Replica: a promise never to prepare the transaction is durable, or a veto of it.
    Refused(TxnId),
    /// Replica, where the votes decide: a veto was appended; the key is unlocked from here on.
    Vetoed(TxnId),
    /// Replica: a read was served.
    Served(Key),
    /// Replica: a yes vote was sent though PREPARE was not durable.
    EarlyVote(TxnId),
    /// Replica: a commit was acknowledged though it was not durable.
    EarlyAck(TxnId),
    /// Master: COMMIT was appended; where the votes decide: it has counted them.
    DecisionAppended {
        /// The transaction.
        txn: TxnId,
        /// The replicas whose yes had not arrived.
        missing: Vec<Node>,
    },
    /// Master: COMMIT is durable: the commit point. Where the votes decide, anybody: acts on it, the
    /// first of whom had all votes before him.
    Decided(TxnId, Key),
    /// Master: every replica has acknowledged the commit.
    Ended(TxnId),
    /// Master: somebody was told that the transaction is aborted.
    AbortTold {
        /// The transaction.
        txn: TxnId,
        /// Who was told.
        to: Told,
        /// Whether every replica's yes had arrived.
        all_yes: bool,
    },
    /// Master: a replica was told to commit before COMMIT was durable.
    EarlyDecide(TxnId, Node),
    /// Master: a client was told Ok.
    OkTold {
        /// The transaction.
        txn: TxnId,
        /// Whether COMMIT was durable.
        durable: bool,
    },
    /// The machine stopped its process.
    Halted(HaltKind, String),
}

/// Who was told of an abort.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The client, with the reason.
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
    /// How often the node was started.
    pub starts: usize,
}

/// The facts of every node that has a journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// By node.
    pub nodes: BTreeMap<Node, NodeFacts>,
    /// Nodes whose journal is missing, or tells of no start.
    pub missing: Vec<Node>,
    /// By transaction.
    pub transactions: Transactions,
}

impl Evidence {
    /// Reads the journals of a cluster with so many replicas, side by side.
    ///
    /// # Errors
    /// A journal cannot be read, or a line is no entry; the message names the file.
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
            readers.into_iter().map(|reader| reader.join().expect("no reader panics")).collect()
        });
        Ok(Evidence::of(read.into_iter().collect::<io::Result<_>>()?, replicas))
    }

    /// Puts the facts of the nodes together.
    #[must_use]
    pub fn of(nodes: BTreeMap<Node, NodeFacts>, replicas: u8) -> Evidence {
        let everyone = std::iter::once(Node::Master).chain((1..=replicas).map(Node::Replica));
        let told = |node: &Node| nodes.get(node).is_some_and(|facts| facts.starts > 0);
        let missing = everyone.filter(|node| !told(node)).collect();
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

    /// Says so where a journal is missing, and whether none is.
    pub fn complete(&self, check_result: &mut super::CheckResult) -> bool {
        for node in &self.missing {
            check_result.unknown(format!("{node} has no journal, or one that tells of no start"));
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

/// Gathers the facts of a node from the entries of its journal.
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
        Node::Master => scan(node, entries, clock_origin, &mut master::Scan::new(replicas)),
        Node::Replica(_) => scan(node, entries, clock_origin, &mut replica::Scan::default()),
    }
}

/// Follows one node through its journal.
trait Follow {
    /// The machine was recovered from these records.
    fn started(&mut self, config: &Config, records: Vec<Record>, out: &mut Sink<'_>);
    /// Something happened to it.
    fn event(&mut self, event: Event, out: &mut Sink<'_>);
    /// It wanted something done.
    fn effect(&mut self, effect: Effect, out: &mut Sink<'_>);
}

/// Takes facts in, with the place of the current line.
struct Sink<'a> {
    facts: &'a mut Vec<Fact>,
    place: Place,
}

impl Sink<'_> {
    fn fact(&mut self, what: What) {
        self.facts.push(Fact { place: self.place, what });
    }
}

fn scan(
    node: Node,
    entries: impl Iterator<Item = io::Result<(usize, Entry)>>,
    clock_origin: u64,
    follow: &mut impl Follow,
) -> io::Result<NodeFacts> {
    let mut facts = Vec::new();
    let (mut time, mut starts) = (0, 0);
    for entry in entries {
        let (line, entry) = entry?;
        if let Entry::Start { t, .. } | Entry::Event { t, .. } = &entry {
            time = i64::try_from(i128::from(*t) - i128::from(clock_origin)).unwrap_or(i64::MAX);
        }
        let mut out = Sink { facts: &mut facts, place: Place { node, line, time } };
        match entry {
            Entry::Start { config, records, .. } => {
                starts += 1;
                follow.started(&config, records, &mut out);
            }
            Entry::Event { event, .. } => follow.event(event, &mut out),
            Entry::Effect(Effect::Halt { kind, why }) => out.fact(What::Halted(kind, why)),
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
    /// A machine starts: what was pending is lost, or among the records that it recovers.
    fn restart(&mut self) {
        self.appended = 0;
        self.waiting.clear();
    }

    /// A record was recovered: the first force of this incarnation makes it durable.
    fn recovered(&mut self, what: T) {
        self.waiting.push_back((0, what));
    }

    /// A record was appended; `what` is none if nobody cares when it is durable.
    fn append(&mut self, what: Option<T>) {
        self.appended += 1;
        if let Some(what) = what {
            self.waiting.push_back((self.appended, what));
        }
    }

    /// Takes out what is durable now.
    fn persisted(&mut self, lsn: u64) -> impl Iterator<Item = T> + use<T> {
        let count = self.waiting.iter().take_while(|(at, _)| *at <= lsn).count();
        self.waiting.drain(..count).map(|(_, what)| what).collect::<Vec<_>>().into_iter()
    }
}
