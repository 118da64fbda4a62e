//! Tier 1: decides the history of a key whose puts write values that nothing else writes, with
//! deletes and indeterminate operations, in O(n log n), exactly. Knows nothing of any search.
//!
//! Gibbons and Korach, "Testing shared memories" (1997), section 4, decide completed puts and gets
//! by the *zones* of values. Deletes are an extension of our own: they all write the same nothing,
//! so which delete a get of nothing saw is for the checker to choose.
//!
//! The *cluster* of a value is its put and the gets that found it; `f` is the least return among
//! them and `s` the greatest invocation. If `f < s`, the value must be held from `f` to `s`: a
//! *forward zone*, which blocks the slots `f..s` for everything else (slot `i` is the time between
//! the events `i` and `i + 1`). Otherwise all of the cluster can happen at one moment in any slot
//! of `s..f`: a *backward zone*. A history is linearizable exactly if
//!
//! 1. no get found what nobody wrote, or returned before its put was invoked;
//! 2. forward zones do not overlap;
//! 3. every backward zone has a slot that is not blocked;
//! 4. every delete has a slot that is not blocked, and so has every get of nothing;
//! 5. the deletes can be given slots so that each get of nothing, with the slots `a..=b`, has one
//!    in `a'..=b`, where `a'` is the start of the run of free slots around `a`, or the greatest `s`
//!    of a backward zone with `f <= a` if that is later. At first there is a delete before all.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::key::{KeyHistory, NOTHING, OPEN, Op, What};

/// Why a history is not linearizable. Operations by their place in the history, values by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A get found a value that nobody wrote.
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
        /// The other.
        second: u32,
    },
    /// A value must be held at a time at which another must be.
    Inside {
        /// The value with the backward zone.
        inner: u32,
        /// The value with the forward zone.
        outer: u32,
    },
    /// A delete must happen while a value must be held.
    DeleteBlocked {
        /// The delete.
        delete: u32,
        /// The value.
        by: u32,
    },
    /// A get of nothing must happen while a value must be held.
    NothingBlocked {
        /// The get.
        get: u32,
        /// The value.
        by: u32,
    },
    /// A get of nothing has no delete that it can have seen.
    NoDelete {
        /// The get.
        get: u32,
        /// It must have seen a delete in the slots from here.
        from: i64,
        /// To here.
        to: u32,
        /// The value that forbids all earlier deletes.
        after: Option<u32>,
    },
}

/// Decides a history with unique values.
///
/// # Errors
/// It is not linearizable, and this is why.
///
/// # Panics
/// If the values are not unique.
pub fn check(history: &KeyHistory) -> Result<(), Violation> {
    let zones = Zones::new(history)?;
    zones.nothing(history, |_, _| {}, |_, _| {})
}

/// For each get of nothing, from which slot to which the delete must be that it sees; none if a
/// rule before that is broken.
pub(super) fn windows(history: &KeyHistory) -> Option<Vec<(i64, u32)>> {
    let zones = Zones::new(history).ok()?;
    let mut finger = zones.finger();
    let mut gets = Vec::new();
    for op in history.ops.iter().filter(|op| op.what == What::Read(NOTHING)) {
        let (from, to) = (finger.up(op.invoked), finger.down(op.returned - 1));
        if from > to {
            return None;
        }
        gets.push((from, to, 0));
    }
    Some(zones.wanting(&gets).iter().map(|wanting| (wanting.from, wanting.to)).collect())
}

/// What is known of one value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cluster {
    /// The invocation of the put; [`OPEN`] if there is none.
    pub(super) put: u32,
    /// The least return in the cluster; [`OPEN`] if there is none, for a put that nobody saw.
    pub(super) first_return: u32,
    /// The greatest invocation.
    pub(super) last_invocation: u32,
}

impl Cluster {
    const EMPTY: Cluster = Cluster { put: OPEN, first_return: OPEN, last_invocation: 0 };

    /// Whether it certainly took effect.
    pub(super) fn is_seen(&self) -> bool {
        self.first_return != OPEN
    }

    /// Whether the value must be held for a time.
    pub(super) fn is_forward(&self) -> bool {
        self.first_return < self.last_invocation
    }
}

/// The slots `from..to`, which a forward zone blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Zone {
    from: u32,
    to: u32,
}

