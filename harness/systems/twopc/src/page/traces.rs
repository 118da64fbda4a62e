//! Reads from the journals what the page shows and no check needs: when each node forced its log, quoted
//! lines, and a trace of selected transactions, with every message and every log record.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    io,
    path::{Path, PathBuf},
};

use report::{
    FaultInterval,
    sections::{MessageEnd, Tone, TraceEvent, TraceMessage},
};
use system::{
    journal::Entry,
    protocol::{Body, Decision, Effect, Event, Message, Node, PeerKnowledge, Record, TxnId},
};

use super::{
    Quote, Selection,
    journal_lines::{Kind, Line, Lines},
};
use crate::{
    checks::{
        Run,
        evidence::{FactKind, time_of},
    },
    payload,
};

/// FactKind was read from the journals.
#[derive(Clone, Debug, Default)]
pub(super) struct JournalExtract {
    /// The forces of each node, from request to completion, in nanoseconds of the history.
    pub(super) forces: BTreeMap<Node, Vec<(i64, i64)>>,
    /// When the master began each transaction.
    pub(super) begun: HashMap<TxnId, i64>,
    /// The traces of the selected transactions.
    pub(super) traces: BTreeMap<TxnId, TransactionTrace>,
    /// The quoted lines.
    pub(super) quotes: Vec<Quote>,
}

/// The events and messages of one transaction at all nodes.
#[derive(Clone, Debug, Default)]
pub(super) struct TransactionTrace {
    /// Events local to a node, ordered by time.
    pub(super) events: Vec<LocalEvent>,
    /// Messages, ordered by time.
    pub(super) messages: Vec<TraceMessage>,
    /// The number of events and messages omitted from the middle.
    pub(super) omitted: usize,
}

/// An event local to a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LocalEvent {
    /// In nanoseconds of the history.
    time: i64,
    /// The line of the journal. `None` for events of the nemesis.
    line: Option<usize>,
    node: Node,
    kind: EventKind,
    text: String,
}

/// The kind of a local event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum EventKind {
    Request,
    Reply,
    Append,
    Force,
    Timer,
    Halt,
    /// A fault that stops the node.
    Down,
    /// The node starts or resumes.
    Up,
    /// A fault that does not stop the node.
    Fault,
}

impl LocalEvent {
    /// The event in the form of the page.
    pub(super) fn section(&self) -> TraceEvent {
        let tone = match self.kind {
            EventKind::Force => Tone::Io,
            EventKind::Halt | EventKind::Down => Tone::Down,
            _ => Tone::Neutral,
        };
        let (node, text) = (self.node.to_string(), self.text.clone());
        TraceEvent { time: self.time, line: self.line, node, tone, text }
    }

    /// Whether it can be later than the end of the transaction.
    fn may_be_late(&self) -> bool {
        matches!(self.kind, EventKind::Timer | EventKind::Up)
    }
}

/// How many entries a long trace keeps at its beginning and at its end.
const KEPT: (usize, usize) = (90, 30);

impl TransactionTrace {
    /// Adds events that concern the nodes, not this transaction, if they fall into its time.
    pub(super) fn add(&mut self, node_events: &[LocalEvent]) {
        let times = || {
            let ends = self.messages.iter().flat_map(|message| [message.sent, message.received]);
            let own = self.events.iter().filter(|event| !event.may_be_late());
            own.map(|event| event.time).chain(ends.flatten().map(|end| end.time))
        };
        let (Some(first), Some(last)) = (times().min(), times().max()) else { return };
        self.events.extend_from_slice(node_events);
        // A timer or a restart that mentions the transaction after its end is not part of it.
        self.events.retain(|event| (first..=last).contains(&event.time));
        self.events.sort();
        self.events.dedup();
    }

