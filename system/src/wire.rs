//! Conversion of messages to and from their wire format, and the bounds of what arrives.

use std::time::Duration;

use bytes::Bytes;
use proto::v1::{self as pb, envelope};

use crate::protocol::{
    Blob, Body, ClusterId, CommitMode, Decision, HealId, Key, KeyRange, Message, NoReason, Node,
    Page, PeerKnowledge, Query, RangeSummary, ReadId, ScrubId, Seen, Snapshot, StoreId, TxnId,
    Value, Version, Write,
};
use crate::store::Limits;

/// The longest wait for a locked key that a read may ask for: the longest that can be configured.
const READ_WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// A received message cannot be decoded: the sender is a different version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message: {0}")]
pub struct Malformed(&'static str);

/// The wire number of a node: 0 for the master, otherwise the slot.
#[must_use]
pub fn node_to_wire(node: Node) -> u32 {
    match node {
        Node::Master => 0,
        Node::Replica(slot) => u32::from(slot),
    }
}

/// The node with a wire number.
///
/// # Errors
/// The number is above every slot.
pub fn node_from_wire(node: u32) -> Result<Node, Malformed> {
    match u8::try_from(node) {
        Ok(0) => Ok(Node::Master),
        Ok(slot) => Ok(Node::Replica(slot)),
        Err(_) => Err(Malformed("node number above 255")),
    }
}

/// Encodes a message. Keys and values are shared, not copied.
#[must_use]
pub fn to_wire(message: Message) -> pb::Envelope {
    pb::Envelope {
        cluster_id: message.cluster.0,
        store: message.store.0,
        epoch: message.epoch,
        nonce: message.nonce,
        watermark: Some(txn_to_wire(message.watermark)),
        decisions: message.decisions,
        body: Some(body_to_wire(message.body)),
    }
}

/// Decodes a message. Keys and values are copied once.
///
/// # Errors
/// A field is missing, or has an unknown value.
pub fn from_wire(envelope: pb::Envelope) -> Result<Message, Malformed> {
    Ok(Message {
        cluster: ClusterId(envelope.cluster_id),
        store: StoreId(envelope.store),
        epoch: envelope.epoch,
        nonce: envelope.nonce,
        watermark: txn_from_wire(envelope.watermark)?,
        decisions: envelope.decisions,
        body: body_from_wire(envelope.body.ok_or(Malformed("the body is missing"))?)?,
    })
}

/// Checks the sizes and numbers in a message that a peer has sent, before a state machine sees it:
/// every key and value can be stored, and every number can be reached.
///
/// # Errors
/// What is out of bounds, for the operator.
pub fn check_bounds(message: &Message, sizes: &Limits) -> Result<(), String> {
    message.check_bounds().map_err(|error| error.to_string())?;
    let key = |key: &Blob, value: Option<&Blob>| {
        sizes.check(key.as_bytes(), value.map(Blob::as_bytes)).map_err(|error| error.to_string())
    };
    match &message.body {
        Body::Prepare { write, .. } => key(&write.key, write.value.as_ref()),
        Body::Read { wait, .. } if *wait > READ_WAIT_MAX => {
            Err("a read that waits for more than a day".to_owned())
        }
        Body::Read { key: read, .. } => key(read, None),
        Body::Query { wait, .. } if *wait > READ_WAIT_MAX => {
            Err("a query that waits for more than a day".to_owned())
        }
        Body::Query { query, .. } => check_query(query, sizes),
        Body::Snapshot { snapshot: Snapshot::Page(page), .. } => {
            let keys = page.entries.iter().map(|(key, ..)| key).chain(&page.end);
            keys.into_iter().try_for_each(|read| key(read, None))
        }
        Body::FenceOk { in_doubt, .. } => in_doubt.iter().try_for_each(|(_, held)| key(held, None)),
        // A value that was stored under an earlier configuration may exceed the current limit.
        Body::HealRequest { key: damaged, .. } | Body::HealAnswer { key: damaged, .. } => {
            key(damaged, None)
        }
        Body::ScrubRequest { after: Some(compared), .. }
        | Body::ScrubAnswer { summary: RangeSummary { upto: Some(compared), .. }, .. } => {
            key(compared, None)
        }
        _ => Ok(()),
    }
}

/// Checks the sizes and numbers in a query.
///
/// # Errors
/// What is out of bounds.
pub(crate) fn check_query(query: &Query, sizes: &Limits) -> Result<(), String> {
    let check = |key: &Key| sizes.check(key.as_bytes(), None).map_err(|error| error.to_string());
    match query {
        Query::Keys(keys) if keys.is_empty() || keys.len() > Query::KEYS_MAX => {
            Err(format!("a read of {} keys: expected 1 to {}", keys.len(), Query::KEYS_MAX))
        }
        Query::Keys(keys) => keys.iter().try_for_each(check),
        Query::Range(KeyRange { limit, .. }) if !(1..=Query::PAGE_ENTRIES_MAX).contains(limit) => {
            Err(format!("a page of {limit} entries: expected 1 to {}", Query::PAGE_ENTRIES_MAX))
        }
        Query::Range(KeyRange { from, after, to, .. }) => {
            [from, after, to].into_iter().flatten().try_for_each(check)
        }
    }
}

/// Clears the fields of each message of a batch that equal those of the previous message.
pub(crate) fn compress(envelopes: &mut [pb::Envelope]) {
    let mut before = None;
    for pb::Envelope { store, epoch, watermark, cluster_id, nonce, decisions, .. } in envelopes {
        let facts = Some((*store, *epoch, *watermark, *cluster_id, *nonce, *decisions));
        if facts == before {
            (*store, *epoch, *watermark, *cluster_id, *nonce, *decisions) = Default::default();
        }
        before = facts;
    }
}

/// Restores the fields that the sender cleared, so that each message is complete by itself.
pub fn expand(envelopes: &mut [pb::Envelope]) {
    let mut before = Default::default();
    for pb::Envelope { store, epoch, watermark, cluster_id, nonce, decisions, .. } in envelopes {
        if watermark.is_none() {
            (*store, *epoch, *watermark, *cluster_id, *nonce, *decisions) = before;
        }
        before = (*store, *epoch, *watermark, *cluster_id, *nonce, *decisions);
    }
}

/// Encodes a transaction id.
pub(crate) fn txn_to_wire(txn: TxnId) -> pb::TxnId {
    pb::TxnId { epoch: txn.epoch, seq: txn.seq }
}

/// Decodes a transaction id.
pub(crate) fn txn_from_wire(txn: Option<pb::TxnId>) -> Result<TxnId, Malformed> {
    txn.map(|txn| TxnId::new(txn.epoch, txn.seq)).ok_or(Malformed("a transaction id is missing"))
}

/// The bytes of a key or value, shared.
pub(crate) fn blob_to_wire(blob: Blob) -> Bytes {
    struct Shared(Blob);

    impl AsRef<[u8]> for Shared {
        fn as_ref(&self) -> &[u8] {
            self.0.as_bytes()
        }
    }

    Bytes::from_owner(Shared(blob))
}

/// Decodes a key or value. It is copied, so that it does not keep the whole received frame in
/// memory.
pub(crate) fn blob_from_wire(bytes: &Bytes) -> Blob {
    Blob::from(bytes.as_ref())
}

/// Encodes a duration, in whole milliseconds.
pub(crate) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Encodes the result of a read.
pub(crate) fn found_to_wire(found: Option<(Version, Blob)>) -> Option<pb::Found> {
    found.map(|(version, value)| pb::Found {
        version: Some(txn_to_wire(version)),
        value: blob_to_wire(value),
    })
}

/// Decodes the result of a read.
pub(crate) fn found_from_wire(
    found: Option<pb::Found>,
) -> Result<Option<(Version, Blob)>, Malformed> {
    found.map(|found| Ok((txn_from_wire(found.version)?, blob_from_wire(&found.value)))).transpose()
}

fn body_to_wire(body: Body) -> envelope::Body {
    use envelope::Body as Wire;
    match body {
        Body::Fence { member, commit, members, supersedes, seen, decided } => {
            let commit = match commit {
                CommitMode::Logged => pb::CommitMode::Logged,
                CommitMode::Votes => pb::CommitMode::Votes,
            };
            Wire::Fence(pb::Fence {
                member: member.map(|store| store.0),
                commit: commit.into(),
                members: members.into_iter().map(|store| store.0).collect(),
                supersedes: supersedes.map(|(epoch, nonce)| pb::Promise { epoch, nonce }),
                seen: seen.map(seen_to_wire),
                decided,
            })
        }
        Body::FenceOk { incarnation, in_doubt, start, commits } => {
            let in_doubt = in_doubt
                .into_iter()
                .map(|(txn, key)| pb::InDoubt {
                    txn: Some(txn_to_wire(txn)),
                    key: blob_to_wire(key),
                })
                .collect();
            Wire::FenceOk(pb::FenceOk { incarnation, in_doubt, start, commits })
        }
        Body::Prepare { txn, write, piggybacked } => Wire::Prepare(pb::Prepare {
            txn: Some(txn_to_wire(txn)),
            key: blob_to_wire(write.key),
            value: write.value.map(blob_to_wire),
            piggybacked: piggybacked_to_wire(piggybacked),
        }),
        Body::VoteYes { txn } => Wire::VoteYes(pb::VoteYes { txn: Some(txn_to_wire(txn)) }),
        Body::VoteNo { txn, reason } => {
            let holder = match reason {
                NoReason::Locked { holder } => Some(txn_to_wire(holder)),
                NoReason::Aborted | NoReason::Full => None,
            };
            let full = reason == NoReason::Full;
            Wire::VoteNo(pb::VoteNo { txn: Some(txn_to_wire(txn)), holder, full })
        }
        Body::Decide { txn, decision } => Wire::Decide(pb::Decide {
            txn: Some(txn_to_wire(txn)),
            decision: decision_to_wire(decision).into(),
        }),
        Body::Ack { txns, commits } => {
            Wire::Ack(pb::Ack { txns: txns.into_iter().map(txn_to_wire).collect(), commits })
        }
        Body::Inquire { txn } => Wire::Inquire(pb::Inquire { txn: Some(txn_to_wire(txn)) }),
        Body::Pending { txn } => Wire::Pending(pb::Pending { txn: Some(txn_to_wire(txn)) }),
        Body::Read { read, key, piggybacked, wait } => Wire::Read(pb::Read {
            read: Some(read_to_wire(read)),
            key: blob_to_wire(key),
            piggybacked: piggybacked_to_wire(piggybacked),
            wait_ns: u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX),
        }),
        Body::Value { read, found } => {
            Wire::Value(pb::Value { read: Some(read_to_wire(read)), found: found_to_wire(found) })
        }
        Body::Query { read, query, piggybacked, wait } => Wire::Query(pb::Query {
            read: Some(read_to_wire(read)),
            what: Some(query_to_wire(query)),
            piggybacked: piggybacked_to_wire(piggybacked),
            wait_ns: u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX),
        }),
        Body::Snapshot { read, snapshot } => Wire::Snapshot(pb::Snapshot {
            read: Some(read_to_wire(read)),
            what: Some(snapshot_to_wire(snapshot)),
        }),
        Body::Busy { read, txn } => {
            Wire::Busy(pb::Busy { read: Some(read_to_wire(read)), txn: Some(txn_to_wire(txn)) })
        }
        Body::NotServing { read } => {
            Wire::NotServing(pb::NotServing { read: Some(read_to_wire(read)) })
        }
        Body::Heartbeat => Wire::Heartbeat(pb::Heartbeat {}),
        Body::Alive { incarnation, start, promised, force_age, applied } => {
            let force_age_ms = ms(force_age);
            let promised = promised.map(|(epoch, nonce)| pb::Promise { epoch, nonce });
            Wire::Alive(pb::Alive { incarnation, start, promised, force_age_ms, applied })
        }
        Body::Leaving { incarnation } => Wire::Leaving(pb::Leaving { incarnation }),
        Body::Stale { promised } => Wire::Stale(pb::Stale { promised }),
        Body::Veto { txn } => Wire::Veto(pb::Veto { txn: Some(txn_to_wire(txn)) }),
        Body::PeerInquire { txn } => {
            Wire::PeerInquire(pb::PeerInquire { txn: Some(txn_to_wire(txn)) })
        }
        Body::PeerAnswer { txn, answer } => {
            let answer = match answer {
                PeerKnowledge::Commit => pb::PeerKnowledge::Commit,
                PeerKnowledge::Abort => pb::PeerKnowledge::Abort,
                PeerKnowledge::Uncertain => pb::PeerKnowledge::Uncertain,
                PeerKnowledge::Final => pb::PeerKnowledge::Final,
            };
            Wire::PeerAnswer(pb::PeerAnswer { txn: Some(txn_to_wire(txn)), answer: answer.into() })
        }
        Body::HealRequest { heal, key } => Wire::HealRequest(pb::HealRequest {
            heal: Some(heal_to_wire(heal)),
            key: blob_to_wire(key),
        }),
        Body::HealAnswer { heal, key, found } => Wire::HealAnswer(pb::HealAnswer {
            heal: Some(heal_to_wire(heal)),
            key: blob_to_wire(key),
            found: found_to_wire(found),
        }),
        Body::ScrubRequest { scrub, after, rows_max, below } => {
            Wire::ScrubRequest(pb::ScrubRequest {
                scrub: Some(scrub_to_wire(scrub)),
                after: after.map(blob_to_wire),
                rows_max,
                below: Some(txn_to_wire(below)),
            })
        }
        Body::ScrubAnswer { scrub, below, summary } => {
            let RangeSummary { upto, version, rows, digest } = summary;
            Wire::ScrubAnswer(pb::ScrubAnswer {
                scrub: Some(scrub_to_wire(scrub)),
                below: Some(txn_to_wire(below)),
                upto: upto.map(blob_to_wire),
                version: version.map(txn_to_wire),
                rows,
                digest,
            })
        }
    }
}

