//! The command line of `client`: single operations, a stream of operations, a generated load, and
//! inspection of nodes.

use std::{
    future::Future,
    io::{self, BufRead as _, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Subcommand};
use futures::StreamExt as _;

use super::{
    LogFormat, TlsArgs,
    cert::CertArgs,
    load::{self, LoadArgs},
    output::{ClientError, ExitStatus, print_line},
};
use crate::{
    client::{Client, Inspector, KeysOf, NodeStatus, RangeOf, ReadError, WriteOutcome},
    config::{Address, ClusterConfig},
    protocol::{Blob, Key, Node, Value, Version},
    tls::{Role, Tls},
};

const ANSWERS: &str = "\
Answers, one per line:
  ok VERSION          the write is committed, and durable at every replica
  ok VERSION VALUE    the value of the key
  ok absent           the key does not exist
  KEY	VERSION	VALUE   read, list: an entry (separated by tabs)
  KEY	absent          read: the key does not exist
  aborted REASON: …   the write had no effect and never will
  unavailable: …      the get, the read or the list failed
  unknown: …          the write may or may not have taken effect

Keys and values are text; a byte that is not printable ASCII is written \\xNN, as is a backslash
(\\x5c).

Exit status: 0 ok, 1 aborted or unavailable, 2 usage, 3 unknown; of several, the greatest.";

/// The command line of a client.
#[derive(Args, Clone, Debug)]
#[command(after_help = ANSWERS)]
pub struct ClientArgs {
    /// The master's address. Default: the address in the configuration, or else 127.0.0.1:7000
    #[arg(long, env = "TWOPC_MASTER", value_name = "HOST:PORT", global = true)]
    pub master: Option<Address>,

    /// The cluster's configuration, which has all addresses
    #[arg(long, env = "TWOPC_CONFIG", value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,

    /// The files for TLS.
    #[command(flatten)]
    pub tls: TlsArgs,

    /// How long to wait for each answer
    #[arg(long, env = "TWOPC_TIMEOUT", value_name = "TIME", default_value = "5s", global = true,
          value_parser = super::duration)]
    pub timeout: Duration,

    /// The command. Default: stream
    #[command(subcommand)]
    pub command: Option<ClientCommand>,
}

/// A command of the client.
#[derive(Clone, Debug, Subcommand)]
pub enum ClientCommand {
    /// Store a value under a key
    Put {
        /// The key, 1 to 511 bytes
        #[arg(value_parser = blob)]
        key: Key,
        /// The value
        #[arg(value_parser = blob)]
        value: Value,
    },
    /// Delete a key
    Del {
        /// The key.
        #[arg(value_parser = blob)]
        key: Key,
    },
    /// Read a key
    Get {
        /// The key.
        #[arg(value_parser = blob)]
        key: Key,
    },
    /// Read several keys as one snapshot: there was an instant at which each had what is printed
    Read {
        /// The keys, 1 to 128.
        #[arg(value_parser = blob, required = true)]
        keys: Vec<Key>,
    },
    /// List the entries whose keys begin with a prefix, or all, in key order. Each page is a snapshot of its
    /// own
    List {
        /// The prefix
        #[arg(value_parser = blob, conflicts_with_all = ["from", "to"])]
        prefix: Option<Key>,
        /// List the keys from this one on
        #[arg(long, value_name = "KEY", value_parser = blob)]
        from: Option<Key>,
        /// List only keys before this one
        #[arg(long, value_name = "KEY", value_parser = blob)]
        to: Option<Key>,
        /// List only keys after this one, to go on where a list ended
        #[arg(long, value_name = "KEY", value_parser = blob)]
        after: Option<Key>,
        /// List this many entries at most, and say how to go on
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
        /// How many entries to read as one snapshot at most. Default: as many as possible
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        page: Option<u32>,
    },
    /// Perform the operations on standard input, one per line (put KEY VALUE, del KEY, get KEY), in
    /// order, and print each answer on a line
    Stream,
    /// Run many clients with random operations concurrently, and print statistics
    Load(LoadArgs),
    /// Show the status of every node of the configuration, or of the master if there is none
    Status,
    /// List every entry of one replica, bypassing the master: KEY, VERSION and VALUE, separated by
    /// tabs
    Dump {
        /// The replica's address, or its name (r1, r2, …) if there is a configuration
        #[arg(long, value_name = "ADDR")]
        replica: String,

        /// List only the entries after this key, to go on where a dump was ended
        #[arg(long, value_name = "KEY", value_parser = blob)]
        after: Option<Key>,
    },
    /// Make a certificate authority, and the certificates of nodes, clients and administrators
    Cert(CertArgs),
}

