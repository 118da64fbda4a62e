//! Decides which isolation levels a history of transactions satisfies.
//!
//! Transactions append to lists and read them. A list shows the order of the appends to it, so reads tell
//! which transactions depend on which ([`derive`]), and an isolation level forbids certain cycles of
//! dependencies (`levels`). Or they write registers and read them: then the order of the versions is
//! not seen, what is certain about it rules levels out (`registers`), and a search for an order of the
//! transactions shows serializability, or that there is none (`replay`), and one for an execution shows
//! snapshot isolation (`snapshot`). This follows Adya (1999) for the
//! levels, and Elle (Kingsbury and Alvaro, 2020) for the derivation.
//!
//! A transaction that is ok is committed, and one that failed is not. One of unknown outcome is committed,
//! with all its writes, if an ok transaction read any of them; else it is left out, which only makes the
//! history easier to explain. What its own reads returned is no evidence.
//!
//! Verdicts on levels are exact, except where [`Standing::Unknown`] says why not.

mod anomalies;
mod axiomatic;
mod certificate;
mod components;
mod cycles;
mod derive;
mod durability;
mod explain;
mod frontier;
mod given;
mod graph;
mod history;
mod levels;
mod open;
mod registers;
mod replay;
mod saturate;
mod snapshot;
mod versions;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use serde::Serialize;

pub(crate) use self::components::{Components, ShardSink};
use self::{
    anomalies::Anomalies,
    axiomatic::Axiomatic,
    cycles::{CycleKinds, Found},
    derive::Edges,
    graph::{Graph, NODES_MAX},
    registers::{RegisterEdges, Registers},
    replay::Replayed,
    saturate::Ends,
    versions::Versions,
};
pub use self::{
    anomalies::AnomalyKind,
    axiomatic::AxiomaticLevel,
    certificate::{Rejected, verify},
    cycles::Order,
    history::{TransactionHistory, Workload},
    levels::{BaseLevel, Level, Standing},
};
use crate::Validity;

/// Why a level with real time is unknown.
const NO_REAL_TIME: &str =
    "the history does not say which transactions returned before others were invoked";

/// How much work goes into the search for cycles to show, in edges.
const SEARCH_STEPS: u64 = 200_000_000;

/// What was found in a history.
#[derive(Debug)]
pub struct Judged {
    anomalies: Anomalies,
    versions: Versions,
    /// Of registers.
    axiomatic: Option<Axiomatic>,
    /// How much of the order of writes the system told, in words.
    told_versions: Option<String>,
    /// Whether levels with real time can hold.
    has_real_time: bool,
    /// Levels, and what is known of each.
    pub standings: Vec<(Level, Standing)>,
    /// An order of the committed transactions that shows the strongest kind of serializability that
    /// the history has, if it has any.
    pub certificate: Option<Certificate>,
}

/// An order of transactions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Serializable, with what the order respects.
    pub level: Level,
    /// Numbers of transactions, in the order of their invocations.
    pub order: Vec<u32>,
}

/// What decides levels.
struct Decided {
    /// Cycles, by order.
    kinds: [CycleKinds; 3],
    /// Without cycles, too, the order of versions is open.
    is_open: bool,
    /// Whether there is an order of the transactions that explains all reads, by what it respects.
    /// `None`: undecided.
    serializable: [Option<bool>; 3],
    /// Whether there is an execution under snapshot isolation, likewise.
    snapshot_isolated: [Option<bool>; 3],
    certificate: Option<Certificate>,
    /// How much of the order of writes the system told, in words.
    told_versions: Option<String>,
}

