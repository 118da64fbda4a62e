//! Tier 1: decides the history of a register whose puts write distinct values, with deletes and
//! indeterminate operations, exactly and in O(n log n).
//!
//! Gibbons and Korach, "Testing shared memories" (1997), section 4, decide completed puts and gets
//! by the *zones* of values. Deletes are an extension: they all write the same absent value, so the
//! checker has to choose which delete each *empty get*, a get that found the key absent, observed.
//!
//! The *cluster* of a value is its put and the gets that read it. `f` is the least return in the
//! cluster and `s` the greatest invocation. If `f < s`, the register must hold the value from `f`
//! to `s`: a *forward zone*, which blocks the slots `f..s` for everything else (slot `i` is the
//! time between the events `i` and `i + 1`). Otherwise the whole cluster can take effect at one
//! moment in any slot of `s..f`: a *backward zone*. A history is linearizable exactly if
//!
//! 1. no get read a value that nobody wrote, or returned before its put was invoked;
//! 2. forward zones do not overlap;
//! 3. every backward zone has a slot that is not blocked;
//! 4. every delete and every empty get has a slot that is not blocked;
//! 5. the deletes can be given slots so that each empty get, with the slots `a..=b`, has one in
//!    `a'..=b`, where `a'` is the start of the run of free slots around `a`, or the greatest `s` of
//!    a backward zone with `f <= a` if that is later. The initial absence counts as a delete before
//!    all events.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::packed::{ABSENT, Access, OPEN, PackedOp, RegisterHistory};

/// Why a history is not linearizable. Operations are given by position in the history, values by
/// number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneViolation {
    /// A get read a value that nobody wrote.
    NoWriter {
        /// The value.
        value: u32,
    },
    /// A get of the value returned before its put was invoked.
    ReadBeforeWrite {
        /// The value.
        value: u32,
    },
    /// Two values must be held at the same time.
    Overlap {
        /// The value whose forward zone begins first.
        first: u32,
        /// The other value.
        second: u32,
    },
    /// A value must be held at a time at which another one must be.
    Inside {
        /// The value with the backward zone.
        inner: u32,
        /// The value with the forward zone.
        outer: u32,
    },
    /// A delete must take effect while a value must be held.
    DeleteBlocked {
        /// The delete.
        delete: u32,
        /// The value.
        by: u32,
    },
    /// An empty get must take effect while a value must be held.
    EmptyGetBlocked {
        /// The get.
        get: u32,
        /// The value.
        by: u32,
    },
    /// There is no delete that an empty get can have observed.
    NoDelete {
        /// The get.
        get: u32,
        /// The first slot in which the delete could be.
        from: i64,
        /// The last slot in which the delete could be.
        to: u32,
        /// The value that rules out all earlier deletes.
        after: Option<u32>,
    },
}

/// Decides a history with unique values.
///
/// # Errors
/// The history is not linearizable, for this reason.
///
/// # Panics
/// If a value is written twice.
pub fn check(history: &RegisterHistory) -> Result<(), ZoneViolation> {
    let zones = Zones::new(history)?;
    zones.place_absent(history, |_, _| {}, |_, _| {})
}

/// For each empty get, the first and the last slot of the delete that it observes. `None` if one of
/// the rules 1 to 4 is violated.
pub(super) fn windows(history: &RegisterHistory) -> Option<Vec<(i64, u32)>> {
    let zones = Zones::new(history).ok()?;
    let mut cursor = zones.cursor();
    let mut gets = Vec::new();
    for op in history.ops.iter().filter(|op| op.access == Access::Read(ABSENT)) {
        let (from, to) = (cursor.up(op.invoked), cursor.down(op.returned - 1));
        if from > to {
            return None;
        }
        gets.push((from, to, 0));
    }
    Some(zones.empty_gets(&gets).iter().map(|get| (get.from, get.to)).collect())
}

/// The put of a value and the gets that read it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ValueCluster {
    /// Invocation of the put, [`OPEN`] if there is none.
    pub(super) put: u32,
    /// Least return in the cluster. [`OPEN`] if there is none: a put without a return that nobody
    /// read.
    pub(super) first_return: u32,
    /// Greatest invocation in the cluster.
    pub(super) last_invocation: u32,
}

impl ValueCluster {
    const EMPTY: ValueCluster = ValueCluster { put: OPEN, first_return: OPEN, last_invocation: 0 };

    /// Whether the put certainly took effect.
    pub(super) fn took_effect(&self) -> bool {
        self.first_return != OPEN
    }

    /// Whether the value must be held for some time.
    pub(super) fn is_forward(&self) -> bool {
        self.first_return < self.last_invocation
    }
}

/// The slots `from..to`, blocked by a forward zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Zone {
    from: u32,
    to: u32,
}

/// The zones of a history that satisfies the rules 1 to 3.
pub(super) struct Zones {
    pub(super) clusters: Vec<ValueCluster>,
    /// Sorted and disjoint: there is a free slot between any two.
    forward: Vec<Zone>,
}

/// A cursor over the forward zones. Looking up slots near the last one is cheap.
struct ZoneCursor<'a> {
    zones: &'a [Zone],
    /// The first zone that ends after the last slot looked up.
    at: usize,
}

