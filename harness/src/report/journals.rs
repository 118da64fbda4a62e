//! Reads from the journals what the page shows and no check needs: when each node forced its log, and a
//! trace of selected transactions: every message and every log record, in order. Reads each journal
//! once and decodes only the lines it needs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    fs::File,
    io::{self, BufRead as _, BufReader},
    path::{Path, PathBuf},
};

use serde::Serialize;
use system::{
    journal::Entry,
    protocol::{Body, Decision, Effect, Event, Message, Node, Record, TxnId},
};

/// What to read from the journals.
#[derive(Clone, Debug, Default)]
pub(super) struct Selection {
    /// The transactions to trace.
    pub(super) transactions: BTreeSet<TxnId>,
    /// The journal lines to quote.
    pub(super) lines: BTreeSet<(Node, usize)>,
}

/// What was read from the journals.
#[derive(Clone, Debug, Default)]
pub(super) struct JournalExtract {
    /// The forces of each node, from request to completion, in nanoseconds of the history.
    pub(super) forces: BTreeMap<Node, Vec<(i64, i64)>>,
    /// When the master began each transaction.
    pub(super) begun: HashMap<TxnId, i64>,
    /// The traces by transaction.
    pub(super) traces: BTreeMap<TxnId, Trace>,
    /// The quoted lines, with their times.
    pub(super) lines: BTreeMap<(Node, usize), (i64, String)>,
}

/// The events of one transaction at all nodes.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Trace {
    /// Events local to a node, ordered by time.
    pub(super) events: Vec<LocalEvent>,
    /// Messages, ordered by time.
    pub(super) messages: Vec<TracedMessage>,
    /// The number of events and messages omitted from the middle.
    pub(super) left_out: usize,
}

/// An event local to a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct LocalEvent {
    /// The time, in nanoseconds of the history.
    pub(super) t: i64,
    /// The line of the journal. `None` for events of the nemesis.
    pub(super) line: Option<usize>,
    /// The node.
    pub(super) node: Node,
    /// The kind: `request`, `reply`, `append`, `force`, `timer`, `halt`, `down`, `up`.
    pub(super) kind: &'static str,
    /// The description.
    pub(super) text: String,
}

/// A message between nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct TracedMessage {
    /// The sender.
    pub(super) from: Node,
    /// The recipient.
    pub(super) to: Node,
    /// The time and journal line of its sending. `None` if only its arrival is recorded.
    pub(super) sent: Option<(i64, usize)>,
    /// The time and journal line of its arrival. `None` if it never arrived.
    pub(super) received: Option<(i64, usize)>,
    /// The message's name.
    pub(super) kind: &'static str,
    /// The description.
    pub(super) text: String,
}

impl TracedMessage {
    pub(super) fn time(&self) -> i64 {
        self.sent.or(self.received).map_or(0, |(t, _)| t)
    }
}

/// How many entries a long trace keeps at its beginning and at its end.
const KEPT: (usize, usize) = (90, 30);

impl Trace {
    /// Adds events that concern the nodes, not this transaction, if they fall into its time.
    pub(super) fn add(&mut self, events: impl IntoIterator<Item = LocalEvent>) {
        let times = || {
            let messages =
                self.messages.iter().flat_map(|message| [message.sent, message.received]).flatten();
            let events = self.events.iter().filter(|event| !["timer", "up"].contains(&event.kind));
            events.map(|event| event.t).chain(messages.map(|(t, _)| t))
        };
        let (Some(first), Some(last)) = (times().min(), times().max()) else { return };
        self.events.extend(events);
        // A timer or a restart that mentions the transaction after its end is not part of it.
        self.events.retain(|event| (first..=last).contains(&event.t));
        self.events.sort();
        self.events.dedup();
    }

