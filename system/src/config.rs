//! The configuration of a cluster: one TOML file that all of its nodes and clients read. Does not
//! know about command lines.

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use serde::Deserialize;

use crate::{
    protocol::{CommitMode, Node, Replicas, Timing},
    tls::TlsFiles,
};

/// Earlier names of entries: section, earlier key, current key. Both are accepted; the earlier one is
/// reported when a file is loaded.
const RENAMED_KEYS: [(&str, &str, &str); 20] = [
    ("timing", "vote", "vote_timeout_ms"),
    ("timing", "resend", "retransmit_ms"),
    ("timing", "inquire", "inquiry_timeout_ms"),
    ("timing", "peers_after", "peer_inquiry_after"),
    ("timing", "read_wait", "read_wait_ms"),
    ("timing", "read_slack", "read_slack_ms"),
    ("timing", "heartbeat", "heartbeat_ms"),
    ("timing", "silent_heartbeats", "missed_heartbeats_max"),
    ("timing", "floor_batch", "watermark_batch"),
    ("node", "calls", "max_inflight"),
    ("node", "get_deadline", "get_deadline_ms"),
    ("node", "get_deadline_max", "get_deadline_max_ms"),
    ("node", "reconnect", "reconnect_ms"),
    ("node", "reconnect_max", "reconnect_max_ms"),
    ("node", "outbox", "send_buffer_bytes"),
    ("node", "stop", "shutdown_grace_ms"),
    ("node", "batch", "sched_batch"),
    ("store", "map_size", "map_bytes"),
    ("store", "log_size", "wal_bytes"),
    ("store", "max_value", "max_value_bytes"),
];

/// The longest duration that can be configured: one day.
const PERIOD_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The configuration of a cluster: its members, timeouts and limits.
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
    /// The cluster's name. Nodes of different clusters refuse each other.
    #[serde(rename = "cluster")]
    pub name: String,
    /// The address of the master.
    pub master: Address,
    /// The addresses of the replicas, in the order of their slots.
    pub replicas: Vec<Address>,
    /// What makes a commit: `logged` (the master's log, the default) or `votes`. It never changes.
    #[serde(default)]
    pub commit: CommitMode,
    /// The timeouts of the protocol, in milliseconds.
    #[serde(default)]
    pub timing: Timing,
    /// The limits of a node.
    #[serde(default)]
    pub node: NodeLimits,
    /// The limits of a store.
    #[serde(default)]
    pub store: StoreLimits,
    /// The files for TLS. Without them, connections are neither authenticated nor encrypted.
    #[serde(default)]
    pub tls: TlsConfig,
}

/// The files for TLS. In a path, `{name}` stands for whoever reads the configuration: `master`, `r1`, `r2` and so on for
/// a node; for the program `client`, `admin` where it inspects nodes and `client` otherwise. A relative path begins at
/// the directory of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificates of the authorities that are trusted, in PEM.
    pub ca: Option<PathBuf>,
    /// The certificate, in PEM.
    pub certificate: Option<PathBuf>,
    /// The private key of the certificate, in PEM.
    pub key: Option<PathBuf>,
}

impl TlsConfig {
    /// The files of one reader of the configuration, or none if it has no TLS.
    ///
    /// # Errors
    /// Some of the files are not configured; the text says which.
    pub fn files(&self, name: &str) -> Result<Option<TlsFiles>, String> {
        let TlsConfig { ca, certificate, key } = self;
        let missing = match (ca, certificate, key) {
            (None, None, None) => return Ok(None),
            (Some(ca), Some(certificate), Some(key)) => {
                let [ca, certificate, key] = [ca, certificate, key].map(|path| named(path, name));
                return Ok(Some(TlsFiles { ca, certificate, key }));
            }
            (None, ..) => "tls.ca (--ca)",
            (_, None, _) => "tls.certificate (--certificate)",
            (.., None) => "tls.key (--key)",
        };
        Err(format!("TLS needs a CA, a certificate and its key, and there is no {missing}"))
    }

    /// Makes relative paths begin at a directory.
    fn resolve(&mut self, dir: &Path) {
        let TlsConfig { ca, certificate, key } = self;
        for path in [ca, certificate, key].into_iter().flatten() {
            *path = dir.join(&path);
        }
    }
}

