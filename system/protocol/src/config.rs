//! The configuration of a machine, and every timeout of the protocol. Does not know about files and
//! command-line flags.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    rules::Rules,
    types::{Node, Nonce, StoreId},
};

/// The configuration of a machine: its identity, its cluster, its rules and its timeouts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Config {
    /// Which node this is.
    pub node: Node,
    /// The number of replicas; their slots are 1 to this.
    pub replicas: u8,
    /// The identity of this node's store directory.
    pub store: StoreId,
    /// A number drawn at random for this start of the node. That of the first start of a new
    /// cluster's master becomes the identity of the cluster. Zero stands for none, as before nonces
    /// existed: then no copy of a store is detected, and nothing is kept for that.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub nonce: Nonce,
    /// Whether a node with an empty store may join a new cluster.
    pub bootstrap: bool,
    /// What makes a commit.
    #[serde(default, skip_serializing_if = "CommitMode::is_logged")]
    pub commit: CommitMode,
    /// The rules that are in force.
    pub rules: Rules,
    /// The timeouts.
    pub timing: Timing,
    /// How long after each other the turns of the scrub follow, in each of which a replica compares a
    /// range of its entries with a peer. Zero: there is no scrub, as in earlier versions.
    #[serde(default, skip_serializing_if = "Duration::is_zero")]
    pub scrub_interval: Duration,
    /// The transactions of each epoch are numbered from the next number on. Zero but in tests, which reach
    /// so what takes days of load.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sequence_above: u64,
}

/// Whether a number is zero, which is left out of serialised forms.
pub(super) fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Config {
    /// The replicas of the cluster, in the order of the slots.
    pub fn replica_nodes(&self) -> impl Iterator<Item = Node> + use<> {
        (1..=self.replicas).map(Node::Replica)
    }
}

/// What makes a commit. All nodes of a cluster use the same mode, and it never changes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum CommitMode {
    /// COMMIT is durable in the master's log. Each write needs two forces, one after the other. A
    /// transaction that the log does not name is aborted.
    #[default]
    Logged,
    /// PREPARE is durable at all N replicas, and none has vetoed. Each write needs one force.
    /// Nothing may be presumed, so an abort rests on a durable veto.
    Votes,
}

impl CommitMode {
    /// Every mode, the default first.
    pub const ALL: [CommitMode; 2] = [CommitMode::Logged, CommitMode::Votes];

    /// Whether this is the default mode, which is left out of serialised forms.
    #[must_use]
    pub fn is_logged(&self) -> bool {
        *self == CommitMode::Logged
    }
}

impl fmt::Display for CommitMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CommitMode::Logged => "logged",
            CommitMode::Votes => "votes",
        })
    }
}

impl FromStr for CommitMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mode = CommitMode::ALL.into_iter().find(|mode| mode.to_string() == text);
        mode.ok_or_else(|| format!("unknown commit mode '{text}': expected logged or votes"))
    }
}

/// The timeouts of the protocol and the limits that belong to them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timing {
    /// The master aborts a transaction if votes are still missing after this time. Default 1 s.
    #[serde(rename = "vote_timeout_ms", alias = "vote", with = "millis")]
    pub vote_timeout: Duration,
    /// The master retransmits an unanswered message after this time, then after twice as long, and
    /// so on up to 8 times as long. Default 250 ms.
    #[serde(rename = "retransmit_ms", alias = "resend", with = "millis")]
    pub retransmit: Duration,
    /// A participant inquires about a transaction after it has been in doubt for this time, and
    /// again each time the period expires. Default 500 ms.
    #[serde(rename = "inquiry_timeout_ms", alias = "inquire", with = "millis")]
    pub inquiry_timeout: Duration,
    /// After this many unanswered inquiries at the master, a participant asks its peers as well.
    /// Default 3.
    #[serde(alias = "peers_after")]
    pub peer_inquiry_after: u8,
    /// A read waits at a replica for a locked key for at most this time. Default 200 ms.
    #[serde(rename = "read_wait_ms", alias = "read_wait", with = "millis")]
    pub read_wait: Duration,
    /// The master retries a read at another replica if the answer is this much later than the read
    /// wait allows. Default 100 ms.
    #[serde(rename = "read_slack_ms", alias = "read_slack", with = "millis")]
    pub read_slack: Duration,
    /// The period at which the master sends heartbeats to each replica. Default 250 ms.
    #[serde(rename = "heartbeat_ms", alias = "heartbeat", with = "millis")]
    pub heartbeat_interval: Duration,
    /// A replica that has missed this many heartbeats is not live. Default 4.
    #[serde(alias = "silent_heartbeats")]
    pub missed_heartbeats_max: u8,
    /// A node whose oldest force has been under way for longer is not live: its disk hangs. Default 2 s.
    #[serde(rename = "force_age_max_ms", with = "millis")]
    pub force_age_max: Duration,
    /// A replica drops its outcomes below the watermark once it has this many of them. Default 256.
    #[serde(alias = "floor_batch")]
    pub watermark_batch: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            vote_timeout: Duration::from_millis(1000),
            retransmit: Duration::from_millis(250),
            inquiry_timeout: Duration::from_millis(500),
            peer_inquiry_after: 3,
            read_wait: Duration::from_millis(200),
            read_slack: Duration::from_millis(100),
            heartbeat_interval: Duration::from_millis(250),
            missed_heartbeats_max: 4,
            force_age_max: Duration::from_millis(2000),
            watermark_batch: 256,
        }
    }
}

/// Durations as whole milliseconds.
mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(period: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(period.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}
