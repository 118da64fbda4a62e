//! What a node owes, and by when: an answer to a write, the next inquiry about a transaction in doubt, the
//! next copy of a decision that was not acknowledged.
//!
//! A bound on time must not depend on how busy the machine is. So the bounds are counted in what the node
//! itself did: its other timers show how late it ran. A node that was paused, or that got no processor,
//! has timers that expired late, and a time in which some timer was overdue counts for nothing. What
//! remains is a node that ran in time and did not do what it owed: it set its timer too late, or never.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    time::Duration,
};

use system::protocol::{
    Body, CallId, Config, Decision, Effect, Event, Node, Record, Reply, Request, TimerId, TxnId,
};

use super::{FactKind, FactSink};

/// What a node may need for a step, beyond the lateness of its timers, in nanoseconds.
const SLACK: i64 = 400_000_000;
/// Timers that expire less late than this are in time, in nanoseconds.
const IN_TIME: i64 = 5_000_000;
/// The retransmission interval doubles until it is this many times the first.
const RETRANSMIT_MAX: u32 = 8;
/// Reported at most for each node: what goes wrong once often goes wrong always.
const REPORTED_MAX: usize = 20;

/// Something that a node did too late or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Overdue {
    /// Master: a write was neither answered nor decided within the vote timeout.
    Answer {
        /// The transaction, if it has begun.
        txn: Option<TxnId>,
        /// How long the client waited, without the time in which the node was late.
        waited: Duration,
        /// How long it may.
        bound: Duration,
    },
    /// Replica in doubt: no inquiry was sent.
    Inquiry {
        /// The transaction.
        txn: TxnId,
        /// The time without an inquiry.
        waited: Duration,
        /// How long it may be.
        bound: Duration,
    },
    /// Master: a decision was not repeated to a replica that has not acknowledged it.
    Decision {
        /// The transaction.
        txn: TxnId,
        /// The replica.
        to: Node,
        /// The heartbeats that the replica was sent meanwhile.
        heartbeats: u32,
        /// How many there may be.
        bound: u32,
    },
    /// Master: a replica that does not answer counts as live.
    GivenUp {
        /// The replica.
        node: Node,
        /// The heartbeats that it has not answered.
        heartbeats: u32,
        /// How many there may be.
        bound: u32,
    },
    /// Master: the watermark is below every unfinished transaction.
    Watermark {
        /// The watermark.
        watermark: TxnId,
        /// The least unfinished transaction, or the next one.
        least: TxnId,
    },
}

/// The lateness of a node: for each timer the time from its expiry until the node noticed.
#[derive(Debug, Default)]
struct Lateness {
    set: HashMap<TimerId, i64>,
    /// Disjoint intervals in order.
    late: Vec<(i64, i64)>,
}

impl Lateness {
    fn set(&mut self, id: TimerId, time: i64, after: Duration) {
        self.set.insert(id, time.saturating_add(nanoseconds(after)));
    }

    fn expired(&mut self, id: &TimerId, time: i64) {
        let Some(mut from) = self.set.remove(id) else { return };
        if time - from < IN_TIME {
            return;
        }
        while let Some((begin, _)) = self.late.pop_if(|(_, end)| *end >= from) {
            from = from.min(begin);
        }
        self.late.push((from, time));
    }

    /// How much of an interval the node was in time.
    fn in_time(&self, from: i64, to: i64) -> i64 {
        // From here on a timer is overdue that the node has not noticed yet.
        let until = self.set.values().copied().min().map_or(to, |due| due.clamp(from.min(to), to));
        let overlap = |(begin, end): &(i64, i64)| ((*end).min(until) - (*begin).max(from)).max(0);
        let recent = self.late.iter().rev().take_while(|(_, end)| *end > from);
        (until - from) - recent.map(overlap).sum::<i64>()
    }
}

/// What a master owes for one transaction that it has begun.
#[derive(Debug, Default)]
struct Decided {
    /// By replica that has not acknowledged the decision: the heartbeats sent to it since the last copy.
    unacknowledged: BTreeMap<Node, u32>,
}