impl ZoneCursor<'_> {
    /// Moves to the first zone that ends after the slot, in time logarithmic in the distance.
    fn seek(&mut self, slot: u32) -> Option<Zone> {
        let zones = self.zones;
        let mut step = 1;
        let before = |zone: &Zone| zone.to <= slot;
        if zones.get(self.at).is_some_and(before) {
            let mut low = self.at + 1;
            while zones.get(low + step - 1).is_some_and(before) {
                low += step;
                step *= 2;
            }
            let high = (low + step).min(zones.len());
            self.at = low + zones[low..high].partition_point(before);
        } else {
            let mut high = self.at;
            while high > 0 && !before(&zones[high.saturating_sub(step)]) {
                high = high.saturating_sub(step);
                step *= 2;
            }
            let low = high.saturating_sub(step);
            self.at = low + zones[low..high].partition_point(before);
        }
        zones.get(self.at).copied()
    }

    /// The zone that blocks the slot, if any.
    fn blocking(&mut self, slot: u32) -> Option<Zone> {
        self.seek(slot).filter(|zone| zone.from <= slot)
    }

    /// The first free slot from this one on.
    fn up(&mut self, slot: u32) -> u32 {
        self.blocking(slot).map_or(slot, |zone| zone.to)
    }

    /// The last free slot up to this one. There is one: the first zone begins after the invocation
    /// of its put.
    fn down(&mut self, slot: u32) -> u32 {
        self.blocking(slot).map_or(slot, |zone| zone.from - 1)
    }

    /// The start of the run of free slots around this free slot, -1 before all zones.
    fn gap_start(&mut self, slot: u32) -> i64 {
        self.seek(slot);
        self.at.checked_sub(1).map_or(-1, |before| i64::from(self.zones[before].to))
    }
}

/// First free slot, last free slot, and position of an operation.
type FreeSlots = (u32, u32, u32);

/// An empty get, which needs a delete to observe.
struct EmptyGet {
    /// Its last free slot, and the last slot of the delete.
    to: u32,
    /// The first slot of the delete.
    from: i64,
    get: u32,
}

impl Zones {
    /// Builds the zones and checks the rules 1 to 3.
    pub(super) fn new(history: &RegisterHistory) -> Result<Zones, ZoneViolation> {
        assert!(history.unique, "tier 1 decides histories with unique values only");
        let mut clusters = vec![ValueCluster::EMPTY; history.values as usize];
        for op in &history.ops {
            let value = op.access.value();
            if value == ABSENT {
                continue;
            }
            let cluster = &mut clusters[value as usize];
            if matches!(op.access, Access::Write(_)) {
                cluster.put = op.invoked;
            }
            cluster.first_return = cluster.first_return.min(op.returned);
            cluster.last_invocation = cluster.last_invocation.max(op.invoked);
        }
        let mut forward = Vec::new();
        for (value, cluster) in (0_u32..).zip(&clusters) {
            if !cluster.took_effect() {
                continue;
            }
            if cluster.put == OPEN {
                return Err(ZoneViolation::NoWriter { value });
            }
            if cluster.first_return < cluster.put {
                return Err(ZoneViolation::ReadBeforeWrite { value });
            }
            if cluster.is_forward() {
                forward.push(Zone { from: cluster.first_return, to: cluster.last_invocation });
            }
        }
        forward.sort_unstable();
        let zones = Zones { clusters, forward };
        if let Some(pair) = zones.forward.windows(2).find(|pair| pair[1].from < pair[0].to) {
            let [first, second] = [pair[0], pair[1]].map(|zone| zones.value_of(zone));
            return Err(ZoneViolation::Overlap { first, second });
        }
        zones.backward_zones_have_slots()?;
        Ok(zones)
    }

    /// Rule 3.
    fn backward_zones_have_slots(&self) -> Result<(), ZoneViolation> {
        let mut cursor = self.cursor();
        for (inner, cluster) in (0_u32..).zip(&self.clusters) {
            if !cluster.took_effect() || cluster.is_forward() {
                continue;
            }
            // One zone must block all of it: there is a free slot between any two zones.
            if let Some(zone) = cursor.blocking(cluster.last_invocation)
                && cluster.first_return <= zone.to
            {
                return Err(ZoneViolation::Inside { inner, outer: self.value_of(zone) });
            }
        }
        Ok(())
    }