fn body_from_wire(body: envelope::Body) -> Result<Body, Malformed> {
    use envelope::Body as Wire;
    Ok(match body {
        Wire::Fence(fence) => {
            let commit = match fence.commit() {
                pb::CommitMode::Logged => CommitMode::Logged,
                pb::CommitMode::Votes => CommitMode::Votes,
                pb::CommitMode::Unspecified => return Err(Malformed("unknown commit mode")),
            };
            Body::Fence {
                member: fence.member.map(StoreId),
                commit,
                members: fence.members.into_iter().map(StoreId).collect(),
                supersedes: fence.supersedes.map(|pb::Promise { epoch, nonce }| (epoch, nonce)),
                seen: fence.seen.map(seen_from_wire).transpose()?,
                decided: fence.decided,
            }
        }
        Wire::FenceOk(pb::FenceOk { incarnation, in_doubt, start, commits }) => {
            let in_doubt = in_doubt
                .into_iter()
                .map(|doubt| Ok((txn_from_wire(doubt.txn)?, blob_from_wire(&doubt.key))))
                .collect::<Result<_, _>>()?;
            Body::FenceOk { incarnation, in_doubt, start, commits }
        }
        Wire::Prepare(prepare) => Body::Prepare {
            txn: txn_from_wire(prepare.txn)?,
            write: Write {
                key: blob_from_wire(&prepare.key),
                value: prepare.value.as_ref().map(blob_from_wire),
            },
            piggybacked: piggybacked_from_wire(prepare.piggybacked)?,
        },
        Wire::VoteYes(vote) => Body::VoteYes { txn: txn_from_wire(vote.txn)? },
        Wire::VoteNo(vote) => {
            let reason = match vote.holder {
                Some(holder) => NoReason::Locked { holder: txn_from_wire(Some(holder))? },
                None if vote.full => NoReason::Full,
                None => NoReason::Aborted,
            };
            Body::VoteNo { txn: txn_from_wire(vote.txn)?, reason }
        }
        Wire::Decide(decide) => {
            let decision = decision_from_wire(decide.decision())?;
            Body::Decide { txn: txn_from_wire(decide.txn)?, decision }
        }
        Wire::Ack(ack) => {
            let txns =
                ack.txns.into_iter().map(|txn| txn_from_wire(Some(txn))).collect::<Result<_, _>>();
            Body::Ack { txns: txns?, commits: ack.commits }
        }
        Wire::Inquire(inquire) => Body::Inquire { txn: txn_from_wire(inquire.txn)? },
        Wire::Pending(pending) => Body::Pending { txn: txn_from_wire(pending.txn)? },
        Wire::Read(read) => Body::Read {
            read: read_from_wire(read.read)?,
            key: blob_from_wire(&read.key),
            piggybacked: piggybacked_from_wire(read.piggybacked)?,
            wait: Duration::from_nanos(read.wait_ns),
        },
        Wire::Value(value) => {
            Body::Value { read: read_from_wire(value.read)?, found: found_from_wire(value.found)? }
        }
        Wire::Query(query) => Body::Query {
            read: read_from_wire(query.read)?,
            query: query_from_wire(query.what)?,
            piggybacked: piggybacked_from_wire(query.piggybacked)?,
            wait: Duration::from_nanos(query.wait_ns),
        },
        Wire::Snapshot(snapshot) => Body::Snapshot {
            read: read_from_wire(snapshot.read)?,
            snapshot: snapshot_from_wire(snapshot.what)?,
        },
        Wire::Busy(busy) => {
            Body::Busy { read: read_from_wire(busy.read)?, txn: txn_from_wire(busy.txn)? }
        }
        Wire::NotServing(not) => Body::NotServing { read: read_from_wire(not.read)? },
        Wire::Heartbeat(pb::Heartbeat {}) => Body::Heartbeat,
        Wire::Alive(pb::Alive { incarnation, start, promised, force_age_ms, applied }) => {
            let force_age = Duration::from_millis(force_age_ms);
            let promised = promised.map(|pb::Promise { epoch, nonce }| (epoch, nonce));
            Body::Alive { incarnation, start, promised, force_age, applied }
        }
        Wire::Leaving(pb::Leaving { incarnation }) => Body::Leaving { incarnation },
        Wire::Stale(stale) => Body::Stale { promised: stale.promised },
        Wire::Veto(veto) => Body::Veto { txn: txn_from_wire(veto.txn)? },
        Wire::PeerInquire(inquire) => Body::PeerInquire { txn: txn_from_wire(inquire.txn)? },
        Wire::PeerAnswer(peer) => {
            let answer = match peer.answer() {
                pb::PeerKnowledge::Commit => PeerKnowledge::Commit,
                pb::PeerKnowledge::Abort => PeerKnowledge::Abort,
                pb::PeerKnowledge::Uncertain => PeerKnowledge::Uncertain,
                pb::PeerKnowledge::Final => PeerKnowledge::Final,
                pb::PeerKnowledge::Unspecified => return Err(Malformed("unknown peer answer")),
            };
            Body::PeerAnswer { txn: txn_from_wire(peer.txn)?, answer }
        }
        Wire::HealRequest(request) => Body::HealRequest {
            heal: heal_from_wire(request.heal)?,
            key: blob_from_wire(&request.key),
        },
        Wire::HealAnswer(answer) => Body::HealAnswer {
            heal: heal_from_wire(answer.heal)?,
            key: blob_from_wire(&answer.key),
            found: found_from_wire(answer.found)?,
        },
        Wire::ScrubRequest(request) => Body::ScrubRequest {
            scrub: scrub_from_wire(request.scrub)?,
            after: request.after.as_ref().map(blob_from_wire),
            rows_max: request.rows_max,
            below: txn_from_wire(request.below)?,
        },
        Wire::ScrubAnswer(answer) => Body::ScrubAnswer {
            scrub: scrub_from_wire(answer.scrub)?,
            below: txn_from_wire(answer.below)?,
            summary: RangeSummary {
                upto: answer.upto.as_ref().map(blob_from_wire),
                version: answer.version.map(|version| txn_from_wire(Some(version))).transpose()?,
                rows: answer.rows,
                digest: answer.digest,
            },
        },
    })
}

