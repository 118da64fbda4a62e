//! Anomalies in words: what happened, every edge of a cycle with the two operations that prove it, and
//! the cycle as a drawing for a terminal.

use std::fmt::Write as _;

use history::Outcome;

use super::{
    BaseLevel, Level, ReportedAnomaly, ShownEdge, ShownTransaction,
    anomalies::{Anomalies, Anomaly, Evidence},
    axiomatic::{CommitCycle, CommitEdge, Why},
    cycles::{Cycle, Order},
    derive::{Edges, Observed, Own, observe_one},
    graph::EdgeKind,
    history::{NONE, Step, TransactionHistory, Workload},
    registers::{self, ExternalRead, RegisterEdges, Registers},
    versions::Versions,
};

/// The most lost appends that are told.
pub(super) const LOST_MAX: usize = 8;
/// The most anomalies of a kind that are told.
const TOLD_MAX: usize = 3;
/// The most elements of a list that are shown.
const ELEMENTS_MAX: usize = 8;
/// The most steps of a transaction that are shown.
const STEPS_MAX: usize = 12;

/// The anomalies of a history in words, the most severe first.
pub(super) fn explain(
    history: &TransactionHistory,
    versions: &Versions,
    anomalies: &Anomalies,
) -> Vec<ReportedAnomaly> {
    if anomalies.found.is_empty() {
        return Vec::new();
    }
    let edges = Edges::new(history, versions);
    let own = vec![Own::default(); history.keys()];
    let (registers, _) = match history.workload() {
        Some(Workload::Registers) => registers::observe(history, versions),
        _ => (Registers::default(), Anomalies::default()),
    };
    let mut explainer = Explainer { history, versions, edges, registers, own };
    let mut sorted: Vec<&Anomaly> = anomalies.found.iter().collect();
    sorted.sort_by_key(|anomaly| (anomaly.kind, anomaly.order));
    let mut reported = Vec::new();
    for same in sorted.chunk_by(|one, other| one.kind == other.kind) {
        for anomaly in &same[..same.len().min(TOLD_MAX)] {
            let Told { transactions, text, edges } = explainer.text(&anomaly.evidence);
            reported.push(ReportedAnomaly {
                name: name(anomaly),
                count: anomalies.counts[&anomaly.kind],
                shown: transactions.iter().map(|number| explainer.shown(*number)).collect(),
                transactions,
                text,
                edges,
                meaning: anomaly.kind.meaning().to_owned(),
                rules_out: rules_out(anomaly),
            });
        }
    }
    reported
}

/// The name of an anomaly, with a suffix for what it needs besides dependencies.
fn name(anomaly: &Anomaly) -> String {
    let suffix = match anomaly.order {
        Order::Dependencies => "",
        Order::Process => "-process",
        Order::RealTime => "-realtime",
    };
    format!("{}{suffix}", anomaly.kind.name())
}

/// The weakest levels that an anomaly rules out.
fn rules_out(anomaly: &Anomaly) -> Vec<String> {
    let is_out = |base: &BaseLevel| base.forbids(anomaly.kind);
    let out: Vec<BaseLevel> = BaseLevel::ALL.into_iter().filter(is_out).collect();
    let is_weakest =
        |base: &&BaseLevel| !out.iter().any(|other| other != *base && base.implies(*other));
    let level = |base: &BaseLevel| Level { base: *base, order: anomaly.order }.to_string();
    out.iter().filter(is_weakest).map(level).collect()
}

/// Why no commit order is of a level of Biswas and Enea, in words.
pub(super) fn commit_cycle(history: &TransactionHistory, cycle: &CommitCycle) -> String {
    let level = crate::levels::Level::Axiomatic(cycle.level);
    let mut text = format!("{level} is ruled out: no order of commits is possible");
    for CommitEdge { from, to, why } in &cycle.edges {
        let to = match *to {
            NONE => "the first state".to_owned(),
            to => format!("T{to}"),
        };
        let why = match *why {
            Why::Session => "it is earlier in the session".to_owned(),
            Why::Read => format!("{to} reads what it wrote"),
            Why::Visible { reader, key } => {
                let key = history.key_name(key);
                format!(
                    "T{reader} reads {key} of {to} although T{from}, which it sees, wrote {key} too"
                )
            }
        };
        // Writing to a string cannot fail.
        let _ = write!(text, "\nT{from} comes before {to}: {why}");
    }
    text
}

