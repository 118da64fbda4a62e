//! Crash points (failpoints): the sites in a node's work at which it can be made to stop itself, so
//! that a test can kill or pause it exactly there. While no point is armed, a site costs one
//! relaxed load. Knows how a point is named and hit, but not what the node does around it.

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

use super::Side;
use crate::{
    protocol::{CommitMode, Node, Record, Reply, TxnId},
    store,
};

/// The kind of interaction at which a point lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Site {
    /// Records become durable: one group of the store.
    Persist,
    /// A message is sent to a peer.
    Send,
    /// A reply is sent to a client.
    Reply,
    /// A message or a request is received.
    Receive,
}

impl Site {
    const ALL: [Site; 4] = [Site::Persist, Site::Send, Site::Reply, Site::Receive];

    fn name(self) -> &'static str {
        match self {
            Site::Persist => "persist",
            Site::Send => "send",
            Site::Reply => "reply",
            Site::Receive => "receive",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl Side {
    /// Both sides.
    pub const ALL: [Side; 2] = [Side::Before, Side::After];

    /// The name in crash points.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Side::Before => "before",
            Side::After => "after",
        }
    }
}

/// The role of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Hosts the coordinator.
    Master,
    /// Hosts a participant.
    Replica,
}

impl Role {
    /// The name in crash points.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Role::Master => "master",
            Role::Replica => "replica",
        }
    }

    /// The kinds that occur at a site: the names of records, messages, requests and replies.
    #[must_use]
    pub fn kinds(self, site: Site) -> &'static [&'static str] {
        match (self, site) {
            (Role::Master, Site::Persist) => &["epoch", "member", "commit", "end", "votes"],
            (Role::Replica, Site::Persist) => &[
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
            (Role::Master, Site::Send) => &[
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
            (Role::Replica, Site::Send) => &[
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
            (Role::Master, Site::Reply) => &["ok", "aborted", "value", "unavailable"],
            (Role::Replica, Site::Reply) => &[],
            (Role::Master, Site::Receive) => &[
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
            (Role::Replica, Site::Receive) => &[
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
/// use system::hooks::Point;
///
/// let point: Point = "master:after-send:decide:2".parse()?;
/// assert_eq!(point.to_string(), "master:after-send:decide:2");
/// assert!("master:after-send:nonsense".parse::<Point>().is_err());
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Point {
    /// The role of the node that stops.
    pub role: Role,
    /// Before or after.
    pub side: Side,
    /// The site.
    pub site: Site,
    /// The kind of record, message, request or reply.
    pub kind: &'static str,
    /// The number of the occurrence since the point was armed, from 1.
    pub n: u32,
}

impl Point {
    /// Every point of a role, for the first occurrence.
    pub fn all(role: Role) -> impl Iterator<Item = Point> {
        Site::ALL.into_iter().flat_map(move |site| {
            Side::ALL.into_iter().flat_map(move |side| {
                let kinds = role.kinds(site).iter();
                kinds.map(move |kind| Point { role, side, site, kind, n: 1 })
            })
        })
    }

    /// Whether the point can be hit in a cluster of this commit mode. The master's log holds
    /// commits in logged mode only. Vetoes, final votes, and a master that inquires about earlier
    /// transactions occur in votes mode only.
    #[must_use]
    pub fn applies_to(self, commit: CommitMode) -> bool {
        match (self.role, self.site, self.kind) {
            (Role::Master, Site::Persist, "commit" | "end") => commit == CommitMode::Logged,
            (_, Site::Persist, "votes" | "frozen")
            | (_, _, "veto")
            | (Role::Master, _, "peer-inquire" | "peer-answer") => commit == CommitMode::Votes,
            _ => true,
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Point { role, side, site, kind, n } = self;
        write!(f, "{}:{}-{}:{kind}", role.name(), side.name(), site.name())?;
        if *n == 1 { Ok(()) } else { write!(f, ":{n}") }
    }
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "expected <role>:<before|after>-<persist|send|reply|receive>:<kind>[:<n>]";
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
                .ok_or_else(|| format!("invalid count '{n}': expected a number from 1"))?,
            (Some(_), Some(_)) => return Err(form.into()),
        };
        let role = match role {
            "master" => Role::Master,
            "replica" => Role::Replica,
            _ => return Err(format!("unknown role '{role}': expected master or replica")),
        };
        let (side, site) = at
            .split_once('-')
            .and_then(|(side, site)| {
                let side = Side::ALL.into_iter().find(|known| known.name() == side)?;
                let site = Site::ALL.into_iter().find(|known| known.name() == site)?;
                Some((side, site))
            })
            .ok_or_else(|| format!("unknown site '{at}': {form}"))?;
        let kinds = role.kinds(site);
        // Earlier names of kinds, which kept records contain.
        let kind = match kind {
            "boot" => "incarnation",
            "floor" => "watermark",
            kind => kind,
        };
        let kind = kinds.iter().find(|known| **known == kind).ok_or_else(|| {
            let (role, site) = (role.name(), site.name());
            match kinds {
                [] => format!("a {role} has no site {site}"),
                _ => format!(
                    "unknown kind '{kind}' for {role} {site}: expected one of {}",
                    kinds.join(", ")
                ),
            }
        })?;
        Ok(Point { role, side, site, kind, n })
    }
}

/// The armed crash point, if any.
#[derive(Debug, Default)]
pub(crate) struct CrashPoints {
    /// The bit of the site at which a point is armed, or 0. The only thing that is read in normal
    /// operation.
    site: AtomicU8,
    armed: Mutex<Option<Armed>>,
}

#[derive(Debug)]
struct Armed {
    point: Point,
    /// The name as given, for the answer.
    name: String,
    hits: u32,
}

/// An armed point that was hit: the process must stop now.
#[derive(Debug)]
#[must_use]
pub(crate) struct Hit {
    name: String,
}

impl CrashPoints {
    /// Arms a point, replacing any other.
    ///
    /// # Errors
    /// There is no such point for this role.
    pub(crate) fn arm(&self, name: &str, role: Role) -> Result<(), String> {
        let point: Point = name.parse()?;
        if point.role != role {
            return Err(format!("this node is a {}", role.name()));
        }
        let mut armed = self.lock();
        *armed = Some(Armed { point, name: name.to_owned(), hits: 0 });
        self.site.store(point.site.bit(), Ordering::Release);
        Ok(())
    }

    /// Disarms the point.
    pub(crate) fn disarm(&self) {
        let mut armed = self.lock();
        self.site.store(0, Ordering::Release);
        *armed = None;
    }

    /// Whether a point is armed at this site. Cheap.
    pub(crate) fn is_armed_at(&self, site: Site) -> bool {
        self.site.load(Ordering::Relaxed) & site.bit() != 0
    }

    /// Whether a point is armed at all. Cheap.
    pub(crate) fn is_armed(&self) -> bool {
        self.site.load(Ordering::Relaxed) != 0
    }

    /// Counts one occurrence. If it is the armed one, reports the hit and disarms the point.
    pub(crate) fn hit(
        &self,
        side: Side,
        site: Site,
        kind: &str,
        txn: Option<TxnId>,
    ) -> Option<Hit> {
        if !self.is_armed_at(site) {
            return None;
        }
        let mut armed = self.lock();
        let current = armed.as_mut()?;
        if (current.point.side, current.point.site, current.point.kind) != (side, site, kind) {
            return None;
        }
        current.hits += 1;
        if current.hits < current.point.n {
            return None;
        }
        self.site.store(0, Ordering::Release);
        let name = armed.take()?.name;
        // Reported under the lock: a test that disarms the point later and gets an answer has seen
        // the hit before the answer.
        match txn {
            Some(txn) => print_control_line(&format!("hit {name} txn={txn}")),
            None => print_control_line(&format!("hit {name}")),
        }
        Some(Hit { name })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Armed>> {
        // The guarded value is replaced as a whole.
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hit {
    /// Stops the whole process until it is continued.
    pub(crate) fn stop(self) {
        // Raised for this thread, not for the process, so that this thread stops before it
        // continues.
        if let Err(error) = raise(Signal::SIGSTOP) {
            tracing::error!("cannot stop at crash point {}: {error}", self.name);
        }
    }
}

/// Prints a line for the test that controls the node.
pub(crate) fn print_control_line(line: &str) {
    let mut out = io::stdout().lock();
    // If nobody reads it any more, standard input will be closed soon and the node will stop.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// The crash points around the store's commits. Called in the store's writer thread.
pub(crate) struct PersistHooks(pub(crate) std::sync::Arc<CrashPoints>);

impl PersistHooks {
    fn stop_if_hit(&self, side: Side, batch: &[Record]) {
        if !self.0.is_armed_at(Site::Persist) {
            return;
        }
        let hit = batch.iter().find_map(|record| {
            self.0.hit(side, Site::Persist, record.kind(), txn_of_record(record))
        });
        if let Some(hit) = hit {
            hit.stop();
        }
    }
}

impl store::Observer<Record> for PersistHooks {
    fn before(&mut self, batch: &[Record]) {
        self.stop_if_hit(Side::Before, batch);
    }

    fn after(&mut self, batch: &[Record]) {
        self.stop_if_hit(Side::After, batch);
    }
}

fn txn_of_record(record: &Record) -> Option<TxnId> {
    match record {
        Record::CommitDecision { txn, .. }
        | Record::End { txn }
        | Record::Prepare { txn, .. }
        | Record::Commit { txn }
        | Record::Abort { txn }
        | Record::Refused { txn } => Some(*txn),
        Record::Epoch { .. }
        | Record::Member { .. }
        | Record::Promise { .. }
        | Record::Incarnation { .. }
        | Record::Cluster { .. }
        | Record::Start { .. }
        | Record::Commits { .. }
        | Record::Seen { .. }
        | Record::Votes
        | Record::Frozen { .. }
        | Record::Watermark { .. }
        | Record::Heal { .. } => None,
    }
}

/// The transaction that a reply names as the client's own.
pub(crate) fn txn_of_reply(reply: &Reply) -> Option<TxnId> {
    match reply {
        Reply::Committed { version } => Some(*version),
        Reply::Aborted(_) | Reply::Value(_) | Reply::Snapshot { .. } | Reply::Unavailable => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_round_trip() {
        for role in [Role::Master, Role::Replica] {
            for point in Point::all(role) {
                assert_eq!(point.to_string().parse(), Ok(point));
                let third = Point { n: 3, ..point };
                assert_eq!(third.to_string().parse(), Ok(third));
            }
        }
    }

    #[test]
    fn invalid_points_are_rejected_with_a_reason() {
        for (text, why) in [
            ("", "expected <role>"),
            ("client:before-send:decide", "unknown role 'client'"),
            ("master:during-send:decide", "unknown site 'during-send'"),
            ("master:before-send:vote-yes", "expected one of fence, prepare"),
            ("replica:before-reply:ok", "a replica has no site reply"),
            ("master:before-send:decide:0", "invalid count '0'"),
            ("master:before-send:decide:1:1", "expected <role>"),
        ] {
            let error = text.parse::<Point>().expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_point_is_hit_once_at_its_count() {
        let points = CrashPoints::default();
        let hit = |kind| points.hit(Side::After, Site::Send, kind, None).is_some();
        assert!(!hit("decide"));
        points.arm("master:after-send:decide:2", Role::Master).expect("valid");
        assert!(points.is_armed_at(Site::Send) && !points.is_armed_at(Site::Persist));
        assert!(!hit("decide"));
        assert!(!hit("prepare"));
        assert!(points.hit(Side::Before, Site::Send, "decide", None).is_none());
        assert!(hit("decide"));
        assert!(!hit("decide") && !points.is_armed_at(Site::Send));
        points.arm("master:after-send:decide", Role::Master).expect("valid");
        points.disarm();
        assert!(!hit("decide"));
        assert!(points.arm("replica:after-send:ack", Role::Master).is_err());
    }
}