/// Follows what one node owes.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    config: Option<Config>,
    lateness: Lateness,
    time: i64,
    reported: usize,
    /// Master: the unanswered writes, since when, and their transactions.
    writes: BTreeMap<CallId, (i64, Option<TxnId>)>,
    arriving: Option<CallId>,
    /// Master: the transaction whose votes are missing now.
    expiring: Option<TxnId>,
    /// Master: the transactions of this start that are voting or deciding.
    undecided: HashMap<TxnId, Option<CallId>>,
    /// Master: the decisions of this start that somebody has not acknowledged.
    decided: BTreeMap<TxnId, Decided>,
    /// Master: the heartbeats that each replica has not answered.
    silent: BTreeMap<Node, u32>,
    /// Master: the last transaction that this start has begun, and all that are not finished.
    last: TxnId,
    open: BTreeSet<TxnId>,
    has_stopped: bool,
    /// Replica: transactions in doubt, and since when an inquiry is due.
    in_doubt: BTreeMap<TxnId, i64>,
    /// Replica: appended PREPAREs that are not durable.
    pending: VecDeque<(u64, TxnId)>,
    appended: u64,
    /// Replica: transactions with an outcome, whose timers no longer matter.
    settled: HashSet<TxnId>,
}

impl Deadlines {
    pub(super) fn started(
        &mut self,
        config: &Config,
        records: &[Record],
        time: i64,
        out: &mut FactSink<'_>,
    ) {
        self.end(out);
        let reported = self.reported;
        *self = Deadlines { config: Some(config.clone()), time, reported, ..Deadlines::default() };
        // Recovered commits are open until all have acknowledged them.
        self.open.extend(records.iter().filter_map(|record| match record {
            Record::CommitDecision { txn, .. } => Some(*txn),
            _ => None,
        }));
    }

    /// The journal of a start ends. What is owed until then is overdue or not.
    pub(super) fn end(&mut self, out: &mut FactSink<'_>) {
        for call in self.writes.keys().copied().collect::<Vec<_>>() {
            self.answer(call, out);
        }
        for txn in self.in_doubt.keys().copied().collect::<Vec<_>>() {
            self.asked(txn, out);
        }
    }

    pub(super) fn event(&mut self, event: &Event, time: i64) {
        self.time = time;
        self.arriving = None;
        self.expiring = None;
        match event {
            Event::Timer(id) => {
                if let TimerId::VoteTimeout(txn) = id {
                    self.expiring = Some(*txn);
                }
                self.lateness.expired(id, time);
            }
            Event::Client { call, request: Request::Write(_) } => {
                self.arriving = Some(*call);
                self.writes.insert(*call, (time, None));
            }
            Event::Message { from, message } => {
                self.silent.insert(*from, 0);
                match &message.body {
                    Body::Ack { txns, .. } => {
                        for txn in txns {
                            self.acknowledged(*txn, *from);
                        }
                    }
                    // It gets every decision again.
                    Body::FenceOk { .. } | Body::Leaving { .. } => self.reset(*from),
                    _ => {}
                }
            }
            // From now on a replica is silent.
            Event::Leave => self.in_doubt.clear(),
            Event::Persisted(lsn) => {
                while self.pending.front().is_some_and(|(at, _)| *at <= *lsn)
                    && let Some((_, txn)) = self.pending.pop_front()
                {
                    if let Some(since) = self.in_doubt.get_mut(&txn) {
                        *since = time;
                    }
                }
            }
            _ => {}
        }
    }

