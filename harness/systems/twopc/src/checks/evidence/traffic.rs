//! The messages between the nodes, each by a hash of all that it says.

use std::{
    collections::{HashMap, HashSet, hash_map::DefaultHasher},
    hash::{Hash as _, Hasher as _},
};

use system::protocol::{Body, Message, Node, TxnId};

use super::JournalPosition;

/// What one node has sent and received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// By receiver: the messages that were sent to it, and where first.
    pub sent: HashMap<Node, HashMap<u64, Sent>>,
    /// The messages that were received, without repetitions.
    pub received: Vec<Received>,
    known: HashSet<(Node, u64)>,
    /// The results of reads are not in the journal, as an earlier version wrote it, so neither are the answers.
    pub lacks_values: bool,
    /// It includes what a second process sent in the name of the node.
    pub has_second: bool,
}

/// A message that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Where.
    pub position: JournalPosition,
    /// Its kind, in words.
    pub kind: &'static str,
    /// The first transaction that it names.
    pub txn: Option<TxnId>,
}

/// A message that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Where.
    pub position: JournalPosition,
    /// From whom.
    pub from: Node,
    /// Everything that it says.
    pub hash: u64,
    /// Its kind, in words.
    pub kind: &'static str,
    /// The first transaction that it names.
    pub txn: Option<TxnId>,
    /// It is the answer to a read.
    pub is_value: bool,
}

impl Traffic {
    pub(super) fn send(&mut self, to: Node, message: &Message, position: JournalPosition) {
        let (kind, txn) = (message.body.kind(), message.body.txns().first().copied());
        let sent = Sent { position, kind, txn };
        self.sent.entry(to).or_default().entry(hash(message)).or_insert(sent);
    }

    pub(super) fn receive(&mut self, from: Node, message: &Message, position: JournalPosition) {
        let hash = hash(message);
        if self.known.insert((from, hash)) {
            let (kind, txn) = (message.body.kind(), message.body.txns().first().copied());
            let is_value = matches!(message.body, Body::Value { .. } | Body::Snapshot { .. });
            self.received.push(Received { position, from, hash, kind, txn, is_value });
        }
    }
}

fn hash(message: &Message) -> u64 {
    let mut hasher = DefaultHasher::new();
    message.hash(&mut hasher);
    hasher.finish()
}