    /// Omits the middle of a trace that is too long to be read.
    pub(super) fn truncate(&mut self) {
        let mut times: Vec<i64> = self.events.iter().map(|event| event.time).collect();
        times.extend(self.messages.iter().map(TraceMessage::time));
        let (head, tail) = KEPT;
        if times.len() <= head + tail {
            return;
        }
        times.sort_unstable();
        let (until, from) = (times[head], times[times.len() - tail]);
        let kept = |time: i64| time < until || time >= from;
        self.events.retain(|event| kept(event.time));
        self.messages.retain(|message| kept(message.time()));
        self.omitted = times.len() - self.events.len() - self.messages.len();
    }
}

/// Events that concern a node as a whole: they are part of every trace that is in progress.
pub(super) fn node_events(run: &Run, faults: &[FaultInterval]) -> Vec<LocalEvent> {
    let mut events = Vec::new();
    let int = |time: u64| i64::try_from(time).unwrap_or(i64::MAX);
    for fault in faults {
        for node in fault.nodes.iter().filter_map(|node| node.parse::<Node>().ok()) {
            let at = fault.at.as_ref().map_or_else(String::new, |at| format!(" at {at}"));
            let text = match fault.is_exit() {
                true => "exits by itself".to_owned(),
                false => format!("{}: {}{at}", fault.fault, fault.action),
            };
            let kind = if fault.inactive { EventKind::Down } else { EventKind::Fault };
            events.push(LocalEvent { time: int(fault.from), line: None, node, kind, text });
            // The journal has the restart of a process that was killed.
            if ["pause", "hold"].contains(&fault.action.as_str()) && fault.to > fault.from {
                let (kind, text) = (EventKind::Up, "resumed".to_owned());
                events.push(LocalEvent { time: int(fault.to), line: None, node, kind, text });
            }
        }
    }
    for (node, facts) in &run.evidence.nodes {
        for fact in &facts.facts {
            let (kind, text) = match &fact.kind {
                FactKind::Started { .. } => (EventKind::Up, "start".to_owned()),
                FactKind::Halted { why, .. } => (EventKind::Halt, format!("halt: {why}")),
                _ => continue,
            };
            let (time, line) = (fact.position.time, Some(fact.position.line));
            events.push(LocalEvent { time, line, node: *node, kind, text });
        }
    }
    events
}

/// Reads the journals in parallel.
///
/// # Errors
/// A journal cannot be read, or a line that is needed cannot be decoded; the message names the file.
pub(super) fn read(
    journals: &BTreeMap<Node, PathBuf>,
    selection: &Selection,
    clock_origin: u64,
) -> io::Result<JournalExtract> {
    let scans: Vec<io::Result<JournalScan<'_>>> = std::thread::scope(|scope| {
        let readers: Vec<_> = journals
            .iter()
            .map(|(&node, path)| {
                scope.spawn(move || {
                    scan(node, path, selection, clock_origin).map_err(|error| {
                        io::Error::new(error.kind(), format!("{}: {error}", path.display()))
                    })
                })
            })
            .collect();
        readers.into_iter().map(|reader| reader.join().expect("no reader panics")).collect()
    });
    let mut extract = JournalExtract::default();
    let mut transits: BTreeMap<MessageKey, Transits> = BTreeMap::new();
    for scan in scans {
        let scan = scan?;
        extract.begun.extend(scan.begun);
        extract.quotes.extend(scan.quotes);
        extract.forces.insert(scan.node, scan.forces);
        for (txn, event) in scan.events {
            extract.traces.entry(txn).or_default().events.push(event);
        }
        for (key, end) in scan.sent {
            transits.entry(key).or_default().sent.push(end);
        }
        for (key, end) in scan.received {
            transits.entry(key).or_default().received.push(end);
        }
    }
    for (key, transits) in transits {
        extract.traces.entry(key.txn).or_default().messages.extend(transits.messages(&key));
    }
    for trace in extract.traces.values_mut() {
        trace.events.sort();
        trace.messages.sort_by(|a, b| (a.time(), &a.to).cmp(&(b.time(), &b.to)));
    }
    Ok(extract)
}