/// What is told of an anomaly.
struct Told {
    transactions: Vec<u32>,
    text: String,
    edges: Vec<ShownEdge>,
}

struct Explainer<'h> {
    history: &'h TransactionHistory,
    versions: &'h Versions,
    edges: Edges<'h>,
    registers: Registers,
    own: Vec<Own>,
}

impl Explainer<'_> {
    /// The transactions of an anomaly, and what happened.
    fn text(&mut self, evidence: &Evidence) -> Told {
        let history = self.history;
        let named = |element: u32| {
            let key = history.key_name(history.elements[element as usize].key);
            (key, history.element_text(element), history.elements[element as usize].writer)
        };
        let (transactions, sentence) = match evidence {
            Evidence::Cycle(cycle) => return self.cycle(cycle),
            Evidence::Read { reader, element } => {
                let (key, element, writer) = named(*element);
                match writer {
                    NONE => {
                        let text =
                            format!("T{reader} read {element} from {key}, which nobody wrote");
                        (vec![*reader], text)
                    }
                    _ => {
                        let how = match history.transactions[writer as usize].outcome {
                            Outcome::Fail => "which failed",
                            _ => "which wrote to it again",
                        };
                        let text = format!(
                            "T{reader} read {element} from {key}, written by T{writer}, {how}"
                        );
                        (vec![writer, *reader], text)
                    }
                }
            }
            Evidence::Own { reader, key, length } => {
                let key = history.key_name(*key);
                let text = format!(
                    "T{reader} read {length} elements from {key}, which do not end in exactly what it had \
                     appended before"
                );
                (vec![*reader], text)
            }
            Evidence::OwnValue { reader, written, value } => {
                let (key, written, _) = named(*written);
                let value = match *value {
                    NONE => "nothing".to_owned(),
                    value => history.element_text(value),
                };
                let text = format!("T{reader} wrote {written} to {key} and then read {value}");
                (vec![*reader], text)
            }
            Evidence::Misplaced { writer, element } => {
                let (key, element, _) = named(*element);
                let text = format!(
                    "T{writer} appended {element} to {key}, which is out of place: its earlier read has \
                     it, or its earlier append comes after it"
                );
                (vec![*writer], text)
            }
            Evidence::OnTop { aborted, element } => {
                let (key, below, failed) = named(*aborted);
                let (_, above, writer) = named(*element);
                let text = format!(
                    "T{writer} appended {above} to {key} after {below}, which T{failed} appended, and T{failed} \
                     failed"
                );
                (vec![failed, writer], text)
            }
            Evidence::Divergent { at } => {
                let divergence = &history.divergences[*at as usize];
                let list = &history.lists[divergence.key as usize];
                let text = format!(
                    "T{} read {} = {}, but others read {}",
                    divergence.transaction,
                    history.key_name(divergence.key),
                    self.list(&divergence.elements),
                    self.list(list)
                );
                (vec![divergence.transaction], text)
            }
            Evidence::Twice { reader, element } => {
                let (key, element, writer) = named(*element);
                let who = reader.map_or("a transaction".to_owned(), |reader| format!("T{reader}"));
                let text =
                    format!("{who} read {element} twice in {key}; T{writer} appended it once");
                (reader.iter().copied().chain([writer]).filter(|one| *one != NONE).collect(), text)
            }
            Evidence::TwoVersions { value, given: [one, other] } => {
                let (key, value, _) = named(*value);
                let text = format!(
                    "the system told T{} that {key} = {value} is version {}, and T{} that it is version {}",
                    one.to, one.version, other.to, other.version
                );
                (vec![one.to, other.to], text)
            }
            Evidence::TwoValues { values } => {
                let told = |value: u32| {
                    let (_, text, _) = named(value);
                    history.given(value).map(|given| (text, given))
                };
                let [Some((one, first)), Some((other, second))] = values.map(told) else {
                    return Told {
                        transactions: Vec::new(),
                        text: String::new(),
                        edges: Vec::new(),
                    };
                };
                let (key, _, _) = named(values[0]);
                let text = format!(
                    "the system told T{} that version {} of {key} is {one}, and T{} that it is {other}",
                    first.to, first.version, second.to
                );
                (vec![first.to, second.to], text)
            }
            Evidence::Updates { transactions: [one, other], key, version }
                if history.workload() == Some(Workload::Registers) =>
            {
                let text = format!(
                    "T{one} and T{other} both read {key} = {}, and both wrote {key}",
                    self.value(*version),
                    key = history.key_name(*key)
                );
                (vec![*one, *other], text)
            }
            Evidence::Updates { transactions: [one, other], key, version } => {
                let list = &history.lists[*key as usize][..*version as usize];
                let text = format!(
                    "T{one} and T{other} both read {key} = {}, and both appended to {key}",
                    self.list(list),
                    key = history.key_name(*key)
                );
                (vec![*one, *other], text)
            }
        };
        let mut text = sentence;
        let mut transactions = transactions;
        transactions.dedup();
        for transaction in &transactions {
            // Writing to a string cannot fail.
            let _ = write!(text, "\n{}", self.line(*transaction));
        }
        Told { transactions, text, edges: Vec::new() }
    }

    /// A list, the end of it if it is long.
    fn list(&self, elements: &[u32]) -> String {
        let skipped = elements.len().saturating_sub(ELEMENTS_MAX);
        let mut texts: Vec<String> =
            elements[skipped..].iter().map(|element| self.history.element_text(*element)).collect();
        if skipped > 0 {
            texts.insert(0, format!("...{skipped} more"));
        }
        format!("[{}]", texts.join(" "))
    }

    /// A transaction as it was observed.
    fn shown(&self, number: u32) -> ShownTransaction {
        let history = self.history;
        let transaction = history.transactions[number as usize];
        let process = history.processes[transaction.process as usize];
        let mut steps: Vec<String> =
            history.steps(number).take(STEPS_MAX).map(|step| self.step(step)).collect();
        let more = history.steps(number).count() - steps.len();
        if more > 0 {
            steps.push(format!("and {more} more"));
        }
        ShownTransaction {
            number,
            process: match history.process_names.get(&process) {
                Some(name) => name.clone(),
                None => process.to_string(),
            },
            invoked: transaction.invoked,
            returned: (transaction.returned != NONE).then_some(transaction.returned),
            outcome: match transaction.outcome {
                Outcome::Ok => "ok",
                Outcome::Fail => "fail",
                Outcome::Info => "info",
            },
            steps,
        }
    }

    /// A transaction in a line: number, process, events and steps.
    fn line(&self, number: u32) -> String {
        let ShownTransaction { process, invoked, returned, outcome, steps, .. } =
            self.shown(number);
        let end = match (outcome, returned) {
            (_, None) => "never returned".to_owned(),
            ("ok", Some(returned)) => returned.to_string(),
            (outcome, Some(returned)) => format!("{returned} {outcome}"),
        };
        format!("T{number}  process {process}, events {invoked} to {end}: {}", steps.join(", "))
    }

    fn step(&self, step: Step) -> String {
        let history = self.history;
        match step {
            Step::Append { key, element } => {
                format!("append {} {}", history.key_name(key), history.element_text(element))
            }
            Step::Write { key, value } => {
                let version = self.version(Some(value));
                format!("write {} {}{version}", history.key_name(key), history.element_text(value))
            }
            Step::List { key, length } => {
                let list = &history.lists[key as usize][..length as usize];
                format!("read {} = {}", history.key_name(key), self.list(list))
            }
            Step::Divergent { key, at } => {
                let list = &history.divergences[at as usize].elements;
                format!("read {} = {}", history.key_name(key), self.list(list))
            }
            Step::Register { key, value } => {
                let version = self.version(value);
                let value = value.map_or("nil".to_owned(), |value| history.element_text(value));
                format!("read {} = {value}{version}", history.key_name(key))
            }
            Step::Unread { key } => format!("read {}", history.key_name(key)),
        }
    }

    /// A cycle as a drawing: the transactions below one another, and each edge in words between them.
    fn cycle(&mut self, cycle: &Cycle) -> Told {
        let transactions: Vec<u32> = cycle.edges.iter().map(|(node, _)| *node).collect();
        let mut text = match (cycle.is_shortest, transactions.len()) {
            (true, count) => format!("a cycle of {count} transactions, and none is shorter"),
            (false, count) => format!("a cycle of {count} transactions"),
        };
        let mut edges = Vec::new();
        for (at, (from, kind)) in cycle.edges.iter().enumerate() {
            let to = transactions[(at + 1) % transactions.len()];
            let is_last = at + 1 == transactions.len();
            let corner = if at == 0 { "╭─▶ " } else { "│   " };
            let why = self.edge(*from, to, *kind);
            let kind = match kind {
                EdgeKind::Ww => "ww",
                EdgeKind::Wr => "wr",
                EdgeKind::Rw | EdgeKind::Onward => "rw",
                EdgeKind::Process => "process",
                EdgeKind::RealTime => "real time",
            };
            let arrow = if is_last { "╰───╯ to T" } else { "│    ▼" };
            let _ = write!(text, "\n{corner}{}\n│    │ {kind}: {why}\n{arrow}", self.line(*from));
            if is_last {
                let _ = write!(text, "{to}");
            }
            edges.push(ShownEdge { from: *from, to, kind, why });
        }
        Told { transactions, text, edges }
    }

    /// Why one transaction comes before another: the two operations that prove it.
    fn edge(&mut self, from: u32, to: u32, kind: EdgeKind) -> String {
        let history = self.history;
        let transaction = |number: u32| history.transactions[number as usize];
        match kind {
            EdgeKind::Process => format!("T{to} follows T{from} in its process"),
            EdgeKind::RealTime => format!(
                "T{from} returned (event {}) before T{to} was invoked (event {})",
                transaction(from).returned,
                transaction(to).invoked
            ),
            _ if history.workload() == Some(Workload::Registers) => {
                self.register_edge(from, to, kind)
            }
            EdgeKind::Ww => self.write_write(from, to),
            EdgeKind::Wr => self.write_read(from, to),
            EdgeKind::Rw | EdgeKind::Onward => self.read_write(from, to),
        }
    }

    /// The steps of a transaction, compared with its own appends.
    fn observed(&mut self, transaction: u32) -> Vec<Observed> {
        let mut steps = Vec::new();
        self.own.fill(Own::default());
        observe_one(self.history, self.versions, transaction, &mut self.own, &mut |_, step| {
            steps.push(step);
        });
        steps
    }

    /// The version of a value of a register, if the system told one.
    fn version(&self, value: Option<u32>) -> String {
        let given = value.and_then(|value| self.history.given(value));
        given.map_or(String::new(), |given| format!(" (version {})", given.version))
    }

    /// A value of a register, or that it was never written.
    fn value(&self, value: u32) -> String {
        if value == NONE { "nil".to_owned() } else { self.history.element_text(value) }
    }

    /// Why one transaction on registers comes before another.
    fn register_edge(&self, from: u32, to: u32, kind: EdgeKind) -> String {
        let history = self.history;
        let reads = |number: u32| {
            self.registers.reads.iter().filter(move |read| read.transaction == number)
        };
        if kind == EdgeKind::Wr {
            let is_it = |read: &&ExternalRead| {
                read.value != NONE && history.elements[read.value as usize].writer == from
            };
            let Some(read) = reads(to).find(is_it) else { return String::new() };
            let (key, value) = (history.key_name(read.key), self.value(read.value));
            return format!("T{from} wrote {key} = {value}, and T{to} read it");
        }
        if kind == EdgeKind::Ww {
            return self.given_write_write(from, to);
        }
        if let Some(why) = reads(from).find_map(|read| self.given_read_write(read, to)) {
            return why;
        }
        let edges = |order| RegisterEdges::new(history, self.versions, &self.registers, order);
        for read in reads(from) {
            for order in Order::ALL {
                let mut is_it = false;
                edges(order).successors(read.key, read.value, &mut |next| is_it |= next == to);
                if !is_it {
                    continue;
                }
                let (key, value) = (history.key_name(read.key), self.value(read.value));
                let why = match order {
                    _ if read.value == NONE => "which nobody had written",
                    Order::Dependencies => "the version that it had read itself",
                    Order::Process => "after it in the process of its writer",
                    Order::RealTime => "after its writer had returned",
                };
                return format!("T{from} read {key} = {value}, and T{to} wrote {key}, {why}");
            }
        }
        String::new()
    }

    /// Two writes whose order the system tells by their versions.
    fn given_write_write(&self, from: u32, to: u32) -> String {
        let history = self.history;
        let mut why = String::new();
        let writer = |value: u32| history.elements[value as usize].writer;
        self.registers.given.neighbours(|key, [one, other]| {
            if writer(one) == from && writer(other) == to && why.is_empty() {
                why = format!(
                    "T{from} wrote {key} = {}{}, and T{to} wrote {key} = {}{}: so says the system",
                    self.value(one),
                    self.version(Some(one)),
                    self.value(other),
                    self.version(Some(other)),
                    key = history.key_name(key)
                );
            }
        });
        why
    }

    /// A read of a version before one that the system tells to be the next.
    fn given_read_write(&self, read: &ExternalRead, to: u32) -> Option<String> {
        let history = self.history;
        let next = self.registers.given.after(history, read.key, read.value)?;
        (history.elements[next as usize].writer == to).then(|| {
            let why = match read.value {
                NONE => "which nobody had written",
                _ => "the next version: so says the system",
            };
            format!(
                "T{} read {key} = {}{}, and T{to} wrote {key} = {}{}, {why}",
                read.transaction,
                self.value(read.value),
                self.version(Some(read.value).filter(|value| *value != NONE)),
                self.value(next),
                self.version(Some(next)),
                key = history.key_name(read.key)
            )
        })
    }

    fn write_write(&mut self, from: u32, to: u32) -> String {
        let history = self.history;
        let steps = self.observed(to);
        let proof = steps.into_iter().find_map(|step| match step {
            Observed::Append { key, element, position, .. } => {
                let is_it = self.edges.predecessor(key, position) == Some(from);
                is_it.then_some((key, element, position))
            }
            _ => None,
        });
        let Some((key, element, position)) = proof else { return String::new() };
        let certain = self.versions.keys[key as usize].certain;
        let before = self.versions.before(history, key, position.min(certain));
        let before = before.map_or(String::new(), |before| history.element_text(before));
        let (name, element) = (history.key_name(key), history.element_text(element));
        if position == NONE {
            format!(
                "T{from} appended {before} to {name}, the last element that a read returned; T{to} appended \
                 {element} to it, which no read returned, so it comes later"
            )
        } else {
            format!("T{from} appended {before} to {name} before T{to} appended {element} to it")
        }
    }

    fn write_read(&mut self, from: u32, to: u32) -> String {
        let history = self.history;
        let steps = self.observed(to);
        let proof = steps.into_iter().find_map(|step| match step {
            Observed::Read { key, external, .. } => {
                let certain = self.versions.keys[key as usize].certain;
                let last = self.versions.before(history, key, external.min(certain))?;
                (history.elements[last as usize].writer == from).then_some((key, last, external))
            }
            _ => None,
        });
        let Some((key, last, external)) = proof else { return String::new() };
        let list = self.list(&history.lists[key as usize][..external as usize]);
        let (name, last) = (history.key_name(key), history.element_text(last));
        format!("T{from} appended {last} to {name}, and T{to} read it: {name} = {list}")
    }

    fn read_write(&mut self, from: u32, to: u32) -> String {
        let history = self.history;
        let steps = self.observed(from);
        let proof = steps.into_iter().find_map(|step| match step {
            Observed::Read { key, external, .. } => {
                let mut is_it = false;
                self.edges.edges_of_read(from, key, external, &mut |_, target, kind| {
                    let is_unread = || self.versions.unread(key).binary_search(&to).is_ok();
                    let is_end = target >= self.edges.transactions() && is_unread();
                    is_it |= kind == EdgeKind::Rw && (target == to || is_end);
                });
                is_it.then_some((key, external))
            }
            _ => None,
        });
        let Some((key, external)) = proof else { return String::new() };
        let list = self.list(&history.lists[key as usize][..external as usize]);
        let name = history.key_name(key);
        match self.versions.after(history, key, external) {
            Some(next) => {
                let next = history.element_text(next);
                format!("T{from} read {name} = {list}, before T{to} appended {next} to it")
            }
            None => {
                let appended = history.steps(to).find_map(|step| match step {
                    Step::Append { key: of, element } if of == key => {
                        let is_unread = self.versions.positions[element as usize] == NONE;
                        is_unread.then(|| history.element_text(element))
                    }
                    _ => None,
                });
                let appended = appended.unwrap_or_default();
                format!(
                    "T{from} read {name} = {list}, the longest list that was read, before T{to} appended \
                     {appended} to it"
                )
            }
        }
    }
}
