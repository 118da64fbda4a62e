//! NATS JetStream: three nodes, and one stream of which each of them has a replica.
//!
//! An element that is added to a set, appended to a log or put into a queue is a message, and is acknowledged when a
//! majority has stored it. That is not to say that they have synced it: by default the servers do so every two
//! minutes. The names of subjects are those of sets, logs and queues.

mod client;
mod connection;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::{BoxFuture, join_all};
use lab::{NodeName, StartOptions, System, client::Client, network::Network};
use serde_json::{Value as Json, json};
use tokio::time::{Instant, sleep, timeout};

use self::{
    client::NatsClient,
    connection::{Connection, NoReply},
};
use crate::{
    Choice, Configuration, Database, Programs, Task,
    site::{Place, Site},
};

/// The stream of a run.
const STREAM: &str = "TESTED";

/// The configuration of a node, in its directory.
const CONFIGURATION: &str = "nats.conf";

/// How long a node may take to answer a question of the harness.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// How long the stream may take to be created: the nodes must have found each other and a leader.
const SET_UP_TIMEOUT: Duration = Duration::from_secs(30);

/// How often that is tried.
const SET_UP_PERIOD: Duration = Duration::from_millis(200);

pub(crate) struct Nats;

const NODES: &[&str] = &["n1", "n2", "n3"];

/// The subject of a set, log or queue.
fn subject(key: &str) -> String {
    format!("t.{key}")
}

impl Database for Nats {
    fn name(&self) -> &'static str {
        "nats"
    }

    fn programs(&self) -> Programs {
        Programs { names: &["nats-server"], directories: &["/usr/sbin"], package: "nats-server" }
    }

    fn configurations(&self) -> &'static [Configuration] {
        &[
            Configuration {
                name: "cluster",
                about: "three nodes, each with a replica, which they sync every two minutes, as by default",
                nodes: NODES,
                excluded: &[],
            },
            Configuration {
                name: "always",
                about: "the same, with sync_interval: always, which nats-server knows since 2.10",
                nodes: NODES,
                excluded: &[],
            },
        ]
    }

    /// At-least-once delivery of what was acknowledged, which is durability: what consumers are promised of the order
    /// is about one consumer, and a read makes its own.
    fn claim(&self, _choice: &Choice, _workload: &str) -> Option<&'static str> {
        None
    }

    fn refuses(&self, _choice: &Choice, workload: &str) -> Option<String> {
        let known = ["set", "log", "queue"];
        (!known.contains(&workload)).then(|| {
            format!("--workload: clients of nats know {}, and not {workload}", known.join(", "))
        })
    }

    fn refuses_version(&self, choice: &Choice, version: &str) -> Option<String> {
        let is_known = choice.configuration.name != "always" || knows_always(version);
        (!is_known).then(|| {
            format!(
                "nats:always needs nats-server 2.10 or later, and {} is version {version}: name another \
                 program with --program nats-server=PATH",
                choice.program("nats-server").display()
            )
        })
    }

    fn deploy(
        &self,
        choice: &Choice,
        site: Site,
        task: &Task<'_>,
    ) -> Result<Arc<dyn System>, String> {
        let servers = Servers {
            program: choice.program("nats-server").into(),
            syncs_always: choice.configuration.name == "always",
            is_queue: task.workload.name() == "queue",
            probes: AtomicU64::new(0),
            site: Arc::new(site),
        };
        servers.write_files().map_err(|error| format!("cannot write {CONFIGURATION}: {error}"))?;
        Ok(Arc::new(servers))
    }
}

/// Whether a version of the server knows `sync_interval: always`.
fn knows_always(version: &str) -> bool {
    let mut numbers = version.split('.').map(str::parse::<u64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (2, 10),
        _ => false,
    }
}

struct Servers {
    site: Arc<Site>,
    program: Box<Path>,
    syncs_always: bool,
    /// Whether messages leave the stream once they are acknowledged.
    is_queue: bool,
    /// Connections of the harness so far.
    probes: AtomicU64,
}

impl Servers {
    fn write_files(&self) -> std::io::Result<()> {
        let route = |place: &Place| format!("nats://{}:{}", place.ip, place.peer_port);
        let routes: Vec<String> = self.site.places.iter().map(route).collect();
        let sync = if self.syncs_always { "sync_interval: always\n" } else { "" };
        for place in &self.site.places {
            let Place { name, ip, port, peer_port, directory, .. } = place;
            let text = format!(
                "server_name: {name}\n\
                 listen: \"{ip}:{port}\"\n\
                 jetstream {{\nstore_dir: \"{}\"\nmax_mem: 67108864\nmax_file: 4294967296\n{sync}}}\n\
                 cluster {{\nname: tested\nlisten: \"{ip}:{peer_port}\"\nroutes: [{}]\n}}\n",
                directory.join("jetstream").display(),
                routes.join(", "),
            );
            fs::write(directory.join(CONFIGURATION), text)?;
        }
        Ok(())
    }

    /// What JetStream answers to a node. `None`: nobody answers for it.
    async fn ask(
        &self,
        place: &Place,
        operation: &str,
        argument: &Json,
    ) -> Result<Option<Json>, NoReply> {
        let number = self.probes.fetch_add(1, Ordering::Relaxed);
        let inbox = format!("_INBOX.control-{number}");
        let mut connection =
            Connection::open(&self.site.dialer(), &place.authority(), inbox).await?;
        connection.ask(operation, argument).await
    }

    /// What a node says of the stream.
    async fn stream(&self, place: &Place) -> Option<Json> {
        let operation = format!("STREAM.INFO.{STREAM}");
        timeout(PROBE_TIMEOUT, self.ask(place, &operation, &Json::Null)).await.ok()?.ok()?
    }