/// Identifies a message in transit: entries that are equal in all fields may be the same message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct MessageKey {
    txn: TxnId,
    from: Node,
    to: Node,
    message: Message,
}

/// The sendings and arrivals of equal messages, each in the order of their journal.
#[derive(Clone, Debug, Default)]
struct Transits {
    sent: Vec<MessageEnd>,
    received: Vec<MessageEnd>,
}

impl Transits {
    /// Matches each arrival with the first earlier sending that has none yet. A duplicate made by the
    /// network has no sending of its own.
    fn messages(self, key: &MessageKey) -> Vec<TraceMessage> {
        let message = |sent, received| TraceMessage {
            from: key.from.to_string(),
            to: key.to.to_string(),
            sent,
            received,
            tone: tone(&key.message.body),
            text: key.message.body.to_string(),
        };
        let sent = self.sent.into_iter().map(|end| message(Some(end), None));
        let mut messages: Vec<TraceMessage> = sent.collect();
        for end in self.received {
            let sending = messages.iter_mut().find(|message| {
                message.received.is_none() && message.sent.is_some_and(|sent| sent.time <= end.time)
            });
            match sending {
                Some(message) => message.received = Some(end),
                None => messages.push(message(None, Some(end))),
            }
        }
        messages
    }
}

/// A message with the names of its key and value.
fn named(message: &Message) -> Message {
    let mut message = message.clone();
    payload::name_in_body(&mut message.body);
    message
}

/// The colour of a message: whether it carries an outcome.
fn tone(body: &Body) -> Tone {
    match body {
        Body::Decide { decision: Decision::Commit, .. }
        | Body::PeerAnswer { answer: PeerKnowledge::Commit, .. } => Tone::Done,
        Body::Decide { decision: Decision::Abort, .. }
        | Body::PeerAnswer { answer: PeerKnowledge::Abort, .. }
        | Body::VoteNo { .. } => Tone::Aborted,
        _ => Tone::Neutral,
    }
}

/// The state of reading one journal.
struct JournalScan<'a> {
    node: Node,
    selection: &'a Selection,
    /// The time of the current line, in nanoseconds of the history.
    time: i64,
    /// The number of records appended since the start.
    appended: u64,
    /// Forces in progress: the position that each makes durable, and when it was requested.
    forcing: VecDeque<(u64, i64)>,
    last_completion: i64,
    /// Records of selected transactions that are not durable yet.
    volatile: VecDeque<(u64, TxnId, &'static str)>,
    /// The last client request, until the transaction that it begins is known.
    request: Option<Line>,
    /// The transactions of calls that have no reply yet.
    calls: HashMap<u64, TxnId>,
    forces: Vec<(i64, i64)>,
    begun: Vec<(TxnId, i64)>,
    events: Vec<(TxnId, LocalEvent)>,
    sent: Vec<(MessageKey, MessageEnd)>,
    received: Vec<(MessageKey, MessageEnd)>,
    quotes: Vec<Quote>,
}

fn scan<'a>(
    node: Node,
    path: &Path,
    selection: &'a Selection,
    clock_origin: u64,
) -> io::Result<JournalScan<'a>> {
    let mut scan = JournalScan {
        node,
        selection,
        time: 0,
        appended: 0,
        forcing: VecDeque::new(),
        last_completion: i64::MIN,
        volatile: VecDeque::new(),
        request: None,
        calls: HashMap::new(),
        forces: Vec::new(),
        begun: Vec::new(),
        events: Vec::new(),
        sent: Vec::new(),
        received: Vec::new(),
        quotes: Vec::new(),
    };
    let mut lines = Lines::open(path)?;
    let mut line = Line::default();
    while lines.read(&mut line)? {
        scan.time = time_of(line.clock, clock_origin);
        scan.line(&line)?;
    }
    Ok(scan)
}

