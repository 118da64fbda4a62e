//! How the types of the protocol are displayed in test scripts, schedules, logs and reports. Only
//! formatting.

use std::{
    fmt::{self, Display, Formatter},
    ops::Bound,
};

use super::{
    AbortReason, Body, Decision, Effect, Event, HealId, Key, KeyRange, NoReason, Node, Page,
    PeerKnowledge, Query, RangeSummary, ReadId, Record, Reply, Request, ScrubId, Seen, Snapshot,
    TimerId, TxnId, Value, Version, Write,
};

impl Display for Decision {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Decision::Commit => "commit",
            Decision::Abort => "abort",
        })
    }
}

impl Display for PeerKnowledge {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PeerKnowledge::Commit => "commit",
            PeerKnowledge::Abort => "abort",
            PeerKnowledge::Uncertain => "uncertain",
            PeerKnowledge::Final => "final",
        })
    }
}

impl Display for NoReason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            NoReason::Locked { holder } => write!(f, "locked by {holder}"),
            NoReason::Aborted => f.write_str("aborted"),
            NoReason::Full => f.write_str("full"),
        }
    }
}

impl Display for ReadId {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}/{}", self.epoch, self.n, self.attempt)
    }
}

impl Display for HealId {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.incarnation, self.n)
    }
}

impl Display for ScrubId {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.incarnation, self.n)
    }
}

/// The first key of a range, or the beginning of the table.
struct After<'a>(&'a Option<Key>);

impl Display for After<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(key) => write!(f, "after {key}"),
            None => f.write_str("from the first"),
        }
    }
}

// Without the digest, which differs from store to store.
impl Display for RangeSummary {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.upto {
            Some(key) => write!(f, "up to {key}")?,
            None => f.write_str("behind the last")?,
        }
        if let Some(version) = self.version {
            write!(f, " (version {version})")?;
        }
        write!(f, ": {} entries", self.rows)
    }
}

impl Display for Write {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "put {}={value}", self.key),
            None => write!(f, "del {}", self.key),
        }
    }
}

/// A list after a prefix, or nothing for an empty list.
struct Listed<'a, T>(&'static str, &'a [T]);

impl<T: Display> Display for Listed<'_, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (i, item) in self.1.iter().enumerate() {
            write!(f, "{}{item}", if i == 0 { self.0 } else { ", " })?;
        }
        Ok(())
    }
}

impl Display for KeyRange {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.start() {
            Bound::Included(from) => write!(f, "{from}")?,
            Bound::Excluded(after) => write!(f, "after {after}")?,
            Bound::Unbounded => {}
        }
        f.write_str("..")?;
        if let Some(to) = &self.to {
            write!(f, "{to}")?;
        }
        write!(f, ", at most {}", self.limit)
    }
}

impl Display for Query {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Query::Keys(keys) => write!(f, "{}", Listed("", keys)),
            Query::Range(range) => range.fmt(f),
        }
    }
}

/// What was found of a key, or that it is absent.
struct Found<'a>(&'a Option<(Version, Value)>);

impl Display for Found<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some((version, value)) => write!(f, "{value} (version {version})"),
            None => f.write_str("absent"),
        }
    }
}

fn found(list: &[Option<(Version, Value)>]) -> Vec<Found<'_>> {
    list.iter().map(Found).collect()
}

impl Display for Page {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (i, (key, version, value)) in self.entries.iter().enumerate() {
            write!(f, "{}{key}={value} (version {version})", if i == 0 { "" } else { ", " })?;
        }
        match &self.end {
            None if self.entries.is_empty() => f.write_str("nothing"),
            None => Ok(()),
            Some(end) if self.entries.is_empty() => write!(f, "nothing before {end}"),
            Some(end) => write!(f, ", and ends before {end}"),
        }
    }
}

impl Display for Snapshot {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Snapshot::Keys(list) => write!(f, "{}", Listed("", &found(list))),
            Snapshot::Page(page) => page.fmt(f),
            Snapshot::TooLarge => f.write_str("too large"),
        }
    }
}

