//! Checks whether an order of operations shows that a history is linearizable. Independent of how
//! the order was found, and small enough to be verified by reading.

use std::fmt;

/// What is wrong with an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The operation, by position.
    pub position: u32,
    /// What is wrong with it. Reads as a sentence after the name of the operation.
    pub reason: &'static str,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "operation {} {}", self.position, self.reason)
    }
}

/// Checks an order of operations, given by position. `times` are the invocation and return of each
/// operation, the return `None` if it never came. `apply` applies the operation at a position to
/// the object and tells whether the result is the observed one.
///
/// # Errors
/// The order does not show that the history is linearizable.
pub fn verify(
    times: impl ExactSizeIterator<Item = (u64, Option<u64>)>,
    order: &[u32],
    mut apply: impl FnMut(u32) -> bool,
) -> Result<(), Rejection> {
    let times: Vec<_> = times.collect();
    let mut seen = vec![false; times.len()];
    let mut latest = 0;
    for &position in order {
        let rejected = |reason| Err(Rejection { position, reason });
        let Some(&(invoked, returned)) = times.get(position as usize) else {
            return rejected("is not in the history");
        };
        if std::mem::replace(&mut seen[position as usize], true) {
            return rejected("occurs twice");
        }
        if returned.is_some_and(|returned| returned < latest) {
            return rejected("comes after an operation that was invoked after its return");
        }
        latest = latest.max(invoked);
        if !apply(position) {
            return rejected("returns a different result at this point");
        }
    }
    let rest = (0..).zip(times.iter().zip(seen));
    match rest.into_iter().find(|(_, ((_, end), seen))| end.is_some() && !seen) {
        Some((position, _)) => {
            Err(Rejection { position, reason: "returned but is missing in the order" })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_verified() {
        // put 1 from 0 to 1, get from 2 to 3, put 2 from 2 on without a return.
        let times = [(0, Some(1)), (2, Some(3)), (2, None)];
        let check = |order: &[u32], value: u32| {
            let mut state = 0;
            verify(times.into_iter(), order, |position| match position {
                0 => {
                    state = 1;
                    true
                }
                1 => state == value,
                _ => {
                    state = 2;
                    true
                }
            })
        };
        assert_eq!(check(&[0, 1], 1), Ok(()));
        assert_eq!(check(&[0, 2, 1], 2), Ok(()));
        for (order, value, reason) in [
            (&[0, 1][..], 2, "a different result"),
            (&[1, 0], 0, "invoked after its return"),
            (&[0], 0, "is missing"),
            (&[0, 0, 1], 1, "twice"),
            (&[0, 7], 1, "operation 7 is not in"),
        ] {
            let rejection = check(order, value).expect_err(reason).to_string();
            assert!(rejection.contains(reason), "{rejection}");
        }
    }
}
