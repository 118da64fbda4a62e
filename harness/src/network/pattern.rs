//! Which messages are meant, and what is to become of them. Data, and how it is matched; knows
//! nothing of streams.

use std::{collections::BTreeSet, fmt, ops::Range, time::Duration};

use proto::v1 as pb;
use serde::{Serialize, Serializer};
use system::{
    protocol::{Body, Node, TxnId},
    wire,
};

/// A way from one node to another.
pub type Way = (Node, Node);

/// Messages, by what can be seen of them on their way. What is left open matches everything.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pattern {
    /// On these ways; empty for all.
    #[serde(serialize_with = "ways_as_text", skip_serializing_if = "BTreeSet::is_empty")]
    pub ways: BTreeSet<Way>,
    /// Of these kinds, by the names that messages give themselves; empty for all.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub kinds: BTreeSet<&'static str>,
    /// About this transaction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub txn: Option<TxnId>,
    /// Not before so many others that matched.
    pub skip: u64,
    /// At most so many; none for no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub most: Option<u64>,
    /// Each with this probability.
    pub share: f64,
}

/// As `master>r1`, which is easier to read than pairs.
fn ways_as_text<S: Serializer>(ways: &BTreeSet<Way>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(ways.iter().map(|(from, to)| format!("{from}>{to}")))
}

impl Default for Pattern {
    fn default() -> Self {
        Pattern {
            ways: BTreeSet::new(),
            kinds: BTreeSet::new(),
            txn: None,
            skip: 0,
            most: None,
            share: 1.0,
        }
    }
}

impl Pattern {
    /// The first message of this kind on this way.
    #[must_use]
    pub fn first(kind: &'static str, from: Node, to: Node) -> Self {
        Pattern {
            ways: [(from, to)].into(),
            kinds: [kind].into(),
            most: Some(1),
            ..Pattern::default()
        }
    }

    /// Everything on these ways.
    #[must_use]
    pub fn ways(ways: impl IntoIterator<Item = Way>) -> Self {
        Pattern { ways: ways.into_iter().collect(), ..Pattern::default() }
    }

    /// Whether a message is of this description, its number and share apart.
    #[must_use]
    pub fn describes(&self, seen: &Seen) -> bool {
        (self.ways.is_empty() || self.ways.contains(&(seen.from, seen.to)))
            && (self.kinds.is_empty() || self.kinds.contains(seen.kind))
            && self.txn.is_none_or(|txn| seen.txns.contains(&txn))
    }
}

/// What becomes of a message that matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// It never arrives.
    Drop,
    /// It waits until it is released, however often either side restarts meanwhile.
    Hold,
    /// It arrives, and a copy waits until it is released.
    HoldCopy,
    /// It arrives this much later, so that later ones overtake it.
    Delay(Range<Duration>),
    /// It arrives, and once more this much later.
    Repeat(Range<Duration>),
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Deed::Drop => "dropped",
            Deed::Hold => "held",
            Deed::HoldCopy => "copied and held",
            Deed::Delay(_) => "delayed",
            Deed::Repeat(_) => "repeated",
        })
    }
}

/// What can be seen of a message on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Who sent it.
    pub from: Node,
    /// For whom.
    pub to: Node,
    /// What it is.
    pub kind: &'static str,
    /// The transactions that it is about.
    pub txns: Vec<TxnId>,
}

impl Seen {
    /// Looks at a message. None if it is not one of this protocol: then it is not to be touched.
    #[must_use]
    pub fn of(from: Node, to: Node, envelope: &pb::Envelope) -> Option<Seen> {
        let body = wire::from_wire(envelope.clone()).ok()?.body;
        Some(Seen { from, to, kind: body.kind(), txns: txns(&body) })
    }
}

fn txns(body: &Body) -> Vec<TxnId> {
    match body {
        Body::FenceOk { in_doubt, .. } => in_doubt.iter().map(|(txn, _)| *txn).collect(),
        body => body.txns().to_vec(),
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} > {}", self.kind, self.from, self.to)?;
        self.txns.iter().try_for_each(|txn| write!(f, " {txn}"))
    }
}
