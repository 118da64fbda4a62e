//! Crash points: the places in a node's work at which it can be told to stop itself, so that a
//! harness can kill or pause it exactly there. Costs one relaxed load a place while none is armed.
//! Knows how a point is named and reached; nothing of what the node does around it.

use std::{
    fmt,
    io::{self, Write as _},
    str::FromStr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
};

use nix::sys::signal::{Signal, raise};

use crate::{
    protocol::{CommitMode, Node, Record, Reply, TxnId},
    store,
};

/// The part of a node's contact with the world at which a point lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Records become durable: one commit of the store.
    Persist,
    /// A message leaves for a peer.
    Send,
    /// An answer leaves for a client.
    Reply,
    /// A message or a request is taken in.
    Receive,
}

impl Place {
    const ALL: [Place; 4] = [Place::Persist, Place::Send, Place::Reply, Place::Receive];

    fn name(self) -> &'static str {
        match self {
            Place::Persist => "persist",
            Place::Send => "send",
            Place::Reply => "reply",
            Place::Receive => "receive",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Which side of its place a point lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Nothing of it has happened; all that came before it has, as far as the node can see to it.
    Before,
    /// It has happened, and nothing that comes after. A message or an answer has *happened* when
    /// the kernel has its bytes; an event that was received, when all that it caused has.
    After,
}

impl Side {
    /// Both.
    pub const ALL: [Side; 2] = [Side::Before, Side::After];

    /// The name, as points have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Side::Before => "before",
            Side::After => "after",
        }
    }
}

/// The two roles of a node, as points name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Hosts the coordinator.
    Master,
    /// Hosts a participant.
    Replica,
}

impl Role {
    /// The name, as points have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Role::Master => "master",
            Role::Replica => "replica",
        }
    }

    /// What there is to meet at a place, by the names that records, messages, requests and
    /// outcomes give themselves.
    #[must_use]
    pub fn kinds(self, place: Place) -> &'static [&'static str] {
        match (self, place) {
            (Role::Master, Place::Persist) => &["epoch", "member", "commit", "end", "votes"],
            (Role::Replica, Place::Persist) => &[
                "member",
                "promise",
                "incarnation",
                "prepare",
                "commit",
                "abort",
                "refused",
                "watermark",
                "votes",
                "frozen",
            ],
            (Role::Master, Place::Send) => &[
                "fence",
                "prepare",
                "decide",
                "decide-abort",
                "pending",
                "read",
                "heartbeat",
                "veto",
                "peer-inquire",
            ],
            (Role::Replica, Place::Send) => &[
                "fence-ok",
                "vote-yes",
                "vote-no",
                "ack",
                "inquire",
                "value",
                "busy",
                "not-serving",
                "alive",
                "stale",
                "peer-inquire",
                "peer-answer",
            ],
            (Role::Master, Place::Reply) => &["ok", "aborted", "value", "unavailable"],
            (Role::Replica, Place::Reply) => &[],
            (Role::Master, Place::Receive) => &[
                "put",
                "del",
                "get",
                "fence-ok",
                "vote-yes",
                "vote-no",
                "ack",
                "inquire",
                "value",
                "busy",
                "not-serving",
                "alive",
                "stale",
                "peer-answer",
            ],
            (Role::Replica, Place::Receive) => &[
                "fence",
                "prepare",
                "decide",
                "decide-abort",
                "pending",
                "read",
                "heartbeat",
                "peer-inquire",
                "peer-answer",
                "veto",
            ],
        }
    }
}

impl From<Node> for Role {
    fn from(node: Node) -> Self {
        match node {
            Node::Master => Role::Master,
            Node::Replica(_) => Role::Replica,
        }
    }
}

/// A crash point: `<role>:<before|after>-<persist|send|reply|receive>:<kind>[:<n>]`.
///
/// ```
/// use system::node::Point;
///
/// let point: Point = "master:after-send:decide:2".parse()?;
/// assert_eq!(point.to_string(), "master:after-send:decide:2");
/// assert!("master:after-send:nonsense".parse::<Point>().is_err());
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Point {
    /// Who stops.
    pub role: Role,
    /// Before it, or after.
    pub side: Side,
    /// What is done there.
    pub place: Place,
    /// The kind of record, message, request or outcome.
    pub kind: &'static str,
    /// Which occurrence since the point was armed, from 1.
    pub n: u32,
}

