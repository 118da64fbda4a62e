//! The mapping between the outcome of a client's call and its gRPC status, in both directions, so
//! that they agree. Does not know about connections.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    time::Duration,
};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::protocol::{AbortReason, NoReason, Node};

/// The domain of our `google.rpc.ErrorInfo`. Only a status that carries it guarantees that the call
/// had no effect.
pub const DOMAIN: &str = "twopc";

/// The kind of reason why a call had no effect and never will.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReasonKind {
    /// Another write of the key is in progress.
    Conflict,
    /// A replica voted no.
    Refused,
    /// A replica is not live, so writes are refused; or no replica answered a get.
    Unavailable,
    /// Votes were missing at the vote timeout.
    Timeout,
    /// The deadline of a write had passed before the write began.
    Expired,
    /// Too many calls are in flight.
    Overloaded,
    /// A replica has no room for the value.
    Full,
    /// The values of the keys that were listed are too long for one answer.
    TooLarge,
    /// The node is stopping.
    Stopping,
    /// The caller may not do this: it has no certificate, or one of another role.
    Denied,
    /// The key or the value cannot be stored.
    Invalid,
    /// There is no connection and none could be made, so the request was not sent. Never sent by a
    /// node.
    Unreachable,
}

impl ReasonKind {
    /// Every kind.
    pub const ALL: [ReasonKind; 12] = [
        ReasonKind::Conflict,
        ReasonKind::Refused,
        ReasonKind::Unavailable,
        ReasonKind::Timeout,
        ReasonKind::Expired,
        ReasonKind::Overloaded,
        ReasonKind::Full,
        ReasonKind::TooLarge,
        ReasonKind::Stopping,
        ReasonKind::Denied,
        ReasonKind::Invalid,
        ReasonKind::Unreachable,
    ];

    /// The name in `ErrorInfo`, for example `CONFLICT`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ReasonKind::Conflict => "CONFLICT",
            ReasonKind::Refused => "REFUSED",
            ReasonKind::Unavailable => "UNAVAILABLE",
            ReasonKind::Timeout => "TIMEOUT",
            ReasonKind::Expired => "EXPIRED",
            ReasonKind::Overloaded => "OVERLOADED",
            ReasonKind::Full => "FULL",
            ReasonKind::TooLarge => "TOO_LARGE",
            ReasonKind::Stopping => "STOPPING",
            ReasonKind::Denied => "DENIED",
            ReasonKind::Invalid => "INVALID",
            ReasonKind::Unreachable => "UNREACHABLE",
        }
    }
}

impl fmt::Display for ReasonKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The reason why a call had no effect and never will.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The kind.
    pub kind: ReasonKind,
    /// The description, for people.
    pub text: String,
    /// Details for programs, such as `holder`, the conflicting transaction.
    pub facts: BTreeMap<String, String>,
    /// How long to wait before a new attempt, if the node said so.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.text)
    }
}

