//! Whether an order of operations shows that a history is linearizable. Independent of how the
//! order was found, and small enough to be believed.

use std::fmt;

/// What is wrong with an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The operation, by its place.
    pub place: u32,
    /// What is wrong with it, to be read after its name.
    pub reason: &'static str,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "operation {} {}", self.place, self.reason)
    }
}

/// Judges an order of operations, given by their places. `times` are invocation and return of each
/// operation, the return none if it never came; `apply` does the operation at a place to the
/// object, and says whether it answers what was observed.
///
/// # Errors
/// What is wrong with the order.
pub fn verify(
    times: impl ExactSizeIterator<Item = (u64, Option<u64>)>,
    order: &[u32],
    mut apply: impl FnMut(u32) -> bool,
) -> Result<(), Refusal> {
    let times: Vec<_> = times.collect();
    let mut happened = vec![false; times.len()];
    let mut latest = 0;
    for &place in order {
        let refused = |reason| Err(Refusal { place, reason });
        let Some(&(invoked, returned)) = times.get(place as usize) else {
            return refused("is none of them");
        };
        if std::mem::replace(&mut happened[place as usize], true) {
            return refused("happens twice");
        }
        if returned.is_some_and(|returned| returned < latest) {
            return refused("comes after one that was invoked after it had returned");
        }
        latest = latest.max(invoked);
        if !apply(place) {
            return refused("answers something else there");
        }
    }
    let left = (0..).zip(times.iter().zip(happened));
    match left.into_iter().find(|(_, ((_, end), happened))| end.is_some() && !happened) {
        Some((place, _)) => Err(Refusal { place, reason: "returned and does not happen" }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_judged() {
        // put 1 from 0 to 1, get from 2 to 3, put 2 from 2 for ever.
        let times = [(0, Some(1)), (2, Some(3)), (2, None)];
        let judge = |order: &[u32], found: u32| {
            let mut state = 0;
            verify(times.into_iter(), order, |place| match place {
                0 => {
                    state = 1;
                    true
                }
                1 => state == found,
                _ => {
                    state = 2;
                    true
                }
            })
        };
        assert_eq!(judge(&[0, 1], 1), Ok(()));
        assert_eq!(judge(&[0, 2, 1], 2), Ok(()));
        for (order, found, reason) in [
            (&[0, 1][..], 2, "something else"),
            (&[1, 0], 0, "invoked after it had returned"),
            (&[0], 0, "does not happen"),
            (&[0, 0, 1], 1, "twice"),
            (&[0, 7], 1, "operation 7 is none"),
        ] {
            let refusal = judge(order, found).expect_err(reason).to_string();
            assert!(refusal.contains(reason), "{refusal}");
        }
    }
}