impl Point {
    /// Every point of a role, each for the first occurrence.
    pub fn all(role: Role) -> impl Iterator<Item = Point> {
        Place::ALL.into_iter().flat_map(move |place| {
            Side::ALL.into_iter().flat_map(move |side| {
                let kinds = role.kinds(place).iter();
                kinds.map(move |kind| Point { role, side, place, kind, n: 1 })
            })
        })
    }

    /// Whether a node of a cluster that commits in this mode can come there: the master's log holds
    /// commits where it decides, and there are vetoes, votes that are final, and a master that asks
    /// how its predecessor's transactions stand, where the votes do.
    #[must_use]
    pub fn applies_to(self, commit: CommitMode) -> bool {
        match (self.role, self.place, self.kind) {
            (Role::Master, Place::Persist, "commit" | "end") => commit == CommitMode::Logged,
            (_, Place::Persist, "votes" | "frozen")
            | (_, _, "veto")
            | (Role::Master, _, "peer-inquire" | "peer-answer") => commit == CommitMode::Votes,
            _ => true,
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Point { role, side, place, kind, n } = self;
        write!(f, "{}:{}-{}:{kind}", role.name(), side.name(), place.name())?;
        if *n == 1 { Ok(()) } else { write!(f, ":{n}") }
    }
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "want <role>:<before|after>-<persist|send|reply|receive>:<kind>[:<n>]";
        let mut parts = text.split(':');
        let (Some(role), Some(at), Some(kind)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(form.into());
        };
        let n = match (parts.next(), parts.next()) {
            (None, _) => 1,
            (Some(n), None) => n
                .parse()
                .ok()
                .filter(|n| *n > 0)
                .ok_or_else(|| format!("'{n}' is no count: want a number from 1"))?,
            (Some(_), Some(_)) => return Err(form.into()),
        };
        let role = match role {
            "master" => Role::Master,
            "replica" => Role::Replica,
            _ => return Err(format!("'{role}' is no role: want master or replica")),
        };
        let (side, place) = at
            .split_once('-')
            .and_then(|(side, place)| {
                let side = Side::ALL.into_iter().find(|it| it.name() == side)?;
                let place = Place::ALL.into_iter().find(|it| it.name() == place)?;
                Some((side, place))
            })
            .ok_or_else(|| format!("'{at}' is no place: {form}"))?;
        let kinds = role.kinds(place);
        // Names that kinds had in records of earlier versions.
        let kind = match kind {
            "boot" => "incarnation",
            "floor" => "watermark",
            kind => kind,
        };
        let kind = kinds.iter().find(|it| **it == kind).ok_or_else(|| {
            let (role, place) = (role.name(), place.name());
            match kinds {
                [] => format!("a {role} has no {place}"),
                _ => format!("'{kind}' is no {role} {place}: want one of {}", kinds.join(", ")),
            }
        })?;
        Ok(Point { role, side, place, kind, n })
    }
}

/// The point that a node is to stop at, if any.
#[derive(Debug, Default)]
pub(crate) struct Points {
    /// The place's bit while a point is armed there: all that the node's usual work looks at.
    place: AtomicU8,
    armed: Mutex<Option<Armed>>,
}

#[derive(Debug)]
struct Armed {
    point: Point,
    /// As it was given, for the answer.
    name: String,
    seen: u32,
}

/// An armed point that was reached: nothing else remains but to stop.
#[derive(Debug)]
#[must_use]
pub(crate) struct Reached {
    name: String,
}

impl Points {
    /// Arms a point, in place of any other.
    ///
    /// # Errors
    /// There is no such point at this role.
    pub(crate) fn arm(&self, name: &str, role: Role) -> Result<(), String> {
        let point: Point = name.parse()?;
        if point.role != role {
            return Err(format!("this is a {}", role.name()));
        }
        let mut armed = self.lock();
        *armed = Some(Armed { point, name: name.to_owned(), seen: 0 });
        self.place.store(point.place.bit(), Ordering::Release);
        Ok(())
    }

    /// Arms none.
    pub(crate) fn disarm(&self) {
        let mut armed = self.lock();
        self.place.store(0, Ordering::Release);
        *armed = None;
    }

    /// Whether a point is armed at this place. Cheap.
    pub(crate) fn watches(&self, place: Place) -> bool {
        self.place.load(Ordering::Relaxed) & place.bit() != 0
    }

    /// Whether a point is armed at all. Cheap.
    pub(crate) fn any(&self) -> bool {
        self.place.load(Ordering::Relaxed) != 0
    }