/// Encodes what was found of several keys.
pub(crate) fn many_to_wire(found: Vec<Option<(Version, Value)>>) -> Vec<pb::MaybeFound> {
    found.into_iter().map(|found| pb::MaybeFound { found: found_to_wire(found) }).collect()
}

/// Decodes what was found of several keys.
pub(crate) fn many_from_wire(
    found: Vec<pb::MaybeFound>,
) -> Result<Vec<Option<(Version, Value)>>, Malformed> {
    found.into_iter().map(|found| found_from_wire(found.found)).collect()
}

/// Encodes entries.
pub(crate) fn entries_to_wire(entries: Vec<(Key, Version, Value)>) -> Vec<pb::Entry> {
    let entry = |(key, version, value)| pb::Entry {
        key: blob_to_wire(key),
        found: found_to_wire(Some((version, value))),
    };
    entries.into_iter().map(entry).collect()
}

/// Decodes an entry.
pub(crate) fn entry_from_wire(entry: pb::Entry) -> Result<(Key, Version, Value), Malformed> {
    let (version, value) =
        found_from_wire(entry.found)?.ok_or(Malformed("an entry has no value"))?;
    Ok((blob_from_wire(&entry.key), version, value))
}

fn query_to_wire(query: Query) -> pb::query::What {
    match query {
        Query::Keys(keys) => {
            pb::query::What::Keys(pb::Keys { keys: keys.into_iter().map(blob_to_wire).collect() })
        }
        Query::Range(KeyRange { from, after, to, limit }) => {
            let [from, after, to] = [from, after, to].map(|key| key.map(blob_to_wire));
            pb::query::What::Range(pb::KeyRange { from, after, to, limit })
        }
    }
}

