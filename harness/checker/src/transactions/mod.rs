//! Decides which isolation levels a history of transactions satisfies.
//!
//! Transactions append to lists and read them. A list shows the order of the appends to it, so reads tell
//! which transactions depend on which ([`derive`]), and an isolation level forbids certain cycles of
//! dependencies (`levels`). Or they write registers and read them: then the order of the versions is
//! not seen, what is certain about it rules levels out (`registers`), and a search for an order of the
//! transactions shows serializability, or that there is none (`replay`). This follows Adya (1999) for the levels, and Elle (Kingsbury and Alvaro,
//! 2020) for the derivation.
//!
//! A transaction that is ok is committed, and one that failed is not. One of unknown outcome is committed,
//! with all its writes, if an ok transaction read any of them; else it is left out, which only makes the
//! history easier to explain. What its own reads returned is no evidence.
//!
//! Verdicts on levels are exact, except where [`Standing::Unknown`] says why not.

mod anomalies;
mod certificate;
mod cycles;
mod derive;
mod durability;
mod explain;
mod graph;
mod history;
mod levels;
mod open;
mod registers;
mod replay;
mod saturate;
mod versions;

#[cfg(test)]
mod tests;

use serde::Serialize;

use self::{
    anomalies::Anomalies,
    cycles::{CycleKinds, Found},
    derive::Edges,
    graph::{Graph, NODES_MAX},
    registers::RegisterEdges,
    replay::Replayed,
    versions::Versions,
};
pub use self::{
    anomalies::AnomalyKind,
    certificate::{Rejected, verify},
    cycles::Order,
    history::{TransactionHistory, Workload},
    levels::{BaseLevel, Level, Standing},
};
use crate::Validity;

/// How much work goes into the search for cycles to show, in edges.
const SEARCH_STEPS: u64 = 200_000_000;

/// What was found in a history.
#[derive(Debug)]
pub struct Judged {
    anomalies: Anomalies,
    versions: Versions,
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
    certificate: Option<Certificate>,
}

/// Judges a history.
///
/// # Errors
/// The history is too large.
pub fn judge(history: &mut TransactionHistory) -> Result<Judged, String> {
    let nodes = 2 * history.len() + history.keys();
    if nodes.max(history.micro_ops()) >= NODES_MAX as usize {
        return Err(format!(
            "{} transactions with {} micro-operations are too many: at most {} and {NODES_MAX}",
            history.len(),
            history.micro_ops(),
            NODES_MAX / 2
        ));
    }
    let versions = Versions::of(history);
    let history = &*history;
    let (anomalies, decided) = match history.workload() {
        Some(Workload::Registers) => judge_registers(history, &versions),
        _ => judge_lists(history, &versions),
    };
    let unusable = versions.keys.iter().filter(|key| !key.is_usable).count();
    let standings: Vec<(Level, Standing)> = Level::all()
        .map(|level| (level, standing(level, &anomalies, &decided, unusable)))
        .collect();
    Ok(Judged { anomalies, versions, standings, certificate: decided.certificate })
}

fn judge_lists(history: &TransactionHistory, versions: &Versions) -> (Anomalies, Decided) {
    let mut anomalies = anomalies::find(history, versions);
    let edges = Edges::new(history, versions);
    let graph = Graph::new(edges.transactions(), edges.nodes(), |emit| edges.each(emit));
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
    let is_clean = !anomalies
        .counts
        .keys()
        .any(|kind| BaseLevel::Serializable.forbids(*kind) && !kind.is_cycle());
    let strongest = Order::ALL.into_iter().rev().find(|order| !kinds[*order as usize].any);
    let certificate = strongest.filter(|_| is_clean).and_then(|strongest| {
        let order = match strongest {
            Order::RealTime => order.take(),
            weaker => certificate::order(&graph, weaker),
        };
        order.map(|order| Certificate::new(versions, strongest, order))
    });
    let serializable = kinds.map(|kinds| Some(!kinds.any));
    (anomalies, Decided { kinds, is_open: false, serializable, certificate })
}

/// How much work goes into the search for an order of transactions on registers, by order.
const REPLAY_STEPS: u64 = 3_000_000;