/// Judges a history.
///
/// # Errors
/// The history is too large.
pub fn judge(history: &mut TransactionHistory) -> Result<Judged, String> {
    check_size(history)?;
    let versions = Versions::of(history);
    let history = &*history;
    let (anomalies, decided) = match history.workload() {
        Some(Workload::Registers) => judge_registers(history, &versions),
        Some(Workload::ListAppend) | None => judge_lists(history, &versions),
    };
    // Reads that found nothing may be those of registers.
    let axiomatic = (history.workload() != Some(Workload::ListAppend))
        .then(|| axiomatic::decide(history, &versions, reads_are_consistent(&anomalies)));
    let unusable = versions.keys.iter().filter(|key| !key.is_usable).count();
    // In any order of versions: a version that a reader should have seen, and that came after what it read,
    // makes a cycle with one anti-dependency. So the edges that causal consistency asks for are those of
    // writes.
    let is_causal = axiomatic.as_ref().is_none_or(|axiomatic: &Axiomatic| {
        axiomatic.standings[AxiomaticLevel::CausalConsistency as usize] != Standing::RuledOut
    });
    let known = |level: Level| match standing(level, &anomalies, &decided, unusable) {
        Standing::Unknown(_) | Standing::Holds
            if !is_causal
                && level.order >= Order::Process
                && level.base.implies(BaseLevel::ConsistentView) =>
        {
            Standing::RuledOut
        }
        Standing::Holds if level.order == Order::RealTime && !history.has_real_time() => {
            Standing::Unknown(NO_REAL_TIME.to_owned())
        }
        standing => standing,
    };
    let standings = Level::all().map(|level| (level, known(level))).collect();
    let has_real_time = history.has_real_time();
    let certificate = decided.certificate;
    let told_versions = decided.told_versions;
    Ok(Judged {
        anomalies,
        versions,
        axiomatic,
        told_versions,
        has_real_time,
        standings,
        certificate,
    })
}

/// Whether the graph of a history has few enough nodes.
fn check_size(history: &TransactionHistory) -> Result<(), String> {
    let nodes = 2 * history.len() + history.keys();
    if nodes.max(history.micro_ops()) >= NODES_MAX as usize {
        return Err(format!(
            "{} transactions with {} micro-operations are too many: at most {} and {NODES_MAX}",
            history.len(),
            history.micro_ops(),
            NODES_MAX / 2
        ));
    }
    Ok(())
}

/// Decides one level of Biswas and Enea alone, for a history on registers: sooner than [`judge`], which
/// decides everything.
///
/// # Errors
/// The history is too large, or not one on registers.
pub fn judge_axiomatic(
    history: &mut TransactionHistory,
    level: AxiomaticLevel,
) -> Result<Standing, String> {
    check_size(history)?;
    if history.workload() == Some(Workload::ListAppend) {
        return Err(
            "these levels are of transactions on registers, and these are on lists".to_owned()
        );
    }
    let versions = Versions::of(history);
    let (_, anomalies) = registers::observe(history, &versions);
    Ok(match reads_are_consistent(&anomalies) {
        true => axiomatic::decide_one(history, &versions, level),
        false => Standing::RuledOut,
    })
}

/// Whether every read returned what was committed last by whoever it read from, and own writes.
fn reads_are_consistent(anomalies: &Anomalies) -> bool {
    !anomalies.counts.keys().any(|kind| kind.is_of_reads())
}

/// The orders that a history shows.
fn orders(history: &TransactionHistory) -> &'static [Order] {
    if history.has_real_time() { &Order::ALL } else { &Order::ALL[..2] }
}

fn judge_lists(history: &TransactionHistory, versions: &Versions) -> (Anomalies, Decided) {
    let mut anomalies = anomalies::find(history, versions);
    let edges = Edges::new(history, versions);
    let graph = Graph::new(edges.transactions(), edges.nodes(), |emit| edges.each(emit));
    let orders = orders(history);
    let mut order = certificate::order(&graph, Order::RealTime);
    let found = match order {
        Some(_) => Found::nothing(),
        None => {
            let keys = 0..history.keys() as u32;
            let open: Vec<&[u32]> =
                keys.map(|key| versions.unread(key)).filter(|unread| unread.len() > 1).collect();
            cycles::find(&graph, &Order::ALL, &open, SEARCH_STEPS)
        }
    };
    let kinds = found.kinds;
    found.cycles.into_iter().for_each(|cycle| anomalies.add_cycle(cycle));
    let is_anomalous = anomalies
        .counts
        .keys()
        .any(|kind| BaseLevel::Serializable.forbids(*kind) && !kind.is_cycle());
    // What was read of a key that is left out, an order need not explain.
    let is_clean = !is_anomalous && !versions.has_reads_left_out(history);
    let strongest = orders.iter().rev().copied().find(|order| !kinds[*order as usize].any);
    let certificate = strongest.filter(|_| is_clean).and_then(|strongest| {
        let order = match order.take() {
            Some(order) => Some(order),
            None => certificate::order(&graph, strongest),
        };
        order.map(|order| Certificate::new(versions, strongest, order))
    });
    let serializable = kinds.map(|kinds| Some(!kinds.any));
    let decided = Decided {
        kinds,
        is_open: false,
        serializable,
        snapshot_isolated: kinds.map(|kinds| kinds.nonadjacent_in_every_order.map(|is| !is)),
        certificate,
        told_versions: None,
    };
    (anomalies, decided)
}

