//! An order of linearization points for a history that tier 1 finds valid: its certificate.
//! Follows the same placement of deletes; knows nothing of verdicts.
//!
//! Each operation is given a slot, and a turn in it. In a slot come first what a forward zone that
//! ends there still has, then backward clusters that must precede a delete, then deletes, then the
//! gets of nothing, then the other backward clusters, and last the put with which a forward zone
//! begins. A backward cluster comes as late as it can, unless nothing must be there at that time:
//! then it comes just before the delete that the gets of nothing see.

use super::{
    key::{KeyHistory, NOTHING, What},
    zones::{Violation, Zones},
};

/// Where an operation comes: slot, turn, value, whether it is a get, place.
type Point = (u32, Turn, u32, bool, u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Held,
    BeforeDelete,
    Delete,
    Nothing,
    Backward,
    Begin,
}

/// The operations that took effect, by their places, in an order that shows that the history is
/// linearizable.
///
/// # Errors
/// It is not.
///
/// # Panics
/// If the values are not unique.
pub fn order(history: &KeyHistory) -> Result<Vec<u32>, Violation> {
    let zones = Zones::new(history)?;
    let mut points: Vec<Point> = Vec::with_capacity(history.ops.len());
    let mut gets: Vec<(u32, i64)> = Vec::new();
    zones.nothing(
        history,
        |delete, slot| points.push((slot, Turn::Delete, NOTHING, false, delete)),
        |get, seen| gets.push((get, seen)),
    )?;
    // From which slot to which nothing must be there, by the slot of the delete.
    let mut empty: Vec<(i64, i64)> = Vec::new();
    let first_free =
        zones.first_free(gets.iter().map(|(get, _)| history.ops[*get as usize].invoked));
    for ((get, seen), from) in gets.into_iter().zip(first_free) {
        let slot = i64::from(from).max(seen);
        if slot > seen {
            empty.push((seen, slot));
        }
        let slot = u32::try_from(slot).expect("the first free slot is not before the start");
        points.push((slot, Turn::Nothing, NOTHING, true, get));
    }
    empty.sort_unstable();
    let backward: Vec<u32> = (0_u32..)
        .zip(&zones.clusters)
        .filter(|(_, cluster)| cluster.is_seen() && !cluster.is_forward())
        .map(|(value, _)| value)
        .collect();
    let latest = zones.latest(backward.iter().copied());
    let mut turns = vec![(0, Turn::Backward); zones.clusters.len()];
    for (value, slot) in backward.into_iter().zip(latest) {
        let before = empty.partition_point(|(seen, _)| *seen <= slot.into());
        // Those of one delete lie together, the longest last.
        let held = before.checked_sub(1).map(|at| empty[at]);
        turns[value as usize] = match held {
            Some((seen, until)) if i64::from(slot) < until => {
                let delete = u32::try_from(seen).expect("rule 5 keeps it from the first nothing");
                (delete, Turn::BeforeDelete)
            }
            _ => (slot, Turn::Backward),
        };
    }
    for (place, op) in (0_u32..).zip(&history.ops) {
        let Some(cluster) = zones.cluster_of(op).filter(|cluster| cluster.is_seen()) else {
            continue;
        };
        let value = op.what.value();
        let is_get = matches!(op.what, What::Read(_));
        let (slot, turn) = if !cluster.is_forward() {
            turns[value as usize]
        } else if op.invoked < cluster.first_return {
            (cluster.first_return - 1, Turn::Begin)
        } else {
            (op.invoked, Turn::Held)
        };
        points.push((slot, turn, value, is_get, place));
    }
    points.sort_unstable();
    Ok(points.into_iter().map(|(.., place)| place).collect())
}
