//! The cluster's configuration: one TOML file that every node and client of it reads. Knows
//! nothing of command lines.

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use serde::Deserialize;

use crate::protocol::{CommitMode, Node, Replicas, Timing};

/// The longest period that can be configured: one day.
const PERIOD_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// A cluster: who belongs to it, and by which periods and bounds it lives.
///
/// ```
/// let text = r#"
///     cluster = "demo"
///     master = "127.0.0.1:7000"
///     replicas = ["127.0.0.1:7001", "127.0.0.1:7002"]
///     [timing]
///     vote_timeout_ms = 500
/// "#;
/// let cluster = system::config::ClusterConfig::parse(text, "cluster.toml".as_ref())?;
/// assert_eq!(cluster.replicas.len(), 2);
/// assert_eq!(cluster.timing.vote_timeout.as_millis(), 500);
/// # Ok::<(), system::config::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    /// The cluster's name: nodes of different names refuse each other.
    #[serde(rename = "cluster")]
    pub name: String,
    /// Where the master listens.
    pub master: Address,
    /// Where the replicas listen, in the order of their slots.
    pub replicas: Vec<Address>,
    /// What makes a commit: `logged` (the master's log, the default) or `votes`. For ever.
    #[serde(default)]
    pub commit: CommitMode,
    /// The periods of the protocol, in milliseconds.
    #[serde(default)]
    pub timing: Timing,
    /// The bounds of a node.
    #[serde(default)]
    pub node: NodeLimits,
    /// The bounds of a store.
    #[serde(default)]
    pub store: StoreLimits,
}

/// `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Address(String);

impl Address {
    /// The text `HOST:PORT`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let whole = text
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        let whole = whole && text.parse::<http::uri::Authority>().is_ok();
        whole
            .then(|| Address(text.to_owned()))
            .ok_or_else(|| format!("'{text}' is no address: want HOST:PORT, as in 127.0.0.1:7000"))
    }
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// The bounds of a node that the protocol does not know of.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeLimits {
    /// Client calls in flight; more are refused, without effect. Default 4096.
    #[serde(alias = "calls")]
    pub max_inflight: usize,
    /// How long a get without a deadline of its own may take, in milliseconds. Default 2000.
    #[serde(alias = "get_deadline")]
    pub get_deadline_ms: u64,
    /// The longest deadline that a get may ask for, in milliseconds. Default 60000.
    #[serde(alias = "get_deadline_max")]
    pub get_deadline_max_ms: u64,
    /// A node redials a peer after this, then after twice as long, and so on, in milliseconds.
    /// Default 50.
    #[serde(alias = "reconnect")]
    pub reconnect_ms: u64,
    /// The longest time between two dials, in milliseconds. Default 1000.
    #[serde(alias = "reconnect_max")]
    pub reconnect_max_ms: u64,
    /// What may wait for one slow peer, in bytes; more is dropped, the oldest first. Default
    /// 64 MiB.
    #[serde(alias = "outbox")]
    pub send_buffer_bytes: usize,
    /// How long a node that was told to stop waits for the calls in flight, in milliseconds.
    /// Default 3000.
    #[serde(alias = "stop")]
    pub shutdown_grace_ms: u64,
    /// Whether a node that has something to do waits until whoever runs on its processor pauses
    /// (`SCHED_BATCH`), rather than interrupt it: for nodes that share a machine with each other,
    /// and not with programs that never pause. Default true.
    #[serde(alias = "batch")]
    pub sched_batch: bool,
}

impl Default for NodeLimits {
    fn default() -> Self {
        NodeLimits {
            max_inflight: 4096,
            get_deadline_ms: 2000,
            get_deadline_max_ms: 60_000,
            reconnect_ms: 50,
            reconnect_max_ms: 1000,
            send_buffer_bytes: 64 << 20,
            shutdown_grace_ms: 3000,
            sched_batch: true,
        }
    }
}

