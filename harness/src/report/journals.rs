//! What the journals say that no check needs: when a node forced its records, and, of some
//! transactions, every message and every record, in order. Reads each journal once, and takes apart
//! only the lines that matter. Knows nothing of what is right.

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

/// What is wanted of the journals.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    /// Transactions whose whole story is wanted.
    pub(super) transactions: BTreeSet<TxnId>,
    /// Lines that are wanted as they are.
    pub(super) lines: BTreeSet<(Node, usize)>,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// By node: from when to when it waited for a force, in nanoseconds of the history.
    pub(super) forces: BTreeMap<Node, Vec<(i64, i64)>>,
    /// When the master began each transaction.
    pub(super) begun: HashMap<TxnId, i64>,
    /// By transaction.
    pub(super) stories: BTreeMap<TxnId, Story>,
    /// Lines as they are, and when they were.
    pub(super) quotes: BTreeMap<(Node, usize), (i64, String)>,
}

/// What happened about one transaction.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Story {
    /// What happened at one node, in order of time.
    pub(super) notes: Vec<Note>,
    /// Messages, in order of time.
    pub(super) arrows: Vec<Arrow>,
    /// How much more there was, between what is told.
    pub(super) left_out: usize,
}

/// Something that happened at one node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Note {
    /// When, in nanoseconds of the history.
    pub(super) t: i64,
    /// The line of the journal; none for what no journal tells.
    pub(super) line: Option<usize>,
    /// Where.
    pub(super) node: Node,
    /// What kind of thing: `ask`, `answer`, `append`, `force`, `timer`, `halt`, `down`, `up`.
    pub(super) kind: &'static str,
    /// In words.
    pub(super) text: String,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Arrow {
    /// Who sent it.
    pub(super) from: Node,
    /// To whom.
    pub(super) to: Node,
    /// When it was sent, and the line that says so; none if only its arrival is on record.
    pub(super) sent: Option<(i64, usize)>,
    /// When it arrived; none if it never did.
    pub(super) got: Option<(i64, usize)>,
    /// The message's name.
    pub(super) kind: &'static str,
    /// In words.
    pub(super) text: String,
}

impl Arrow {
    pub(super) fn time(&self) -> i64 {
        self.sent.or(self.got).map_or(0, |(t, _)| t)
    }
}

/// So much of a story is told: of what is longer, the beginning and the end.
const TOLD: (usize, usize) = (90, 30);

impl Story {
    /// Adds what happened to the nodes meanwhile.
    pub(super) fn add(&mut self, notes: impl IntoIterator<Item = Note>) {
        let times = || {
            let arrows = self.arrows.iter().flat_map(|arrow| [arrow.sent, arrow.got]).flatten();
            let notes = self.notes.iter().filter(|note| !["timer", "up"].contains(&note.kind));
            notes.map(|note| note.t).chain(arrows.map(|(t, _)| t))
        };
        let (Some(first), Some(last)) = (times().min(), times().max()) else { return };
        self.notes.extend(notes);
        // What a timer or a start says of a transaction that is over is no part of its story.
        self.notes.retain(|note| (first..=last).contains(&note.t));
        self.notes.sort();
        self.notes.dedup();
    }

    /// Cuts what is too long to be looked at.
    pub(super) fn cut(&mut self) {
        let mut times: Vec<i64> = self.notes.iter().map(|note| note.t).collect();
        times.extend(self.arrows.iter().map(Arrow::time));
        let (head, tail) = TOLD;
        if times.len() <= head + tail {
            return;
        }
        times.sort_unstable();
        let (until, from) = (times[head], times[times.len() - tail]);
        let told = |t: i64| t < until || t >= from;
        let whole = times.len();
        self.notes.retain(|note| told(note.t));
        self.arrows.retain(|arrow| told(arrow.time()));
        self.left_out = whole - self.notes.len() - self.arrows.len();
    }
}