/// A path in which `{name}` is replaced.
fn named(path: &Path, name: &str) -> PathBuf {
    match path.to_str() {
        Some(path) => path.replace("{name}", name).into(),
        None => path.to_owned(),
    }
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
        let has_port = text
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        let valid = has_port && text.parse::<http::uri::Authority>().is_ok();
        valid.then(|| Address(text.to_owned())).ok_or_else(|| {
            format!("invalid address '{text}': expected HOST:PORT, for example 127.0.0.1:7000")
        })
    }
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// The limits of a node that do not concern the protocol.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeLimits {
    /// The maximum number of client calls in flight. Further calls are refused, without effect.
    /// Default 4096.
    #[serde(alias = "calls")]
    pub max_inflight: usize,
    /// The maximum number of client calls in flight on one connection. Default 1024.
    pub connection_max_inflight: usize,
    /// The maximum size of all requests that are being read, in bytes, as their prefixes announce it; and of
    /// those of one connection. There is always room for one. Default 64 MiB and 16 MiB.
    pub request_bytes_max: usize,
    /// See `request_bytes_max`.
    pub connection_request_bytes_max: usize,
    /// The maximum size of all writes that are not decided, in bytes, and of those of one connection. Further
    /// writes are refused, without effect. There is always room for one. Default 9 MiB and 5 MiB: eight of the
    /// largest values, and four on a connection.
    pub write_bytes_max: usize,
    /// See `write_bytes_max`.
    pub connection_write_bytes_max: usize,
    /// The maximum size of all answers that wait to be sent, in bytes, and of those of one connection. A get
    /// whose answer does not fit is refused. There is always room for one. Default 128 MiB and 32 MiB.
    pub answer_bytes_max: usize,
    /// See `answer_bytes_max`.
    pub connection_answer_bytes_max: usize,
    /// How long the HTTP/2 handshake of a connection may take, in milliseconds. Default 5000.
    pub handshake_timeout_ms: u64,
    /// How long a request may take to arrive, in milliseconds. Default 10000.
    pub request_timeout_ms: u64,
    /// A connection on which answers wait is closed if its client takes less than 64 KiB in this time, in
    /// milliseconds. Default 10000.
    pub answer_timeout_ms: u64,
    /// A connection without calls that is silent for this time is closed, in milliseconds. 0: never. Default
    /// 600000, ten minutes.
    pub idle_timeout_ms: u64,
    /// How long a dump may take, in milliseconds: as long as it goes on, the store cannot use the space of overwritten
    /// entries again. Default 60000.
    pub dump_timeout_ms: u64,
    /// The deadline of a get that does not set one, in milliseconds. Default 2000.
    #[serde(alias = "get_deadline")]
    pub get_deadline_ms: u64,
    /// The longest deadline that a get may set, in milliseconds. Default 60000.
    #[serde(alias = "get_deadline_max")]
    pub get_deadline_max_ms: u64,
    /// The delay before a node redials a peer, in milliseconds. It doubles after each failure.
    /// Default 50.
    #[serde(alias = "reconnect")]
    pub reconnect_ms: u64,
    /// The longest delay between two dials, in milliseconds. Default 1000.
    #[serde(alias = "reconnect_max")]
    pub reconnect_max_ms: u64,
    /// The size of the send buffer of each peer, in bytes. When it is full, the oldest messages are
    /// dropped. Default 64 MiB.
    #[serde(alias = "outbox")]
    pub send_buffer_bytes: usize,
    /// How long after each other a replica's turns of the scrub follow, in milliseconds. In each it compares a
    /// range of up to 256 entries with a peer. 0: never. Default 1000.
    pub scrub_ms: u64,
    /// How long a stopping node waits for the calls in flight, in milliseconds. Default 3000.
    #[serde(alias = "stop")]
    pub shutdown_grace_ms: u64,
    /// Whether the node runs under `SCHED_BATCH`, so that a wake-up does not preempt the running
    /// process. Faster when nodes share cores; disable it beside CPU-bound programs. Default true.
    #[serde(alias = "batch")]
    pub sched_batch: bool,
}

impl Default for NodeLimits {
    fn default() -> Self {
        NodeLimits {
            max_inflight: 4096,
            connection_max_inflight: 1024,
            request_bytes_max: 64 << 20,
            connection_request_bytes_max: 16 << 20,
            write_bytes_max: 9 << 20,
            connection_write_bytes_max: 5 << 20,
            answer_bytes_max: 128 << 20,
            connection_answer_bytes_max: 32 << 20,
            handshake_timeout_ms: 5000,
            request_timeout_ms: 10_000,
            answer_timeout_ms: 10_000,
            idle_timeout_ms: 600_000,
            dump_timeout_ms: 60_000,
            get_deadline_ms: 2000,
            get_deadline_max_ms: 60_000,
            reconnect_ms: 50,
            reconnect_max_ms: 1000,
            send_buffer_bytes: 64 << 20,
            scrub_ms: 1000,
            shutdown_grace_ms: 3000,
            sched_batch: true,
        }
    }
}

/// The limits of a store.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreLimits {
    /// The maximum size of the database, in bytes. It reserves address space, not memory or disk
    /// space. Default 16 GiB.
    #[serde(alias = "map_size")]
    pub map_bytes: u64,
    /// The size of the write-ahead log, in bytes. When it is full, the newest state is checkpointed
    /// to LMDB. Default 16 MiB.
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

