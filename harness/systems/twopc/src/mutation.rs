//! What can be broken in the system on purpose, to see which check notices.

use std::{fmt, str::FromStr};

use system::{protocol::Rule, store::SyncMode};

/// A deliberate defect of the system under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A rule of the protocol is switched off.
    Rule(Rule),
    /// The store skips syncs. Only the nodes that are built into the harness support this.
    SyncMode(SyncMode),
}

impl Mutation {
    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Mutation::Rule(rule) => rule.name(),
            Mutation::SyncMode(SyncMode::All) => "nothing",
            Mutation::SyncMode(SyncMode::NoMeta) => "store-meta-syncs",
            Mutation::SyncMode(SyncMode::None) => "store-syncs",
        }
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
        let sync_modes = [SyncMode::NoMeta, SyncMode::None].map(Mutation::SyncMode);
        match sync_modes.into_iter().find(|mutation| mutation.name() == text) {
            Some(mutation) => Ok(mutation),
            None => text.parse().map(Mutation::Rule).map_err(|error| {
                format!("{error}; or store-syncs, store-meta-syncs (LMDB's NOSYNC, NOMETASYNC)")
            }),
        }
    }
}