    /// Omits the middle of a trace that is too long to be read.
    pub(super) fn truncate(&mut self) {
        let mut times: Vec<i64> = self.events.iter().map(|event| event.t).collect();
        times.extend(self.messages.iter().map(TracedMessage::time));
        let (head, tail) = KEPT;
        if times.len() <= head + tail {
            return;
        }
        times.sort_unstable();
        let (until, from) = (times[head], times[times.len() - tail]);
        let kept = |t: i64| t < until || t >= from;
        let whole = times.len();
        self.events.retain(|event| kept(event.t));
        self.messages.retain(|message| kept(message.time()));
        self.left_out = whole - self.events.len() - self.messages.len();
    }
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
    let scans: Vec<io::Result<Scan<'_>>> = std::thread::scope(|scope| {
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
    let mut found = JournalExtract::default();
    let mut sent: HashMap<Wire, VecDeque<(i64, usize)>> = HashMap::new();
    let mut received: HashMap<Wire, VecDeque<(i64, usize)>> = HashMap::new();
    for scan in scans {
        let scan = scan?;
        found.begun.extend(scan.begun);
        found.lines.extend(scan.lines);
        found.forces.insert(scan.node, scan.forces);
        for (txn, event) in scan.events {
            found.traces.entry(txn).or_default().events.push(event);
        }
        for (wire, place) in scan.sent {
            sent.entry(wire).or_default().push_back(place);
        }
        for (wire, place) in scan.received {
            received.entry(wire).or_default().push_back(place);
        }
    }
    let wires: BTreeSet<Wire> = sent.keys().chain(received.keys()).cloned().collect();
    for wire in wires {
        let sent = sent.remove(&wire).unwrap_or_default();
        let mut received = received.remove(&wire).unwrap_or_default();
        let trace = found.traces.entry(wire.txn).or_default();
        // Equal messages may be sent more than once. An arrival is matched with the first earlier
        // sending that has none yet; a duplicate made by the network has no sending of its own.
        let mut messages: Vec<TracedMessage> =
            sent.into_iter().map(|place| wire.message(Some(place), None)).collect();
        for place in std::mem::take(&mut received) {
            let before = |message: &&mut TracedMessage| {
                message.received.is_none() && message.sent.is_some_and(|(t, _)| t <= place.0)
            };
            match messages.iter_mut().find(before) {
                Some(message) => message.received = Some(place),
                None => messages.push(wire.message(None, Some(place))),
            }
        }
        trace.messages.extend(messages);
    }
    for trace in found.traces.values_mut() {
        trace.events.sort();
        trace.messages.sort_by_key(|message| (message.time(), message.to));
    }
    Ok(found)
}

/// Identifies a message in transit: entries that are equal in all fields may be the same message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Wire {
    txn: TxnId,
    from: Node,
    to: Node,
    message: Message,
}

impl Wire {
    fn message(&self, sent: Option<(i64, usize)>, received: Option<(i64, usize)>) -> TracedMessage {
        let body = &self.message.body;
        TracedMessage {
            from: self.from,
            to: self.to,
            sent,
            received,
            kind: body.kind(),
            text: body.to_string(),
        }
    }
}

/// The state of reading one journal.
struct Scan<'a> {
    node: Node,
    selection: &'a Selection,
    t: i64,
    line: usize,
    appended: u64,
    forcing: VecDeque<(u64, i64)>,
    last_force: i64,
    forces: Vec<(i64, i64)>,
    begun: Vec<(TxnId, i64)>,
    events: Vec<(TxnId, LocalEvent)>,
    sent: Vec<(Wire, (i64, usize))>,
    received: Vec<(Wire, (i64, usize))>,
    lines: Vec<((Node, usize), (i64, String))>,
    /// Records of selected transactions that are not durable yet.
    volatile: VecDeque<(u64, TxnId, &'static str)>,
    /// The last client request, until the transaction that it begins is known.
    request: Option<(Vec<u8>, usize)>,
    calls: HashMap<u64, TxnId>,
}