/// The zones of a history that keeps rules 1 to 3.
pub(super) struct Zones {
    pub(super) clusters: Vec<Cluster>,
    /// In order, and apart: between two there is a free slot.
    forward: Vec<Zone>,
}

/// A place among the forward zones, which is asked for slots that are near each other.
struct Finger<'a> {
    zones: &'a [Zone],
    /// The first zone that ends after the last slot that was asked for.
    at: usize,
}

impl Finger<'_> {
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

    /// The first free slot from here on.
    fn up(&mut self, slot: u32) -> u32 {
        self.blocking(slot).map_or(slot, |zone| zone.to)
    }

    /// The last free slot up to here. There is one: the first zone begins after its put was
    /// invoked.
    fn down(&mut self, slot: u32) -> u32 {
        self.blocking(slot).map_or(slot, |zone| zone.from - 1)
    }

    /// The start of the run of free slots around this free slot; -1 before all zones.
    fn gap_start(&mut self, slot: u32) -> i64 {
        self.seek(slot);
        self.at.checked_sub(1).map_or(-1, |before| i64::from(self.zones[before].to))
    }
}

/// A get of nothing that is to be given a delete.
struct Wanting {
    /// Its last free slot.
    to: u32,
    /// The delete must come in this slot or later.
    from: i64,
    get: u32,
}

impl Zones {
    /// Gathers the zones, and judges rules 1 to 3.
    pub(super) fn new(history: &KeyHistory) -> Result<Zones, Violation> {
        assert!(history.unique, "tier 1 decides histories with unique values only");
        let mut clusters = vec![Cluster::EMPTY; history.values as usize];
        for op in &history.ops {
            let value = op.what.value();
            if value == NOTHING {
                continue;
            }
            let cluster = &mut clusters[value as usize];
            if matches!(op.what, What::Write(_)) {
                cluster.put = op.invoked;
            }
            cluster.first_return = cluster.first_return.min(op.returned);
            cluster.last_invocation = cluster.last_invocation.max(op.invoked);
        }
        let mut forward = Vec::new();
        for (value, cluster) in (0_u32..).zip(&clusters) {
            if !cluster.is_seen() {
                continue;
            }
            if cluster.put == OPEN {
                return Err(Violation::NoWriter { value });
            }
            if cluster.first_return < cluster.put {
                return Err(Violation::ReadBeforeWrite { value });
            }
            if cluster.is_forward() {
                forward.push(Zone { from: cluster.first_return, to: cluster.last_invocation });
            }
        }
        forward.sort_unstable();
        let zones = Zones { clusters, forward };
        if let Some(pair) = zones.forward.windows(2).find(|pair| pair[1].from < pair[0].to) {
            let [first, second] = [pair[0], pair[1]].map(|zone| zones.value_of(zone));
            return Err(Violation::Overlap { first, second });
        }
        zones.backward_have_room()?;
        Ok(zones)
    }

    /// Rule 3.
    fn backward_have_room(&self) -> Result<(), Violation> {
        let mut finger = self.finger();
        for (inner, cluster) in (0_u32..).zip(&self.clusters) {
            if !cluster.is_seen() || cluster.is_forward() {
                continue;
            }
            // Blocked throughout exactly if one zone has it all: between two there is a free slot.
            if let Some(zone) = finger.blocking(cluster.last_invocation)
                && cluster.first_return <= zone.to
            {
                return Err(Violation::Inside { inner, outer: self.value_of(zone) });
            }
        }
        Ok(())
    }

