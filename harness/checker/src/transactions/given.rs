//! The order of a register's versions as the system itself tells it: some systems return the version that a
//! transaction wrote or read, and later versions are greater.
//!
//! A value has the version that its writer was told, or anybody who read it. So a write of unknown outcome has
//! one only if somebody read it, and what was never written has none. A key is *ordered* if every committed
//! transaction that writes it has a version there: then nothing about it is open.
//!
//! Versions are the words of the system that is judged. What they show beyond what clients could see for
//! themselves is only as good as they are; what they contradict in each other is an anomaly of its own, and the
//! versions of that key are not used.

use super::{
    anomalies::{Anomalies, AnomalyKind, Evidence},
    derive::{Rule, applies},
    history::{NONE, Step, TransactionHistory},
    versions::Versions,
};

/// A version, and the transaction that was told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) version: u64,
    pub(super) to: u32,
}

/// The last value that a committed transaction writes to a key, and its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Placed {
    version: u64,
    value: u32,
}

/// The orders of versions that the system tells.
#[derive(Debug, Default)]
pub(super) struct GivenOrders {
    /// By key, where its versions begin, in their order.
    starts: Vec<u32>,
    placed: Vec<Placed>,
    /// By key: whether every committed transaction that writes it has its place.
    ordered: Vec<bool>,
    /// Values that committed transactions leave behind, and how many of them have a version.
    values: usize,
    versioned: usize,
}

impl GivenOrders {
    /// The orders of a history, empty if it has no versions. Adds the contradictions between versions.
    pub(super) fn of(
        history: &TransactionHistory,
        versions: &Versions,
        anomalies: &mut Anomalies,
    ) -> GivenOrders {
        let mut orders = GivenOrders::default();
        if history.given.is_empty() {
            return orders;
        }
        let mut written = last_values(history, versions);
        orders.values = written.len();
        let contradicted = contradictions(history, &mut written, anomalies);
        let keys = history.keys();
        orders.starts = vec![0; keys + 1];
        orders.ordered = vec![true; keys];
        for same in written.chunk_by(|one, other| one.0 == other.0) {
            let key = same[0].0 as usize;
            let told = same.iter().filter_map(|(_, value)| history.given(*value));
            orders.versioned += told.count();
            if contradicted.binary_search(&same[0].0).is_ok() {
                orders.ordered[key] = false;
                continue;
            }
            let before = orders.placed.len();
            orders.placed.extend(same.iter().filter_map(|(_, value)| {
                // A version alone has no order that could be open.
                let version = match history.given(*value) {
                    Some(given) => given.version,
                    None if same.len() == 1 => 0,
                    None => return None,
                };
                Some(Placed { version, value: *value })
            }));
            let count = orders.placed.len() - before;
            orders.ordered[key] = count == same.len();
            orders.starts[key + 1] = count as u32;
        }
        for key in 0..keys {
            orders.starts[key + 1] += orders.starts[key];
        }
        orders
    }

    /// The last values of a key with a version, in the order of their versions.
    fn of_key(&self, key: u32) -> &[Placed] {
        let at = key as usize;
        match self.starts.get(at..at + 2) {
            Some(&[start, end]) => &self.placed[start as usize..end as usize],
            _ => &[],
        }
    }

    /// Whether nothing is open about the order of the versions of a key.
    pub(super) fn is_ordered(&self, key: u32) -> bool {
        self.ordered.get(key as usize).copied().unwrap_or(false)
    }

    /// How much of the order of writes is told, in words; `None` if nothing is.
    pub(super) fn told(&self) -> Option<String> {
        let GivenOrders { values, versioned, .. } = *self;
        if versioned == 0 {
            return None;
        }
        let open = match self.are_complete() {
            true => "so the order of writes is certain as far as they are right",
            false => "and the order of the others is open",
        };
        Some(format!(
            "the system itself told the versions of {versioned} of {values} values that were written, {open}"
        ))
    }

    /// Whether nothing is open about any key.
    pub(super) fn are_complete(&self) -> bool {
        !self.ordered.is_empty() && self.ordered.iter().all(|is_ordered| *is_ordered)
    }

    /// The value after one of a key, [`NONE`] for the register before its first write.
    pub(super) fn after(&self, history: &TransactionHistory, key: u32, value: u32) -> Option<u32> {
        let placed = self.of_key(key);
        let next = match value {
            NONE => 0,
            value => {
                let version = history.given(value)?.version;
                placed.partition_point(|one| one.version <= version)
            }
        };
        placed.get(next).map(|one| one.value)
    }

    /// Calls `each` with a key and two values of it that are neighbours, the earlier one first.
    pub(super) fn neighbours(&self, mut each: impl FnMut(u32, [u32; 2])) {
        for key in 0..self.ordered.len() as u32 {
            for pair in self.of_key(key).windows(2) {
                each(key, [pair[0].value, pair[1].value]);
            }
        }
    }
}

/// Keys and the last values that committed transactions write to them.
fn last_values(history: &TransactionHistory, versions: &Versions) -> Vec<(u32, u32)> {
    let mut written = Vec::new();
    for transaction in versions.committed(history) {
        let start = written.len();
        for step in history.steps(transaction).rev() {
            if let Step::Write { key, value } = step
                && versions.keys[key as usize].is_usable
                && !written[start..].iter().any(|(of, _)| *of == key)
            {
                written.push((key, value));
            }
        }
    }
    written
}

/// Finds versions that contradict each other, and returns the keys where they do, sorted. Sorts the values by
/// key and version.
fn contradictions(
    history: &TransactionHistory,
    written: &mut [(u32, u32)],
    anomalies: &mut Anomalies,
) -> Vec<u32> {
    let mut contradicted = Vec::new();
    let kind = AnomalyKind::IncompatibleVersions;
    written.sort_unstable();
    for (value, other) in &history.given_again {
        let key = history.elements[*value as usize].key;
        if let Some(first) = history.given(*value)
            && written.binary_search(&(key, *value)).is_ok()
            && applies(Rule::OneVersionOfValue)
        {
            let given = [first, *other];
            anomalies.add(kind, Evidence::TwoVersions { value: *value, given });
            contradicted.push(key);
        }
    }
    let version = |value: u32| history.given(value).map(|given| given.version);
    written.sort_unstable_by_key(|(key, value)| (*key, version(*value), *value));
    for pair in written.windows(2) {
        let [(key, one), (other_key, other)] = [pair[0], pair[1]];
        if key == other_key
            && version(one).is_some()
            && version(one) == version(other)
            && applies(Rule::OneValueOfVersion)
        {
            anomalies.add(kind, Evidence::TwoValues { values: [one, other] });
            contradicted.push(key);
        }
    }
    contradicted.sort_unstable();
    contradicted.dedup();
    contradicted
}

impl TransactionHistory {
    /// The version of a value that the system told first.
    pub(super) fn given(&self, value: u32) -> Option<Given> {
        self.given.get(value as usize).copied().filter(|given| given.to != NONE)
    }

    /// Takes the version that a transaction which is ok was told of a value.
    pub(super) fn give(&mut self, value: u32, given: Given) {
        let at = value as usize;
        if self.given.len() <= at {
            self.given.resize(at + 1, Given { version: 0, to: NONE });
        }
        let known = &mut self.given[at];
        if known.to == NONE {
            *known = given;
        } else if known.version != given.version {
            self.given_again.push((value, given));
        }
    }
}
