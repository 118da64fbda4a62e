//! Isolation levels, and which anomalies rule out which of them. Their names are in [`crate::levels`].
//!
//! These are Adya's levels on items: without predicates, repeatable read (PL-2.99) and serializable
//! (PL-3) forbid the same, and both imply snapshot isolation. Each has two stronger variants: the order
//! of each session counts too, or real time does.

use std::{fmt, str::FromStr};

use super::{anomalies::AnomalyKind, cycles::Order};
use crate::levels;

/// A level without the order of sessions or real time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BaseLevel {
    /// PL-1.
    ReadUncommitted,
    /// PL-2.
    ReadCommitted,
    /// PL-CS.
    CursorStability,
    /// PL-2+.
    ConsistentView,
    /// PL-SI.
    SnapshotIsolation,
    /// PL-2.99.
    RepeatableRead,
    /// PL-3.
    Serializable,
}

impl BaseLevel {
    /// Every level; none is implied by a later one alone, except as [`BaseLevel::implies`] says.
    pub const ALL: [BaseLevel; 7] = [
        BaseLevel::ReadUncommitted,
        BaseLevel::ReadCommitted,
        BaseLevel::CursorStability,
        BaseLevel::ConsistentView,
        BaseLevel::SnapshotIsolation,
        BaseLevel::RepeatableRead,
        BaseLevel::Serializable,
    ];

    /// Whether every history of this level is one of the other.
    #[must_use]
    pub fn implies(self, other: BaseLevel) -> bool {
        use BaseLevel::{RepeatableRead, Serializable, SnapshotIsolation};
        match (self, other) {
            (SnapshotIsolation, RepeatableRead | Serializable) => false,
            // On items these two forbid the same, but they are told apart where predicates count.
            (RepeatableRead, Serializable | SnapshotIsolation) => false,
            _ => self >= other,
        }
    }

    /// Whether an anomaly rules this level out, if the order of the anomaly counts.
    #[must_use]
    pub fn forbids(self, kind: AnomalyKind) -> bool {
        use AnomalyKind as A;
        let at_least = |least: BaseLevel| self >= least;
        match kind {
            A::G0 | A::DuplicateElements | A::Internal => true,
            A::G1a
            | A::G1b
            | A::G1c
            | A::DirtyUpdate
            | A::IncompatibleOrder
            | A::IncompatibleVersions
            | A::GarbageRead
            | A::FutureRead => at_least(BaseLevel::ReadCommitted),
            A::LostUpdate => at_least(BaseLevel::CursorStability),
            A::GSingle => at_least(BaseLevel::ConsistentView),
            A::GNonadjacent | A::LongFork => at_least(BaseLevel::SnapshotIsolation),
            A::G2Item => at_least(BaseLevel::RepeatableRead),
        }
    }
}

/// An isolation level: what counts besides dependencies, and what is forbidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Level {
    /// What is forbidden.
    pub base: BaseLevel,
    /// What orders transactions.
    pub order: Order,
}

impl Level {
    /// Every level, those of dependencies alone first.
    pub fn all() -> impl Iterator<Item = Level> {
        let of = |order| BaseLevel::ALL.into_iter().map(move |base| Level { base, order });
        Order::ALL.into_iter().flat_map(of)
    }

    /// Whether every history of this level is one of the other.
    #[must_use]
    pub fn implies(self, other: Level) -> bool {
        self.base.implies(other.base) && self.order >= other.order
    }

    /// Adya's name, with the order in words: `PL-SI with real time`.
    #[must_use]
    pub fn adya(self) -> String {
        let adya = levels::adya(self.base);
        match self.order {
            Order::Dependencies => adya.to_owned(),
            Order::Process => format!("strong session {adya}"),
            Order::RealTime => format!("strong {adya}"),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        levels::Level::Isolation(*self).fmt(f)
    }
}

impl FromStr for Level {
    type Err = String;

    /// Takes the names that [`levels::Level`] takes.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse()? {
            levels::Level::Isolation(level) => Ok(level),
            other => Err(format!("{other} is no isolation level of transactions")),
        }
    }
}

/// What is known of a level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The history is one of this level.
    Holds,
    /// It is not.
    RuledOut,
    /// Undecided, and why.
    Unknown(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshot_isolation_and_repeatable_read_are_incomparable() {
        let [si, rr, ser] =
            [BaseLevel::SnapshotIsolation, BaseLevel::RepeatableRead, BaseLevel::Serializable];
        assert!(!si.implies(rr) && !rr.implies(si) && !si.implies(ser));
        assert!(ser.implies(si) && ser.implies(rr) && si.implies(BaseLevel::ConsistentView));
        assert!(!si.forbids(AnomalyKind::G2Item) && rr.forbids(AnomalyKind::LongFork));
        assert!(rr.implies(BaseLevel::CursorStability));
    }
}
