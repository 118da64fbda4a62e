//! The properties that every run of the protocol must have, by name.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

macro_rules! properties {
    ($($(#[$meta:meta])* $variant:ident = $name:literal $(or $old:literal)? : $claim:literal),* $(,)?) => {
        /// A property that must hold in every state, or of every run.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(rename_all = "kebab-case")]
        pub enum Property { $($(#[$meta])* $(#[serde(alias = $old)])? $variant),* }

        impl Property {
            /// Every property.
            pub const ALL: &[Property] = &[$(Property::$variant),*];

            /// Its name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Property::$variant => $name),* }
            }

            /// What it claims.
            #[must_use]
            pub fn claim(self) -> &'static str {
                match self { $(Property::$variant => $claim),* }
            }

            /// The name that it had in earlier versions, if that was another one.
            fn old_name(self) -> Option<&'static str> {
                let old: &[(Property, &'static str)] = &[$($((Property::$variant, $old),)?)*];
                old.iter().find(|(property, _)| *property == self).map(|(_, name)| *name)
            }
        }
    };
}

properties! {
    /// Atomic commitment, AC1.
    Ac1 = "AC1": "all nodes that decide reach the same decision",
    /// Atomic commitment, AC2.
    Ac2 = "AC2": "no node reverses its decision",
    /// Atomic commitment, AC3.
    Ac3 = "AC3": "commit is decided only if every replica has durably voted yes",
    /// Clients are told the truth.
    ReplySoundness = "reply-soundness" or "truthfulness":
        "a client is told Ok only for a committed write, and Aborted only for one without effect",
    /// A commit is never lost.
    Durability = "durability": "a committed write is durable at every replica, applied or prepared",
    /// R1, the rule that reads rest on.
    R1 = "R1": "a read that is served returns the last committed write",
    /// The master retains a commit as long as a replica may need it.
    CommitRetention = "commit-retention" or "forgetting":
        "the master forgets a commit only after it is durable at every replica",
    /// Versions increase.
    MonotonicVersions = "monotonic-versions" or "versions": "the version of a key never decreases",
    /// The machines' own assertions hold.
    MachineInvariants = "machine-invariants" or "no-halt":
        "no machine or store stops because an invariant of its own is violated",
    /// Conflicts have a cause.
    Conflicts = "conflicts":
        "a write conflicts only with a write that is in progress",
    /// The clients' history.
    Linearizability = "linearizability": "the clients' history is linearizable",
    /// AC4 and AC5: liveness.
    Termination = "termination" or "settles":
        "once all failures are repaired, every transaction terminates and no key stays locked",
}

impl FromStr for Property {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Property::ALL.iter().find(|property| {
            property.name().eq_ignore_ascii_case(text) || property.old_name() == Some(text)
        });
        named.copied().ok_or_else(|| {
            let names: Vec<_> = Property::ALL.iter().map(|property| property.name()).collect();
            format!("'{text}' is not a property: expected one of {}", names.join(", "))
        })
    }
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_names_are_accepted() {
        for property in Property::ALL {
            let json = serde_json::to_string(property).expect("a property has a JSON form");
            assert_eq!(serde_json::from_str::<Property>(&json).expect(&json), *property);
            assert_eq!(property.name().parse(), Ok(*property));
            if let Some(old) = property.old_name() {
                assert_eq!(old.parse(), Ok(*property), "on the command line");
                let json = format!("\"{old}\"");
                assert_eq!(serde_json::from_str::<Property>(&json).expect(old), *property);
            }
        }
    }
}
