//! Shards: equal shares of work that is divided among machines. Does not know what the work is.

use std::{fmt, str::FromStr};

/// One of a number of shards. Machines that know only their own shard together do all of the work, and nothing
/// twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard {
    /// The number of the shard, from 1.
    pub number: u32,
    /// The number of shards.
    pub of: u32,
}

impl Default for Shard {
    fn default() -> Self {
        Shard::WHOLE
    }
}

impl Shard {
    /// All of the work.
    pub const WHOLE: Shard = Shard { number: 1, of: 1 };

    /// The shard with this number, from 1. `None`: there is no such shard.
    #[must_use]
    pub fn new(number: u32, of: u32) -> Option<Shard> {
        (1..=of).contains(&number).then_some(Shard { number, of })
    }

    /// Whether the piece of work at this position, from 0, belongs to the shard: pieces are distributed round-robin.
    #[must_use]
    pub fn has(self, position: u64) -> bool {
        position % u64::from(self.of) == u64::from(self.number - 1)
    }

    /// The share of a range of numbers: consecutive ones, from the first up to but not including the second. It is
    /// empty if there are fewer numbers than shards.
    #[must_use]
    pub fn slice(self, from: u64, to: u64) -> (u64, u64) {
        let count = u128::from(to.saturating_sub(from));
        let bound = |shards: u32| from + (count * u128::from(shards) / u128::from(self.of)) as u64;
        (bound(self.number - 1), bound(self.number))
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (number, of) = text.split_once('/')?;
            Shard::new(number.parse().ok()?, of.parse().ok()?)
        };
        parse().ok_or_else(|| {
            format!("'{text}' is not a shard: expected I/N, for example 3/10 for the third of ten")
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shards_cover_all_work_and_nothing_twice(of in 1_u32..40, from in 0_u64..1000, count in 0_u64..200) {
            let shards: Vec<Shard> = (1..=of).map(|number| Shard { number, of }).collect();
            let mut next = from;
            for shard in &shards {
                let (first, end) = shard.slice(from, from + count);
                prop_assert_eq!(first, next);
                prop_assert!(end - first <= count.div_ceil(u64::from(of)));
                next = end;
            }
            prop_assert_eq!(next, from + count);
            for position in 0..count {
                prop_assert_eq!(shards.iter().filter(|shard| shard.has(position)).count(), 1);
            }
        }
    }

    #[test]
    fn the_largest_range_is_divided_without_overflow() {
        let of = u32::MAX;
        assert_eq!(Shard { number: of, of }.slice(0, u64::MAX).1, u64::MAX);
        assert_eq!(Shard::WHOLE.slice(3, u64::MAX), (3, u64::MAX));
    }

    #[test]
    fn shards_are_parsed_from_their_text() {
        for wrong in ["", "1", "0/3", "4/3", "a/b", "1/0"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
        assert_eq!("3/10".parse(), Ok(Shard { number: 3, of: 10 }));
    }
}