/// A transaction and its outcome or its key.
struct Pair<'a, T>(&'a (TxnId, T));

impl<T: Display> Display for Pair<'_, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0.0, self.0.1)
    }
}

fn pairs<T: Display>(list: &[(TxnId, T)]) -> Vec<Pair<'_, T>> {
    list.iter().map(Pair).collect()
}

impl Display for Body {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Body::Fence { member: None, .. } => f.write_str("Fence unknown store"),
            Body::Fence { member: Some(store), .. } => write!(f, "Fence store {store}"),
            Body::FenceOk { incarnation, in_doubt, .. } => {
                write!(
                    f,
                    "FenceOk incarnation {incarnation}{}",
                    Listed(", in doubt: ", &pairs(in_doubt))
                )
            }
            Body::Prepare { txn, write, piggybacked } => {
                write!(f, "Prepare {txn} {write}{}", Listed(", piggybacked ", &pairs(piggybacked)))
            }
            Body::VoteYes { txn } => write!(f, "VoteYes {txn}"),
            Body::VoteNo { txn, reason } => write!(f, "VoteNo {txn} ({reason})"),
            Body::Decide { txn, decision } => write!(f, "Decide {txn} {decision}"),
            Body::Ack { txns, .. } => write!(f, "Ack{}", Listed(" ", txns)),
            Body::Inquire { txn } => write!(f, "Inquire {txn}"),
            Body::Pending { txn } => write!(f, "Pending {txn}"),
            Body::Read { read, key, piggybacked, .. } => {
                write!(f, "Read {read} {key}{}", Listed(", piggybacked ", &pairs(piggybacked)))
            }
            Body::Value { read, found: Some((version, value)) } => {
                write!(f, "Value {read} {value} (version {version})")
            }
            Body::Value { read, found: None } => write!(f, "Value {read} absent"),
            Body::Query { read, query, piggybacked, .. } => {
                write!(f, "Query {read} {query}{}", Listed(", piggybacked ", &pairs(piggybacked)))
            }
            Body::Snapshot { read, snapshot } => write!(f, "Snapshot {read} {snapshot}"),
            Body::Busy { read, txn } => write!(f, "Busy {read} (locked by {txn})"),
            Body::NotServing { read } => write!(f, "NotServing {read}"),
            Body::Heartbeat => f.write_str("Heartbeat"),
            Body::Alive { incarnation, applied, .. } if *applied > 0 => {
                write!(f, "Alive incarnation {incarnation}, knows of {applied} commits")
            }
            Body::Alive { incarnation, promised: Some((epoch, _)), .. } => {
                write!(f, "Alive incarnation {incarnation}, promised {epoch}")
            }
            Body::Alive { incarnation, force_age, .. } if !force_age.is_zero() => {
                write!(f, "Alive incarnation {incarnation}, a force takes {force_age:?}")
            }
            Body::Alive { incarnation, .. } => write!(f, "Alive incarnation {incarnation}"),
            Body::Leaving { incarnation } => write!(f, "Leaving incarnation {incarnation}"),
            Body::Stale { promised } => write!(f, "Stale, promised {promised}"),
            Body::Veto { txn } => write!(f, "Veto {txn}"),
            Body::PeerInquire { txn } => write!(f, "PeerInquire {txn}"),
            Body::PeerAnswer { txn, answer } => write!(f, "PeerAnswer {txn} {answer}"),
            Body::HealRequest { heal, key } => write!(f, "HealRequest {heal} {key}"),
            Body::HealAnswer { heal, key, found: Some((version, value)) } => {
                write!(f, "HealAnswer {heal} {key}={value} (version {version})")
            }
            Body::HealAnswer { heal, key, found: None } => {
                write!(f, "HealAnswer {heal} {key} is absent")
            }
            Body::ScrubRequest { scrub, after, rows_max, below } => {
                let after = After(after);
                write!(f, "ScrubRequest {scrub}: {rows_max} rows {after}, below {below}")
            }
            Body::ScrubAnswer { scrub, below, summary } => {
                write!(f, "ScrubAnswer {scrub} below {below}, {summary}")
            }
        }
    }
}