fn judge_registers(history: &TransactionHistory, versions: &Versions) -> (Anomalies, Decided) {
    let (registers, mut anomalies) = registers::observe(history, versions);
    let is_clean = anomalies.counts.is_empty();
    let mut decided = Decided {
        kinds: Found::nothing().kinds,
        is_open: true,
        serializable: [Some(false); 3],
        certificate: None,
    };
    let mut cycles = Vec::new();
    for order in Order::ALL.into_iter().rev() {
        let edges = RegisterEdges::new(history, versions, &registers, order);
        let transactions = history.len() as u32;
        let graph = Graph::new(transactions, edges.nodes(), |emit| edges.each(emit));
        let mut found = cycles::find(&graph, &[order], &[], SEARCH_STEPS);
        // An anti-dependency may need the order, too.
        found.cycles.iter_mut().for_each(|cycle| cycle.order = order);
        decided.kinds[order as usize] = found.kinds[order as usize];
        cycles.push(found.cycles);
        if !is_clean || found.kinds[order as usize].any {
            continue;
        }
        let replayed = match saturate::saturate(history, &registers, graph) {
            Some(graph) => replay::replay(history, versions, &registers, &graph, REPLAY_STEPS),
            None => Replayed::None,
        };
        match replayed {
            Replayed::Order(found) => {
                decided.certificate = Some(Certificate::new(versions, order, found));
                // It respects every weaker order too.
                decided.serializable[..=order as usize].fill(Some(true));
                break;
            }
            Replayed::None => {}
            Replayed::Unknown => decided.serializable[order as usize] = None,
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
    let is_anomalous = anomalies.counts.keys().any(|kind| !kind.is_cycle() && base.forbids(*kind));
    let is_cyclic = (kinds.writes && base.forbids(AnomalyKind::G0))
        || (kinds.reads && base.forbids(AnomalyKind::G1c))
        || (kinds.single_in_every_order == Some(true) && base.forbids(AnomalyKind::GSingle))
        || (kinds.nonadjacent_in_every_order == Some(true)
            && base.forbids(AnomalyKind::GNonadjacent))
        || ((kinds.any || serializable == Some(false)) && base.forbids(AnomalyKind::G2Item));
    if is_anomalous || is_cyclic {
        return Standing::RuledOut;
    }
    let is_open = decided.is_open && serializable != Some(true);
    let is_undecided = match base {
        BaseLevel::ConsistentView => is_open || kinds.single_in_every_order.is_none(),
        BaseLevel::SnapshotIsolation => is_open || kinds.nonadjacent_in_every_order.is_none(),
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

    /// The strongest levels that hold, or else that are not ruled out.
    #[must_use]
    pub fn strongest(&self) -> Vec<Level> {
        let possible = |(level, standing): &(Level, Standing)| {
            (*standing != Standing::RuledOut).then_some(*level)
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
    /// The anomalies.
    pub anomalies: Vec<ReportedAnomaly>,
    /// Acknowledged appends that no later read returned.
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
    /// What happened.
    pub text: String,
    /// What the name means.
    pub meaning: String,
    /// The weakest levels that it rules out.
    pub rules_out: Vec<String>,
}

/// The report on a history, judged by a claim.
#[must_use]
pub fn report(
    history: &TransactionHistory,
    judged: &Judged,
    claim: Option<Level>,
) -> TransactionReport {
    let lost = durability::lost(history, &judged.versions);
    let mut verdict = match claim.map(|claim| judged.standing(claim)) {
        None | Some(Standing::Holds) => Validity::Valid,
        Some(Standing::RuledOut) => Validity::Invalid,
        Some(Standing::Unknown(_)) => Validity::Unknown,
    };
    if !lost.is_empty() {
        verdict = Validity::Invalid;
    }
    let undecided = judged.standings.iter().filter_map(|(level, standing)| match standing {
        Standing::Unknown(why) => Some((level.to_string(), why.clone())),
        _ => None,
    });
    TransactionReport {
        verdict,
        transactions: history.len(),
        micro_ops: history.micro_ops(),
        claim: claim.map(|claim| claim.to_string()),
        strongest: judged.strongest().iter().map(ToString::to_string).collect(),
        undecided: undecided.collect(),
        anomalies: explain::explain(history, &judged.versions, &judged.anomalies),
        lost_total: lost.len(),
        lost: lost.into_iter().take(explain::LOST_MAX).map(|lost| lost.text(history)).collect(),
    }
}
