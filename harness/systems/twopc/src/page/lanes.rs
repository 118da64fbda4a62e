//! The lanes of the nodes: lock intervals at replicas, transactions at the master, log forces and starts.

use std::collections::BTreeMap;

use report::sections::{
    Lane, LegendEntry, MarkSeries, MarkShape, Phase, Span, SpanLayout, Swatch, Tone,
};
use system::protocol::{Node, TxnId};

use super::{
    lock_intervals::{LockInterval, MasterTimes, Release},
    run_nodes,
};
use crate::checks::{Run, evidence::FactKind};

/// FactKind the journals show about times at the nodes, in nanoseconds of the history.
pub(super) struct NodeTimes<'a> {
    /// From the request of each force to its completion.
    pub(super) forces: &'a BTreeMap<Node, Vec<(i64, i64)>>,
    pub(super) locks: &'a BTreeMap<Node, Vec<LockInterval>>,
    pub(super) masters: &'a BTreeMap<TxnId, MasterTimes>,
}

/// The legend of the lanes.
pub(super) fn legend() -> Vec<LegendEntry> {
    vec![
        LegendEntry::new(Tone::Pending, Swatch::Area, "PREPARE not durable"),
        LegendEntry::new(Tone::Waiting, Swatch::Area, "in doubt, key locked"),
        LegendEntry::new(Tone::Done, Swatch::Edge, "applied"),
        LegendEntry::new(Tone::Aborted, Swatch::Edge, "aborted"),
        LegendEntry::new(Tone::Io, Swatch::Line, "log force"),
        LegendEntry::new(Tone::Neutral, Swatch::Triangle, "the node starts"),
        LegendEntry::new(Tone::Down, Swatch::Cross, "an outcome that contradicts an earlier one"),
    ]
}

/// A lane for every node that has a journal.
pub(super) fn lanes(
    run: &Run,
    times: &NodeTimes<'_>,
    is_shown: impl Fn(TxnId) -> bool,
) -> Vec<Lane> {
    let with_journal = run_nodes(run).filter(|node| run.evidence.nodes.contains_key(node));
    let lane = |node: Node| {
        let (layout, spans) = match node {
            Node::Master => (master_layout(), master_spans(times.masters, &is_shown)),
            Node::Replica(_) => {
                let locks = times.locks.get(&node).map_or(&[][..], Vec::as_slice);
                (replica_layout(), replica_spans(locks, &is_shown))
            }
        };
        let forces = times.forces.get(&node).cloned().unwrap_or_default();
        let marks = vec![
            MarkSeries { shape: MarkShape::Bar, tone: Tone::Io, intervals: forces },
            MarkSeries {
                shape: MarkShape::Triangle,
                tone: Tone::Neutral,
                intervals: starts(run, node),
            },
            MarkSeries {
                shape: MarkShape::Cross,
                tone: Tone::Down,
                intervals: contradictions(run, node),
            },
        ];
        Lane { name: node.to_string(), layout, spans, marks }
    };
    with_journal.map(lane).collect()
}

/// When a node started.
fn starts(run: &Run, node: Node) -> Vec<(i64, i64)> {
    let facts = run.evidence.nodes.get(&node).into_iter().flat_map(|node| &node.facts);
    let starts = facts.filter(|fact| matches!(fact.kind, FactKind::Started { .. }));
    starts.map(|fact| (fact.position.time, fact.position.time)).collect()
}

/// When a node appended an outcome of a transaction after the opposite one. The key is not locked then, so no
/// span shows it.
fn contradictions(run: &Run, node: Node) -> Vec<(i64, i64)> {
    let mut outcomes: BTreeMap<TxnId, bool> = BTreeMap::new();
    let mut found = Vec::new();
    for fact in run.evidence.nodes.get(&node).into_iter().flat_map(|node| &node.facts) {
        let (txn, is_commit) = match &fact.kind {
            FactKind::Committed(txn) => (*txn, true),
            FactKind::Aborted(txn) => (*txn, false),
            _ => continue,
        };
        if *outcomes.entry(txn).or_insert(is_commit) != is_commit {
            found.push((fact.position.time, fact.position.time));
        }
    }
    found
}

fn replica_layout() -> SpanLayout {
    SpanLayout {
        start: Phase::drawn("key locked, PREPARE appended", Tone::Pending),
        milestones: vec![Phase::drawn("PREPARE durable, in doubt from here", Tone::Waiting)],
        endings: vec![
            Phase::hidden("still locked at the end"),
            Phase::drawn("applied and unlocked", Tone::Done),
            Phase::drawn("aborted and unlocked", Tone::Aborted),
            Phase::drawn("locked when the node crashed", Tone::Down),
        ],
    }
}

fn replica_spans(locks: &[LockInterval], is_shown: &impl Fn(TxnId) -> bool) -> Vec<Span> {
    let span = |lock: &LockInterval| Span {
        transaction: lock.txn.to_string(),
        key: Some(lock.key.to_string()),
        from: lock.from,
        milestones: vec![lock.in_doubt_from],
        to: lock.to,
        // An index of the endings of the layout.
        ending: match lock.release {
            Release::Held => 0,
            Release::Applied => 1,
            Release::Aborted => 2,
            Release::Crashed => 3,
        },
    };
    locks.iter().filter(|lock| is_shown(lock.txn)).map(span).collect()
}

fn master_layout() -> SpanLayout {
    SpanLayout {
        start: Phase::drawn("begun", Tone::Pending),
        milestones: vec![
            Phase::drawn("COMMIT appended", Tone::Waiting),
            Phase::drawn("COMMIT durable, the commit point,", Tone::Done).faint(),
            Phase::hidden("acknowledged by all replicas"),
            Phase::hidden("abort sent"),
        ],
        endings: vec![Phase::default(), Phase::drawn("", Tone::Aborted)],
    }
}

fn master_spans(
    masters: &BTreeMap<TxnId, MasterTimes>,
    is_shown: &impl Fn(TxnId) -> bool,
) -> Vec<Span> {
    let span = |(txn, times): (&TxnId, &MasterTimes)| {
        let milestones =
            vec![times.commit_appended, times.committed, times.acknowledged, times.aborted];
        let steps = milestones.iter().chain([&times.begun]).flatten();
        let (from, to) = (steps.clone().min()?, steps.max()?);
        Some(Span {
            transaction: txn.to_string(),
            key: None,
            from: *from,
            to: *to,
            ending: usize::from(times.aborted.is_some() && times.committed.is_none()),
            milestones,
        })
    };
    masters.iter().filter(|(txn, _)| is_shown(**txn)).filter_map(span).collect()
}
