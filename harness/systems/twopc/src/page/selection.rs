//! Selects the transactions whose messages the page shows, and the journal lines that it quotes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use checker::Reference;
use report::SectionRequest;
use system::protocol::{Node, TxnId};

use super::LockInterval;
use crate::checks::{Run, version_of};

/// The most transactions that are traced.
const TRACES_MAX: usize = 240;

/// How many of them are those that were in doubt the longest.
const LONGEST_IN_DOUBT: usize = 60;

/// About how many are ordinary ones, spread over the run.
const ORDINARY: usize = 20;

/// FactKind to read from the journals.
#[derive(Clone, Debug, Default)]
pub(super) struct Selection {
    /// The transactions to trace.
    pub(super) transactions: BTreeSet<TxnId>,
    /// The lines to quote.
    pub(super) lines: BTreeSet<(Node, usize)>,
    /// The transaction to show first.
    pub(super) first: Option<TxnId>,
}

impl Selection {
    /// Selects what violations refer to, then what counterexamples and faults are about, then
    /// transactions that were long in doubt, and a few ordinary ones.
    pub(super) fn of(
        run: &Run,
        request: &SectionRequest<'_>,
        locks: &BTreeMap<Node, Vec<LockInterval>>,
    ) -> Self {
        let mut selection = Selection::default();
        selection.add_references(run, request.references);
        selection.add_counterexamples(run, request);
        for fault in request.faults {
            if let Some(txn) = fault.txn.as_ref().and_then(|txn| txn.parse().ok()) {
                selection.add(run, txn);
                selection.first.get_or_insert(txn);
            }
        }
        let mut in_doubt: Vec<(i64, TxnId)> =
            locks.values().flatten().map(|lock| (lock.time_in_doubt(), lock.txn)).collect();
        in_doubt.sort_unstable_by(|a, b| b.cmp(a));
        in_doubt.dedup_by_key(|(_, txn)| *txn);
        in_doubt.iter().take(LONGEST_IN_DOUBT).for_each(|(_, txn)| selection.add(run, *txn));
        let known = &run.evidence.transactions.by_id;
        let every = known.len().div_ceil(ORDINARY).max(1);
        known.keys().step_by(every).for_each(|txn| selection.add(run, *txn));
        selection.first = selection.first.or_else(|| selection.transactions.first().copied());
        selection
    }

    fn add(&mut self, run: &Run, txn: TxnId) {
        let known = run.evidence.transactions.by_id.contains_key(&txn);
        if known && self.transactions.len() < TRACES_MAX {
            self.transactions.insert(txn);
        }
    }

    fn add_references(&mut self, run: &Run, references: &[Reference]) {
        let known = &run.evidence.transactions.by_id;
        for reference in references {
            match reference {
                Reference::Transaction(id) => {
                    let Ok(txn) = id.parse() else { continue };
                    self.add(run, txn);
                    if self.first.is_none() && known.contains_key(&txn) {
                        self.first = Some(txn);
                    }
                }
                Reference::JournalLine { node, line } => {
                    self.lines.extend(node.parse().ok().map(|node| (node, *line)));
                }
                Reference::Operation { .. } | Reference::Key(_) | Reference::Node(_) => {}
            }
        }
    }

    /// Adds the transactions that the operations of counterexamples executed.
    fn add_counterexamples(&mut self, run: &Run, request: &SectionRequest<'_>) {
        if request.counterexamples.is_empty() {
            return;
        }
        let writes = run.evidence.transactions.by_id.iter();
        let by_value: HashMap<String, TxnId> = writes
            .filter_map(|(txn, t)| Some((t.write.as_ref()?.value.as_ref()?.to_string(), *txn)))
            .collect();
        for operation in request.counterexamples {
            let by_value =
                || operation.value.as_ref().and_then(|value| by_value.get(value)).copied();
            if let Some(txn) = version_of(operation).or_else(by_value) {
                self.add(run, txn);
                self.first.get_or_insert(txn);
            }
        }
    }
}