fn query_from_wire(what: Option<pb::query::What>) -> Result<Query, Malformed> {
    match what.ok_or(Malformed("a query asks for nothing"))? {
        pb::query::What::Keys(pb::Keys { keys }) => {
            Ok(Query::Keys(keys.iter().map(blob_from_wire).collect()))
        }
        pb::query::What::Range(pb::KeyRange { from, after, to, limit }) => {
            let [from, after, to] = [from, after, to].map(|key| key.as_ref().map(blob_from_wire));
            Ok(Query::Range(KeyRange { from, after, to, limit }))
        }
    }
}

fn snapshot_to_wire(snapshot: Snapshot) -> pb::snapshot::What {
    match snapshot {
        Snapshot::Keys(found) => {
            pb::snapshot::What::Keys(pb::ManyFound { found: many_to_wire(found) })
        }
        Snapshot::Page(Page { entries, end }) => pb::snapshot::What::Page(pb::Page {
            entries: entries_to_wire(entries),
            end: end.map(blob_to_wire),
        }),
        Snapshot::TooLarge => pb::snapshot::What::TooLarge(true),
    }
}

fn snapshot_from_wire(what: Option<pb::snapshot::What>) -> Result<Snapshot, Malformed> {
    match what.ok_or(Malformed("a snapshot has no content"))? {
        pb::snapshot::What::Keys(pb::ManyFound { found }) => {
            many_from_wire(found).map(Snapshot::Keys)
        }
        pb::snapshot::What::Page(pb::Page { entries, end }) => {
            let entries = entries.into_iter().map(entry_from_wire).collect::<Result<_, _>>()?;
            Ok(Snapshot::Page(Page { entries, end: end.as_ref().map(blob_from_wire) }))
        }
        pb::snapshot::What::TooLarge(_) => Ok(Snapshot::TooLarge),
    }
}