/// How much work goes into each search for an order of transactions on registers.
const REPLAY_STEPS: u64 = 3_000_000;

fn judge_registers(history: &TransactionHistory, versions: &Versions) -> (Anomalies, Decided) {
    let (registers, mut anomalies) = registers::observe(history, versions);
    let is_clean = anomalies.counts.is_empty();
    let mut decided = Decided {
        kinds: Found::nothing().kinds,
        is_open: !registers.given.are_complete(),
        serializable: [Some(false); 3],
        snapshot_isolated: [Some(false); 3],
        certificate: None,
        told_versions: registers.given.told(),
    };
    let mut cycles = Vec::new();
    for order in orders(history).iter().copied().rev() {
        let edges = RegisterEdges::new(history, versions, &registers, order);
        let transactions = history.len() as u32;
        let graph = Graph::new(transactions, edges.nodes(), |emit| edges.each(emit));
        let mut found = cycles::find(&graph, &[order], &[], SEARCH_STEPS);
        // An anti-dependency may need the order, too.
        found.cycles.iter_mut().for_each(|cycle| cycle.order = order);
        decided.kinds[order as usize] = found.kinds[order as usize];
        cycles.push(found.cycles);
        if !is_clean {
            continue;
        }
        let kinds = found.kinds[order as usize];
        let replayed = match (kinds.any, decided.is_open) {
            (true, _) => Replayed::None,
            // Every version has its place, so this is decided as for lists.
            (false, false) => {
                certificate::order(&graph, order).map_or(Replayed::None, Replayed::Order)
            }
            (false, true) => serialize(history, versions, &registers, &graph),
        };
        if let Replayed::Order(found) = replayed {
            // What was read of a key that is left out, an order need not explain.
            decided.certificate = (!versions.has_reads_left_out(history))
                .then(|| Certificate::new(versions, order, found));
            // It respects every weaker order too.
            decided.serializable[..=order as usize].fill(Some(true));
            decided.snapshot_isolated[..=order as usize].fill(Some(true));
            break;
        }
        if replayed == Replayed::Unknown {
            decided.serializable[order as usize] = None;
        }
        if kinds.nonadjacent || decided.snapshot_isolated[order as usize] == Some(true) {
            continue;
        }
        let is_explained = match decided.is_open {
            false => Some(true),
            true => snapshot::is_explained(history, versions, &registers, &graph, REPLAY_STEPS),
        };
        match is_explained {
            Some(true) => decided.snapshot_isolated[..=order as usize].fill(is_explained),
            _ => decided.snapshot_isolated[order as usize] = is_explained,
        }
    }
    if !history.has_real_time() {
        // What is ruled out with sessions is with real time, too.
        decided.kinds[Order::RealTime as usize] = decided.kinds[Order::Process as usize];
        for known in [&mut decided.serializable, &mut decided.snapshot_isolated] {
            known[Order::RealTime as usize] = known[Order::Process as usize];
        }
    }
    // The weakest order that closes a cycle of a kind is told.
    for cycle in cycles.into_iter().rev().flatten() {
        if !anomalies.has_as_bad(&cycle) {
            anomalies.add_cycle(cycle);
        }
    }
    (anomalies, decided)
}

/// Searches for an order of transactions whose versions are not all ordered.
fn serialize(
    history: &TransactionHistory,
    versions: &Versions,
    registers: &Registers,
    graph: &Graph,
) -> Replayed {
    match saturate::saturate(history, registers, Ends::Together, Cow::Borrowed(graph)) {
        Some(graph) => replay::replay(history, versions, registers, &graph, REPLAY_STEPS),
        None => Replayed::None,
    }
}

impl Certificate {
    fn new(versions: &Versions, order: Order, transactions: Vec<u32>) -> Self {
        let is_committed = |transaction: &u32| versions.is_committed(*transaction);
        Certificate {
            level: Level { base: BaseLevel::Serializable, order },
            order: transactions.into_iter().filter(is_committed).collect(),
        }
    }
}

