//! The levels that a system may claim: names, other names for them, and the workloads for which each has a
//! check.

use std::fmt;

/// A level of consistency that a history can be judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Nothing but durability: what was acknowledged is not lost.
    Durable,
    /// Each element is delivered exactly once.
    ExactlyOnce,
    /// The operations have an order that a single copy could have executed.
    Serializable,
    /// Each operation takes effect at one moment between its invocation and its return.
    Linearizable,
}

/// Each level: its name, other names, and the workloads where it may be claimed.
const LEVELS: [(Level, &str, &[&str], &[&str]); 4] = [
    (
        Level::Durable,
        "durable",
        &["none", "durability"],
        &["register", "cas-register", "set", "counter", "queue", "log", "bank", "lock"],
    ),
    (Level::ExactlyOnce, "exactly-once", &[], &["queue", "log"]),
    (
        Level::Serializable,
        "serializable",
        &["snapshot-isolation", "strict-serializable"],
        &["bank"],
    ),
    (
        Level::Linearizable,
        "linearizable",
        &["atomic", "mutual-exclusion"],
        &["register", "cas-register", "set", "counter", "lock"],
    ),
];

impl Level {
    /// The name.
    #[must_use]
    pub fn name(self) -> &'static str {
        let found = LEVELS.iter().find(|(level, ..)| *level == self);
        found.expect("every level has a name").1
    }

    /// The level of this name, for a workload.
    ///
    /// # Errors
    /// There is no such level, or no check of it for the workload; in words.
    pub fn of(name: &str, workload: &str) -> Result<Level, String> {
        let of_workload = || LEVELS.iter().filter(|(.., workloads)| workloads.contains(&workload));
        let found =
            of_workload().find(|(_, level, others, _)| *level == name || others.contains(&name));
        found.map(|(level, ..)| *level).ok_or_else(|| {
            let names: Vec<&str> = of_workload().map(|(_, name, ..)| *name).collect();
            format!(
                "'{name}' cannot be claimed for the workload {workload}: expected {}",
                names.join(" or ")
            )
        })
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_found_by_their_names_where_they_have_a_check() {
        assert_eq!(Level::of("linearizable", "register"), Ok(Level::Linearizable));
        assert_eq!(Level::of("atomic", "lock"), Ok(Level::Linearizable));
        assert_eq!(Level::of("none", "queue"), Ok(Level::Durable));
        let error = Level::of("linearizable", "bank").expect_err("a bank is not checked for it");
        assert!(error.contains("expected durable or serializable"), "{error}");
    }
}