    fn cursor(&self) -> ZoneCursor<'_> {
        ZoneCursor { zones: &self.forward, at: 0 }
    }

    /// The value of a forward zone. Every event belongs to one operation, so the first return
    /// identifies it. Linear, and used for messages only.
    fn value_of(&self, zone: Zone) -> u32 {
        let at = self.clusters.iter().position(|cluster| cluster.first_return == zone.from);
        u32::try_from(at.expect("every zone belongs to a value"))
            .expect("values are numbered in 32 bits")
    }

    /// The first free slot from each of these on.
    pub(super) fn first_free(&self, slots: impl Iterator<Item = u32>) -> Vec<u32> {
        let mut cursor = self.cursor();
        slots.map(|slot| cursor.up(slot)).collect()
    }

    /// The last free slots of backward zones, given by value.
    pub(super) fn latest(&self, clusters: impl Iterator<Item = u32>) -> Vec<u32> {
        let mut cursor = self.cursor();
        clusters.map(|value| cursor.down(self.clusters[value as usize].first_return - 1)).collect()
    }

    /// Checks the rules 4 and 5. Calls `on_delete` with the slot of each delete that took effect or
    /// is needed, and `on_empty_get` with the slot of the delete that each empty get observes, -1
    /// for the initial absence.
    pub(super) fn place_absent(
        &self,
        history: &RegisterHistory,
        mut on_delete: impl FnMut(u32, u32),
        mut on_empty_get: impl FnMut(u32, i64),
    ) -> Result<(), ZoneViolation> {
        let (deletes, gets) = self.absent_operations(history)?;
        let empty_gets = self.empty_gets(&gets);
        drop(gets);
        // Assigns deletes to gets, the earliest deadline first.
        let mut unused: BinaryHeap<Reverse<(u32, u32)>> = BinaryHeap::new();
        let mut started = 0;
        let mut last = -1_i64;
        for EmptyGet { to, from, get } in empty_gets {
            while let Some((start, end, delete)) = deletes.get(started)
                && *start <= to
            {
                unused.push(Reverse((*end, *delete)));
                started += 1;
            }
            while let Some(Reverse((end, delete))) = unused.peek().copied()
                && end <= to
            {
                unused.pop();
                on_delete(delete, end);
                last = end.into();
            }
            if last < from {
                let Some(Reverse((_, delete))) = unused.pop() else {
                    let after = self.value_before(from);
                    return Err(ZoneViolation::NoDelete { get, from, to, after });
                };
                on_delete(delete, to);
                last = to.into();
            }
            on_empty_get(get, last);
        }
        let rest = unused.into_iter().map(|Reverse((end, delete))| (end, delete));
        let never = deletes[started..].iter().map(|(_, end, delete)| (*end, *delete));
        for (end, delete) in rest.chain(never).filter(|(end, _)| *end != OPEN) {
            on_delete(delete, end);
        }
        Ok(())
    }

    /// The deletes and the empty gets with their first and last free slots. Checks rule 4.
    fn absent_operations(
        &self,
        history: &RegisterHistory,
    ) -> Result<(Vec<FreeSlots>, Vec<FreeSlots>), ZoneViolation> {
        let (mut deletes, mut gets) = (Vec::new(), Vec::new());
        let mut cursor = self.cursor();
        for (position, op) in (0_u32..).zip(&history.ops) {
            if op.access.value() != ABSENT {
                continue;
            }
            let from = cursor.up(op.invoked);
            let to = if op.took_effect() { cursor.down(op.returned - 1) } else { OPEN };
            let is_delete = matches!(op.access, Access::Write(_));
            if from > to {
                let by = self.value_of(cursor.blocking(op.invoked).expect("it has no free slot"));
                return Err(if is_delete {
                    ZoneViolation::DeleteBlocked { delete: position, by }
                } else {
                    ZoneViolation::EmptyGetBlocked { get: position, by }
                });
            }
            let of_kind = if is_delete { &mut deletes } else { &mut gets };
            of_kind.push((from, to, position));
        }
        Ok((deletes, gets))
    }

    /// The empty gets in the order of their last slots, each with the first slot of the delete it
    /// observes.
    fn empty_gets(&self, gets: &[FreeSlots]) -> Vec<EmptyGet> {
        if gets.is_empty() {
            return Vec::new();
        }
        let mut backward: Vec<(u32, u32)> = self
            .clusters
            .iter()
            .filter(|cluster| cluster.took_effect() && !cluster.is_forward())
            .map(|cluster| (cluster.first_return, cluster.last_invocation))
            .collect();
        backward.sort_unstable();
        let mut cursor = self.cursor();
        let mut past = backward.into_iter().peekable();
        let mut latest = -1_i64;
        // The first free slots grow with the invocations.
        let mut empty_gets: Vec<EmptyGet> = gets
            .iter()
            .map(|&(from, to, get)| {
                while let Some((_, start)) = past.next_if(|(end, _)| *end <= from) {
                    latest = latest.max(start.into());
                }
                EmptyGet { to, from: cursor.gap_start(from).max(latest), get }
            })
            .collect();
        empty_gets.sort_unstable_by_key(|get| get.to);
        empty_gets
    }

    /// The value that makes this the first slot in which a delete can be observed. For messages
    /// only.
    fn value_before(&self, from: i64) -> Option<u32> {
        let from = u32::try_from(from).ok()?;
        let at = self
            .clusters
            .iter()
            .position(|cluster| cluster.took_effect() && cluster.last_invocation == from);
        at.and_then(|at| u32::try_from(at).ok())
    }

    /// The cluster of an operation, `None` for deletes and empty gets.
    pub(super) fn cluster_of(&self, op: &PackedOp) -> Option<&ValueCluster> {
        let value = op.access.value();
        (value != ABSENT).then(|| &self.clusters[value as usize])
    }
}