    fn finger(&self) -> Finger<'_> {
        Finger { zones: &self.forward, at: 0 }
    }

    /// The value of a forward zone. Every event belongs to one operation, so the first return
    /// names it. Slow, for telling people only.
    fn value_of(&self, zone: Zone) -> u32 {
        let at = self.clusters.iter().position(|cluster| cluster.first_return == zone.from);
        u32::try_from(at.expect("the zone is of a value")).expect("values are numbered in 32 bits")
    }

    /// The first free slots from these on.
    pub(super) fn first_free(&self, slots: impl Iterator<Item = u32>) -> Vec<u32> {
        let mut finger = self.finger();
        slots.map(|slot| finger.up(slot)).collect()
    }

    /// The last free slots of backward zones, by their values.
    pub(super) fn latest(&self, clusters: impl Iterator<Item = u32>) -> Vec<u32> {
        let mut finger = self.finger();
        clusters.map(|value| finger.down(self.clusters[value as usize].first_return - 1)).collect()
    }

    /// Rules 4 and 5. Tells where each delete that happened or was needed is put, and the
    /// slot of the delete that each get of nothing sees (-1 for the first nothing).
    pub(super) fn nothing(
        &self,
        history: &KeyHistory,
        mut place_delete: impl FnMut(u32, u32),
        mut place_get: impl FnMut(u32, i64),
    ) -> Result<(), Violation> {
        let mut deletes: Vec<(u32, u32, u32)> = Vec::new();
        let mut gets: Vec<(u32, u32, u32)> = Vec::new();
        let mut finger = self.finger();
        for (place, op) in (0_u32..).zip(&history.ops) {
            if op.what.value() != NOTHING {
                continue;
            }
            let from = finger.up(op.invoked);
            let to = if op.happened() { finger.down(op.returned - 1) } else { OPEN };
            let is_delete = matches!(op.what, What::Write(_));
            if from > to {
                let by = self.value_of(finger.blocking(op.invoked).expect("it has no free slot"));
                return Err(if is_delete {
                    Violation::DeleteBlocked { delete: place, by }
                } else {
                    Violation::NothingBlocked { get: place, by }
                });
            }
            if is_delete { deletes.push((from, to, place)) } else { gets.push((from, to, place)) }
        }
        let wanting = self.wanting(&gets);
        drop(gets);
        // Earliest deadline first.
        let mut unused: BinaryHeap<Reverse<(u32, u32)>> = BinaryHeap::new();
        let mut started = 0;
        let mut last = -1_i64;
        for Wanting { to, from, get } in wanting {
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
                place_delete(delete, end);
                last = end.into();
            }
            if last < from {
                let Some(Reverse((_, delete))) = unused.pop() else {
                    let after = self.forbidding(from);
                    return Err(Violation::NoDelete { get, from, to, after });
                };
                place_delete(delete, to);
                last = to.into();
            }
            place_get(get, last);
        }
        let rest = unused.into_iter().map(|Reverse((end, delete))| (end, delete));
        let never = deletes[started..].iter().map(|(_, end, delete)| (*end, *delete));
        for (end, delete) in rest.chain(never).filter(|(end, _)| *end != OPEN) {
            place_delete(delete, end);
        }
        Ok(())
    }

    /// The gets of nothing in the order of their last slots, each with the first slot in which the
    /// delete that it sees can be.
    fn wanting(&self, gets: &[(u32, u32, u32)]) -> Vec<Wanting> {
        if gets.is_empty() {
            return Vec::new();
        }
        let mut backward: Vec<(u32, u32)> = self
            .clusters
            .iter()
            .filter(|cluster| cluster.is_seen() && !cluster.is_forward())
            .map(|cluster| (cluster.first_return, cluster.last_invocation))
            .collect();
        backward.sort_unstable();
        let mut finger = self.finger();
        let mut past = backward.into_iter().peekable();
        let mut latest = -1_i64;
        // The first free slots grow with the invocations.
        let mut wanting: Vec<Wanting> = gets
            .iter()
            .map(|&(from, to, get)| {
                while let Some((_, start)) = past.next_if(|(end, _)| *end <= from) {
                    latest = latest.max(start.into());
                }
                Wanting { to, from: finger.gap_start(from).max(latest), get }
            })
            .collect();
        wanting.sort_unstable_by_key(|wanting| wanting.to);
        wanting
    }

    /// The value that makes this the first slot in which a delete can be seen. For telling people.
    fn forbidding(&self, from: i64) -> Option<u32> {
        let from = u32::try_from(from).ok()?;
        let at = self
            .clusters
            .iter()
            .position(|cluster| cluster.is_seen() && cluster.last_invocation == from);
        at.and_then(|at| u32::try_from(at).ok())
    }

    /// The cluster of an operation, none for deletes and gets of nothing.
    pub(super) fn cluster_of(&self, op: &Op) -> Option<&Cluster> {
        let value = op.what.value();
        (value != NOTHING).then(|| &self.clusters[value as usize])
    }
}