impl Display for Record {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Record::Epoch { epoch, replicas } => write!(f, "EPOCH {epoch} of {replicas} replicas"),
            Record::Member { node, store } => write!(f, "MEMBER {node} is store {store}"),
            Record::Cluster { id } => write!(f, "CLUSTER {id}"),
            Record::Start { epoch, nonce } => write!(f, "START {epoch} has nonce {nonce:016x}"),
            Record::Commits { count, decisions: 0 } => write!(f, "COMMITS {count}"),
            Record::Commits { count, decisions } => {
                write!(f, "COMMITS {count} of {decisions}")
            }
            Record::Seen { slot, seen: Seen { incarnation, voted, commits, .. } } => {
                write!(
                    f,
                    "SEEN r{slot}: incarnation {incarnation}, voted {voted}, commits {commits}"
                )
            }
            Record::Votes => f.write_str("VOTES decide"),
            Record::CommitDecision { txn, key } => write!(f, "COMMIT {txn} {key}"),
            Record::End { txn } => write!(f, "END {txn}"),
            Record::Promise { epoch } => write!(f, "PROMISE {epoch}"),
            Record::Incarnation { incarnation } => write!(f, "INCARNATION {incarnation}"),
            Record::Prepare { txn, write } => write!(f, "PREPARE {txn} {write}"),
            Record::Commit { txn } => write!(f, "COMMIT {txn}"),
            Record::Abort { txn } => write!(f, "ABORT {txn}"),
            Record::Refused { txn } => write!(f, "REFUSED {txn}"),
            Record::Frozen { upto } => write!(f, "FROZEN up to {upto}"),
            Record::Watermark { watermark } => write!(f, "WATERMARK {watermark}"),
            Record::Heal { key, version, value } => {
                write!(f, "HEAL {key}={value} (version {version})")
            }
        }
    }
}

impl Display for Request {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Request::Write(write) => write.fmt(f),
            Request::Get { key, .. } => write!(f, "get {key}"),
            Request::Snapshot { query, .. } => write!(f, "{} {query}", self.kind()),
        }
    }
}

impl Display for Reply {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Reply::Committed { version } => write!(f, "Ok {version}"),
            Reply::Aborted(reason) => write!(f, "Aborted: {reason}"),
            Reply::Value(Some((version, value))) => write!(f, "{value} (version {version})"),
            Reply::Value(None) => f.write_str("absent"),
            Reply::Snapshot { snapshot, watermark } => write!(f, "{snapshot}, as of {watermark}"),
            Reply::Unavailable => f.write_str("Unavailable"),
        }
    }
}

impl Display for AbortReason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let nodes = |list: &[Node]| Listed("", list).to_string();
        match self {
            AbortReason::Conflict { holder } => write!(f, "conflict with {holder}"),
            AbortReason::Refused { by, reason } => write!(f, "refused by {by} ({reason})"),
            AbortReason::Unavailable { missing } if missing.is_empty() => {
                f.write_str("the master has just started")
            }
            AbortReason::Unavailable { missing } => write!(f, "not live: {}", nodes(missing)),
            AbortReason::Timeout { missing } => write!(f, "no vote from {}", nodes(missing)),
        }
    }
}

impl Display for TimerId {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            TimerId::VoteTimeout(txn) => write!(f, "vote-timeout {txn}"),
            TimerId::Retransmit { txn, .. } => write!(f, "retransmit {txn}"),
            TimerId::Attempt(read) => write!(f, "attempt {read}"),
            TimerId::Heartbeat => f.write_str("heartbeat"),
            TimerId::InquiryTimeout(txn) => write!(f, "inquiry-timeout {txn}"),
            TimerId::ReadWait(read) => write!(f, "read-wait {read}"),
            TimerId::Heal => f.write_str("heal"),
            TimerId::Scrub => f.write_str("scrub"),
        }
    }
}

