//! Campaigns: work that is divided into shards, done on many machines, and merged.
//!
//! - [`scheduler`] finds out which shard this process is to do, from the variables of the scheduler that started it.
//! - [`Attempt`] is one try to do a shard. It writes into a directory of its own, which is renamed when all of it is
//!   there: a shard is either whole or missing, whatever was killed when. The first attempt that is whole counts.
//! - [`Work`] is what all shards are shards of: a command, and the files that it reads.
//! - [`ShardSummary`] is what a shard says of itself, in one line of JSON.
//! - [`merge`] reads the shards of a campaign, as far as they are there, and [`Merged`] is what they say together.
//!
//! A campaign is a directory that all machines share, or one on each that are brought together later. There is no
//! server: schedulers exist, and a file system that renames atomically is all that the shards have to agree on.
//!
//! Does not know what the work of a shard is, nor how its verdict is made.

mod attempt;
mod merge;
pub mod scheduler;
mod summary;
mod work;

use std::{
    io,
    path::{Path, PathBuf},
};

pub use self::{
    attempt::{Attempt, Begun, write_whole},
    merge::{FailureGroup, FoundFailure, MERGED, Merged, MissingShards, failed_seeds, merge},
    summary::{ShardFailure, ShardSummary, signature_of},
    work::{Input, Work},
};

/// Why a shard cannot be done, or a campaign cannot be merged.
#[derive(Debug, thiserror::Error)]
pub enum CampaignError {
    /// A file or a directory cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The path.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// What was asked for contradicts what the directory of the campaign holds, or what the scheduler says.
    #[error("{0}")]
    Refused(String),
}

impl CampaignError {
    /// Names the path that an error is about.
    fn file(path: &Path) -> impl FnOnce(io::Error) -> CampaignError {
        let path = path.to_owned();
        |source| CampaignError::File { path, source }
    }
}