fn scan<'a>(
    node: Node,
    path: &Path,
    selection: &'a Selection,
    clock_origin: u64,
) -> io::Result<Scan<'a>> {
    let mut scan = Scan {
        node,
        selection,
        t: 0,
        line: 0,
        appended: 0,
        forcing: VecDeque::new(),
        last_force: i64::MIN,
        forces: Vec::new(),
        begun: Vec::new(),
        events: Vec::new(),
        sent: Vec::new(),
        received: Vec::new(),
        lines: Vec::new(),
        volatile: VecDeque::new(),
        request: None,
        calls: HashMap::new(),
    };
    let mut lines = BufReader::with_capacity(1 << 18, File::open(path)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        lines.read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Ok(scan);
        }
        scan.line += 1;
        scan.take(&line, clock_origin).map_err(|error| {
            let reason = format!("line {}: {error}", scan.line);
            io::Error::new(io::ErrorKind::InvalidData, reason)
        })?;
    }
}

/// Parses the number at the beginning of a text.
fn number(text: &[u8]) -> u64 {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0_u64, |n, digit| n.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')))
}

/// The transactions that a line names.
fn named(line: &[u8]) -> impl Iterator<Item = TxnId> + '_ {
    memchr::memchr_iter(b'"', line).filter_map(|at| {
        let rest = &line[at + 1..];
        if !rest.first()?.is_ascii_digit() {
            return None;
        }
        let end = memchr::memchr(b'"', &rest[..rest.len().min(44)])?;
        std::str::from_utf8(&rest[..end]).ok()?.parse().ok()
    })
}

