//! The command line of `client`: single operations, a stream of them, a load, and a look into
//! nodes.

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
    answers::{Early, Went, say},
    load::{self, LoadArgs},
};
use crate::{
    client::{Client, Inspector, NodeStatus, ReadError, WriteOutcome},
    config::{Address, ClusterConfig},
    protocol::{Blob, Key, Node, Value, Version},
};

const ANSWERS: &str = "\
Answers, one a line:
  ok VERSION          the write is committed, and durable at every replica
  ok VERSION VALUE    what a get found
  ok absent           a get found no such key
  aborted REASON: …   the write took no effect and never will
  unavailable: …      the get found out nothing
  unknown: …          the write may or may not have taken effect

Keys and values are text; a byte that is not printable ASCII is written \\xNN, as is a backslash
(\\x5c).

Exit status: 0 ok, 1 aborted or unavailable, 2 usage, 3 unknown; of several, the greatest.";

/// The command line of a client.
#[derive(Args, Clone, Debug)]
#[command(after_help = ANSWERS)]
pub struct ClientArgs {
    /// The master's address; by default the one of the configuration, or else 127.0.0.1:7000.
    #[arg(long, env = "TWOPC_MASTER", value_name = "HOST:PORT", global = true)]
    pub master: Option<Address>,

    /// The cluster's configuration, which knows all addresses.
    #[arg(long, env = "TWOPC_CONFIG", value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,

    /// How long to wait for each answer.
    #[arg(long, env = "TWOPC_TIMEOUT", value_name = "TIME", default_value = "5s", global = true,
          value_parser = super::period)]
    pub timeout: Duration,

    /// What to do; by default `stream`.
    #[command(subcommand)]
    pub command: Option<ClientCommand>,
}

/// What a client does.
#[derive(Clone, Debug, Subcommand)]
pub enum ClientCommand {
    /// Store a value under a key.
    Put {
        /// The key, 1 to 511 bytes.
        #[arg(value_parser = blob)]
        key: Key,
        /// The value.
        #[arg(value_parser = blob)]
        value: Value,
    },
    /// Delete a key.
    Del {
        /// The key.
        #[arg(value_parser = blob)]
        key: Key,
    },
    /// Read a key.
    Get {
        /// The key.
        #[arg(value_parser = blob)]
        key: Key,
    },
    /// Do the operations of standard input, one a line (put KEY VALUE, del KEY, get KEY), one
    /// after the other, and answer each on a line.
    Stream,
    /// Have many clients do random operations at once, and say how that went.
    Load(LoadArgs),
    /// Show how each node of the configuration stands, or just the master without one.
    Status,
    /// List every entry of one replica as it is there, past the master: KEY, VERSION and VALUE,
    /// with tabs between.
    Dump {
        /// The replica's address, or its name (r1, r2, …) if there is a configuration.
        #[arg(long, value_name = "ADDR")]
        replica: String,
    },
}

/// Reads a key or a value as text. Left to itself clap would take it as it is, escapes and all.
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
    /// Does what is asked, and says how it went on standard output.
    #[must_use]
    pub fn run(self) -> ExitCode {
        super::log();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let done = match runtime {
            Ok(runtime) => runtime.block_on(self.act()),
            Err(error) => Err(Early::Failed(format!("cannot start: {error}"))),
        };
        match done {
            Ok(went) => went,
            Err(Early::Unheard) => Went::Well,
            Err(Early::Failed(why)) => {
                eprintln!("client: {why}");
                Went::Misused
            }
        }
        .into()
    }

    async fn act(self) -> Result<Went, Early> {
        let cluster = match &self.config {
            Some(path) => Some(ClusterConfig::load(path).map_err(|error| error.to_string())?),
            None => None,
        };
        let master = match (&self.master, &cluster) {
            (Some(master), _) => master.clone(),
            (None, Some(cluster)) => cluster.master.clone(),
            (None, None) => "127.0.0.1:7000".parse()?,
        };
        let client = Client::new(master.clone()).timeout(self.timeout);
        match self.command.unwrap_or(ClientCommand::Stream) {
            ClientCommand::Put { key, value } => one(&client, Operation::Put(key, value)).await,
            ClientCommand::Del { key } => one(&client, Operation::Del(key)).await,
            ClientCommand::Get { key } => one(&client, Operation::Get(key)).await,
            ClientCommand::Stream => stream(&client).await,
            ClientCommand::Load(args) => load::run(&args, &master, self.timeout).await,
            ClientCommand::Status => status(cluster.as_ref(), &master, self.timeout).await,
            ClientCommand::Dump { replica } => {
                dump(&named(&replica, cluster.as_ref())?, self.timeout).await
            }
        }
    }
}

async fn one(client: &Client, operation: Operation) -> Result<Went, Early> {
    let (went, answer) = perform(client, operation).await;
    say(&answer)?;
    Ok(went)
}

async fn perform(client: &Client, operation: Operation) -> (Went, String) {
    match operation {
        Operation::Put(key, value) => written(client.put(key, value).await),
        Operation::Del(key) => written(client.del(key).await),
        Operation::Get(key) => read(client.get(key).await),
    }
}

fn written(outcome: WriteOutcome) -> (Went, String) {
    match outcome {
        WriteOutcome::Committed { version } => (Went::Well, format!("ok {version}")),
        WriteOutcome::Aborted(reason) => (Went::Refused, format!("aborted {reason}")),
        WriteOutcome::Unknown(why) => (Went::Unknown, format!("unknown: {why}")),
    }
}