impl ClientCommand {
    /// The role that the command needs a certificate of.
    fn role(&self) -> Role {
        match self {
            ClientCommand::Status | ClientCommand::Dump { .. } => Role::Admin,
            _ => Role::Client,
        }
    }
}

/// Parses a key or a value from its textual form. Without this, clap would take the argument
/// literally, including its escapes.
fn blob(text: &str) -> Result<Blob, String> {
    text.parse()
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Operation {
    Put(Key, Value),
    Del(Key),
    Get(Key),
}

impl ClientArgs {
    /// Runs the command and prints its result to standard output.
    #[must_use]
    pub fn run(self) -> ExitCode {
        super::log_to(io::stderr, LogFormat::Text);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let done = match runtime {
            Ok(runtime) => runtime.block_on(self.execute()),
            Err(error) => Err(ClientError::Failed(format!("cannot start: {error}"))),
        };
        match done {
            Ok(status) => status,
            Err(ClientError::OutputClosed) => ExitStatus::Ok,
            Err(ClientError::Failed(why)) => {
                eprintln!("client: {why}");
                ExitStatus::Usage
            }
        }
        .into()
    }

    async fn execute(self) -> Result<ExitStatus, ClientError> {
        let command = self.command.unwrap_or(ClientCommand::Stream);
        // Needs no cluster.
        if let ClientCommand::Cert(args) = command {
            return args.run();
        }
        let cluster = match &self.config {
            Some(path) => Some(ClusterConfig::load(path).map_err(|error| error.to_string())?),
            None => None,
        };
        let master = match (&self.master, &cluster) {
            (Some(master), _) => master.clone(),
            (None, Some(cluster)) => cluster.master.clone(),
            (None, None) => "127.0.0.1:7000".parse()?,
        };
        let configured = cluster.as_ref().map(|cluster| &cluster.tls);
        let files = self.tls.files(configured, &command.role().to_string())?;
        let tls = files.map(|files| Tls::load(files, None)).transpose();
        let tls = tls.map_err(|error| error.to_string())?;
        let client = Client::with_tls(master.clone(), tls.clone()).timeout(self.timeout);
        match command {
            ClientCommand::Cert(args) => args.run(),
            ClientCommand::Put { key, value } => one(&client, Operation::Put(key, value)).await,
            ClientCommand::Del { key } => one(&client, Operation::Del(key)).await,
            ClientCommand::Get { key } => one(&client, Operation::Get(key)).await,
            ClientCommand::Read { keys } => read_many(&client, keys).await,
            ClientCommand::List { prefix, from, to, after, limit, page } => {
                let keys = match prefix {
                    Some(prefix) => KeysOf::Prefix(prefix),
                    None => KeysOf::Bounds { from, to },
                };
                let left = limit.and_then(|limit| u32::try_from(limit).ok()).unwrap_or(u32::MAX);
                let page_entries = page.unwrap_or(u32::MAX).min(left);
                list(&client, RangeOf { keys, page_entries }, after, limit).await
            }
            ClientCommand::Stream => stream(&client).await,
            ClientCommand::Load(args) => {
                load::run(&args, &master, tls.as_ref(), self.timeout).await
            }
            ClientCommand::Status => {
                status(cluster.as_ref(), &master, tls.as_deref(), self.timeout).await
            }
            ClientCommand::Dump { replica, after } => {
                let (node, address) = replica_address(&replica, cluster.as_ref())?;
                dump(&address, node, tls.as_deref(), after, self.timeout).await
            }
        }
    }
}

async fn one(client: &Client, operation: Operation) -> Result<ExitStatus, ClientError> {
    let (status, answer) = perform(client, operation).await;
    print_line(&answer)?;
    Ok(status)
}

async fn perform(client: &Client, operation: Operation) -> (ExitStatus, String) {
    match operation {
        Operation::Put(key, value) => written(client.put(key, value).await),
        Operation::Del(key) => written(client.del(key).await),
        Operation::Get(key) => read(client.get(key).await),
    }
}

async fn read_many(client: &Client, keys: Vec<Key>) -> Result<ExitStatus, ClientError> {
    let answer = match client.read(keys.iter().cloned()).await {
        Ok(answer) => answer,
        Err(error) => return unavailable(&error),
    };
    for (key, found) in keys.iter().zip(answer.found) {
        match found {
            Some((version, value)) => print_line(&format!("{key}\t{version}\t{value}"))?,
            None => print_line(&format!("{key}\tabsent"))?,
        }
    }
    Ok(ExitStatus::Ok)
}

async fn list(
    client: &Client,
    range: RangeOf,
    after: Option<Key>,
    limit: Option<u64>,
) -> Result<ExitStatus, ClientError> {
    let go_on = |after: &Option<Key>| {
        if let Some(after) = after {
            eprintln!("client: there may be more: go on with --after '{after}'");
        }
    };
    let mut left = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let mut last = after.clone();
    let mut pages = std::pin::pin!(client.pages(range, after));
    while let Some(page) = pages.next().await {
        let page = match page {
            Ok(page) => page,
            Err(error) => {
                go_on(&last);
                return unavailable(&error);
            }
        };
        let is_last = page.end.is_none() && page.entries.len() <= left;
        let mut out = io::BufWriter::new(io::stdout().lock());
        for (key, version, value) in page.entries.into_iter().take(left) {
            writeln!(out, "{key}\t{version}\t{value}")?;
            left -= 1;
            last = Some(key);
        }
        out.flush()?;
        if left == 0 {
            if !is_last {
                go_on(&last);
            }
            break;
        }
    }
    Ok(ExitStatus::Ok)
}

fn unavailable(error: &ReadError) -> Result<ExitStatus, ClientError> {
    print_line(&format!("unavailable: {error}"))?;
    Ok(ExitStatus::Refused)
}

fn written(outcome: WriteOutcome) -> (ExitStatus, String) {
    match outcome {
        WriteOutcome::Committed { version } => (ExitStatus::Ok, format!("ok {version}")),
        WriteOutcome::Aborted(reason) => (ExitStatus::Refused, format!("aborted {reason}")),
        WriteOutcome::Unknown(why) => (ExitStatus::Unknown, format!("unknown: {why}")),
    }
}

fn read(answer: Result<Option<(Version, Value)>, ReadError>) -> (ExitStatus, String) {
    match answer {
        Ok(Some((version, value))) => (ExitStatus::Ok, format!("ok {version} {value}")),
        Ok(None) => (ExitStatus::Ok, "ok absent".to_owned()),
        Err(error) => (ExitStatus::Refused, format!("unavailable: {error}")),
    }
}

/// Reads standard input in a separate thread, because reading from a terminal blocks.
async fn stream(client: &Client) -> Result<ExitStatus, ClientError> {
    let (lines, mut read) = tokio::sync::mpsc::channel(64);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            if lines.blocking_send(line).is_err() {
                break;
            }
        }
    });
    let mut worst = ExitStatus::Ok;
    let mut number = 0;
    while let Some(line) = read.recv().await {
        number += 1;
        let line = line.map_err(|error| format!("standard input, line {number}: {error}"))?;
        if line.trim().is_empty() {
            continue;
        }
        let (status, answer) = match parse(&line) {
            Ok(operation) => perform(client, operation).await,
            Err(why) => (ExitStatus::Usage, format!("error: line {number}: {why}")),
        };
        worst = worst.max(status);
        print_line(&answer)?;
    }
    Ok(worst)
}