/// The configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: std::io::Error,
    },
    /// The file does not parse as a configuration.
    #[error("{}:{line}:{column}: {why}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, in characters, from 1.
        column: usize,
        /// The error.
        why: String,
    },
    /// A value is invalid.
    #[error("{}: {why}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The error.
        why: String,
    },
}

impl ClusterConfig {
    /// Reads a file.
    ///
    /// # Errors
    /// The file cannot be read or is not usable; the error names file, line, column and reason.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|cause| ConfigError::Read { path: path.to_owned(), cause })?;
        let cluster = ClusterConfig::parse(&text, path)?;
        for (section, old, new) in renamed_keys(&text) {
            let path = path.display();
            tracing::warn!("{path}: {section}.{old} is now called {section}.{new}");
        }
        Ok(cluster)
    }

    /// Parses a text. The path is for error messages.
    ///
    /// # Errors
    /// The text is not usable; the error names file, line, column and reason.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let mut cluster: ClusterConfig = toml::from_str(text).map_err(|error| {
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
        cluster.tls.resolve(path.parent().unwrap_or(Path::new("")));
        Ok(cluster)
    }

    fn check(&self) -> Result<(), String> {
        if self.name.is_empty() || self.name.len() > 64 {
            return Err("cluster: expected a name of 1 to 64 bytes".into());
        }
        let most = Replicas::MAX;
        if self.replicas.is_empty() || self.replicas.len() > usize::from(most) {
            return Err(format!("replicas: expected 1 to {most}, not {}", self.replicas.len()));
        }
        let mut taken = BTreeSet::from([&self.master]);
        if let Some(twice) = self.replicas.iter().find(|address| !taken.insert(address)) {
            return Err(format!("replicas: two nodes cannot both listen on {twice}"));
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
            ("timing.force_age_max_ms", 1, timing.force_age_max),
            ("node.handshake_timeout_ms", 1, ms(node.handshake_timeout_ms)),
            ("node.request_timeout_ms", 1, ms(node.request_timeout_ms)),
            ("node.answer_timeout_ms", 1, ms(node.answer_timeout_ms)),
            ("node.idle_timeout_ms", 0, ms(node.idle_timeout_ms)),
            ("node.dump_timeout_ms", 1, ms(node.dump_timeout_ms)),
            ("node.get_deadline_ms", 1, ms(node.get_deadline_ms)),
            ("node.get_deadline_max_ms", 1, ms(node.get_deadline_max_ms)),
            ("node.reconnect_ms", 1, ms(node.reconnect_ms)),
            ("node.reconnect_max_ms", 1, ms(node.reconnect_max_ms)),
            ("node.scrub_ms", 0, ms(node.scrub_ms)),
            ("node.shutdown_grace_ms", 0, ms(node.shutdown_grace_ms)),
        ] {
            if period < ms(least) || period > PERIOD_MAX {
                let most = PERIOD_MAX.as_millis();
                return Err(format!("{name}: expected {least} to {most} ms"));
            }
        }
        // With 1, every replica would miss the very heartbeat that it is to answer.
        if self.timing.missed_heartbeats_max < 2 {
            return Err("timing.missed_heartbeats_max: expected at least 2".into());
        }
        for (name, calls) in [
            ("node.max_inflight", node.max_inflight),
            ("node.connection_max_inflight", node.connection_max_inflight),
        ] {
            if calls == 0 || calls > 1 << 20 {
                return Err(format!("{name}: expected 1 to 1048576"));
            }
        }
        if self.store.max_value_bytes == 0 || self.store.max_value_bytes > 1 << 30 {
            return Err("store.max_value_bytes: expected 1 byte to 1 GiB".into());
        }
        if self.store.wal_bytes > 1 << 30 {
            return Err("store.wal_bytes: expected at most 1 GiB".into());
        }
        let buffer_min = 2 * self.store.max_value_bytes + (1 << 20);
        if self.node.send_buffer_bytes < buffer_min {
            return Err(format!(
                "node.send_buffer_bytes: expected at least {buffer_min} bytes, which is 1 MiB and twice \
                 store.max_value_bytes: a message that does not fit can never be sent"
            ));
        }
        Ok(())
    }

    /// The number of replicas.
    ///
    /// # Panics
    /// Never for a parsed configuration, which has at most 64 replicas.
    #[must_use]
    pub fn replica_count(&self) -> u8 {
        u8::try_from(self.replicas.len()).expect("checked when parsed")
    }

    /// The address of a node, or none if there is no such node.
    #[must_use]
    pub fn address(&self, node: Node) -> Option<&Address> {
        match node {
            Node::Master => Some(&self.master),
            Node::Replica(slot) => self.replicas.get(usize::from(slot).checked_sub(1)?),
        }
    }
}

