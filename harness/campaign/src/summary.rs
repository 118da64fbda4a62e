//! What a shard says of itself: one line of JSON, printed and kept in the directory of the shard.

use std::path::PathBuf;

use checker::Validity;
use history::Shard;
use serde::{Deserialize, Serialize};

use crate::Work;

/// What a shard did and found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardSummary {
    /// The number of the shard, from 1.
    pub shard: u32,
    /// The number of shards.
    pub of: u32,
    /// What it is a shard of.
    #[serde(flatten)]
    pub work: Work,
    /// The greatest verdict.
    pub verdict: Validity,
    /// How much was done, in [`unit`](Self::unit).
    pub done: u64,
    /// How much there was to do. It is more than was done if the shard stopped at what it found.
    #[serde(default)]
    pub planned: u64,
    /// What is counted: seeds, runs, mutations, rows or operations.
    pub unit: String,
    /// What is not valid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<ShardFailure>,
    /// How long it took.
    pub seconds: f64,
    /// The machine.
    pub host: String,
}

/// Something that is not valid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardFailure {
    /// What failures that are alike have in common.
    pub signature: String,
    /// Invalid or unknown.
    pub verdict: Validity,
    /// The seed that shows it, if a seed does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// The command that repeats it.
    pub command: String,
    /// Where its record is, in the directory of the shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// The first sentence on what is wrong.
    pub why: String,
}

impl ShardSummary {
    /// The file in the directory of a shard.
    pub const FILE: &str = "summary.json";

    /// The shard.
    #[must_use]
    pub fn shard(&self) -> Option<Shard> {
        Shard::new(self.shard, self.of)
    }

    /// The greatest of its verdict and those of its failures: a summary is believed no better than what it lists.
    #[must_use]
    pub fn greatest(&self) -> Validity {
        self.failures.iter().map(|failure| failure.verdict).fold(self.verdict, Validity::max)
    }
}

/// What a sentence has in common with those on other failures of the same kind: its first line, without numbers and
/// without what is in quotation marks.
#[must_use]
pub fn signature_of(sentence: &str) -> String {
    let line = sentence.lines().next().unwrap_or_default();
    let mut signature = String::new();
    for (at, part) in line.split('\'').enumerate() {
        if at % 2 == 1 {
            signature.push_str("'…'");
            continue;
        }
        for c in part.chars() {
            match c {
                '0'..='9' if signature.ends_with('#') => {}
                '0'..='9' => signature.push('#'),
                c => signature.push(c),
            }
        }
    }
    signature
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_that_differ_in_numbers_and_values_have_one_signature() {
        let of = |key: &str, value: u32| {
            signature_of(&format!(
                "{key} is not linearizable: no order explains 'get = {value}' of process {value}:\n  p4 put"
            ))
        };
        assert_eq!(of("k3", 5), of("k14", 205));
        assert_eq!(of("k3", 5), "k# is not linearizable: no order explains '…' of process #:");
        assert_ne!(signature_of("AC1: r1 halts"), signature_of("AC1: r1 forgets"));
    }
}