/// Reads the journals side by side.
///
/// # Errors
/// A journal cannot be read, or a line that matters is no entry; the message names the file.
pub(super) fn read(
    journals: &BTreeMap<Node, PathBuf>,
    wanted: &Wanted,
    clock_origin: u64,
) -> io::Result<Found> {
    let scans: Vec<io::Result<Scan<'_>>> = std::thread::scope(|scope| {
        let readers: Vec<_> = journals
            .iter()
            .map(|(&node, path)| {
                scope.spawn(move || {
                    scan(node, path, wanted, clock_origin).map_err(|error| {
                        io::Error::new(error.kind(), format!("{}: {error}", path.display()))
                    })
                })
            })
            .collect();
        readers.into_iter().map(|reader| reader.join().expect("no reader panics")).collect()
    });
    let mut found = Found::default();
    let mut sent: HashMap<Wire, VecDeque<(i64, usize)>> = HashMap::new();
    let mut got: HashMap<Wire, VecDeque<(i64, usize)>> = HashMap::new();
    for scan in scans {
        let scan = scan?;
        found.begun.extend(scan.begun);
        found.quotes.extend(scan.quotes);
        found.forces.insert(scan.node, scan.forces);
        for (txn, note) in scan.notes {
            found.stories.entry(txn).or_default().notes.push(note);
        }
        for (wire, place) in scan.sent {
            sent.entry(wire).or_default().push_back(place);
        }
        for (wire, place) in scan.got {
            got.entry(wire).or_default().push_back(place);
        }
    }
    let wires: BTreeSet<Wire> = sent.keys().chain(got.keys()).cloned().collect();
    for wire in wires {
        let sent = sent.remove(&wire).unwrap_or_default();
        let mut got = got.remove(&wire).unwrap_or_default();
        let story = found.stories.entry(wire.txn).or_default();
        // The same words more than once: each arrival belongs to the last sending before it that
        // has none yet; a copy that nobody sent again has no sending of its own.
        let mut arrows: Vec<Arrow> =
            sent.into_iter().map(|place| wire.arrow(Some(place), None)).collect();
        for place in std::mem::take(&mut got) {
            let before = |arrow: &&mut Arrow| {
                arrow.got.is_none() && arrow.sent.is_some_and(|(t, _)| t <= place.0)
            };
            match arrows.iter_mut().find(before) {
                Some(arrow) => arrow.got = Some(place),
                None => arrows.push(wire.arrow(None, Some(place))),
            }
        }
        story.arrows.extend(arrows);
    }
    for story in found.stories.values_mut() {
        story.notes.sort();
        story.arrows.sort_by_key(|arrow| (arrow.time(), arrow.to));
    }
    Ok(found)
}

/// A message as it travels: what is equal in all of this may be the same message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Wire {
    txn: TxnId,
    from: Node,
    to: Node,
    message: Message,
}

impl Wire {
    fn arrow(&self, sent: Option<(i64, usize)>, got: Option<(i64, usize)>) -> Arrow {
        let body = &self.message.body;
        Arrow { from: self.from, to: self.to, sent, got, kind: body.kind(), text: body.to_string() }
    }
}

/// One journal, as far as it was read.
struct Scan<'a> {
    node: Node,
    wanted: &'a Wanted,
    t: i64,
    line: usize,
    appended: u64,
    forcing: VecDeque<(u64, i64)>,
    last_force: i64,
    forces: Vec<(i64, i64)>,
    begun: Vec<(TxnId, i64)>,
    notes: Vec<(TxnId, Note)>,
    sent: Vec<(Wire, (i64, usize))>,
    got: Vec<(Wire, (i64, usize))>,
    quotes: Vec<((Node, usize), (i64, String))>,
    /// Records about wanted transactions that are not durable yet.
    volatile: VecDeque<(u64, TxnId, &'static str)>,
    /// The last call of a client, until it is known which transaction it became.
    asked: Option<(Vec<u8>, usize)>,
    calls: HashMap<u64, TxnId>,
}

