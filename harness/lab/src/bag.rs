//! A shuffled bag: draws in random order, and every item once before any item again. Short
//! sequences therefore cover all items. Pure.

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Items that are drawn in shuffled rounds.
#[derive(Clone, Debug)]
pub struct ShuffledBag<T> {
    items: Vec<T>,
    /// How many items were drawn since the last shuffle.
    drawn: usize,
}

impl<T: Clone> ShuffledBag<T> {
    /// A bag of these items.
    ///
    /// # Panics
    /// If there are none.
    #[must_use]
    pub fn new(items: Vec<T>) -> Self {
        assert!(!items.is_empty(), "a shuffled bag needs at least one item");
        ShuffledBag { drawn: items.len(), items }
    }

    /// Draws the next item.
    pub fn draw(&mut self, rng: &mut ChaCha8Rng) -> T {
        if self.drawn == self.items.len() {
            self.items.shuffle(rng);
            self.drawn = 0;
        }
        self.drawn += 1;
        self.items[self.drawn - 1].clone()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn every_round_draws_each_item_once_in_varying_order() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut bag = ShuffledBag::new((0..5).collect());
        let mut orders = std::collections::BTreeSet::new();
        for _ in 0..20 {
            let mut round: Vec<i32> = (0..5).map(|_| bag.draw(&mut rng)).collect();
            orders.insert(round.clone());
            round.sort_unstable();
            assert_eq!(round, [0, 1, 2, 3, 4]);
        }
        assert!(orders.len() > 10);
    }
}