/// Parses an operation. A value extends to the end of the line, including blanks.
fn parse(line: &str) -> Result<Operation, String> {
    let line = line.trim_start();
    let (f, rest) = line.split_once(' ').unwrap_or((line.trim_end(), ""));
    let rest = rest.trim_start();
    let lone = |rest: &str| match rest.trim_end() {
        "" => Err(format!("expected {f} KEY")),
        key if key.contains(' ') => Err(format!("'{key}': write a blank in a key as \\x20")),
        key => key.parse::<Key>(),
    };
    match f {
        "put" => {
            let (key, value) = rest.split_once(' ').ok_or("expected put KEY VALUE")?;
            Ok(Operation::Put(key.parse()?, value.parse()?))
        }
        "del" => lone(rest).map(Operation::Del),
        "get" => lone(rest).map(Operation::Get),
        _ => Err(format!("unknown operation '{f}': expected put KEY VALUE, del KEY or get KEY")),
    }
}

async fn status(
    cluster: Option<&ClusterConfig>,
    master: &Address,
    tls: Option<&Tls>,
    timeout: Duration,
) -> Result<ExitStatus, ClientError> {
    let mut nodes = vec![(Node::Master, master.clone())];
    if let Some(cluster) = cluster {
        nodes.extend((1..).map(Node::Replica).zip(cluster.replicas.iter().cloned()));
    }
    let requests = nodes.into_iter().map(async |(node, address)| {
        let status = within(timeout, async {
            let inspector = Inspector::connect_with_tls(&address, tls, Some(node)).await;
            let mut inspector = inspector.map_err(|error| error.to_string())?;
            inspector.status().await.map_err(|status| status.message().to_owned())
        });
        (node, status.await, address)
    });
    let mut worst = ExitStatus::Ok;
    for (node, status, address) in futures::future::join_all(requests).await {
        match status {
            Ok(status) => {
                if !status.machine.ready {
                    worst = worst.max(ExitStatus::Refused);
                }
                print_line(&describe(&status, &address))?;
            }
            Err(why) => {
                print_line(&format!("{:<7} {address}  unreachable: {why}", node.to_string()))?;
                worst = worst.max(ExitStatus::Refused);
            }
        }
    }
    Ok(worst)
}

