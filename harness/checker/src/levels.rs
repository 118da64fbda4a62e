//! The levels of consistency that a history can be judged by: one table with their names, Adya's names, other
//! names, and the workloads for which each has a check.

use std::{fmt, str::FromStr};

use crate::transactions::{self, AxiomaticLevel, BaseLevel, Order};

/// A level of consistency that a history can be judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// Nothing but durability: what was acknowledged is not lost.
    Durable,
    /// Each element is delivered exactly once.
    ExactlyOnce,
    /// No two clients hold a lock at a time, as far as their releases confirm that they held it.
    Fenced,
    /// Each operation takes effect at one moment between its invocation and its return.
    Linearizable,
    /// An isolation level of transactions.
    Isolation(transactions::Level),
    /// A level of Biswas and Enea, of transactions on registers.
    Axiomatic(AxiomaticLevel),
}

/// What a row of the table is about: isolation levels come with three orders each.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Named {
    Plain(Level),
    Isolation(BaseLevel),
}

/// A row of the table.
struct Row {
    level: Named,
    name: &'static str,
    /// Adya's name, of isolation levels.
    adya: &'static str,
    others: &'static [&'static str],
    /// The workloads for which there is a check.
    workloads: &'static [&'static str],
}

const TRANSACTIONS: &[&str] = &["append", "rw"];
/// Read skew shows a wrong total, so the levels that forbid it have a check on banks.
const TRANSACTIONS_AND_BANK: &[&str] = &["append", "rw", "bank"];

const fn plain(
    level: Level,
    name: &'static str,
    others: &'static [&'static str],
    workloads: &'static [&'static str],
) -> Row {
    Row { level: Named::Plain(level), name, adya: "", others, workloads }
}

const fn isolation(
    base: BaseLevel,
    name: &'static str,
    adya: &'static str,
    others: &'static [&'static str],
    workloads: &'static [&'static str],
) -> Row {
    Row { level: Named::Isolation(base), name, adya, others, workloads }
}

#[rustfmt::skip]
const TABLE: [Row; 14] = [
    plain(Level::Durable, "durable", &["none", "durability"],
        &["register", "cas-register", "set", "counter", "queue", "log", "bank", "lock", "append", "rw"]),
    plain(Level::ExactlyOnce, "exactly-once", &[], &["queue", "log"]),
    plain(Level::Fenced, "fenced", &["fenced-mutual-exclusion"], &["lock"]),
    plain(Level::Linearizable, "linearizable", &["linearizability", "atomic", "mutual-exclusion"],
        &["register", "cas-register", "set", "counter", "lock"]),
    isolation(BaseLevel::ReadUncommitted, "read-uncommitted", "PL-1", &[], TRANSACTIONS),
    isolation(BaseLevel::ReadCommitted, "read-committed", "PL-2", &[], TRANSACTIONS),
    isolation(BaseLevel::CursorStability, "cursor-stability", "PL-CS", &[], TRANSACTIONS),
    isolation(BaseLevel::ConsistentView, "consistent-view", "PL-2+", &["basic-consistency"],
        TRANSACTIONS_AND_BANK),
    isolation(BaseLevel::SnapshotIsolation, "snapshot-isolation", "PL-SI", &["snapshot", "si"],
        TRANSACTIONS_AND_BANK),
    isolation(BaseLevel::RepeatableRead, "repeatable-read", "PL-2.99", &[], TRANSACTIONS_AND_BANK),
    isolation(BaseLevel::Serializable, "serializable", "PL-3", &["serializability", "ser"],
        TRANSACTIONS_AND_BANK),
    plain(Level::Axiomatic(AxiomaticLevel::ReadCommitted), "axiomatic-read-committed",
        &["be-read-committed"], &["rw"]),
    plain(Level::Axiomatic(AxiomaticLevel::ReadAtomic), "read-atomic", &["be-read-atomic", "ra"], &["rw"]),
    plain(Level::Axiomatic(AxiomaticLevel::CausalConsistency), "causal-consistency",
        &["causal", "be-causal-consistency", "cc"], &["rw"]),
];

/// The name of serializability with real time, which has one of its own, and its other names.
const STRICT: &str = "strict-serializable";
const STRICT_OTHERS: [&str; 4] = ["strict-serializability", "strict", "strict-1sr", "strong-pl-3"];

/// What comes before the name of an isolation level if more than dependencies counts. The first of each
/// order is the one that is printed.
const PREFIXES: [(&str, Order); 5] = [
    ("strong-session-", Order::Process),
    ("session-", Order::Process),
    ("strong-", Order::RealTime),
    ("strict-", Order::RealTime),
    ("", Order::Dependencies),
];

impl Level {
    /// The name.
    #[must_use]
    pub fn name(self) -> String {
        let name = self.row().name;
        match self {
            Level::Isolation(transactions::Level {
                base: BaseLevel::Serializable,
                order: Order::RealTime,
            }) => STRICT.to_owned(),
            Level::Isolation(level) => {
                let prefix = PREFIXES.iter().find(|(_, order)| *order == level.order);
                format!("{}{name}", prefix.map_or("", |(prefix, _)| prefix))
            }
            _ => name.to_owned(),
        }
    }