    /// Counts one occurrence; if it is the one, says so and disarms the point.
    pub(crate) fn pass(
        &self,
        side: Side,
        place: Place,
        kind: &str,
        txn: Option<TxnId>,
    ) -> Option<Reached> {
        if !self.watches(place) {
            return None;
        }
        let mut armed = self.lock();
        let it = armed.as_mut()?;
        if (it.point.side, it.point.place, it.point.kind) != (side, place, kind) {
            return None;
        }
        it.seen += 1;
        if it.seen < it.point.n {
            return None;
        }
        self.place.store(0, Ordering::Release);
        let name = armed.take()?.name;
        // Said while nobody can take the point back: who does so later, and is answered, has heard
        // it before the answer.
        match txn {
            Some(txn) => say(&format!("reached {name} txn={txn}")),
            None => say(&format!("reached {name}")),
        }
        Some(Reached { name })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Armed>> {
        // What the lock guards is replaced whole.
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reached {
    /// Stops the whole process until somebody continues it.
    pub(crate) fn stop(self) {
        // To this thread, not to the process: this thread is then stopped before it runs on.
        if let Err(error) = raise(Signal::SIGSTOP) {
            tracing::error!("cannot stop at {}: {error}", self.name);
        }
    }
}

/// Writes a line for whoever controls the node.
pub(crate) fn say(line: &str) {
    let mut out = io::stdout().lock();
    // If nobody listens any more, standard input will soon end and so will the node.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// The points around the store's commits. The store's writer calls it in its own thread.
pub(crate) struct PersistPoints(pub(crate) std::sync::Arc<Points>);

impl PersistPoints {
    fn pass(&self, side: Side, batch: &[Record]) {
        if !self.0.watches(Place::Persist) {
            return;
        }
        let reached = batch.iter().find_map(|record| {
            self.0.pass(side, Place::Persist, record.kind(), record_txn(record))
        });
        if let Some(reached) = reached {
            reached.stop();
        }
    }
}

impl store::Observer for PersistPoints {
    fn before(&mut self, batch: &[Record]) {
        self.pass(Side::Before, batch);
    }

    fn after(&mut self, batch: &[Record]) {
        self.pass(Side::After, batch);
    }
}

fn record_txn(record: &Record) -> Option<TxnId> {
    match record {
        Record::Decided { txn, .. }
        | Record::End { txn }
        | Record::Prepare { txn, .. }
        | Record::Commit { txn }
        | Record::Abort { txn }
        | Record::Refused { txn } => Some(*txn),
        Record::Epoch { .. }
        | Record::Member { .. }
        | Record::Promise { .. }
        | Record::Incarnation { .. }
        | Record::Votes
        | Record::Frozen { .. }
        | Record::Watermark { .. } => None,
    }
}

/// The transaction that an answer names as the client's own.
pub(crate) fn outcome_txn(outcome: &Reply) -> Option<TxnId> {
    match outcome {
        Reply::Committed { version } => Some(*version),
        Reply::Aborted(_) | Reply::Value(_) | Reply::Unavailable => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_read_as_it_is_written() {
        for role in [Role::Master, Role::Replica] {
            for point in Point::all(role) {
                assert_eq!(point.to_string().parse(), Ok(point));
                let third = Point { n: 3, ..point };
                assert_eq!(third.to_string().parse(), Ok(third));
            }
        }
    }

    #[test]
    fn what_is_no_point_is_told() {
        for (text, why) in [
            ("", "want <role>"),
            ("client:before-send:decide", "'client' is no role"),
            ("master:during-send:decide", "'during-send' is no place"),
            ("master:before-send:vote-yes", "want one of fence, prepare"),
            ("replica:before-reply:ok", "a replica has no reply"),
            ("master:before-send:decide:0", "'0' is no count"),
            ("master:before-send:decide:1:1", "want <role>"),
        ] {
            let error = text.parse::<Point>().expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_point_is_reached_once_at_its_count() {
        let points = Points::default();
        let pass = |kind| points.pass(Side::After, Place::Send, kind, None).is_some();
        assert!(!pass("decide"));
        points.arm("master:after-send:decide:2", Role::Master).expect("is a point");
        assert!(points.watches(Place::Send) && !points.watches(Place::Persist));
        assert!(!pass("decide"));
        assert!(!pass("prepare"));
        assert!(points.pass(Side::Before, Place::Send, "decide", None).is_none());
        assert!(pass("decide"));
        assert!(!pass("decide") && !points.watches(Place::Send));
        points.arm("master:after-send:decide", Role::Master).expect("is a point");
        points.disarm();
        assert!(!pass("decide"));
        assert!(points.arm("replica:after-send:ack", Role::Master).is_err());
    }
}
