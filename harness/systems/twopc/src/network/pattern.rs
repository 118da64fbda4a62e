//! Which messages an intercept rule matches, and what it does to them. Data, and how it is matched;
//! does not know about streams.

use std::{collections::BTreeSet, fmt, ops::Range, time::Duration};

use proto::v1 as pb;
use serde::{Serialize, Serializer};
use system::{
    protocol::{Body, Node, TxnId},
    wire,
};

/// A link: sender and receiver.
pub type Link = (Node, Node);

/// A set of messages, described by what is visible of them on a link. An empty field matches
/// everything.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pattern {
    /// The links; empty for all.
    #[serde(serialize_with = "links_as_text", skip_serializing_if = "BTreeSet::is_empty")]
    pub links: BTreeSet<Link>,
    /// The kinds of message, by [`Body::kind`]; empty for all.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub kinds: BTreeSet<&'static str>,
    /// The transaction that the messages concern.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub txn: Option<TxnId>,
    /// How many matching messages pass first.
    pub skip: u64,
    /// How many messages match at most; `None` for no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub most: Option<u64>,
    /// The probability with which each message matches.
    pub share: f64,
}

/// Links as `master>r1`, which is easier to read than pairs.
fn links_as_text<S: Serializer>(links: &BTreeSet<Link>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(links.iter().map(|(from, to)| format!("{from}>{to}")))
}

impl Default for Pattern {
    fn default() -> Self {
        Pattern {
            links: BTreeSet::new(),
            kinds: BTreeSet::new(),
            txn: None,
            skip: 0,
            most: None,
            share: 1.0,
        }
    }
}

impl Pattern {
    /// The first message of this kind on this link.
    #[must_use]
    pub fn first(kind: &'static str, from: Node, to: Node) -> Self {
        Pattern {
            links: [(from, to)].into(),
            kinds: [kind].into(),
            most: Some(1),
            ..Pattern::default()
        }
    }

    /// Every message on these links.
    #[must_use]
    pub fn on_links(links: impl IntoIterator<Item = Link>) -> Self {
        Pattern { links: links.into_iter().collect(), ..Pattern::default() }
    }

    /// Whether a message fits the description, regardless of `skip`, `most` and `share`.
    #[must_use]
    pub fn describes(&self, message: &MessageSummary) -> bool {
        (self.links.is_empty() || self.links.contains(&(message.from, message.to)))
            && (self.kinds.is_empty() || self.kinds.contains(message.kind))
            && self.txn.is_none_or(|txn| message.txns.contains(&txn))
    }
}

/// What an intercept rule does to a message that it matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessageAction {
    /// The message is lost.
    Drop,
    /// The message is held until it is released, however often either side restarts meanwhile.
    Hold,
    /// The message passes, and a copy is held until it is released.
    HoldCopy,
    /// The message arrives later by this much, so that later messages overtake it.
    Delay(Range<Duration>),
    /// The message passes, and arrives once more later by this much.
    Repeat(Range<Duration>),
}

impl fmt::Display for MessageAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MessageAction::Drop => "dropped",
            MessageAction::Hold => "held",
            MessageAction::HoldCopy => "copied and held",
            MessageAction::Delay(_) => "delayed",
            MessageAction::Repeat(_) => "repeated",
        })
    }
}

/// What is visible of a message on a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MessageSummary {
    /// The sender.
    pub from: Node,
    /// The receiver.
    pub to: Node,
    /// The kind of message.
    pub kind: &'static str,
    /// The transactions that it concerns.
    pub txns: Vec<TxnId>,
}

impl MessageSummary {
    /// Decodes a message. `None` if it is not one of this protocol: it must then pass untouched.
    #[must_use]
    pub fn of(from: Node, to: Node, envelope: &pb::Envelope) -> Option<MessageSummary> {
        let body = wire::from_wire(envelope.clone()).ok()?.body;
        Some(MessageSummary { from, to, kind: body.kind(), txns: txns(&body) })
    }
}

fn txns(body: &Body) -> Vec<TxnId> {
    match body {
        Body::FenceOk { in_doubt, .. } => in_doubt.iter().map(|(txn, _)| *txn).collect(),
        body => body.txns().to_vec(),
    }
}

impl fmt::Display for MessageSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} > {}", self.kind, self.from, self.to)?;
        self.txns.iter().try_for_each(|txn| write!(f, " {txn}"))
    }
}