impl JournalScan<'_> {
    fn line(&mut self, line: &Line) -> io::Result<()> {
        if self.selection.lines.contains(&(self.node, line.number)) {
            let (node, text) = (self.node.to_string(), line.text());
            self.quotes.push(Quote { node, line: line.number, time: self.time, text });
        }
        match line.kind {
            Kind::Start => {
                self.request = None;
                self.restart(line);
                return Ok(());
            }
            Kind::Force { lsn } => {
                self.forcing.push_back((lsn, self.time));
                return Ok(());
            }
            Kind::Persisted { lsn } => {
                self.request = None;
                self.persisted(lsn, line.number);
                return Ok(());
            }
            Kind::ClientRequest => {
                self.request = Some(line.clone());
                return Ok(());
            }
            Kind::Reply { call } => return self.reply(call, line),
            Kind::Append => self.appended += 1,
            Kind::SendPrepare { txn } => {
                // A retransmission repeats an earlier transaction.
                let new = self.begun.last().is_none_or(|(last, _)| *last < txn);
                if self.node == Node::Master && new {
                    self.begun.push((txn, self.time));
                }
            }
            Kind::Event => self.request = None,
            Kind::Effect => {}
        }
        let selected = self.selected(line);
        if selected.is_empty() {
            return Ok(());
        }
        let entry = line.entry()?;
        selected.into_iter().try_for_each(|txn| self.entry(txn, &entry, line.number))
    }

    /// The selected transactions that a line names.
    fn selected(&self, line: &Line) -> BTreeSet<TxnId> {
        line.transactions().filter(|txn| self.selection.transactions.contains(txn)).collect()
    }

    fn event(&mut self, txn: TxnId, line: usize, kind: EventKind, text: String) {
        let event = LocalEvent { time: self.time, line: Some(line), node: self.node, kind, text };
        self.events.push((txn, event));
    }

    fn restart(&mut self, line: &Line) {
        self.appended = 0;
        self.forcing.clear();
        self.volatile.clear();
        self.calls.clear();
        for txn in self.selected(line) {
            let text = "restart, records of this transaction recovered".to_owned();
            self.event(txn, line.number, EventKind::Up, text);
        }
    }

    fn persisted(&mut self, lsn: u64, line: usize) {
        let mut requested = None;
        while let Some((_, time)) = self.forcing.front().filter(|(force, _)| *force <= lsn) {
            requested.get_or_insert(*time);
            self.forcing.pop_front();
        }
        if let Some(requested) = requested {
            // A node has one force in progress at a time: the next one starts when this one ends.
            self.forces.push((requested.max(self.last_completion), self.time));
        }
        self.last_completion = self.time;
        while let Some((_, txn, kind)) =
            self.volatile.front().copied().filter(|(at, ..)| *at <= lsn)
        {
            self.volatile.pop_front();
            let text = format!("{} is durable", kind.to_uppercase());
            self.event(txn, line, EventKind::Force, text);
        }
    }

    fn reply(&mut self, call: u64, line: &Line) -> io::Result<()> {
        if let Some(txn) = self.calls.remove(&call)
            && let Entry::Effect(Effect::Reply { reply, .. }) = line.entry()?
        {
            self.event(txn, line.number, EventKind::Reply, format!("reply to the client: {reply}"));
        }
        Ok(())
    }

    /// Adds an entry that names a transaction to its trace.
    fn entry(&mut self, txn: TxnId, entry: &Entry, line: usize) -> io::Result<()> {
        let end = MessageEnd { time: self.time, line };
        match entry {
            Entry::Event { event: Event::Message { message, .. }, .. }
            | Entry::Effect(Effect::Send { message, .. })
                if !concerns(&message.body, txn) => {}
            Entry::Event { event: Event::Message { from, message }, .. } => {
                let message = named(message);
                let key = MessageKey { txn, from: *from, to: self.node, message };
                self.received.push((key, end));
            }
            Entry::Effect(Effect::Send { to, message }) => {
                self.begin(txn, &message.body)?;
                let message = named(message);
                let key = MessageKey { txn, from: self.node, to: *to, message };
                self.sent.push((key, end));
            }
            Entry::Effect(Effect::Append(record))
                if !matches!(record, Record::Watermark { .. }) =>
            {
                self.volatile.push_back((self.appended, txn, record.kind()));
                let text = format!("append {}", record.kind().to_uppercase());
                self.event(txn, line, EventKind::Append, text);
            }
            Entry::Event { event: Event::Timer(timer), .. } => {
                self.event(txn, line, EventKind::Timer, format!("timer: {timer}"));
            }
            Entry::Effect(Effect::Halt { why, .. }) => {
                self.event(txn, line, EventKind::Halt, format!("halt: {why}"));
            }
            _ => {}
        }
        Ok(())
    }

    /// Assigns the last client request to the transaction, if this message begins it.
    fn begin(&mut self, txn: TxnId, body: &Body) -> io::Result<()> {
        if !matches!(body, Body::Prepare { txn: prepared, .. } if *prepared == txn) {
            return Ok(());
        }
        let Some(line) = self.request.take() else { return Ok(()) };
        if let Entry::Event { event: Event::Client { call, request }, .. } = line.entry()? {
            let text = format!("client request: {request}");
            self.event(txn, line.number, EventKind::Request, text);
            self.calls.insert(call, txn);
        }
        Ok(())
    }
}

