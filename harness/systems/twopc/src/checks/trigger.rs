//! What made a node do what a violation cites: the event that its state machine was processing, and what it
//! knew of the transaction. From the journal of the node, up to the cited line.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use checker::{Cause, Finding, Reference, Results, finding};
use history::Event;
use report::fault_intervals;
use system::{
    journal::{self, Entry},
    protocol::{self, Body, Decision, Effect, Node, PeerKnowledge, Record, TxnId},
};

use super::evidence::{JournalPosition, time_of};

/// The most characters of an event that are shown.
const EVENT_MAX: usize = 120;

/// What a node knows of a transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Knowledge {
    /// The last record about it.
    last: Option<Kind>,
    /// The line of the start at which that record was found in the store, unless it was appended since.
    found_at: Option<usize>,
    /// Something has become durable since that start.
    synced: bool,
}

/// The records that tell how far a transaction has come at a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Prepare,
    Commit,
    Abort,
}

/// The kind of a record, if it is about a transaction and tells how far that has come.
fn kind_of(record: &Record, txn: TxnId) -> Option<Kind> {
    match record {
        Record::Prepare { txn: of, .. } if *of == txn => Some(Kind::Prepare),
        Record::Commit { txn: of } | Record::CommitDecision { txn: of, .. } if *of == txn => {
            Some(Kind::Commit)
        }
        Record::Abort { txn: of } | Record::Refused { txn: of } if *of == txn => Some(Kind::Abort),
        _ => None,
    }
}

/// What made a node do what a line of its journal says, in a sentence. `None`: the violation cites no line of a
/// journal that is there, or the node did it at its start.
///
/// # Errors
/// The journal cannot be read.
pub(super) fn of(
    violation: &Finding,
    journals: &BTreeMap<Node, PathBuf>,
    clock_origin: u64,
) -> io::Result<Option<Finding>> {
    let cited = violation.references().find_map(|reference| match reference {
        Reference::JournalLine { node, line } => Some((node.parse::<Node>().ok()?, *line)),
        _ => None,
    });
    let txn = violation.references().find_map(|reference| match reference {
        Reference::Transaction(id) => id.parse::<TxnId>().ok(),
        _ => None,
    });
    let (Some((node, line)), Some(txn)) = (cited, txn) else { return Ok(None) };
    let Some(path) = journals.get(&node) else { return Ok(None) };
    before(path, node, line, txn, clock_origin)
}

/// The fault that made a cause matter, in a sentence: the first that stopped a node that the cause cites, after it and
/// before the first violation that follows from it.
pub(super) fn fault_after(results: &Results, cause: &Cause, events: &[Event]) -> Option<Finding> {
    let from = cause.finding.at()?;
    let follows = cause.consequences.iter().filter_map(|id| results.violation(id)?.at());
    let until = follows.filter(|at| *at > from).min()?;
    let nodes: Vec<&str> = cause
        .finding
        .subjects()
        .filter_map(|subject| match subject {
            Reference::JournalLine { node, .. } => Some(node.as_str()),
            _ => None,
        })
        .collect();
    let time = |at: u64| i64::try_from(at).unwrap_or(i64::MAX);
    let hit = fault_intervals(events).into_iter().find_map(|fault| {
        let during = (from..=until).contains(&time(fault.from));
        let node = fault.nodes.iter().find(|node| nodes.contains(&node.as_str()))?.clone();
        (during && fault.inactive && !fault.is_exit()).then_some((fault, node))
    });
    let (fault, node) = hit?;
    let (name, action) = (&fault.fault, &fault.action);
    let at = fault.from as f64 / 1e9;
    let who = node.parse().map_or_else(|_| node.clone(), named);
    let text = format!(
        "Then {who} was hit by the fault {name} ({action}), after {at:.3} s; what follows shows after that"
    );
    Some(Finding::from(text).about([Reference::Node(node)]))
}