/// What is known of a level.
fn standing(level: Level, anomalies: &Anomalies, decided: &Decided, unusable: usize) -> Standing {
    let Level { base, order } = level;
    let kinds = &decided.kinds[order as usize];
    let serializable = decided.serializable[order as usize];
    let snapshot_isolated = decided.snapshot_isolated[order as usize];
    let is_anomalous = anomalies.counts.keys().any(|kind| !kind.is_cycle() && base.forbids(*kind));
    let is_cyclic = (kinds.writes && base.forbids(AnomalyKind::G0))
        || (kinds.reads && base.forbids(AnomalyKind::G1c))
        || (kinds.single_in_every_order == Some(true) && base.forbids(AnomalyKind::GSingle))
        || (snapshot_isolated == Some(false) && base.forbids(AnomalyKind::GNonadjacent))
        || ((kinds.any || serializable == Some(false)) && base.forbids(AnomalyKind::G2Item));
    if is_anomalous || is_cyclic {
        return Standing::RuledOut;
    }
    let is_undecided = match base {
        BaseLevel::ConsistentView => {
            let is_open = decided.is_open && snapshot_isolated != Some(true);
            is_open || kinds.single_in_every_order.is_none()
        }
        BaseLevel::SnapshotIsolation => snapshot_isolated.is_none(),
        BaseLevel::RepeatableRead | BaseLevel::Serializable => serializable.is_none(),
        _ => false,
    };
    if is_undecided {
        return Standing::Unknown(
            "the search for cycles, or for an order of writes that no read shows, was ended"
                .to_owned(),
        );
    }
    match unusable {
        0 => Standing::Holds,
        count => Standing::Unknown(format!(
            "{count} keys have a value that is written twice, so nobody knows whose was read"
        )),
    }
}

impl Judged {
    /// What is known of a level.
    #[must_use]
    pub fn standing(&self, level: Level) -> &Standing {
        let found = self.standings.iter().find(|(other, _)| *other == level);
        found.map_or(&Standing::Holds, |(_, standing)| standing)
    }

    /// What is known of a level of Biswas and Enea. `None`: they are those of registers, and the history is
    /// one of lists.
    #[must_use]
    pub fn axiomatic(&self, level: AxiomaticLevel) -> Option<&Standing> {
        self.axiomatic.as_ref().map(|axiomatic| &axiomatic.standings[level as usize])
    }

    /// The strongest levels that hold, or else that are not ruled out.
    #[must_use]
    pub fn strongest(&self) -> Vec<Level> {
        let possible = |(level, standing): &(Level, Standing)| {
            let is_shown = level.order != Order::RealTime || self.has_real_time;
            (is_shown && *standing != Standing::RuledOut).then_some(*level)
        };
        let possible: Vec<Level> = self.standings.iter().filter_map(possible).collect();
        let is_implied =
            |level: &Level| possible.iter().any(|other| other != level && other.implies(*level));
        possible.iter().copied().filter(|level| !is_implied(level)).collect()
    }

    /// The kinds of anomalies that were found, with what each needs besides dependencies, and how many.
    #[must_use]
    pub fn anomalies(&self) -> Vec<(AnomalyKind, Order, usize)> {
        let mut kinds: Vec<_> = self
            .anomalies
            .found
            .iter()
            .map(|anomaly| (anomaly.kind, anomaly.order, self.anomalies.counts[&anomaly.kind]))
            .collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }
}

/// The result of a check in words.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TransactionReport {
    /// The verdict on the claim, or on durability alone if there is none.
    #[serde(skip)]
    pub verdict: Validity,
    /// Number of transactions.
    pub transactions: usize,
    /// Number of micro-operations.
    pub micro_ops: usize,
    /// The level that was claimed.
    pub claim: Option<String>,
    /// The strongest levels that are not ruled out.
    pub strongest: Vec<String>,
    /// The levels that are undecided, with the reason.
    pub undecided: Vec<(String, String)>,
    /// The strongest of Biswas and Enea's levels that is not ruled out, of registers.
    pub strongest_axiomatic: Option<String>,
    /// Why the next stronger one of them is ruled out: a commit order would have a cycle.
    pub commit_cycle: Option<String>,
    /// How much of the order of writes the system itself told by versions, if it told any.
    pub told_versions: Option<String>,
    /// The anomalies.
    pub anomalies: Vec<ReportedAnomaly>,
    /// Acknowledged appends that no process returned in its last read of the key after all of them.
    pub lost: Vec<String>,
    /// Number of them.
    pub lost_total: usize,
}

