//! Isolation levels, their names, and which anomalies rule out which of them.
//!
//! These are Adya's levels on items: without predicates, repeatable read (PL-2.99) and serializable
//! (PL-3) forbid the same, and both imply snapshot isolation. Each has two stronger variants: the order
//! of each session counts too, or real time does.

use std::{fmt, str::FromStr};

use super::{anomalies::AnomalyKind, cycles::Order};

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

    /// Its name, Adya's name, and other names.
    fn names(self) -> (&'static str, &'static str, &'static [&'static str]) {
        match self {
            BaseLevel::ReadUncommitted => ("read-uncommitted", "PL-1", &[]),
            BaseLevel::ReadCommitted => ("read-committed", "PL-2", &[]),
            BaseLevel::CursorStability => ("cursor-stability", "PL-CS", &[]),
            BaseLevel::ConsistentView => ("consistent-view", "PL-2+", &["basic-consistency"]),
            BaseLevel::SnapshotIsolation => ("snapshot-isolation", "PL-SI", &["snapshot", "si"]),
            BaseLevel::RepeatableRead => ("repeatable-read", "PL-2.99", &[]),
            BaseLevel::Serializable => ("serializable", "PL-3", &["serializability", "ser"]),
        }
    }

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
        let (_, adya, _) = self.base.names();
        match self.order {
            Order::Dependencies => adya.to_owned(),
            Order::Process => format!("strong session {adya}"),
            Order::RealTime => format!("strong {adya}"),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, _, _) = self.base.names();
        match (self.order, self.base) {
            (Order::Dependencies, _) => f.write_str(name),
            (Order::Process, _) => write!(f, "strong-session-{name}"),
            (Order::RealTime, BaseLevel::Serializable) => f.write_str("strict-serializable"),
            (Order::RealTime, _) => write!(f, "strong-{name}"),
        }
    }
}

impl FromStr for Level {
    type Err = String;

    /// Takes the names of Jepsen, of Adya, and of text books, in any case, with blanks, hyphens or
    /// underscores.
    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.trim().to_lowercase().replace([' ', '_'], "-");
        let name = name.strip_prefix(':').unwrap_or(&name);
        if matches!(name, "strict-serializability" | "strict" | "strict-1sr") {
            return Ok(Level { base: BaseLevel::Serializable, order: Order::RealTime });
        }
        let prefixes = [
            ("strong-session-", Order::Process),
            ("session-", Order::Process),
            ("strong-", Order::RealTime),
            ("strict-", Order::RealTime),
            ("", Order::Dependencies),
        ];
        let found = prefixes.iter().find_map(|(prefix, order)| {
            let rest = name.strip_prefix(prefix)?;
            let is_named = |base: &BaseLevel| {
                let (name, adya, others) = base.names();
                rest == name || rest == adya.to_lowercase() || others.contains(&rest)
            };
            let base = BaseLevel::ALL.into_iter().find(is_named)?;
            Some(Level { base, order: *order })
        });
        found.ok_or_else(|| {
            let names: Vec<_> = BaseLevel::ALL.iter().map(|base| base.names().0).collect();
            format!(
                "unknown level '{text}': expected one of {}, strict-serializable, or one of these after \
                 strong-session- or strong-; Adya's names (PL-2) are known too",
                names.join(", ")
            )
        })
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
    fn every_level_is_found_by_its_names() {
        for level in Level::all() {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        let named = |text: &str| text.parse::<Level>().expect(text).to_string();
        assert_eq!(named("Strict Serializability"), "strict-serializable");
        assert_eq!(named("strong-serializable"), "strict-serializable");
        assert_eq!(named(":snapshot-isolation"), "snapshot-isolation");
        assert_eq!(named("PL-2.99"), "repeatable-read");
        assert_eq!(named("strong_session_PL-SI"), "strong-session-snapshot-isolation");
        let error = "acid".parse::<Level>().expect_err("no level");
        assert!(
            error.starts_with("unknown level 'acid': expected one of read-uncommitted,"),
            "{error}"
        );
    }

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
