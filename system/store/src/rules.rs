//! The rules that keep the log readable whatever a crash, a failing disk or a client's bytes leave in
//! it. Each has a name, so that a test can break it and see what is lost. In production all rules are
//! in force.

use std::{fmt, str::FromStr};

use crate::Mistake;

macro_rules! rules {
    ($($(#[$doc:meta])* $variant:ident = $name:literal : $without:literal),* $(,)?) => {
        /// One rule.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule { $($(#[$doc])* $variant),* }

        impl Rule {
            /// Every rule, in the order in which the description of the formats introduces them.
            pub const ALL: &[Rule] = &[$(Rule::$variant),*];

            /// The rule's name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Rule::$variant => $name),* }
            }

            /// What a store does that breaks the rule.
            #[must_use]
            pub fn without(self) -> &'static str {
                match self { $(Rule::$variant => $without),* }
            }
        }
    };
}

rules! {
    /// A page is part of the WAL only if its checksum matches.
    PageChecksum = "page-checksum": "reads pages of the WAL without their checksums",
    /// A page is part of the WAL only if it has the salt of its generation.
    PageSalt = "page-salt": "reads pages of the WAL whatever their salt",
    /// The salt of a generation is durable in the tables before the generation's first frame.
    SaltBeforeSegment = "salt-before-segment": "opens a segment under a salt that is not durable",
    /// The first frame of a generation names the last page of the generation before.
    ChainAcrossSegments = "chain-across-segments": "reads a segment whatever the one before ends with",
    /// A checkpoint holds the records of the generations that it names, and no others.
    CheckpointAtBoundary = "checkpoint-at-boundary": "checkpoints records of the next generation too",
    /// A segment is overwritten only when the commit of its checkpoint is synced.
    ReuseAfterSync = "reuse-after-sync": "overwrites a segment before its checkpoint is durable",
    /// A frame that no other follows is followed by an empty one.
    SealWhenIdle = "seal-when-idle": "leaves the last frame without a successor",
    /// A write is accepted only if there is room to apply it.
    YesReservesSpace = "yes-reserves-space": "accepts writes that it may have no room for",
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Rule::ALL.iter().copied().find(|rule| rule.name() == text).ok_or_else(|| {
            let names: Vec<_> = Rule::ALL.iter().map(|rule| rule.name()).collect();
            format!("unknown rule '{text}': expected one of {}", names.join(", "))
        })
    }
}

/// The set of rules that are in force at a store, and the mistakes that it makes. Default: all, and none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// A bit for each rule of [`Rule::ALL`] that is broken.
    broken: u32,
    /// A bit for each mistake of [`Mistake::ALL`] that is made.
    made: u32,
}

impl Rules {
    /// Every rule is in force.
    pub const ALL: Rules = Rules { broken: 0, made: 0 };

    /// This set without one rule.
    #[must_use]
    pub const fn without(self, rule: Rule) -> Rules {
        Rules { broken: self.broken | 1 << rule as u32, ..self }
    }

    /// This set with one mistake more.
    #[must_use]
    pub const fn with(self, mistake: Mistake) -> Rules {
        Rules { made: self.made | 1 << mistake as u32, ..self }
    }

    /// Whether a mistake is made.
    #[must_use]
    pub fn makes(self, mistake: Mistake) -> bool {
        self.and_everywhere().made & (1 << mistake as u32) != 0
    }

    /// Whether a rule is in force.
    #[must_use]
    pub fn keep(self, rule: Rule) -> bool {
        self.and_everywhere().broken & (1 << rule as u32) == 0
    }

    #[cfg(not(feature = "mutations"))]
    fn and_everywhere(self) -> Rules {
        self
    }

    /// This set, and the rule or mistake that `MUTATION` names in the environment: the tests then run on
    /// mutated code, without being built again.
    #[cfg(feature = "mutations")]
    fn and_everywhere(self) -> Rules {
        static MUTATION: std::sync::LazyLock<Rules> = std::sync::LazyLock::new(|| {
            let name = std::env::var("MUTATION").unwrap_or_default();
            let rule = Rule::ALL.iter().find(|rule| rule.name() == name);
            let mistake = Mistake::ALL.iter().find(|mistake| mistake.name() == name);
            let rules = rule.map_or(Rules::ALL, |rule| Rules::ALL.without(*rule));
            mistake.map_or(rules, |mistake| rules.with(*mistake))
        });
        Rules { broken: self.broken | MUTATION.broken, made: self.made | MUTATION.made }
    }
}