/// The status of a call that had no effect.
pub(crate) fn refusal(
    code: Code,
    kind: ReasonKind,
    text: String,
    facts: impl IntoIterator<Item = (&'static str, String)>,
) -> Status {
    let facts: HashMap<String, String> =
        facts.into_iter().map(|(name, fact)| (name.to_owned(), fact)).collect();
    Status::with_error_details(
        code,
        text,
        ErrorDetails::with_error_info(kind.name(), DOMAIN, facts),
    )
}

/// When a client may try again what was refused for overload. Long enough that the refusals themselves cost little,
/// and not longer than most of what is in progress takes.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// The status of a call that was refused because too much is in progress. Carries a `google.rpc.RetryInfo`.
pub(crate) fn overloaded(text: String) -> Status {
    let name = ReasonKind::Overloaded.name();
    let mut details = ErrorDetails::with_error_info(name, DOMAIN, HashMap::new());
    details.set_retry_info(Some(RETRY_AFTER));
    Status::with_error_details(Code::ResourceExhausted, text, details)
}

/// The status of an aborted write.
pub(crate) fn aborted(reason: &AbortReason) -> Status {
    let refuse = |kind, text, facts: Vec<_>| refusal(Code::Aborted, kind, text, facts);
    match reason {
        AbortReason::Conflict { holder } => refuse(
            ReasonKind::Conflict,
            format!("another write of the key is in progress: transaction {holder}"),
            vec![("holder", holder.to_string())],
        ),
        AbortReason::Refused { by, reason: NoReason::Locked { holder } } => refuse(
            ReasonKind::Refused,
            format!("{by} voted no: transaction {holder} locks the key"),
            vec![("by", by.to_string()), ("why", "locked".into()), ("holder", holder.to_string())],
        ),
        AbortReason::Refused { by, reason: NoReason::Aborted } => refuse(
            ReasonKind::Refused,
            format!("{by} voted no: the transaction is already aborted there"),
            vec![("by", by.to_string()), ("why", "aborted".into())],
        ),
        AbortReason::Refused { by, reason: NoReason::Full } => refusal(
            Code::ResourceExhausted,
            ReasonKind::Full,
            format!("{by} has no room for the value; delete something, or give it more space"),
            vec![("by", by.to_string())],
        ),
        AbortReason::Unavailable { missing } => refuse(
            ReasonKind::Unavailable,
            format!("a write needs every replica; not live: {}", list(missing)),
            vec![("missing", list(missing))],
        ),
        AbortReason::Timeout { missing } => refuse(
            ReasonKind::Timeout,
            format!("votes missing at the vote timeout: {}", list(missing)),
            vec![("missing", list(missing))],
        ),
    }
}

/// The reason that a status carries. None if it has no `ErrorInfo` of ours: then nothing is
/// certain, whatever its code, because transports generate codes after a request was sent.
pub(crate) fn reason(status: &Status) -> Option<Reason> {
    let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN)?;
    let kind = ReasonKind::ALL.into_iter().find(|kind| kind.name() == info.reason)?;
    Some(Reason {
        kind,
        text: status.message().to_owned(),
        facts: info.metadata.into_iter().collect(),
        retry_after: status.get_details_retry_info().and_then(|info| info.retry_delay),
    })
}

fn list(nodes: &[Node]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::TxnId;

    #[test]
    fn abort_reasons_round_trip() {
        let holder = TxnId::new(1, 44);
        let by = Node::Replica(2);
        let missing = vec![Node::Replica(1), Node::Replica(3)];
        let cases = [
            (AbortReason::Conflict { holder }, ReasonKind::Conflict, "holder", "1.44"),
            (
                AbortReason::Refused { by, reason: NoReason::Locked { holder } },
                ReasonKind::Refused,
                "holder",
                "1.44",
            ),
            (
                AbortReason::Refused { by, reason: NoReason::Aborted },
                ReasonKind::Refused,
                "why",
                "aborted",
            ),
            (AbortReason::Refused { by, reason: NoReason::Full }, ReasonKind::Full, "by", "r2"),
            (
                AbortReason::Unavailable { missing: missing.clone() },
                ReasonKind::Unavailable,
                "missing",
                "r1,r3",
            ),
            (AbortReason::Timeout { missing }, ReasonKind::Timeout, "missing", "r1,r3"),
        ];
        for (abort, kind, fact, value) in cases {
            let status = aborted(&abort);
            let full = kind == ReasonKind::Full;
            let code = if full { Code::ResourceExhausted } else { Code::Aborted };
            assert_eq!(status.code(), code);
            let reason = reason(&status).expect("one of ours");
            assert_eq!(reason.kind, kind);
            assert_eq!(reason.facts.get(fact).map(String::as_str), Some(value));
        }
    }

    #[test]
    fn overload_says_when_to_try_again() {
        let status = overloaded("full".to_owned());
        assert_eq!(status.code(), Code::ResourceExhausted);
        let reason = reason(&status).expect("one of ours");
        assert_eq!((reason.kind, reason.retry_after), (ReasonKind::Overloaded, Some(RETRY_AFTER)));
    }

    #[test]
    fn a_status_without_our_error_info_is_no_reason() {
        assert_eq!(reason(&Status::aborted("by a proxy")), None);
        assert_eq!(reason(&Status::unavailable("connection reset")), None);
        let theirs = Status::with_error_details(
            Code::Aborted,
            "theirs",
            ErrorDetails::with_error_info("CONFLICT", "example.com", HashMap::new()),
        );
        assert_eq!(reason(&theirs), None);
        let newer = Status::with_error_details(
            Code::Aborted,
            "of another build",
            ErrorDetails::with_error_info("NOVELTY", DOMAIN, HashMap::new()),
        );
        assert_eq!(reason(&newer), None);
    }
}
