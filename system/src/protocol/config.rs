//! What a machine is told about itself and its cluster when it starts, and every period of time
//! that the protocol knows. Knows nothing of files and flags.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    rules::Rules,
    types::{Node, StoreId},
};

/// Who a machine is, among whom, and by which rules and periods it acts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Config {
    /// Which node this is.
    pub node: Node,
    /// How many replicas the cluster has, slots 1 to this.
    pub replicas: u8,
    /// The identity of this node's store directory.
    pub store: StoreId,
    /// Whether an empty store may begin a new membership.
    pub bootstrap: bool,
    /// What makes a commit.
    #[serde(default, skip_serializing_if = "CommitMode::is_logged")]
    pub commit: CommitMode,
    /// The rules that are kept.
    pub rules: Rules,
    /// The periods.
    pub timing: Timing,
}

impl Config {
    /// Every replica of the cluster, in the order of the slots.
    pub fn replica_nodes(&self) -> impl Iterator<Item = Node> + use<> {
        (1..=self.replicas).map(Node::Replica)
    }
}

/// What makes a commit, of a whole cluster and for ever: the seam at which a decision lives.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum CommitMode {
    /// The master's log: COMMIT is durable there. Two forces, one after the other, for each write;
    /// what the log does not name is aborted.
    #[default]
    Logged,
    /// The replicas' logs: PREPARE is durable at all N, and none has vetoed. One force for each
    /// write; nothing may be presumed, so an abort rests on a durable veto.
    Votes,
}

impl CommitMode {
    /// Every mode, the default first.
    pub const ALL: [CommitMode; 2] = [CommitMode::Logged, CommitMode::Votes];

    /// Whether the master's log decides: the default, which nothing need mention.
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
        let found = CommitMode::ALL.into_iter().find(|mode| mode.to_string() == text);
        found.ok_or_else(|| format!("'{text}': want logged or votes"))
    }
}

/// The periods of the protocol and the bounds that go with them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timing {
    /// The master aborts a transaction whose votes are missing after this. Default 1 s.
    #[serde(rename = "vote_timeout_ms", alias = "vote", with = "millis")]
    pub vote_timeout: Duration,
    /// The master repeats an unanswered message after this, then after twice as long, and so on
    /// up to 8 times as long. Default 250 ms.
    #[serde(rename = "retransmit_ms", alias = "resend", with = "millis")]
    pub retransmit: Duration,
    /// A participant asks for a decision when it has been in doubt this long, and again each time
    /// it passes without one. Default 500 ms.
    #[serde(rename = "inquiry_timeout_ms", alias = "inquire", with = "millis")]
    pub inquiry_timeout: Duration,
    /// After this many inquiries of the master without an answer a participant asks its peers as
    /// well. Default 3.
    #[serde(alias = "peers_after")]
    pub peer_inquiry_after: u8,
    /// A read waits this long at a replica for a locked key. Default 200 ms.
    #[serde(rename = "read_wait_ms", alias = "read_wait", with = "millis")]
    pub read_wait: Duration,
    /// The master turns to another replica when a read was not answered this long after it should
    /// have been. Default 100 ms.
    #[serde(rename = "read_slack_ms", alias = "read_slack", with = "millis")]
    pub read_slack: Duration,
    /// The master sends a heartbeat to each replica this often. Default 250 ms.
    #[serde(rename = "heartbeat_ms", alias = "heartbeat", with = "millis")]
    pub heartbeat_interval: Duration,
    /// A replica that was silent for this many heartbeats is not live. Default 4.
    #[serde(alias = "silent_heartbeats")]
    pub missed_heartbeats_max: u8,
    /// A replica drops outcomes below the watermark when it has this many of them. Default 256.
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