fn before(
    path: &Path,
    node: Node,
    line: usize,
    txn: TxnId,
    clock_origin: u64,
) -> io::Result<Option<Finding>> {
    let mut event = None;
    let mut known = Knowledge::default();
    for entry in journal::read(path)? {
        let (number, entry) = entry?;
        // The line itself may be the event, or a start, which nothing made the node do.
        if number > line || (number == line && matches!(entry, Entry::Effect(_))) {
            break;
        }
        match entry {
            Entry::Start { records, .. } => {
                event = None;
                let last = records.iter().find_map(|record| kind_of(record, txn));
                known = Knowledge { last, found_at: last.map(|_| number), synced: false };
            }
            Entry::Event { t, event: of } => {
                known.synced |= matches!(of, protocol::Event::Persisted(_));
                let time = time_of(t, clock_origin);
                // What the event makes the node do is no part of what it knew.
                event = Some((JournalPosition { node, line: number, time }, of, known));
            }
            Entry::Effect(Effect::Append(record)) => {
                if let Some(kind) = kind_of(&record, txn) {
                    known = Knowledge { last: Some(kind), found_at: None, ..known };
                }
            }
            Entry::Effect(_) => {}
        }
    }
    Ok(event.map(|(position, event, known)| {
        let what = in_words(&event, txn);
        let (who, state) = (named(node), state(node, txn, known));
        finding!(line(position), nested(state); "{who} did so on {what} ({position}){state}")
    }))
}

pub(super) fn named(node: Node) -> String {
    match node {
        Node::Master => "the master".to_owned(),
        Node::Replica(_) => node.to_string(),
    }
}

fn in_words(event: &protocol::Event, txn: TxnId) -> String {
    let text = match event {
        // That counts, unless it says the same itself.
        protocol::Event::Message { from, message }
            if txn < message.watermark && !is_abort_of(&message.body, txn) =>
        {
            let (from, body, watermark) = (named(*from), &message.body, message.watermark);
            return format!(
                "a message of {from} with the watermark {watermark}, below which every transaction is finished: {}",
                cut(&body.to_string())
            );
        }
        protocol::Event::Message { from, message } => {
            format!("a message of {}: {}", named(*from), message.body)
        }
        protocol::Event::Timer(id) => format!("its timer {id}"),
        protocol::Event::Persisted(_) => "the end of a sync".to_owned(),
        protocol::Event::Client { request, .. } => format!("the call of a client: {request}"),
        other => other.to_string(),
    };
    cut(&text)
}

/// Whether a message says that a transaction is aborted.
fn is_abort_of(body: &Body, txn: TxnId) -> bool {
    match body {
        Body::Decide { txn: of, decision } => *of == txn && *decision == Decision::Abort,
        Body::PeerAnswer { txn: of, answer } => *of == txn && *answer == PeerKnowledge::Abort,
        _ => false,
    }
}

/// The beginning of a long text.
fn cut(text: &str) -> String {
    match text.char_indices().nth(EVENT_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// What the node knew of the transaction, as the end of a sentence.
fn state(node: Node, txn: TxnId, known: Knowledge) -> Finding {
    let Some(last) = known.last else {
        return match node {
            Node::Master => Finding::default(),
            Node::Replica(_) => finding!(transaction(txn); ", without a record of {txn}"),
        };
    };
    if let Some(start) = known.found_at
        && last == Kind::Commit
    {
        let position = JournalPosition { node, line: start, time: 0 };
        let synced = if known.synced { "" } else { ", and had synced nothing since" };
        return finding!(
            line(position);
            "; it had found COMMIT in its store at its start ({position}){synced}"
        );
    }
    match last {
        Kind::Prepare => finding!(transaction(txn); ", with PREPARE of {txn} and no decision"),
        Kind::Commit => finding!(transaction(txn); ", having appended COMMIT of {txn}"),
        Kind::Abort => finding!(transaction(txn); ", having aborted {txn}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The trigger of the violation that a kept run shows first.
    fn kept(rule: &str) -> String {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../histories/golden/caught");
        let directory = root.join(rule);
        let run = super::super::Run::load(&directory).expect("it is kept");
        let results = super::super::check(&run, &checker::Limits::default());
        let cause = results.cause.expect("it is invalid");
        let journals = super::super::find_journals(&directory).expect("they are kept");
        let trigger = of(&cause.finding, &journals, run.parameters.clock_origin);
        trigger.expect("it is read").map_or_else(String::new, |it| it.text().to_owned())
    }

    #[test]
    fn the_step_before_the_wrong_step_tells_what_is_broken() {
        for (rule, text) in [
            ("prepared-waits", "on its timer inquiry-timeout"),
            ("commit-is-final", "on a message of the master: Decide 1.8 abort"),
            ("incarnation-forced", "had found COMMIT in its store at its start"),
            ("no-guess-in-doubt", "uncertain"),
        ] {
            let found = kept(rule);
            assert!(found.contains(text), "{rule}: {found}");
        }
    }
}