impl Scan<'_> {
    fn take(&mut self, line: &[u8], clock_origin: u64) -> Result<(), serde_json::Error> {
        let timed = line.strip_prefix(b"{\"event\":{\"t\":");
        let started = line.strip_prefix(b"{\"start\":{\"t\":");
        if let Some(rest) = timed.or(started) {
            let t = i128::from(number(rest)) - i128::from(clock_origin);
            self.t = i64::try_from(t).unwrap_or(0);
            self.request = None;
        }
        if self.selection.lines.contains(&(self.node, self.line)) {
            let text = String::from_utf8_lossy(line).into_owned();
            self.lines.push(((self.node, self.line), (self.t, text)));
        }
        if started.is_some() {
            self.appended = 0;
            self.forcing.clear();
            self.volatile.clear();
            self.calls.clear();
            let named_here: Vec<_> = named(line).filter(|txn| self.is_wanted(*txn)).collect();
            let text = "restarts and recovers its records of this transaction";
            named_here.into_iter().for_each(|txn| self.event(txn, "up", text.to_owned()));
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix(b"{\"effect\":{\"force\":") {
            self.forcing.push_back((number(rest), self.t));
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix(b"{\"effect\":{\"reply\":{\"call\":") {
            if let Some(txn) = self.calls.remove(&number(rest))
                && let Entry::Effect(Effect::Reply { reply, .. }) = serde_json::from_slice(line)?
            {
                self.event(txn, "reply", reply.to_string());
            }
            return Ok(());
        }
        if timed.is_some() {
            if let Some(at) = memchr::memmem::find(line, b"\"event\":{\"persisted\":") {
                self.persisted(number(&line[at + 21..]));
                return Ok(());
            }
            if memchr::memmem::find(line, b"\"event\":{\"client\":").is_some() {
                self.request = Some((line.to_vec(), self.line));
                return Ok(());
            }
        }
        let append = line.starts_with(b"{\"effect\":{\"append\":");
        self.appended += u64::from(append);
        if self.node == Node::Master
            && memchr::memmem::find(line, b"\"body\":{\"prepare\":{\"txn\":").is_some()
            && let (Some(txn), true) =
                (named_after(line, b"{\"prepare\":{\"txn\":\""), timed.is_none())
            && self.begun.last().is_none_or(|(last, _)| *last < txn)
        {
            self.begun.push((txn, self.t));
        }
        let named_here: BTreeSet<TxnId> = named(line).filter(|txn| self.is_wanted(*txn)).collect();
        if named_here.is_empty() {
            return Ok(());
        }
        let entry: Entry = serde_json::from_slice(line)?;
        for txn in named_here {
            self.trace(txn, &entry)?;
        }
        Ok(())
    }

    fn is_wanted(&self, txn: TxnId) -> bool {
        self.selection.transactions.contains(&txn)
    }

    fn event(&mut self, txn: TxnId, kind: &'static str, text: String) {
        let event = LocalEvent { t: self.t, line: Some(self.line), node: self.node, kind, text };
        self.events.push((txn, event));
    }

    fn persisted(&mut self, lsn: u64) {
        let mut since = None;
        while let Some((_, t)) = self.forcing.front().copied().filter(|(force, _)| *force <= lsn) {
            self.forcing.pop_front();
            since.get_or_insert(t);
        }
        if let Some(since) = since {
            // A node has one force in progress at a time: the next one starts when this one ends.
            self.forces.push((since.max(self.last_force), self.t));
        }
        self.last_force = self.t;
        while let Some((_, txn, kind)) =
            self.volatile.front().copied().filter(|(at, ..)| *at <= lsn)
        {
            self.volatile.pop_front();
            self.event(txn, "force", format!("{} is durable", kind.to_uppercase()));
        }
    }

    fn trace(&mut self, txn: TxnId, entry: &Entry) -> Result<(), serde_json::Error> {
        let place = (self.t, self.line);
        match entry {
            Entry::Event { event: Event::Message { message, .. }, .. }
            | Entry::Effect(Effect::Send { message, .. })
                if !applies_to(&message.body, txn) => {}
            Entry::Event { event: Event::Message { from, message }, .. } => {
                let wire = Wire { txn, from: *from, to: self.node, message: message.clone() };
                self.received.push((wire, place));
            }
            Entry::Effect(Effect::Send { to, message }) => {
                if let (Body::Prepare { txn: begun, .. }, Some((line, at))) =
                    (&message.body, &self.request)
                    && *begun == txn
                {
                    if let Entry::Event { event: Event::Client { call, request }, .. } =
                        serde_json::from_slice(line)?
                    {
                        let text = format!("client request: {request}");
                        let (t, line, node) = (self.t, Some(*at), self.node);
                        self.events
                            .push((txn, LocalEvent { t, line, node, kind: "request", text }));
                        self.calls.insert(call, txn);
                    }
                    self.request = None;
                }
                let wire = Wire { txn, from: self.node, to: *to, message: message.clone() };
                self.sent.push((wire, place));
            }
            Entry::Effect(Effect::Append(record))
                if !matches!(record, Record::Watermark { .. }) =>
            {
                self.volatile.push_back((self.appended, txn, record.kind()));
                self.event(txn, "append", format!("append {}", record.kind().to_uppercase()));
            }
            Entry::Event { event: Event::Timer(timer), .. } => {
                self.event(txn, "timer", format!("timer: {timer}"));
            }
            Entry::Effect(Effect::Halt { why, .. }) => {
                self.event(txn, "halt", format!("halt: {why}"));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Whether a message concerns a transaction, rather than only mentioning its number.
fn applies_to(body: &Body, about: TxnId) -> bool {
    let resolved =
        |piggybacked: &[(TxnId, Decision)]| piggybacked.iter().any(|(txn, _)| *txn == about);
    match body {
        Body::Prepare { txn, piggybacked, .. } => *txn == about || resolved(piggybacked),
        Body::Read { piggybacked, .. } => resolved(piggybacked),
        Body::FenceOk { in_doubt, .. } => in_doubt.iter().any(|(txn, _)| *txn == about),
        body => body.txns().contains(&about),
    }
}

fn named_after(line: &[u8], what: &[u8]) -> Option<TxnId> {
    let rest = &line[memchr::memmem::find(line, what)? + what.len()..];
    let end = memchr::memchr(b'"', rest)?;
    std::str::from_utf8(&rest[..end]).ok()?.parse().ok()
}