fn scrub_to_wire(ScrubId { incarnation, n }: ScrubId) -> pb::ScrubId {
    pb::ScrubId { incarnation, n }
}

fn scrub_from_wire(scrub: Option<pb::ScrubId>) -> Result<ScrubId, Malformed> {
    let pb::ScrubId { incarnation, n } =
        scrub.ok_or(Malformed("the number of a question of the scrub is missing"))?;
    Ok(ScrubId { incarnation, n })
}

fn heal_to_wire(HealId { incarnation, n }: HealId) -> pb::HealId {
    pb::HealId { incarnation, n }
}

fn heal_from_wire(heal: Option<pb::HealId>) -> Result<HealId, Malformed> {
    let pb::HealId { incarnation, n } =
        heal.ok_or(Malformed("the number of a damaged entry is missing"))?;
    Ok(HealId { incarnation, n })
}

fn seen_to_wire(Seen { incarnation, nonce, voted, commits }: Seen) -> pb::Seen {
    pb::Seen { incarnation, nonce, voted: Some(txn_to_wire(voted)), commits }
}

fn seen_from_wire(seen: pb::Seen) -> Result<Seen, Malformed> {
    let pb::Seen { incarnation, nonce, voted, commits } = seen;
    Ok(Seen { incarnation, nonce, voted: txn_from_wire(voted)?, commits })
}