fn scan<'a>(
    node: Node,
    path: &Path,
    wanted: &'a Wanted,
    clock_origin: u64,
) -> io::Result<Scan<'a>> {
    let mut scan = Scan {
        node,
        wanted,
        t: 0,
        line: 0,
        appended: 0,
        forcing: VecDeque::new(),
        last_force: i64::MIN,
        forces: Vec::new(),
        begun: Vec::new(),
        notes: Vec::new(),
        sent: Vec::new(),
        got: Vec::new(),
        quotes: Vec::new(),
        volatile: VecDeque::new(),
        asked: None,
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

/// The number that a text goes on with.
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
            self.asked = None;
        }
        if self.wanted.lines.contains(&(self.node, self.line)) {
            let text = String::from_utf8_lossy(line).into_owned();
            self.quotes.push(((self.node, self.line), (self.t, text)));
        }
        if started.is_some() {
            self.appended = 0;
            self.forcing.clear();
            self.volatile.clear();
            self.calls.clear();
            let told: Vec<_> = named(line).filter(|txn| self.is_wanted(*txn)).collect();
            let text = "starts, and finds its records of this transaction";
            told.into_iter().for_each(|txn| self.note(txn, "up", text.to_owned()));
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
                self.note(txn, "answer", reply.to_string());
            }
            return Ok(());
        }
        if timed.is_some() {
            if let Some(at) = memchr::memmem::find(line, b"\"event\":{\"persisted\":") {
                self.persisted(number(&line[at + 21..]));
                return Ok(());
            }
            if memchr::memmem::find(line, b"\"event\":{\"client\":").is_some() {
                self.asked = Some((line.to_vec(), self.line));
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
        let told: BTreeSet<TxnId> = named(line).filter(|txn| self.is_wanted(*txn)).collect();
        if told.is_empty() {
            return Ok(());
        }
        let entry: Entry = serde_json::from_slice(line)?;
        for txn in told {
            self.tell(txn, &entry)?;
        }
        Ok(())
    }

    fn is_wanted(&self, txn: TxnId) -> bool {
        self.wanted.transactions.contains(&txn)
    }

    fn note(&mut self, txn: TxnId, kind: &'static str, text: String) {
        let note = Note { t: self.t, line: Some(self.line), node: self.node, kind, text };
        self.notes.push((txn, note));
    }

    fn persisted(&mut self, lsn: u64) {
        let mut since = None;
        while let Some((_, t)) = self.forcing.front().copied().filter(|(force, _)| *force <= lsn) {
            self.forcing.pop_front();
            since.get_or_insert(t);
        }
        if let Some(since) = since {
            // A node forces one group at a time.
            self.forces.push((since.max(self.last_force), self.t));
        }
        self.last_force = self.t;
        while let Some((_, txn, kind)) =
            self.volatile.front().copied().filter(|(at, ..)| *at <= lsn)
        {
            self.volatile.pop_front();
            self.note(txn, "force", format!("{} is durable", kind.to_uppercase()));
        }
    }

    fn tell(&mut self, txn: TxnId, entry: &Entry) -> Result<(), serde_json::Error> {
        let place = (self.t, self.line);
        match entry {
            Entry::Event { event: Event::Message { message, .. }, .. }
            | Entry::Effect(Effect::Send { message, .. })
                if !applies_to(&message.body, txn) => {}
            Entry::Event { event: Event::Message { from, message }, .. } => {
                let wire = Wire { txn, from: *from, to: self.node, message: message.clone() };
                self.got.push((wire, place));
            }
            Entry::Effect(Effect::Send { to, message }) => {
                if let (Body::Prepare { txn: begun, .. }, Some((line, at))) =
                    (&message.body, &self.asked)
                    && *begun == txn
                {
                    if let Entry::Event { event: Event::Client { call, request }, .. } =
                        serde_json::from_slice(line)?
                    {
                        let text = format!("a client asks: {request}");
                        let (t, line, node) = (self.t, Some(*at), self.node);
                        self.notes.push((txn, Note { t, line, node, kind: "ask", text }));
                        self.calls.insert(call, txn);
                    }
                    self.asked = None;
                }
                let wire = Wire { txn, from: self.node, to: *to, message: message.clone() };
                self.sent.push((wire, place));
            }
            Entry::Effect(Effect::Append(record))
                if !matches!(record, Record::Watermark { .. }) =>
            {
                self.volatile.push_back((self.appended, txn, record.kind()));
                self.note(txn, "append", format!("appends {}", record.kind().to_uppercase()));
            }
            Entry::Event { event: Event::Timer(timer), .. } => {
                self.note(txn, "timer", format!("timer: {timer}"));
            }
            Entry::Effect(Effect::Halt { why, .. }) => {
                self.note(txn, "halt", format!("halts: {why}"));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Whether a message is about a transaction, and does not just carry its number.
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