/// Whether a message concerns a transaction, rather than only mentioning its number.
fn concerns(body: &Body, about: TxnId) -> bool {
    let decides =
        |piggybacked: &[(TxnId, Decision)]| piggybacked.iter().any(|(txn, _)| *txn == about);
    match body {
        Body::Prepare { txn, piggybacked, .. } => *txn == about || decides(piggybacked),
        Body::Read { piggybacked, .. } | Body::Query { piggybacked, .. } => decides(piggybacked),
        Body::FenceOk { in_doubt, .. } => in_doubt.iter().any(|(txn, _)| *txn == about),
        body => body.txns().contains(&about),
    }
}

#[cfg(test)]
mod tests {
    use system::protocol::{ClusterId, StoreId};

    use super::*;

    fn key() -> MessageKey {
        let txn = TxnId::new(1, 7);
        let message = Message {
            cluster: ClusterId::default(),
            store: StoreId::default(),
            epoch: 1,
            nonce: 0,
            watermark: txn,
            decisions: 0,
            body: Body::Decide { txn, decision: Decision::Commit },
        };
        MessageKey { txn, from: Node::Master, to: Node::Replica(1), message }
    }

    #[test]
    fn arrivals_are_matched_with_earlier_sendings() {
        let end = |time| MessageEnd { time, line: 1 };
        let ends = |times: &[i64]| times.iter().map(|time| end(*time)).collect();
        let transits = Transits { sent: ends(&[10, 20, 30]), received: ends(&[15, 25, 26]) };
        let messages = transits.messages(&key());
        let pairs: Vec<_> = messages.iter().map(|m| (m.sent, m.received)).collect();
        assert_eq!(
            pairs,
            [
                (Some(end(10)), Some(end(15))),
                (Some(end(20)), Some(end(25))),
                (Some(end(30)), None),
                (None, Some(end(26))),
            ]
        );
        assert_eq!(messages[0].tone, Tone::Done);
    }

    #[test]
    fn a_long_trace_keeps_its_beginning_and_its_end() {
        let event = |time| LocalEvent {
            time,
            line: None,
            node: Node::Master,
            kind: EventKind::Append,
            text: String::new(),
        };
        let mut trace = TransactionTrace {
            events: (0..500).map(event).collect(),
            ..TransactionTrace::default()
        };
        trace.truncate();
        let (head, tail) = KEPT;
        assert_eq!((trace.events.len(), trace.omitted), (head + tail, 500 - head - tail));
        assert_eq!((trace.events[head - 1].time, trace.events[head].time), (89, 470));
    }
}
