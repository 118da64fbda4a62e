//! Selects which operations the timeline of a long run shows.

use std::collections::{BTreeSet, HashMap};

use checker::linearizability::NonLinearizableKey;
use history::{Operation, Outcome};

use super::FaultInterval;

/// The approximate number of operations that a page shows. More make it slow to load.
pub(super) const OPERATIONS_MAX: usize = 150_000;

/// Operations this long before and after the start of a fault are all shown, in nanoseconds.
const NEAR_FAULT: (u64, u64) = (20_000_000, 80_000_000);

/// The last operations of a linearizable prefix that are shown.
const PREFIX_SHOWN: usize = 64;

/// The operations that the timeline shows.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Their numbers in the history, ascending.
    operations: Vec<usize>,
    /// The position of each in `operations`, by number.
    positions: HashMap<usize, usize>,
    /// The sampling interval.
    every: usize,
    /// The number of operations of the run.
    total: usize,
}

impl Sample {
    /// Selects every n-th operation, all operations of counterexamples, all indeterminate ones, and those
    /// near a fault.
    pub(super) fn of(
        operations: &[Operation],
        faults: &[FaultInterval],
        counterexamples: &[NonLinearizableKey],
    ) -> Self {
        let total = operations.len();
        let every = total.div_ceil(OPERATIONS_MAX).max(1);
        let cited: BTreeSet<usize> = counterexamples
            .iter()
            .flat_map(|broken| {
                let numbers = broken.explanation.operations.iter().map(|op| op.number);
                let prefix = broken.prefix.iter().rev().take(PREFIX_SHOWN).copied();
                numbers.chain([broken.breaks_at]).chain(prefix)
            })
            .map(|number| number as usize)
            .collect();
        let (before, after) = NEAR_FAULT;
        let near_fault = |t: u64| {
            let near = |f: &FaultInterval| {
                t.saturating_add(before) >= f.from && t <= f.from.saturating_add(after)
            };
            faults.iter().any(near)
        };
        // Where faults are frequent, nearly everything is near one: the budget bounds the sample.
        let mut budget = total / every / 2;
        let mut selected = Vec::with_capacity(total / every + cited.len());
        for (number, operation) in operations.iter().enumerate() {
            let always = number % every == 0
                || cited.contains(&number)
                || operation.outcome == Outcome::Info;
            if always {
                selected.push(number);
            } else if budget > 0 && near_fault(operation.invoked) {
                budget -= 1;
                selected.push(number);
            }
        }
        let positions = selected.iter().enumerate().map(|(at, number)| (*number, at)).collect();
        Sample { operations: selected, positions, every, total }
    }

    /// The numbers of the selected operations in the history, ascending.
    #[must_use]
    pub fn operations(&self) -> &[usize] {
        &self.operations
    }

    /// Whether the run is short enough to show everything.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.every == 1
    }

    /// The position of an operation among the selected ones.
    pub(super) fn position(&self, number: usize) -> Option<usize> {
        self.positions.get(&number).copied()
    }

    /// A sentence about what is left out.
    pub(super) fn omission(&self) -> Option<String> {
        let Sample { operations, every, total, .. } = self;
        (operations.len() < *total).then(|| {
            format!(
                "the timeline shows {} of {total} operations: one in {every}, and all near faults, in \
                 counterexamples, and with an indeterminate outcome",
                operations.len()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use history::Function;

    fn operation(number: usize) -> Operation {
        let time = number as u64 * 1_000_000;
        Operation {
            process: 0,
            f: Function::Get,
            key: "k".to_owned(),
            value: None,
            outcome: if number == 7 { Outcome::Info } else { Outcome::Ok },
            version: None,
            error: None,
            node: None,
            invoked_index: 2 * number as u64,
            invoked: time,
            returned: Some(time + 1),
            returned_index: Some(2 * number as u64 + 1),
        }
    }

    #[test]
    fn a_short_run_is_shown_completely() {
        let operations: Vec<_> = (0..10).map(operation).collect();
        let sample = Sample::of(&operations, &[], &[]);
        assert_eq!(sample.operations(), (0..10).collect::<Vec<_>>());
        assert!(sample.is_complete() && sample.omission().is_none());
    }

    #[test]
    fn a_long_run_is_sampled_except_near_faults_and_where_the_outcome_is_unknown() {
        let total = 2 * OPERATIONS_MAX + 1;
        let operations: Vec<_> = (0..total).map(operation).collect();
        let fault = FaultInterval { from: 1_000_000_000, ..FaultInterval::default() };
        let sample = Sample::of(&operations, &[fault], &[]);
        let has = |number| sample.position(number).is_some();
        assert!(!sample.is_complete() && sample.omission().is_some());
        assert_eq!([0, 1, 2, 3, 7].map(has), [true, false, false, true, true]);
        assert!((980..=1080).all(has), "all operations near the fault");
        assert!(!has(979) || 979 % 3 == 0);
    }
}
