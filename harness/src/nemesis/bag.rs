//! Choices in seeded order that leave nothing out: a bag is dealt to its last card before it is
//! shuffled again. Pure.

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// A bag of cards.
#[derive(Clone, Debug)]
pub(super) struct ShuffledBag<T> {
    cards: Vec<T>,
    /// How many of the cards are dealt since the last shuffle.
    dealt: usize,
}

impl<T: Clone> ShuffledBag<T> {
    /// A bag of these cards, of which there must be one at least.
    pub(super) fn new(cards: Vec<T>) -> Self {
        assert!(!cards.is_empty(), "a bag has cards");
        ShuffledBag { dealt: cards.len(), cards }
    }

    /// The next card.
    pub(super) fn deal(&mut self, rng: &mut ChaCha8Rng) -> T {
        if self.dealt == self.cards.len() {
            self.cards.shuffle(rng);
            self.dealt = 0;
        }
        self.dealt += 1;
        self.cards[self.dealt - 1].clone()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn every_round_deals_every_card_once_and_not_always_in_the_same_order() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut bag = ShuffledBag::new((0..5).collect());
        let mut orders = std::collections::BTreeSet::new();
        for _ in 0..20 {
            let mut round: Vec<i32> = (0..5).map(|_| bag.deal(&mut rng)).collect();
            orders.insert(round.clone());
            round.sort_unstable();
            assert_eq!(round, [0, 1, 2, 3, 4]);
        }
        assert!(orders.len() > 10);
    }
}