    pub(super) fn effect(&mut self, effect: &Effect, out: &mut FactSink<'_>) {
        match effect {
            Effect::SetTimer { id, after } => {
                self.lateness.set(*id, self.time, *after);
                // The master asks for vetoes, repeatedly: of nobody as long as no replica is live.
                if let TimerId::Retransmit { txn, .. } = id
                    && self.expiring == Some(*txn)
                {
                    self.answered(*txn, out);
                }
                if let TimerId::InquiryTimeout(txn) = id
                    && !self.settled.contains(txn)
                {
                    let since = self.in_doubt.entry(*txn).or_insert(self.time);
                    // Until PREPARE is durable there is nothing to ask.
                    if self.pending.iter().any(|(_, pending)| pending == txn) {
                        *since = self.time;
                    }
                }
            }
            Effect::Append(record) => {
                self.appended += 1;
                match record {
                    Record::Prepare { txn, .. } => self.pending.push_back((self.appended, *txn)),
                    Record::Commit { txn } | Record::Abort { txn } | Record::Refused { txn } => {
                        self.asked(*txn, out);
                        self.in_doubt.remove(txn);
                        self.settled.insert(*txn);
                    }
                    Record::CommitDecision { txn, .. } => self.answered(*txn, out),
                    Record::End { txn } => {
                        self.open.remove(txn);
                    }
                    _ => {}
                }
            }
            Effect::Send { to, message } => self.sent(*to, &message.body, message.watermark, out),
            Effect::Reply { call, reply } => {
                if let Reply::Committed { version } = reply {
                    self.answered(*version, out);
                }
                self.answer(*call, out);
            }
            _ => {}
        }
    }

    fn sent(&mut self, to: Node, body: &Body, watermark: TxnId, out: &mut FactSink<'_>) {
        match body {
            Body::Inquire { txn } => {
                self.asked(*txn, out);
                if let Some(since) = self.in_doubt.get_mut(txn) {
                    *since = self.time;
                }
            }
            Body::Prepare { txn, .. } => {
                if let Some(call) = self.arriving
                    && let Some((_, begun)) = self.writes.get_mut(&call)
                {
                    *begun = Some(*txn);
                    self.undecided.insert(*txn, Some(call));
                    self.last = self.last.max(*txn);
                    self.open.insert(*txn);
                }
            }
            // The votes have not arrived in time, and the master has noticed.
            Body::Veto { txn } => self.answered(*txn, out),
            Body::Decide { txn, decision } => {
                self.answered(*txn, out);
                if *decision == Decision::Abort {
                    self.open.remove(txn);
                }
                if self.undecided.remove(txn).is_some() {
                    let nodes = self.config.iter().flat_map(Config::replica_nodes);
                    let waiting = nodes.map(|node| (node, 0)).collect();
                    self.decided.insert(*txn, Decided { unacknowledged: waiting });
                }
                if let Some(heartbeats) =
                    self.decided.get_mut(txn).and_then(|it| it.unacknowledged.get_mut(&to))
                {
                    *heartbeats = 0;
                }
            }
            Body::Fence { .. } => self.reset(to),
            Body::Heartbeat => self.heartbeat(to, watermark, out),
            _ => {}
        }
    }

    /// Master: the write of a transaction is decided, or its votes are missing and the master has noticed.
    fn answered(&mut self, txn: TxnId, out: &mut FactSink<'_>) {
        if let Some(Some(call)) = self.undecided.get(&txn).copied() {
            self.answer(call, out);
            self.undecided.insert(txn, None);
        }
    }

    fn answer(&mut self, call: CallId, out: &mut FactSink<'_>) {
        let Some((since, txn)) = self.writes.remove(&call) else { return };
        let Some(config) = &self.config else { return };
        let bound = config.timing.vote_timeout;
        let waited = self.lateness.in_time(since, self.time);
        if waited > nanoseconds(bound) + SLACK {
            self.report(Overdue::Answer { txn, waited: duration(waited), bound }, out);
        }
    }

    /// Replica: an inquiry about a transaction is sent, or it is not in doubt any more.
    fn asked(&mut self, txn: TxnId, out: &mut FactSink<'_>) {
        let (Some(since), Some(config)) = (self.in_doubt.get(&txn), &self.config) else { return };
        if self.pending.iter().any(|(_, pending)| *pending == txn) {
            return;
        }
        let bound = config.timing.inquiry_timeout;
        let waited = self.lateness.in_time(*since, self.time);
        if waited > nanoseconds(bound) + SLACK {
            self.report(Overdue::Inquiry { txn, waited: duration(waited), bound }, out);
        }
    }