    /// The level of this name, for a workload.
    ///
    /// # Errors
    /// There is no such level, or no check of it for the workload; in words.
    pub fn of(name: &str, workload: &str) -> Result<Level, String> {
        let level: Level = name.parse()?;
        if level.is_of(workload) {
            return Ok(level);
        }
        let names = TABLE.iter().filter(|row| row.workloads.contains(&workload));
        let names: Vec<&str> = names.map(|row| row.name).collect();
        Err(format!(
            "'{name}' cannot be claimed for the workload {workload}: expected {}",
            names.join(" or ")
        ))
    }

    /// Whether there is a check of the level for a workload.
    #[must_use]
    pub fn is_of(self, workload: &str) -> bool {
        self.row().workloads.contains(&workload)
    }

    fn row(self) -> &'static Row {
        let named = match self {
            Level::Isolation(level) => Named::Isolation(level.base),
            plain => Named::Plain(plain),
        };
        TABLE.iter().find(|row| row.level == named).expect("every level has a row")
    }
}

/// Adya's name of an isolation level.
pub(crate) fn adya(base: BaseLevel) -> &'static str {
    Level::Isolation(transactions::Level { base, order: Order::Dependencies }).row().adya
}

impl FromStr for Level {
    type Err = String;

    /// Takes the names of Jepsen, of Adya, and of text books, in any case, with blanks, hyphens or
    /// underscores.
    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.trim().to_lowercase().replace([' ', '_'], "-");
        let name = name.strip_prefix(':').unwrap_or(&name);
        if name == STRICT || STRICT_OTHERS.contains(&name) {
            let order = Order::RealTime;
            return Ok(Level::Isolation(transactions::Level {
                base: BaseLevel::Serializable,
                order,
            }));
        }
        let found = PREFIXES.iter().find_map(|(prefix, order)| {
            let rest = name.strip_prefix(prefix)?;
            let is_named = |row: &&Row| {
                let is_adya = !row.adya.is_empty() && row.adya.to_lowercase() == rest;
                row.name == rest || is_adya || row.others.contains(&rest)
            };
            match TABLE.iter().find(is_named)?.level {
                Named::Isolation(base) => {
                    Some(Level::Isolation(transactions::Level { base, order: *order }))
                }
                Named::Plain(level) => prefix.is_empty().then_some(level),
            }
        });
        found.ok_or_else(|| {
            let names: Vec<&str> = TABLE.iter().map(|row| row.name).collect();
            format!(
                "unknown level '{text}': expected one of {}, {STRICT}, or an isolation level after \
                 strong-session- or strong-; Adya's names (PL-2) are known too",
                names.join(", ")
            )
        })
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_is_found_by_its_names() {
        let isolation = transactions::Level::all().map(Level::Isolation);
        for level in [Level::Durable, Level::ExactlyOnce, Level::Fenced, Level::Linearizable]
            .into_iter()
            .chain(isolation)
        {
            assert_eq!(level.name().parse(), Ok(level));
            assert_eq!(level.name().to_uppercase().replace('-', " ").parse(), Ok(level));
        }
        let named = |text: &str| text.parse::<Level>().expect(text).name();
        assert_eq!(named("Strict Serializability"), "strict-serializable");
        assert_eq!(named("strong-serializable"), "strict-serializable");
        assert_eq!(named(":snapshot-isolation"), "snapshot-isolation");
        assert_eq!(named("PL-2.99"), "repeatable-read");
        assert_eq!(named("strong_session_PL-SI"), "strong-session-snapshot-isolation");
        assert_eq!(named("none"), "durable");
        let error = "acid".parse::<Level>().expect_err("no level");
        assert!(error.starts_with("unknown level 'acid': expected one of durable,"), "{error}");
        let error = "strong-durable".parse::<Level>().expect_err("no isolation level");
        assert!(error.starts_with("unknown level"), "{error}");
    }

    #[test]
    fn a_level_stands_where_it_has_a_check_and_keeps_its_name() {
        let of = |name, workload| Level::of(name, workload).map(Level::name);
        assert_eq!(of("linearizable", "register"), Ok("linearizable".to_owned()));
        assert_eq!(of("atomic", "lock"), Ok("linearizable".to_owned()));
        assert_eq!(of("snapshot-isolation", "bank"), Ok("snapshot-isolation".to_owned()));
        assert_eq!(of("strict-serializable", "bank"), Ok("strict-serializable".to_owned()));
        let error = of("linearizable", "bank").expect_err("a bank is not checked for it");
        assert!(
            error.ends_with(
                "expected durable or consistent-view or snapshot-isolation or \
                                 repeatable-read or serializable"
            ),
            "{error}"
        );
        let error = of("read-committed", "bank").expect_err("it allows wrong totals");
        assert!(error.starts_with("'read-committed' cannot be claimed"), "{error}");
        let error = of("serializable", "queue").expect_err("not checked");
        assert!(error.ends_with("expected durable or exactly-once"), "{error}");
    }
}