fn decision_to_wire(decision: Decision) -> pb::Decision {
    match decision {
        Decision::Commit => pb::Decision::Commit,
        Decision::Abort => pb::Decision::Abort,
    }
}

fn decision_from_wire(decision: pb::Decision) -> Result<Decision, Malformed> {
    match decision {
        pb::Decision::Commit => Ok(Decision::Commit),
        pb::Decision::Abort => Ok(Decision::Abort),
        pb::Decision::Unspecified => Err(Malformed("unknown decision")),
    }
}

fn piggybacked_to_wire(piggybacked: Vec<(TxnId, Decision)>) -> Vec<pb::PiggybackedDecision> {
    piggybacked
        .into_iter()
        .map(|(txn, decision)| pb::PiggybackedDecision {
            txn: Some(txn_to_wire(txn)),
            decision: decision_to_wire(decision).into(),
        })
        .collect()
}

fn piggybacked_from_wire(
    piggybacked: Vec<pb::PiggybackedDecision>,
) -> Result<Vec<(TxnId, Decision)>, Malformed> {
    piggybacked
        .into_iter()
        .map(|entry| {
            let decision = decision_from_wire(entry.decision())?;
            Ok((txn_from_wire(entry.txn)?, decision))
        })
        .collect()
}

fn read_to_wire(read: ReadId) -> pb::ReadId {
    pb::ReadId { epoch: read.epoch, n: read.n, attempt: read.attempt }
}