    fn acknowledged(&mut self, txn: TxnId, by: Node) {
        let Some(decided) = self.decided.get_mut(&txn) else { return };
        decided.unacknowledged.remove(&by);
        if decided.unacknowledged.is_empty() {
            self.decided.remove(&txn);
            self.open.remove(&txn);
        }
    }

    /// Master: a replica is not live, or has completed a handshake.
    fn reset(&mut self, node: Node) {
        for decided in self.decided.values_mut() {
            if let Some(heartbeats) = decided.unacknowledged.get_mut(&node) {
                *heartbeats = 0;
            }
        }
    }

    fn heartbeat(&mut self, to: Node, watermark: TxnId, out: &mut FactSink<'_>) {
        let Some(config) = &self.config else { return };
        let timing = &config.timing;
        let bound = u32::from(timing.missed_heartbeats_max) + 1;
        let period = timing.heartbeat_interval.max(Duration::from_millis(1));
        let longest = timing.retransmit.saturating_mul(RETRANSMIT_MAX);
        let longest = longest.saturating_add(duration(SLACK));
        let copies =
            u32::try_from(longest.as_nanos().div_ceil(period.as_nanos())).unwrap_or(u32::MAX);
        let silent = self.silent.entry(to).or_default();
        *silent += 1;
        let heartbeats = *silent;
        if heartbeats == bound + 1 {
            self.report(Overdue::GivenUp { node: to, heartbeats, bound }, out);
        }
        let copies = copies.saturating_add(2);
        let mut late = Vec::new();
        for (txn, decided) in &mut self.decided {
            if let Some(count) = decided.unacknowledged.get_mut(&to) {
                *count += 1;
                if *count == copies + 1 {
                    late.push(*txn);
                }
            }
        }
        for txn in late {
            let overdue = Overdue::Decision { txn, to, heartbeats: copies + 1, bound: copies };
            self.report(overdue, out);
        }
        // A watermark of this epoch means that everything of earlier ones is finished.
        let least = self.open.first().copied();
        let least = least.unwrap_or(TxnId::new(self.last.epoch, self.last.seq.saturating_add(1)));
        let is_of_this = self.last > TxnId::default() && watermark.epoch == self.last.epoch;
        if is_of_this && watermark < least && !self.has_stopped {
            self.has_stopped = true;
            self.report(Overdue::Watermark { watermark, least }, out);
        }
    }

    fn report(&mut self, overdue: Overdue, out: &mut FactSink<'_>) {
        self.reported += 1;
        if self.reported <= REPORTED_MAX {
            out.fact(FactKind::Overdue(overdue));
        }
    }
}

fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