    /// Creates the stream. A stream that is there already, because an earlier answer was lost, is the same.
    async fn create_stream(&self) -> Result<(), String> {
        let retention = if self.is_queue { "workqueue" } else { "limits" };
        let config = json!({
            "name": STREAM, "subjects": [subject("*")], "retention": retention, "storage": "file",
            "num_replicas": self.site.places.len(), "max_consumers": -1, "max_msgs": -1,
            "max_bytes": -1, "discard": "old",
        });
        let operation = format!("STREAM.CREATE.{STREAM}");
        let created = self.ask(&self.site.places[0], &operation, &config);
        match timeout(PROBE_TIMEOUT, created).await {
            Ok(Ok(Some(answer))) => match answer.get("error") {
                None => Ok(()),
                Some(error) => Err(error.to_string()),
            },
            Ok(Ok(None)) => Err("JetStream does not listen".to_owned()),
            Ok(Err(NoReply::Lost(why) | NoReply::Misunderstood(why))) => Err(why),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }
}

/// Whether a node has a replica of the stream that is as far as the leader's. If there is no such stream, because it is
/// not yet created or was lost, then the node does all that it can do.
fn is_current(node: &NodeName, stream: &Json) -> bool {
    if stream.pointer("/error/err_code").and_then(Json::as_u64) == Some(client::NO_STREAM) {
        return true;
    }
    let Some(cluster) = stream.get("cluster") else { return false };
    match cluster.get("leader").and_then(Json::as_str) {
        None | Some("") => return false,
        Some(leader) if leader == node.as_str() => return true,
        Some(_) => {}
    }
    let replicas = cluster.get("replicas").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
    replicas.iter().any(|replica| {
        let says = |field: &str| replica.get(field).and_then(Json::as_bool).unwrap_or(false);
        let is_own = replica.get("name").and_then(Json::as_str) == Some(node.as_str());
        is_own && says("current") && !says("offline")
    })
}

impl System for Servers {
    fn nodes(&self) -> &[NodeName] {
        &self.site.names
    }

    fn command(&self, node: &NodeName, _start: &StartOptions) -> Command {
        let place = self.site.of(node);
        let mut command = Command::new(&*self.program);
        command.arg("-c").arg(place.directory.join(CONFIGURATION)).current_dir(&place.directory);
        command
    }

    fn is_ready<'a>(&'a self, node: &'a NodeName) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let stream = self.stream(self.site.of(node)).await;
            stream.is_some_and(|stream| is_current(node, &stream))
        })
    }

    fn client(&self, worker: u32) -> Box<dyn Client> {
        Box::new(NatsClient::new(self.site.clone(), worker))
    }

    fn after_start(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let end = Instant::now() + SET_UP_TIMEOUT;
            let is_past = || Instant::now() >= end;
            while let Err(why) = self.create_stream().await {
                if is_past() {
                    return Err(format!("the stream cannot be created: {why}"));
                }
                sleep(SET_UP_PERIOD).await;
            }
            let everywhere = async || {
                let ready = self.site.names.iter().map(|node| self.is_ready(node));
                join_all(ready).await.into_iter().all(|is_ready| is_ready)
            };
            while !everywhere().await {
                if is_past() {
                    return Err("the replicas of the stream do not become current".to_owned());
                }
                sleep(SET_UP_PERIOD).await;
            }
            Ok(())
        })
    }

    fn keeper(&self) -> Option<&Path> {
        Some(&self.site.keeper)
    }

    fn network(&self) -> Option<&Network> {
        self.site.network.as_deref()
    }

    fn scratch(&self) -> &Path {
        self.site.scratch()
    }

    fn disk_directories(&self, node: &NodeName) -> Vec<PathBuf> {
        vec![self.site.of(node).directory.clone()]
    }

    /// The leader of the stream, as most of the nodes say: one that is cut off may not know of a new one.
    fn leader(&self) -> BoxFuture<'_, Option<NodeName>> {
        Box::pin(async move {
            let asked = join_all(self.site.places.iter().map(|place| self.stream(place))).await;
            let mut votes: BTreeMap<String, usize> = BTreeMap::new();
            for stream in asked.into_iter().flatten() {
                let leader = stream.pointer("/cluster/leader").and_then(Json::as_str);
                *votes.entry(leader.unwrap_or_default().to_owned()).or_default() += 1;
            }
            let (leader, _) = votes.into_iter().max_by_key(|(_, votes)| *votes)?;
            self.site.names.iter().find(|name| name.as_str() == leader).cloned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(knows_always("2.10.0") && knows_always("2.12.1") && knows_always("3.0.0"));
        assert!(!knows_always("2.9.10") && !knows_always("1.99.0") && !knows_always("2"));
    }

    #[test]
    fn a_node_is_current_as_the_leader_or_as_a_replica_that_follows() {
        let stream = |leader: &str, current: bool, offline: bool| {
            let replica = json!({ "name": "n2", "current": current, "offline": offline });
            json!({ "cluster": { "leader": leader, "replicas": [replica] } })
        };
        let is_current = |node, stream: &Json| is_current(&NodeName::new(node), stream);
        assert!(is_current("n1", &stream("n1", false, false)));
        assert!(is_current("n2", &stream("n1", true, false)));
        assert!(!is_current("n2", &stream("n1", false, false)));
        assert!(!is_current("n2", &stream("n1", true, true)));
        assert!(!is_current("n3", &stream("n1", true, false)));
        assert!(!is_current("n2", &stream("", true, false)));
        let refused = |code| json!({ "error": { "code": 404, "err_code": code } });
        assert!(is_current("n1", &refused(client::NO_STREAM)));
        assert!(!is_current("n1", &refused(10_008)));
    }
}
