//! Certificates: an order of transactions, and the verifier that replays it.
//!
//! The verifier uses none of what was derived. It applies the transactions one after the other to empty
//! lists, and compares each read with the list at its turn.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use history::Outcome;

use super::{
    cycles::Order,
    graph::{Graph, Kinds},
    history::{NONE, Step, TransactionHistory},
};

/// A topological order of the transactions by all edges up to an order, `None` if there is a cycle.
pub(super) fn order(graph: &Graph, order: Order) -> Option<Vec<u32>> {
    let kinds = Kinds::WW.and(Kinds::WR).and(Kinds::RW).and(order.kinds());
    let mut sorted = Vec::with_capacity(graph.transactions as usize);
    let mut has_cycle = false;
    graph.each_component(kinds, |component| {
        has_cycle |= component.len() > 1;
        if graph.is_transaction(component[0]) {
            sorted.push(component[0]);
        }
    });
    // A component comes after all that it leads to.
    sorted.reverse();
    (!has_cycle).then_some(sorted)
}

/// Why an order is no certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The transaction at which it fails, if it is one.
    pub transaction: Option<u32>,
    /// Why.
    pub reason: String,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transaction {
            Some(number) => write!(f, "T{number} {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

/// Verifies that an order explains a history: every ok transaction is in it once, besides them only
/// transactions of unknown outcome, each read returns the list at its turn, and the order respects
/// sessions, or real time.
///
/// # Errors
/// It does not.
pub fn verify(
    history: &TransactionHistory,
    order: &[u32],
    respects: Order,
) -> Result<(), Rejected> {
    let mut seen = HashSet::new();
    let mut lists: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut registers: HashMap<u32, u32> = HashMap::new();
    let mut last_of_process: HashMap<u32, u32> = HashMap::new();
    let mut latest_invocation = 0;
    for number in order {
        let reject =
            |reason: &str| Err(Rejected { transaction: Some(*number), reason: reason.to_owned() });
        let Some(transaction) = history.transactions.get(*number as usize) else {
            return reject("is not in the history");
        };
        if !seen.insert(*number) {
            return reject("is twice in the order");
        }
        let is_ok = match transaction.outcome {
            Outcome::Ok => true,
            Outcome::Info => false,
            Outcome::Fail => return reject("failed, and cannot take effect"),
        };
        if respects >= Order::Process
            && let Some(before) = last_of_process.insert(transaction.process, *number)
            && before > *number
        {
            return reject("comes after a later transaction of its process");
        }
        if respects == Order::RealTime {
            if transaction.returned != NONE && is_ok && transaction.returned < latest_invocation {
                return reject("comes after a transaction that was invoked after it had returned");
            }
            latest_invocation = latest_invocation.max(transaction.invoked);
        }
        for step in history.steps(*number) {
            let (key, read) = match step {
                Step::Append { key, element } => {
                    lists.entry(key).or_default().push(element);
                    continue;
                }
                Step::Write { key, value } => {
                    registers.insert(key, value);
                    continue;
                }
                Step::Register { key, value } => {
                    if is_ok && registers.get(&key) != value.as_ref() {
                        let name = history.key_name(key);
                        return reject(&format!("does not read {name} as it is then"));
                    }
                    continue;
                }
                Step::List { key, length } => {
                    (key, &history.lists[key as usize][..length as usize])
                }
                Step::Divergent { key, at } => {
                    (key, history.divergences[at as usize].elements.as_slice())
                }
                Step::Unread { .. } => continue,
            };
            if is_ok && lists.get(&key).map_or(&[][..], Vec::as_slice) != read {
                return reject(&format!("does not read {} as it is then", history.key_name(key)));
            }
        }
    }
    let is_missing = |(number, transaction): &(usize, &super::history::Transaction)| {
        transaction.outcome == Outcome::Ok && !seen.contains(&(*number as u32))
    };
    match history.transactions.iter().enumerate().find(is_missing) {
        Some((number, _)) => Err(Rejected {
            transaction: Some(number as u32),
            reason: "is ok and missing from the order".to_owned(),
        }),
        None => Ok(()),
    }
}