fn duration(nanoseconds: i64) -> Duration {
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::io;

    use system::{
        journal::Entry,
        protocol::{ClusterId, CommitMode, Message, Rules, StoreId, Timing, Write},
    };

    use super::{
        super::{Fact, collect},
        *,
    };

    const MS: u64 = 1_000_000;

    fn config(node: Node) -> Config {
        let (commit, rules, timing) = (CommitMode::Logged, Rules::ALL, Timing::default());
        Config {
            node,
            replicas: 1,
            store: StoreId(1),
            nonce: 0,
            bootstrap: true,
            commit,
            rules,
            timing,
            scrub_interval: Duration::ZERO,
            sequence_above: 0,
        }
    }

    fn start(node: Node) -> Entry {
        Entry::Start { t: 0, config: config(node), records: Vec::new(), read_results: true }
    }

    fn event(ms: u64, event: Event) -> Entry {
        Entry::Event { t: ms * MS, event }
    }

    fn send(to: Node, watermark: TxnId, body: Body) -> Entry {
        let (cluster, store) = (ClusterId(0), StoreId(1));
        let message = Message { cluster, store, epoch: 1, nonce: 0, watermark, decisions: 0, body };
        Entry::Effect(Effect::Send { to, message })
    }

    fn timer(id: TimerId, ms: u64) -> Entry {
        Entry::Effect(Effect::SetTimer { id, after: Duration::from_millis(ms) })
    }

    fn overdue(node: Node, entries: Vec<Entry>) -> Vec<Overdue> {
        let lines = (1..).zip(entries).map(io::Result::Ok);
        let facts = collect(node, lines, 1, 0).expect("no entry is read from a file");
        let kinds = facts.facts.into_iter().map(|Fact { kind, .. }| kind);
        kinds
            .filter_map(|kind| match kind {
                FactKind::Overdue(overdue) => Some(overdue),
                _ => None,
            })
            .collect()
    }

    /// A master that begins a write at 0, with this vote timeout, and aborts it at another time. Another timer of
    /// 250 ms expires at some time.
    fn write(armed_ms: u64, answered_ms: u64, other_ms: u64) -> Vec<Overdue> {
        let (r1, txn) = (Node::Replica(1), TxnId::new(1, 1));
        let write = Write { key: "k".into(), value: None };
        let prepare = Body::Prepare { txn, write: write.clone(), piggybacked: Vec::new() };
        let abort = Body::Decide { txn, decision: Decision::Abort };
        let reason = system::protocol::AbortReason::Timeout { missing: vec![r1] };
        let mut entries = vec![
            start(Node::Master),
            timer(TimerId::Heartbeat, 250),
            event(0, Event::Client { call: 1, request: Request::Write(write) }),
            send(r1, txn, prepare),
            timer(TimerId::VoteTimeout(txn), armed_ms),
            event(other_ms, Event::Timer(TimerId::Heartbeat)),
        ];
        entries.extend([
            event(answered_ms, Event::Timer(TimerId::VoteTimeout(txn))),
            Entry::Effect(Effect::Reply { call: 1, reply: Reply::Aborted(reason) }),
            send(r1, txn, abort),
        ]);
        overdue(Node::Master, entries)
    }

    #[test]
    fn a_late_answer_is_overdue_unless_the_node_ran_late() {
        assert_eq!(write(1000, 1010, 255), []);
        let found = write(10_000, 10_010, 255);
        assert!(matches!(found[..], [Overdue::Answer { txn: Some(_), .. }]), "{found:?}");
        // A paused node: both timers expire late.
        assert_eq!(write(1000, 9000, 9000), []);
        // The pause does not cover all of it.
        assert_eq!(write(10_000, 10_010, 2000).len(), 1);
    }

    /// A master that begins a write at 0, notices at a time that votes are missing, and asks for vetoes later, when a
    /// replica is live again.
    fn write_without_live_replicas(noticed_ms: u64, notices: bool) -> Vec<Overdue> {
        let (r1, txn) = (Node::Replica(1), TxnId::new(1, 1));
        let write = Write { key: "k".into(), value: None };
        let prepare = Body::Prepare { txn, write: write.clone(), piggybacked: Vec::new() };
        let mut entries = vec![
            start(Node::Master),
            event(0, Event::Client { call: 1, request: Request::Write(write) }),
            send(r1, txn, prepare),
            timer(TimerId::VoteTimeout(txn), noticed_ms),
            event(noticed_ms, Event::Timer(TimerId::VoteTimeout(txn))),
        ];
        entries.extend(notices.then(|| timer(TimerId::Retransmit { txn, round: 0 }, 250)));
        entries.extend([
            event(noticed_ms + 900, Event::Timer(TimerId::Heartbeat)),
            send(r1, txn, Body::Veto { txn }),
        ]);
        overdue(Node::Master, entries)
    }

    #[test]
    fn a_master_without_live_replicas_asks_nobody_for_a_veto() {
        assert_eq!(write_without_live_replicas(1000, true), []);
        for found in
            [write_without_live_replicas(1000, false), write_without_live_replicas(9000, true)]
        {
            assert!(matches!(found[..], [Overdue::Answer { txn: Some(_), .. }]), "{found:?}");
        }
    }

    #[test]
    fn a_replica_in_doubt_inquires() {
        let (r1, txn) = (Node::Replica(1), TxnId::new(1, 1));
        let write = Write { key: "k".into(), value: None };
        let inquiry = |ms| {
            let id = TimerId::InquiryTimeout(txn);
            [
                event(ms, Event::Timer(id)),
                send(Node::Master, txn, Body::Inquire { txn }),
                timer(id, 500),
            ]
        };
        let prepared = [
            start(r1),
            event(0, Event::Persisted(0)),
            Entry::Effect(Effect::Append(Record::Prepare { txn, write })),
            timer(TimerId::InquiryTimeout(txn), 500),
            event(3, Event::Persisted(1)),
        ];
        let in_time = prepared.clone().into_iter().chain(inquiry(505)).chain(inquiry(1010));
        assert_eq!(overdue(r1, in_time.collect()), []);
        let other = TimerId::ReadWait(system::protocol::ReadId { epoch: 1, n: 1, attempt: 0 });
        let silent = prepared.into_iter().chain(inquiry(505)).chain([
            // Another timer shows that it runs.
            timer(other, 5000),
            event(5505, Event::Timer(other)),
        ]);
        let mut silent: Vec<_> = silent.collect();
        // As if the timer had been set with ten times its time.
        silent[7] = timer(TimerId::InquiryTimeout(txn), 5000);
        let found = overdue(r1, silent);
        assert!(matches!(found[..], [Overdue::Inquiry { .. }]), "{found:?}");
    }

    #[test]
    fn decisions_are_repeated_and_silent_replicas_are_given_up() {
        let (r1, txn) = (Node::Replica(1), TxnId::new(1, 1));
        let write = Write { key: "k".into(), value: None };
        let prepare = Body::Prepare { txn, write: write.clone(), piggybacked: Vec::new() };
        let decide = || send(r1, txn, Body::Decide { txn, decision: Decision::Commit });
        let heartbeats = |repeats: bool, answers: bool| {
            let mut entries = vec![
                start(Node::Master),
                event(0, Event::Client { call: 1, request: Request::Write(write.clone()) }),
                send(r1, txn, prepare.clone()),
                decide(),
            ];
            for n in 1..40 {
                entries.push(event(n * 250, Event::Timer(TimerId::Heartbeat)));
                entries.push(send(r1, txn, Body::Heartbeat));
                if repeats && n % 8 == 0 {
                    entries.push(decide());
                }
                if answers {
                    let watermark = TxnId::default();
                    let body = Body::Alive {
                        incarnation: 1,
                        start: 0,
                        promised: None,
                        force_age: Duration::ZERO,
                        applied: 0,
                    };
                    let (cluster, store) = (ClusterId(0), StoreId(2));
                    let message = Message {
                        cluster,
                        store,
                        epoch: 1,
                        nonce: 0,
                        watermark,
                        decisions: 0,
                        body,
                    };
                    entries.push(event(n * 250, Event::Message { from: r1, message }));
                }
            }
            overdue(Node::Master, entries)
        };
        assert_eq!(heartbeats(true, true), []);
        let found = heartbeats(false, true);
        assert!(matches!(found[..], [Overdue::Decision { .. }]), "{found:?}");
        let found = heartbeats(true, false);
        assert!(matches!(found[..], [Overdue::GivenUp { .. }]), "{found:?}");
    }

    #[test]
    fn a_watermark_that_stands_still_is_seen() {
        let (r1, txn) = (Node::Replica(1), TxnId::new(1, 1));
        let write = Write { key: "k".into(), value: None };
        let prepare = Body::Prepare { txn, write: write.clone(), piggybacked: Vec::new() };
        let heartbeat = |watermark| {
            overdue(
                Node::Master,
                vec![
                    start(Node::Master),
                    event(0, Event::Client { call: 1, request: Request::Write(write.clone()) }),
                    send(r1, txn, prepare.clone()),
                    send(r1, txn, Body::Decide { txn, decision: Decision::Abort }),
                    event(250, Event::Timer(TimerId::Heartbeat)),
                    send(r1, watermark, Body::Heartbeat),
                ],
            )
        };
        assert_eq!(heartbeat(TxnId::new(1, 2)), []);
        let found = heartbeat(txn);
        assert!(matches!(found[..], [Overdue::Watermark { .. }]), "{found:?}");
    }
}
