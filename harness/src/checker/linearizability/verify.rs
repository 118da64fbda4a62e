//! Whether an order of operations shows that a history is linearizable. Independent of how the
//! order was found, and small enough to be believed.

/// Judges an order of operations, given by their places. `times` are invocation and return of each
/// operation, the return none if it never came; `apply` does the operation at a place to the
/// object, and says whether it answers what was observed.
///
/// # Errors
/// In words, what is wrong with the order.
pub fn verify(
    times: impl ExactSizeIterator<Item = (u64, Option<u64>)>,
    order: &[u32],
    mut apply: impl FnMut(u32) -> bool,
) -> Result<(), String> {
    let times: Vec<_> = times.collect();
    let mut happened = vec![false; times.len()];
    let mut latest = 0;
    for &place in order {
        let Some(&(invoked, returned)) = times.get(place as usize) else {
            return Err(format!("there is no operation {place}"));
        };
        if std::mem::replace(&mut happened[place as usize], true) {
            return Err(format!("operation {place} happens twice"));
        }
        if returned.is_some_and(|returned| returned < latest) {
            return Err(format!("operation {place} comes after one that was invoked after it"));
        }
        latest = latest.max(invoked);
        if !apply(place) {
            return Err(format!("operation {place} answers something else there"));
        }
    }
    match times.iter().zip(happened).position(|((_, end), happened)| end.is_some() && !happened) {
        Some(place) => Err(format!("operation {place} returned and does not happen")),
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
            (&[1, 0], 0, "invoked after it"),
            (&[0], 0, "does not happen"),
            (&[0, 0, 1], 1, "twice"),
            (&[0, 7], 1, "no operation 7"),
        ] {
            assert!(judge(order, found).expect_err(reason).contains(reason));
        }
    }
}