/// An anomaly in words.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReportedAnomaly {
    /// Its name, with the suffix -process or -realtime.
    pub name: String,
    /// How many there are; of cycles, one of each kind is looked for.
    pub count: usize,
    /// The transactions that show it, by number.
    pub transactions: Vec<u32>,
    /// What happened, for a terminal.
    pub text: String,
    /// These transactions as they were observed.
    pub shown: Vec<ShownTransaction>,
    /// The edges of a cycle, in its order. Empty for an anomaly that is none.
    pub edges: Vec<ShownEdge>,
    /// What the name means.
    pub meaning: String,
    /// The weakest levels that it rules out.
    pub rules_out: Vec<String>,
}

/// A transaction as it was observed, in words.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShownTransaction {
    /// Its number, in the order of the invocations.
    pub number: u32,
    /// The process.
    pub process: String,
    /// Number of the event that invoked it.
    pub invoked: u32,
    /// Number of the event that completed it, if one did.
    pub returned: Option<u32>,
    /// How it completed: ok, fail or info.
    pub outcome: &'static str,
    /// What it did, such as `read x = [1 2]`.
    pub steps: Vec<String>,
}

/// An edge of a cycle, in words.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShownEdge {
    /// Number of the transaction that comes before.
    pub from: u32,
    /// Number of the one that comes after.
    pub to: u32,
    /// ww, wr, rw, process or real time.
    pub kind: &'static str,
    /// The two operations that prove it.
    pub why: String,
}

/// Why a history does not show whether what was acknowledged is durable, beyond the appends that its report
/// tells as lost. `None`: it shows it.
#[must_use]
pub fn durability_unknown_because(history: &TransactionHistory) -> Option<String> {
    durability::unknown_because(history)
}

/// The report on a history, judged by a claim.
#[must_use]
pub fn report(
    history: &TransactionHistory,
    judged: &Judged,
    claim: Option<Level>,
) -> TransactionReport {
    let lost = durability::lost(history);
    let mut verdict = match claim.map(|claim| judged.standing(claim)) {
        None | Some(Standing::Holds) => Validity::Valid,
        Some(Standing::RuledOut) => Validity::Invalid,
        Some(Standing::Unknown(_)) => Validity::Unknown,
    };
    if !lost.is_empty() {
        verdict = Validity::Invalid;
    }
    let axiomatic =
        AxiomaticLevel::ALL.into_iter().filter_map(|level| match judged.axiomatic(level)? {
            Standing::Unknown(why) => {
                Some((crate::levels::Level::Axiomatic(level).name(), why.clone()))
            }
            _ => None,
        });
    let undecided = judged.standings.iter().filter_map(|(level, standing)| match standing {
        Standing::Unknown(why)
            if level.order != Order::RealTime || judged.has_real_time || claim == Some(*level) =>
        {
            Some((level.to_string(), why.clone()))
        }
        _ => None,
    });
    TransactionReport {
        verdict,
        transactions: history.len(),
        micro_ops: history.micro_ops(),
        claim: claim.map(|claim| claim.to_string()),
        strongest: judged.strongest().iter().map(ToString::to_string).collect(),
        undecided: undecided.chain(axiomatic).collect(),
        strongest_axiomatic: AxiomaticLevel::ALL
            .into_iter()
            .rev()
            .find(|level| judged.axiomatic(*level).is_some_and(|it| *it != Standing::RuledOut))
            .map(|level| crate::levels::Level::Axiomatic(level).name()),
        commit_cycle: judged
            .axiomatic
            .as_ref()
            .and_then(|axiomatic| axiomatic.cycle.as_ref())
            .map(|cycle| explain::commit_cycle(history, cycle)),
        told_versions: judged.told_versions.clone(),
        anomalies: explain::explain(history, &judged.versions, &judged.anomalies),
        lost_total: lost.len(),
        lost: lost.into_iter().take(explain::LOST_MAX).map(|lost| lost.text(history)).collect(),
    }
}
