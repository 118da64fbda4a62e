//! A set of small numbers: one word, and more words if needed.

/// A set of small numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct SlotSet {
    first: u64,
    /// Without trailing zeros, so that equal sets compare equal.
    more: Vec<u64>,
}

impl SlotSet {
    pub(super) fn contains(&self, slot: usize) -> bool {
        if slot < 64 {
            return self.first >> slot & 1 == 1;
        }
        self.more.get(slot / 64 - 1).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    pub(super) fn insert(&mut self, slot: usize) {
        if slot < 64 {
            self.first |= 1 << slot;
            return;
        }
        let word = slot / 64 - 1;
        if self.more.len() <= word {
            self.more.resize(word + 1, 0);
        }
        self.more[word] |= 1 << (slot % 64);
    }

    pub(super) fn remove(&mut self, slot: usize) {
        if slot < 64 {
            self.first &= !(1 << slot);
            return;
        }
        if let Some(word) = self.more.get_mut(slot / 64 - 1) {
            *word &= !(1 << (slot % 64));
        }
        while self.more.last() == Some(&0) {
            self.more.pop();
        }
    }

    /// Adds all members of another set.
    pub(super) fn insert_all(&mut self, other: &SlotSet) {
        self.first |= other.first;
        if self.more.len() < other.more.len() {
            self.more.resize(other.more.len(), 0);
        }
        for (word, more) in self.more.iter_mut().zip(&other.more) {
            *word |= more;
        }
    }

    /// Whether every member of both `self` and `of` is in `superset`.
    pub(super) fn intersection_is_subset(&self, of: &SlotSet, superset: &SlotSet) -> bool {
        if self.first & of.first & !superset.first != 0 {
            return false;
        }
        let word = |set: &SlotSet, at: usize| set.more.get(at).copied().unwrap_or(0);
        (0..self.more.len().min(of.more.len()))
            .all(|at| word(self, at) & word(of, at) & !word(superset, at) == 0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn slots(numbers: &BTreeSet<usize>) -> SlotSet {
        let mut slots = SlotSet::default();
        numbers.iter().for_each(|number| slots.insert(*number));
        slots
    }

    fn sets() -> impl Strategy<Value = BTreeSet<usize>> {
        prop::collection::btree_set(0..200_usize, 0..20)
    }

    proptest! {
        #[test]
        fn behaves_as_a_set(a in sets(), b in sets(), c in sets(), number in 0..200_usize) {
            let [x, y, z] = [&a, &b, &c].map(slots);
            prop_assert_eq!(x.contains(number), a.contains(&number));
            prop_assert_eq!(x == y, a == b);
            let both: BTreeSet<usize> = a.intersection(&c).copied().collect();
            prop_assert_eq!(x.intersection_is_subset(&z, &y), both.is_subset(&b));
            let mut all = x.clone();
            all.insert_all(&y);
            prop_assert_eq!(all, slots(&a.union(&b).copied().collect()));
            let mut less = x;
            less.remove(number);
            let mut fewer = a;
            fewer.remove(&number);
            prop_assert_eq!(less, slots(&fewer));
        }
    }
}
