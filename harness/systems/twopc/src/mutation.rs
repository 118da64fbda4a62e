//! What can be broken in the system on purpose, to see which check notices.

use std::{fmt, str::FromStr};

use system::{
    protocol::{Mistake, Rule},
    store::{self, SyncMode},
};

/// A deliberate defect of the system under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A rule of the protocol is switched off.
    Rule(Rule),
    /// The node makes a mistake that no rule is about.
    Mistake(Mistake),
    /// The store skips syncs. Only the nodes that are built into the harness support this.
    SyncMode(SyncMode),
    /// A rule of the store is switched off. Only the nodes that are built into the harness support this.
    StoreRule(store::Rule),
    /// The store makes a mistake that no rule is about. Only the nodes that are built into the harness support this.
    StoreMistake(store::Mistake),
}

impl Mutation {
    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Mutation::Rule(rule) => rule.name(),
            Mutation::Mistake(mistake) => mistake.name(),
            Mutation::StoreRule(rule) => rule.name(),
            Mutation::StoreMistake(mistake) => mistake.name(),
            Mutation::SyncMode(SyncMode::All) => "nothing",
            Mutation::SyncMode(SyncMode::NoMeta) => "store-meta-syncs",
            Mutation::SyncMode(SyncMode::None) => "store-syncs",
        }
    }

    /// Every mutation: the rules of the protocol, those of the store and its syncs, and the mistakes.
    pub fn all() -> impl Iterator<Item = Mutation> {
        let rules = Rule::ALL.iter().copied().map(Mutation::Rule);
        let store_rules = store::Rule::ALL.iter().copied().map(Mutation::StoreRule);
        let syncs = [SyncMode::NoMeta, SyncMode::None].into_iter().map(Mutation::SyncMode);
        let mistakes = Mistake::ALL.iter().copied().map(Mutation::Mistake);
        let store_mistakes = store::Mistake::ALL.iter().copied().map(Mutation::StoreMistake);
        rules.chain(store_rules).chain(syncs).chain(mistakes).chain(store_mistakes)
    }

    /// What the system does that is broken in this way.
    #[must_use]
    pub fn does(self) -> &'static str {
        match self {
            Mutation::Rule(rule) => rule.without(),
            Mutation::Mistake(mistake) => mistake.does(),
            Mutation::StoreRule(rule) => rule.without(),
            Mutation::StoreMistake(mistake) => mistake.does(),
            Mutation::SyncMode(SyncMode::All) => "syncs everything",
            Mutation::SyncMode(SyncMode::NoMeta) => {
                "opens LMDB without syncs of its meta pages (NOMETASYNC)"
            }
            Mutation::SyncMode(SyncMode::None) => "opens LMDB without syncs (NOSYNC)",
        }
    }
}

impl Mutation {
    /// Whether only the nodes that are built into the harness support it.
    #[must_use]
    pub fn needs_built_in_nodes(self) -> bool {
        !matches!(self, Mutation::Rule(_) | Mutation::Mistake(_))
    }
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Mutation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Mutation::all().find(|mutation| mutation.name() == text);
        // The rules of the protocol are known by earlier names too.
        found.or_else(|| text.parse().map(Mutation::Rule).ok()).ok_or_else(|| {
            let names: Vec<_> = Mutation::all().map(Mutation::name).collect();
            format!(
                "unknown rule '{text}': `harness rules --list` says what each is; they are {}",
                names.join(", ")
            )
        })
    }
}