/// The bounds of a store.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreLimits {
    /// The most that the database may grow to, in bytes; address space, not memory, and no more
    /// disk than is used. Default 16 GiB.
    #[serde(alias = "map_size")]
    pub map_bytes: u64,
    /// The size of the log, in bytes: what is durable there before the tables take it up. Commits
    /// that do not fit go to the tables at once. Default 16 MiB.
    #[serde(alias = "log_size")]
    pub wal_bytes: u64,
    /// The longest value, in bytes. Default 1 MiB.
    #[serde(alias = "max_value")]
    pub max_value_bytes: usize,
}

impl Default for StoreLimits {
    fn default() -> Self {
        StoreLimits { map_bytes: 16 << 30, wal_bytes: 16 << 20, max_value_bytes: 1 << 20 }
    }
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: std::io::Error,
    },
    /// The file does not say what a configuration says.
    #[error("{}:{line}:{column}: {why}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, in characters, from 1.
        column: usize,
        /// What is wrong.
        why: String,
    },
    /// The file says something that cannot be.
    #[error("{}: {why}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl ClusterConfig {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or used; the error names file, line, column and reason.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|cause| ConfigError::Read { path: path.to_owned(), cause })?;
        ClusterConfig::parse(&text, path)
    }

    /// Reads a text; the path is for the errors.
    ///
    /// # Errors
    /// The text cannot be used; the error names file, line, column and reason.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let cluster: ClusterConfig = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start.min(text.len()));
            let before = text.get(..at).unwrap_or_default();
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            ConfigError::Syntax {
                path: path.to_owned(),
                line: before.matches('\n').count() + 1,
                column: before[line_start..].chars().count() + 1,
                why: error.message().to_owned(),
            }
        })?;
        cluster.check().map_err(|why| ConfigError::Value { path: path.to_owned(), why })?;
        Ok(cluster)
    }

    fn check(&self) -> Result<(), String> {
        if self.name.is_empty() || self.name.len() > 64 {
            return Err("cluster: want a name of 1 to 64 bytes".into());
        }
        let most = Replicas::MAX;
        if self.replicas.is_empty() || self.replicas.len() > usize::from(most) {
            return Err(format!("replicas: want 1 to {most}, not {}", self.replicas.len()));
        }
        let mut taken = BTreeSet::from([&self.master]);
        if let Some(twice) = self.replicas.iter().find(|address| !taken.insert(address)) {
            return Err(format!("replicas: two nodes cannot both listen at {twice}"));
        }
        let timing = &self.timing;
        let node = &self.node;
        let ms = Duration::from_millis;
        for (name, least, period) in [
            ("timing.vote_timeout_ms", 1, timing.vote_timeout),
            ("timing.retransmit_ms", 1, timing.retransmit),
            ("timing.inquiry_timeout_ms", 1, timing.inquiry_timeout),
            ("timing.read_wait_ms", 0, timing.read_wait),
            ("timing.read_slack_ms", 0, timing.read_slack),
            ("timing.heartbeat_ms", 1, timing.heartbeat_interval),
            ("node.get_deadline_ms", 1, ms(node.get_deadline_ms)),
            ("node.get_deadline_max_ms", 1, ms(node.get_deadline_max_ms)),
            ("node.reconnect_ms", 1, ms(node.reconnect_ms)),
            ("node.reconnect_max_ms", 1, ms(node.reconnect_max_ms)),
            ("node.shutdown_grace_ms", 0, ms(node.shutdown_grace_ms)),
        ] {
            if period < ms(least) || period > PERIOD_MAX {
                let most = PERIOD_MAX.as_millis();
                return Err(format!("{name}: want {least} to {most} ms"));
            }
        }
        // With one, every replica would be silent at the very heartbeat that asks it to speak.
        if self.timing.missed_heartbeats_max < 2 {
            return Err("timing.missed_heartbeats_max: want at least 2".into());
        }
        if self.node.max_inflight == 0 || self.node.max_inflight > 1 << 20 {
            return Err("node.max_inflight: want 1 to 1048576".into());
        }
        if self.store.max_value_bytes == 0 || self.store.max_value_bytes > 1 << 30 {
            return Err("store.max_value_bytes: want 1 byte to 1 GiB".into());
        }
        if self.store.wal_bytes > 1 << 30 {
            return Err("store.wal_bytes: want at most 1 GiB".into());
        }
        let buffer_min = 2 * self.store.max_value_bytes + (1 << 20);
        if self.node.send_buffer_bytes < buffer_min {
            return Err(format!(
                "node.send_buffer_bytes: want at least {buffer_min} bytes, which is 1 MiB and twice \
                 store.max_value_bytes: a message that does not fit could never be sent"
            ));
        }
        Ok(())
    }

    /// How many replicas there are.
    ///
    /// # Panics
    /// Never for a cluster that was parsed: there are at most 255.
    #[must_use]
    pub fn replica_count(&self) -> u8 {
        u8::try_from(self.replicas.len()).expect("checked when parsed")
    }

    /// Where a node listens, or none if there is no such node.
    #[must_use]
    pub fn address(&self, node: Node) -> Option<&Address> {
        match node {
            Node::Master => Some(&self.master),
            Node::Replica(slot) => self.replicas.get(usize::from(slot).checked_sub(1)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "cluster = \"demo\"\nmaster = \"127.0.0.1:7000\"\n\
                        replicas = [\"127.0.0.1:7001\", \"localhost:7002\"]\n";

    fn error(text: &str) -> String {
        ClusterConfig::parse(text, "c.toml".as_ref()).expect_err("is refused").to_string()
    }

    #[test]
    fn defaults_fill_what_is_not_said() {
        let cluster = ClusterConfig::parse(GOOD, "c.toml".as_ref()).expect("is good");
        assert_eq!(cluster.timing, Timing::default());
        assert_eq!(cluster.commit, CommitMode::Logged);
        assert_eq!(cluster.node, NodeLimits::default());
        assert_eq!(cluster.store.max_value_bytes, 1 << 20);
        assert_eq!(cluster.address(Node::Replica(2)).map(Address::as_str), Some("localhost:7002"));
        assert_eq!(cluster.address(Node::Replica(3)), None);
        assert_eq!(cluster.address(Node::Replica(0)), None);
    }

    #[test]
    fn errors_say_where_and_why() {
        let broken = format!("{GOOD}[timing]\nvote_timeout_ms = \"soon\"\n");
        assert!(error(&broken).starts_with("c.toml:5:19: "), "{}", error(&broken));
        let mode = format!("{GOOD}commit = \"quorum\"\n");
        assert!(error(&mode).starts_with("c.toml:4:10: "), "{}", error(&mode));
        let unknown = format!("{GOOD}\n[timing]\nvotes = 5\n");
        assert!(error(&unknown).starts_with("c.toml:6:1: "), "{}", error(&unknown));
        let address = GOOD.replace("127.0.0.1:7000", "nowhere");
        assert!(error(&address).contains("'nowhere' is no address"), "{}", error(&address));
        assert!(error(&address).starts_with("c.toml:2:10: "), "{}", error(&address));
        let twice = GOOD.replace("7001", "7000");
        assert!(error(&twice).contains("both listen at 127.0.0.1:7000"), "{}", error(&twice));
        assert!(error("cluster = 'é\n").starts_with("c.toml:1:1"), "{}", error("cluster = 'é\n"));
        let zero = format!("{GOOD}[timing]\nheartbeat_ms = 0\n");
        assert!(error(&zero).contains("timing.heartbeat_ms: want 1 to"), "{}", error(&zero));
        let ages = format!("{GOOD}[timing]\nvote = 9223372036854775807\n");
        assert!(
            error(&ages).contains("timing.vote_timeout_ms: want 1 to 86400000 ms"),
            "{}",
            error(&ages)
        );
        let small = format!("{GOOD}[node]\nsend_buffer_bytes = 2000000\n");
        assert!(
            error(&small).contains("node.send_buffer_bytes: want at least 3145728"),
            "{}",
            error(&small)
        );
    }
}
