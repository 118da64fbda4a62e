//! What can be put under test: how its nodes are started, asked and observed. The rest of the
//! harness knows systems by these traits alone.

use std::{
    fmt, io,
    path::PathBuf,
    process::{Command, ExitStatus},
    str::FromStr,
    time::Duration,
};

use futures::future::BoxFuture;
use system::{
    protocol::{Node, Rule, TxnId},
    store::SyncMode,
};

mod timings;
pub mod twopc;

pub use timings::Timings;

use crate::{generator::ClientRequest, twopc::FinalReplicaState};

/// A system under test, as one run has set it up.
pub trait System: Send + Sync {
    /// Its nodes, in the order in which they are started.
    fn nodes(&self) -> &[Node];

    /// The command that starts a node.
    fn command(&self, node: Node, start: &Start) -> Command;

    /// A client of its own connection.
    ///
    /// # Errors
    /// The client cannot be set up; that the system is out of reach is no reason.
    fn client(&self) -> io::Result<Box<dyn Client>>;

    /// What a node says of itself; an error in words if it does not answer in time.
    fn observe(&self, node: Node) -> BoxFuture<'_, Result<Observation, String>>;

    /// Whether a process that was started in this way, which must not be let in, and ended with this
    /// status and these last words, was refused for that.
    fn is_refusal(&self, start: &Start, status: ExitStatus, said: &str) -> bool;

    /// An empty directory that a node may be started on.
    ///
    /// # Errors
    /// It cannot be made.
    fn spare_directory(&self, node: Node) -> io::Result<PathBuf>;

    /// From now on this is the node's directory.
    fn adopt(&self, node: Node, directory: PathBuf);

    /// All that a replica holds.
    fn dump(&self, node: Node) -> BoxFuture<'_, Result<FinalReplicaState, String>>;
}

/// What can be broken in the system on purpose, to see who notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// A rule of the protocol.
    Rule(Rule),
    /// The store's syncs. No program of the system can be told so: only the harness's own nodes.
    SyncMode(SyncMode),
}

impl Break {
    /// The name, as typed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Break::Rule(rule) => rule.name(),
            Break::SyncMode(SyncMode::All) => "nothing",
            Break::SyncMode(SyncMode::NoMeta) => "store-meta-syncs",
            Break::SyncMode(SyncMode::None) => "store-syncs",
        }
    }
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Break {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let stores = [Break::SyncMode(SyncMode::NoMeta), Break::SyncMode(SyncMode::None)];
        match stores.into_iter().find(|it| it.name() == text) {
            Some(store) => Ok(store),
            None => text.parse().map(Break::Rule).map_err(|why| {
                format!("{why}; or store-syncs, store-meta-syncs: LMDB's NOSYNC and NOMETASYNC")
            }),
        }
    }
}

/// How a node is started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// It may find nothing on its disk; otherwise it must find what earlier starts have left.
    pub bootstrap: bool,
    /// On this directory instead of its own.
    pub directory: Option<PathBuf>,
    /// Beside a process of the same node: it listens elsewhere.
    pub beside: bool,
    /// It stops itself at this crash point.
    pub arm: Option<String>,
}

impl Start {
    /// Whether this start is not one of the cluster's own, but one that must be refused.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.directory.is_some() || self.beside
    }
}

/// What a node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// It does all that it is there for.
    pub ready: bool,
    /// Transactions without an end: at a replica, those in doubt.
    pub unsettled: Vec<(TxnId, system::protocol::Key)>,
}

/// A client of the system under test.
pub trait Client: Send {
    /// Performs an operation, and says what is known of it when it is answered or the time is up.
    fn perform<'a>(
        &'a mut self,
        operation: &'a ClientRequest,
        deadline: Duration,
    ) -> BoxFuture<'a, Answer>;
}

/// What is known of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It took effect.
    Ok {
        /// The version that was written or found.
        version: Option<TxnId>,
        /// What a get found.
        value: Option<String>,
    },
    /// It took no effect and never will.
    Fail {
        /// Why.
        error: String,
        /// Nobody is there to do it: asking again at once is of no use.
        nobody: bool,
    },
    /// It may have taken effect, may yet, or never will.
    Info {
        /// Why nothing better is known.
        error: String,
    },
}
