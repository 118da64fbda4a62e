//! Constructs the certificate of a register history that tier 1 finds valid: an order of
//! linearization points.
//!
//! Each operation gets a slot (see [`zones`](super::zones)) and a rank within it. The ranks of a
//! slot are, in order: the rest of a forward zone that ends there, backward clusters that must
//! precede a delete, deletes, gets of the absent value, the other backward clusters, and the put
//! that begins a forward zone. A backward cluster is placed as late as possible, unless the key
//! must be absent at that time: then it comes right before the delete that the gets observe.

use super::{
    packed::{ABSENT, Access, RegisterHistory},
    zones::{ZoneViolation, Zones},
};

/// A linearization point: slot, rank, value, whether it is a get, position.
type LinearizationPoint = (u32, Rank, u32, bool, u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Forward,
    BeforeDelete,
    Delete,
    Absent,
    Backward,
    ForwardPut,
}

/// The operations that took effect, by position, in an order that shows that the history is
/// linearizable.
///
/// # Errors
/// The history is not linearizable.
///
/// # Panics
/// If a value is written twice.
pub fn order(history: &RegisterHistory) -> Result<Vec<u32>, ZoneViolation> {
    let zones = Zones::new(history)?;
    let mut points: Vec<LinearizationPoint> = Vec::with_capacity(history.ops.len());
    let mut gets: Vec<(u32, i64)> = Vec::new();
    zones.place_absent(
        history,
        |delete, slot| points.push((slot, Rank::Delete, ABSENT, false, delete)),
        |get, delete| gets.push((get, delete)),
    )?;
    // The ranges of slots in which the key must be absent, each from the slot of the delete on.
    let mut absent_ranges: Vec<(i64, i64)> = Vec::new();
    let first_free =
        zones.first_free(gets.iter().map(|(get, _)| history.ops[*get as usize].invoked));
    for ((get, delete), from) in gets.into_iter().zip(first_free) {
        let slot = i64::from(from).max(delete);
        if slot > delete {
            absent_ranges.push((delete, slot));
        }
        let slot = u32::try_from(slot).expect("the first free slot is not negative");
        points.push((slot, Rank::Absent, ABSENT, true, get));
    }
    absent_ranges.sort_unstable();
    let backward: Vec<u32> = (0_u32..)
        .zip(&zones.clusters)
        .filter(|(_, cluster)| cluster.took_effect() && !cluster.is_forward())
        .map(|(value, _)| value)
        .collect();
    let latest = zones.latest(backward.iter().copied());
    let mut ranks = vec![(0, Rank::Backward); zones.clusters.len()];
    for (value, slot) in backward.into_iter().zip(latest) {
        let before = absent_ranges.partition_point(|(delete, _)| *delete <= slot.into());
        // Ranges of one delete are adjacent, the longest last.
        let absent = before.checked_sub(1).map(|at| absent_ranges[at]);
        ranks[value as usize] = match absent {
            Some((delete, until)) if i64::from(slot) < until => {
                let delete =
                    u32::try_from(delete).expect("rule 5 keeps it after the initial absence");
                (delete, Rank::BeforeDelete)
            }
            _ => (slot, Rank::Backward),
        };
    }
    for (position, op) in (0_u32..).zip(&history.ops) {
        let Some(cluster) = zones.cluster_of(op).filter(|cluster| cluster.took_effect()) else {
            continue;
        };
        let value = op.access.value();
        let is_get = matches!(op.access, Access::Read(_));
        let (slot, rank) = if !cluster.is_forward() {
            ranks[value as usize]
        } else if op.invoked < cluster.first_return {
            (cluster.first_return - 1, Rank::ForwardPut)
        } else {
            (op.invoked, Rank::Forward)
        };
        points.push((slot, rank, value, is_get, position));
    }
    points.sort_unstable();
    Ok(points.into_iter().map(|(.., position)| position).collect())
}