impl Display for Event {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Event::Message { from, message } => write!(f, "{from} says {}", message.body),
            Event::Client { call, request } => write!(f, "client call {call}: {request}"),
            Event::Persisted(lsn) => write!(f, "persisted up to {lsn}"),
            Event::Timer(id) => write!(f, "timer {id}"),
            Event::ForceAge(age) => write!(f, "the oldest force takes {age:?}"),
            Event::Leave => f.write_str("leave"),
            Event::ReadResult { read, found: Some((version, value)) } => {
                write!(f, "read {read} returns {value} (version {version})")
            }
            Event::ReadResult { read, found: None } => write!(f, "read {read} returns absent"),
            Event::KeysRead { read, found: None } => write!(f, "query {read} is too large"),
            Event::KeysRead { read, found: Some(list) } => {
                write!(f, "query {read} returns {}", Listed("", &found(list)))
            }
            Event::PageRead { read, page } => write!(f, "query {read} returns {page}"),
            Event::Room { full: true } => f.write_str("no room for values"),
            Event::Room { full: false } => f.write_str("room for values"),
            Event::ReadFailed { read, .. } => write!(f, "read {read} meets a damaged entry"),
            Event::Damaged { key } => write!(f, "the entry of {key} is damaged"),
            Event::Copied { heal, key, found: Some((version, value)), .. } => {
                write!(f, "copy {heal} of {key} is {value} (version {version})")
            }
            Event::Copied { heal, key, found: None, .. } => {
                write!(f, "copy {heal} of {key} is absent")
            }
            Event::Checkpointed { upto } => write!(f, "checkpointed up to {upto}"),
            Event::Summarized { scrub, summary, .. } => write!(f, "summary {scrub} {summary}"),
            Event::Checked { key, found: Some(version), .. } => {
                write!(f, "{key} has version {version}")
            }
            Event::Checked { key, found: None, .. } => write!(f, "{key} is absent"),
        }
    }
}

impl Display for Effect {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Effect::Append(record) => write!(f, "append {record}"),
            Effect::Force(lsn) => write!(f, "force up to {lsn}"),
            Effect::Send { to, message } => write!(f, "send {to} {}", message.body),
            Effect::Reply { call, reply } => write!(f, "reply to call {call}: {reply}"),
            Effect::Serve { read, key } => write!(f, "serve {read} {key}"),
            Effect::ServeKeys { read, keys } => {
                write!(f, "serve {read} {}", Listed("", keys))
            }
            Effect::ServePage { read, range, before: None } => write!(f, "serve {read} {range}"),
            Effect::ServePage { read, range, before: Some(key) } => {
                write!(f, "serve {read} {range}, before {key}")
            }
            Effect::Copy { to, heal, key } => write!(f, "copy {heal} {key} for {to}"),
            Effect::Checkpoint { upto } => write!(f, "checkpoint up to {upto}"),
            Effect::Summarize { scrub, by, after, upto, rows_max, below } => {
                write!(f, "summarize {scrub} for {by}: ")?;
                match upto {
                    Some(upto) => write!(f, "{} up to {upto}, below {below}", After(after)),
                    None => write!(f, "{rows_max} rows {}, below {below}", After(after)),
                }
            }
            Effect::Check { key, version } => write!(f, "check that {key} has version {version}"),
            Effect::Lost { key, version, .. } => write!(f, "lost {key} of version {version}"),
            Effect::SetTimer { id, .. } => write!(f, "set timer {id}"),
            Effect::Refuse { from, why } => write!(f, "refuse a message of {from}: {why}"),
            Effect::Warn(what) => write!(f, "warn: {what}"),
            Effect::Halt { why, .. } => write!(f, "halt: {why}"),
        }
    }
}