fn read_from_wire(read: Option<pb::ReadId>) -> Result<ReadId, Malformed> {
    read.map(|read| ReadId { epoch: read.epoch, n: read.n, attempt: read.attempt })
        .ok_or(Malformed("a read id is missing"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn txn() -> impl Strategy<Value = TxnId> {
        (any::<u64>(), any::<u64>()).prop_map(|(epoch, seq)| TxnId::new(epoch, seq))
    }

    fn blob() -> impl Strategy<Value = Blob> {
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Blob::from)
    }

    fn read() -> impl Strategy<Value = ReadId> {
        (any::<u64>(), any::<u64>(), any::<u32>()).prop_map(|(epoch, n, attempt)| ReadId {
            epoch,
            n,
            attempt,
        })
    }

    fn query() -> impl Strategy<Value = Query> {
        let key = || prop::option::of(blob());
        prop_oneof![
            prop::collection::vec(blob(), 0..4).prop_map(Query::Keys),
            (key(), key(), key(), any::<u32>()).prop_map(|(from, after, to, limit)| {
                Query::Range(KeyRange { from, after, to, limit })
            }),
        ]
    }

    fn snapshot() -> impl Strategy<Value = Snapshot> {
        let found = prop::option::of((txn(), blob()));
        let entries = prop::collection::vec((blob(), txn(), blob()), 0..4);
        prop_oneof![
            prop::collection::vec(found, 0..4).prop_map(Snapshot::Keys),
            (entries, prop::option::of(blob()))
                .prop_map(|(entries, end)| Snapshot::Page(Page { entries, end })),
            Just(Snapshot::TooLarge),
        ]
    }

    fn decision() -> impl Strategy<Value = Decision> {
        prop_oneof![Just(Decision::Commit), Just(Decision::Abort)]
    }

    fn piggybacked() -> impl Strategy<Value = Vec<(TxnId, Decision)>> {
        prop::collection::vec((txn(), decision()), 0..4)
    }

    fn heal() -> impl Strategy<Value = HealId> {
        any::<(u64, u64)>().prop_map(|(incarnation, n)| HealId { incarnation, n })
    }

    fn body() -> impl Strategy<Value = Body> {
        let knowledge = prop_oneof![
            Just(PeerKnowledge::Commit),
            Just(PeerKnowledge::Abort),
            Just(PeerKnowledge::Uncertain),
            Just(PeerKnowledge::Final)
        ];
        let reason = prop_oneof![
            txn().prop_map(|holder| NoReason::Locked { holder }),
            Just(NoReason::Aborted),
            Just(NoReason::Full)
        ];
        let seen = (any::<u64>(), any::<u64>(), txn(), any::<u64>()).prop_map(
            |(incarnation, nonce, voted, commits)| Seen { incarnation, nonce, voted, commits },
        );
        let fence = (
            any::<Option<u64>>(),
            any::<bool>(),
            prop::collection::vec(any::<u64>(), 0..4),
            any::<Option<(u64, u64)>>(),
            prop::option::of(seen),
            any::<Option<u64>>(),
        );
        let handshakes = prop_oneof![
            fence.prop_map(|(id, votes, members, supersedes, seen, decided)| Body::Fence {
                member: id.map(StoreId),
                commit: if votes { CommitMode::Votes } else { CommitMode::Logged },
                members: members.into_iter().map(StoreId).collect(),
                supersedes,
                seen,
                decided,
            }),
            (any::<[u64; 3]>(), prop::collection::vec((txn(), blob()), 0..4)).prop_map(
                |([incarnation, start, commits], in_doubt)| Body::FenceOk {
                    incarnation,
                    in_doubt,
                    start,
                    commits
                }
            ),
            Just(Body::Heartbeat),
            (any::<[u64; 4]>(), any::<Option<(u64, u64)>>()).prop_map(
                |([incarnation, start, ms, applied], promised)| {
                    let force_age = Duration::from_millis(ms);
                    Body::Alive { incarnation, start, promised, force_age, applied }
                }
            ),
            any::<u64>().prop_map(|incarnation| Body::Leaving { incarnation }),
            any::<u64>().prop_map(|promised| Body::Stale { promised }),
        ];
        let writes = prop_oneof![
            (txn(), blob(), prop::option::of(blob()), piggybacked()).prop_map(
                |(txn, key, value, piggybacked)| Body::Prepare {
                    txn,
                    write: Write { key, value },
                    piggybacked
                }
            ),
            txn().prop_map(|txn| Body::VoteYes { txn }),
            (txn(), reason).prop_map(|(txn, reason)| Body::VoteNo { txn, reason }),
            (txn(), decision()).prop_map(|(txn, decision)| Body::Decide { txn, decision }),
            (prop::collection::vec(txn(), 0..4), any::<u64>())
                .prop_map(|(txns, commits)| Body::Ack { txns, commits }),
            txn().prop_map(|txn| Body::Inquire { txn }),
            txn().prop_map(|txn| Body::Pending { txn }),
            txn().prop_map(|txn| Body::Veto { txn }),
            txn().prop_map(|txn| Body::PeerInquire { txn }),
            (txn(), knowledge).prop_map(|(txn, answer)| Body::PeerAnswer { txn, answer }),
            (heal(), blob()).prop_map(|(heal, key)| Body::HealRequest { heal, key }),
            (heal(), blob(), prop::option::of((txn(), blob())))
                .prop_map(|(heal, key, found)| Body::HealAnswer { heal, key, found }),
            (heal(), prop::option::of(blob()), any::<u32>(), txn()).prop_map(
                |(HealId { incarnation, n }, after, rows_max, below)| {
                    let scrub = ScrubId { incarnation, n };
                    Body::ScrubRequest { scrub, after, rows_max, below }
                }
            ),
            (heal(), txn(), prop::option::of(blob()), prop::option::of(txn()), any::<[u64; 2]>())
                .prop_map(|(HealId { incarnation, n }, below, upto, version, [rows, digest])| {
                    let scrub = ScrubId { incarnation, n };
                    let summary = RangeSummary { upto, version, rows, digest };
                    Body::ScrubAnswer { scrub, below, summary }
                }),
        ];
        let reads = prop_oneof![
            (read(), blob(), piggybacked(), any::<u32>()).prop_map(
                |(read, key, piggybacked, wait)| {
                    Body::Read { read, key, piggybacked, wait: Duration::from_micros(wait.into()) }
                }
            ),
            (read(), prop::option::of((txn(), blob())))
                .prop_map(|(read, found)| Body::Value { read, found }),
            (read(), query(), piggybacked(), any::<u32>()).prop_map(
                |(read, query, piggybacked, wait)| {
                    let wait = Duration::from_micros(wait.into());
                    Body::Query { read, query, piggybacked, wait }
                }
            ),
            (read(), snapshot()).prop_map(|(read, snapshot)| Body::Snapshot { read, snapshot }),
            (read(), txn()).prop_map(|(read, txn)| Body::Busy { read, txn }),
            read().prop_map(|read| Body::NotServing { read }),
        ];
        prop_oneof![handshakes, writes, reads]
    }

    proptest! {
        #[test]
        fn messages_round_trip(
            body in body(), ids in any::<[u64; 5]>(), watermark in txn(),
        ) {
            let [cluster, store, epoch, nonce, decisions] = ids;
            let (cluster, store) = (ClusterId(cluster), StoreId(store));
            let message = Message { cluster, store, epoch, nonce, watermark, decisions, body };
            let bytes = to_wire(message.clone()).encode_to_vec();
            let envelope = pb::Envelope::decode(bytes.as_slice()).expect("decodes");
            prop_assert_eq!(from_wire(envelope), Ok(message));
        }
    }

    #[test]
    fn repeated_fields_are_sent_once() {
        let message = |epoch, seq, decisions| {
            let watermark = TxnId::new(epoch, seq);
            let (cluster, store, nonce) = (ClusterId(7), StoreId(1), 9);
            let body = Body::Heartbeat;
            to_wire(Message { cluster, store, epoch, nonce, watermark, decisions, body })
        };
        let batch = [
            message(1, 1, 0),
            message(1, 1, 0),
            message(1, 2, 0),
            message(2, 2, 0),
            message(2, 2, 0),
            message(2, 2, 1),
        ];
        let mut sent = batch.clone();
        compress(&mut sent);
        let present = sent.iter().map(|envelope| envelope.watermark.is_some());
        assert_eq!(present.collect::<Vec<_>>(), [true, false, true, true, false, true]);
        assert!(
            from_wire(sent[1].clone()).is_err(),
            "the fields of the previous message are needed"
        );
        expand(&mut sent);
        assert_eq!(sent, batch);
        compress(&mut []);
        expand(&mut []);
    }

    #[test]
    fn malformed_messages_are_refused() {
        let valid = to_wire(Message {
            cluster: ClusterId(7),
            store: StoreId(1),
            epoch: 1,
            nonce: 9,
            watermark: TxnId::default(),
            decisions: 0,
            body: Body::Decide { txn: TxnId::new(1, 1), decision: Decision::Commit },
        });
        let mut without_body = valid.clone();
        without_body.body = None;
        assert!(from_wire(without_body).is_err());
        let mut unknown_decision = valid.clone();
        unknown_decision.body = Some(envelope::Body::Decide(pb::Decide {
            txn: Some(txn_to_wire(TxnId::new(1, 1))),
            decision: 17,
        }));
        assert!(from_wire(unknown_decision).is_err());
        let mut without_watermark = valid;
        without_watermark.watermark = None;
        assert!(from_wire(without_watermark).is_err());
        assert!(node_from_wire(256).is_err());
    }
}