fn read(answer: Result<Option<(Version, Value)>, ReadError>) -> (Went, String) {
    match answer {
        Ok(Some((version, value))) => (Went::Well, format!("ok {version} {value}")),
        Ok(None) => (Went::Well, "ok absent".to_owned()),
        Err(error) => (Went::Refused, format!("unavailable: {error}")),
    }
}

/// Takes the lines from a thread of their own, for a terminal keeps one waiting.
async fn stream(client: &Client) -> Result<Went, Early> {
    let (lines, mut read) = tokio::sync::mpsc::channel(64);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            if lines.blocking_send(line).is_err() {
                break;
            }
        }
    });
    let mut worst = Went::Well;
    let mut number = 0;
    while let Some(line) = read.recv().await {
        number += 1;
        let line = line.map_err(|error| format!("standard input, line {number}: {error}"))?;
        if line.trim().is_empty() {
            continue;
        }
        let (went, answer) = match parse(&line) {
            Ok(operation) => perform(client, operation).await,
            Err(why) => (Went::Misused, format!("error: line {number}: {why}")),
        };
        worst = worst.max(went);
        say(&answer)?;
    }
    Ok(worst)
}

/// Reads an operation. A value is the rest of its line, blanks and all.
fn parse(line: &str) -> Result<Operation, String> {
    let line = line.trim_start();
    let (f, rest) = line.split_once(' ').unwrap_or((line.trim_end(), ""));
    let rest = rest.trim_start();
    let lone = |rest: &str| match rest.trim_end() {
        "" => Err(format!("want {f} KEY")),
        key if key.contains(' ') => Err(format!("'{key}': a blank in a key is written \\x20")),
        key => key.parse::<Key>(),
    };
    match f {
        "put" => {
            let (key, value) = rest.split_once(' ').ok_or("want put KEY VALUE")?;
            Ok(Operation::Put(key.parse()?, value.parse()?))
        }
        "del" => lone(rest).map(Operation::Del),
        "get" => lone(rest).map(Operation::Get),
        _ => Err(format!("'{f}' is no operation: want put KEY VALUE, del KEY or get KEY")),
    }
}

async fn status(
    cluster: Option<&ClusterConfig>,
    master: &Address,
    patience: Duration,
) -> Result<Went, Early> {
    let mut nodes = vec![(Node::Master, master.clone())];
    if let Some(cluster) = cluster {
        nodes.extend((1..).map(Node::Replica).zip(cluster.replicas.iter().cloned()));
    }
    let asked = nodes.into_iter().map(async |(node, address)| {
        let status = within(patience, async {
            let mut inspector =
                Inspector::connect(&address).await.map_err(|error| error.to_string())?;
            inspector.status().await.map_err(|status| status.message().to_owned())
        });
        (node, status.await, address)
    });
    let mut worst = Went::Well;
    for (node, status, address) in futures::future::join_all(asked).await {
        match status {
            Ok(status) => {
                if !status.machine.ready {
                    worst = worst.max(Went::Refused);
                }
                say(&describe(&status, &address))?;
            }
            Err(why) => {
                say(&format!("{:<7} {address}  unreachable: {why}", node.to_string()))?;
                worst = worst.max(Went::Refused);
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
    for (txn, key) in &machine.unsettled {
        text = format!("{text}\n        {txn} writes {key}");
    }
    text
}

async fn dump(replica: &Address, patience: Duration) -> Result<Went, Early> {
    let cut = |status: tonic::Status| format!("{replica}: {}", status.message());
    let entries = within(patience, async {
        let mut inspector = Inspector::connect(replica)
            .await
            .map_err(|error| format!("cannot reach {replica}: {error}"))?;
        inspector.dump().await.map_err(cut)
    });
    let mut entries = std::pin::pin!(entries.await?);
    let mut out = io::BufWriter::new(io::stdout().lock());
    while let Some(entry) = entries.next().await {
        let (key, version, value) = entry.map_err(cut)?;
        writeln!(out, "{key}\t{version}\t{value}")?;
    }
    out.flush()?;
    Ok(Went::Well)
}

/// The address of a replica that may be given by its name.
fn named(replica: &str, cluster: Option<&ClusterConfig>) -> Result<Address, String> {
    match replica.parse::<Node>() {
        Ok(node) => {
            let cluster = cluster.ok_or(format!("{replica}: a name needs a --config"))?;
            cluster
                .address(node)
                .cloned()
                .ok_or_else(|| format!("the configuration has r1 to r{}", cluster.replica_count()))
        }
        Err(_) => replica.parse(),
    }
}

async fn within<T>(
    patience: Duration,
    act: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    tokio::time::timeout(patience, act)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {patience:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_read_from_lines() {
        assert_eq!(parse("put k v"), Ok(Operation::Put("k".into(), "v".into())));
        assert_eq!(
            parse("  put  k  two words "),
            Ok(Operation::Put("k".into(), " two words ".into()))
        );
        assert_eq!(parse("put k "), Ok(Operation::Put("k".into(), "".into())));
        assert_eq!(parse("get a\\x20b "), Ok(Operation::Get("a b".into())));
        assert_eq!(parse("del k"), Ok(Operation::Del("k".into())));
        for (line, why) in [
            ("put k", "want put KEY VALUE"),
            ("get", "want get KEY"),
            ("del ", "want del KEY"),
            ("get a b", "a blank in a key"),
            ("get a\\b", "a backslash must begin"),
            ("cas k 1 2", "'cas' is no operation"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(why), "{line}: {error}");
        }
    }
}