fn describe(NodeStatus { cluster, machine }: &NodeStatus, address: &Address) -> String {
    let mut text = format!(
        "{:<7} {address}  cluster {cluster}, {}, epoch {}, incarnation {}, watermark {}, {} unsettled",
        machine.node.to_string(),
        if machine.ready { "ready" } else { "not ready" },
        machine.epoch,
        machine.incarnation,
        machine.watermark,
        machine.unsettled.len(),
    );
    if machine.node == Node::Master {
        let live: Vec<_> = machine.live.iter().map(ToString::to_string).collect();
        text = format!(
            "{text}, live {}",
            if live.is_empty() { "none".into() } else { live.join(" ") }
        );
    }
    if machine.scrubs > 0 {
        text = format!("{text}, {} scrubs", machine.scrubs);
    }
    if !machine.force_age.is_zero() {
        text =
            format!("{text}, a force of its disk has been under way for {:?}", machine.force_age);
    }
    for stalled in &machine.stalled {
        text = format!("{text}\n        {stalled} is not live: its disk hangs");
    }
    for (txn, key) in &machine.unsettled {
        text = format!("{text}\n        {txn} writes {key}");
    }
    text
}

async fn dump(
    replica: &Address,
    node: Option<Node>,
    tls: Option<&Tls>,
    after: Option<Key>,
    timeout: Duration,
) -> Result<ExitStatus, ClientError> {
    let failed = |status: tonic::Status| format!("{replica}: {}", status.message());
    let entries = within(timeout, async {
        let mut inspector = Inspector::connect_with_tls(replica, tls, node)
            .await
            .map_err(|error| format!("cannot reach {replica}: {error}"))?;
        inspector.dump_after(after).await.map_err(failed)
    });
    let mut entries = std::pin::pin!(entries.await?);
    let mut out = io::BufWriter::new(io::stdout().lock());
    while let Some(entry) = entries.next().await {
        let (key, version, value) = entry.map_err(failed)?;
        writeln!(out, "{key}\t{version}\t{value}")?;
    }
    out.flush()?;
    Ok(ExitStatus::Ok)
}

/// The address of a replica that is given by address or by name, and its name if that is known.
fn replica_address(
    replica: &str,
    cluster: Option<&ClusterConfig>,
) -> Result<(Option<Node>, Address), String> {
    match replica.parse::<Node>() {
        Ok(node) => {
            let cluster = cluster.ok_or(format!("{replica}: a node name needs --config"))?;
            let address = cluster.address(node).cloned().ok_or_else(|| {
                format!("the replicas of the configuration are r1 to r{}", cluster.replica_count())
            })?;
            Ok((Some(node), address))
        }
        Err(_) => Ok((None, replica.parse()?)),
    }
}

async fn within<T>(
    timeout: Duration,
    future: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    tokio::time::timeout(timeout, future)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {timeout:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_parsed_from_lines() {
        assert_eq!(parse("put k v"), Ok(Operation::Put("k".into(), "v".into())));
        assert_eq!(
            parse("  put  k  two words "),
            Ok(Operation::Put("k".into(), " two words ".into()))
        );
        assert_eq!(parse("put k "), Ok(Operation::Put("k".into(), "".into())));
        assert_eq!(parse("get a\\x20b "), Ok(Operation::Get("a b".into())));
        assert_eq!(parse("del k"), Ok(Operation::Del("k".into())));
        for (line, why) in [
            ("put k", "expected put KEY VALUE"),
            ("get", "expected get KEY"),
            ("del ", "expected del KEY"),
            ("get a b", "write a blank in a key"),
            ("get a\\b", "a backslash must begin"),
            ("cas k 1 2", "unknown operation 'cas'"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(why), "{line}: {error}");
        }
    }
}