/// The renamed keys that a configuration uses, as in [`RENAMED_KEYS`].
fn renamed_keys(text: &str) -> Vec<(&'static str, &'static str, &'static str)> {
    // Parse errors are reported by `ClusterConfig::parse`.
    let table: toml::Table = text.parse().unwrap_or_default();
    let uses = |section: &str, key: &str| {
        table.get(section).is_some_and(|section| section.get(key).is_some())
    };
    RENAMED_KEYS.into_iter().filter(|(section, old, _)| uses(section, old)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "cluster = \"demo\"\nmaster = \"127.0.0.1:7000\"\n\
                        replicas = [\"127.0.0.1:7001\", \"localhost:7002\"]\n";

    fn error(text: &str) -> String {
        ClusterConfig::parse(text, "c.toml".as_ref()).expect_err("invalid").to_string()
    }

    #[test]
    fn defaults_apply_to_missing_entries() {
        let cluster = ClusterConfig::parse(GOOD, "c.toml".as_ref()).expect("valid");
        assert_eq!(cluster.timing, Timing::default());
        assert_eq!(cluster.commit, CommitMode::Logged);
        assert_eq!(cluster.node, NodeLimits::default());
        assert_eq!(cluster.store.max_value_bytes, 1 << 20);
        assert_eq!(cluster.address(Node::Replica(2)).map(Address::as_str), Some("localhost:7002"));
        assert_eq!(cluster.address(Node::Replica(3)), None);
        assert_eq!(cluster.address(Node::Replica(0)), None);
    }

    #[test]
    fn files_for_tls_are_found() {
        let parse = |tls: &str| {
            let text = format!("{GOOD}[tls]\n{tls}");
            ClusterConfig::parse(&text, "etc/c.toml".as_ref()).expect("valid").tls
        };
        let all =
            parse("ca = \"ca.crt\"\ncertificate = \"/tls/{name}.crt\"\nkey = \"k/{name}/key\"\n");
        let files = all.files("r2").expect("all are there").expect("TLS");
        assert_eq!(files.ca, Path::new("etc/ca.crt"));
        assert_eq!(files.certificate, Path::new("/tls/r2.crt"));
        assert_eq!(files.key, Path::new("etc/k/r2/key"));
        assert_eq!(TlsConfig::default().files("r2"), Ok(None));
        let part = parse("ca = \"ca.crt\"\ncertificate = \"c\"\n").files("r2");
        assert!(part.as_ref().is_err_and(|why| why.contains("no tls.key (--key)")), "{part:?}");
    }

    #[test]
    fn renamed_keys_are_accepted_and_reported() {
        for (section, old, new) in RENAMED_KEYS {
            let value = match (section, old) {
                (_, "batch") => "false",
                (_, "max_value") => "1000",
                (_, "outbox") | ("store", _) => "100000000",
                _ => "5",
            };
            let of = |key: &str| format!("{GOOD}[{section}]\n{key} = {value}\n");
            let parse = |text: &str| {
                ClusterConfig::parse(text, "c.toml".as_ref())
                    .unwrap_or_else(|error| panic!("{section}.{old}: {error}"))
            };
            assert_eq!(parse(&of(old)), parse(&of(new)), "{section}.{old}");
            assert_ne!(parse(&of(new)), parse(GOOD), "{section}.{new} has an effect");
            assert_eq!(renamed_keys(&of(old)), [(section, old, new)]);
            assert_eq!(renamed_keys(&of(new)), []);
        }
        assert_eq!(renamed_keys("not a configuration"), []);
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
        assert!(error(&address).contains("invalid address 'nowhere'"), "{}", error(&address));
        assert!(error(&address).starts_with("c.toml:2:10: "), "{}", error(&address));
        let twice = GOOD.replace("7001", "7000");
        assert!(error(&twice).contains("both listen on 127.0.0.1:7000"), "{}", error(&twice));
        assert!(error("cluster = 'é\n").starts_with("c.toml:1:1"), "{}", error("cluster = 'é\n"));
        let zero = format!("{GOOD}[timing]\nheartbeat_ms = 0\n");
        assert!(error(&zero).contains("timing.heartbeat_ms: expected 1 to"), "{}", error(&zero));
        let ages = format!("{GOOD}[timing]\nvote = 9223372036854775807\n");
        assert!(
            error(&ages).contains("timing.vote_timeout_ms: expected 1 to 86400000 ms"),
            "{}",
            error(&ages)
        );
        let small = format!("{GOOD}[node]\nsend_buffer_bytes = 2000000\n");
        assert!(
            error(&small).contains("node.send_buffer_bytes: expected at least 3145728"),
            "{}",
            error(&small)
        );
    }
}
