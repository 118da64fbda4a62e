//! etcd: three nodes, and clients that speak to its JSON gateway.
//!
//! A set is a prefix with a key for each element. A transaction reads all its keys at one revision, and
//! writes on condition that none of them was written since; if one was, it certainly had no effect. The
//! version of a register is the revision of the store that wrote it.

mod agreement;
mod locks;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::future::{BoxFuture, join_all};
use history::{Function, Version, nemesis::Compared};
use lab::{
    NodeName, StartOptions, System,
    client::{Answer, Client},
    network::{Dialer, Network},
    request::Request,
};
use serde_json::{Value as Json, json};
use system_file::{http::Connection, probe};
use tokio::time::timeout;

use self::locks::{Lease, Taken};
use crate::{
    Asks, Choice, Configuration, Database, Programs, Task,
    site::Site,
    steps::{self, Step, Stored},
};

/// How long a node may take to say who leads.
const LEADER_DEADLINE: Duration = Duration::from_millis(500);
/// How long a node may take to grant a lease.
const LEASE_DEADLINE: Duration = Duration::from_secs(2);

pub(crate) struct Etcd;

impl Database for Etcd {
    fn name(&self) -> &'static str {
        "etcd"
    }

    fn programs(&self) -> Programs {
        Programs { names: &["etcd"], directories: &[], package: "etcd-server" }
    }

    fn configurations(&self) -> &'static [Configuration] {
        &[
            Configuration {
                name: "cluster",
                about: "three nodes",
                nodes: &["n1", "n2", "n3"],
                excluded: &[],
            },
            Configuration {
                name: "small-batches",
                about: "three nodes whose stores commit after 3 changes or 1 ms",
                nodes: &["n1", "n2", "n3"],
                excluded: &[],
            },
        ]
    }

    fn asks(&self) -> Option<Asks> {
        Some(Asks { option: "reads", values: &["linearizable", "serializable"] })
    }

    fn claim(&self, choice: &Choice, workload: &str) -> Option<&'static str> {
        match (choice.ask, workload) {
            // A lease may run out while its holder still works; a release tells.
            (_, "lock") => Some("fenced"),
            ("linearizable", "append" | "rw") => Some("strict-serializable"),
            ("linearizable", _) => Some("linearizable"),
            // A serializable read returns what the node has: one moment of the past.
            (_, "append" | "rw") => Some("serializable"),
            _ => None,
        }
    }

    fn refuses(&self, _choice: &Choice, workload: &str) -> Option<String> {
        let known = ["register", "cas-register", "set", "lock", "append", "rw"];
        (!known.contains(&workload)).then(|| {
            format!("--workload: clients of etcd know {}, and not {workload}", known.join(", "))
        })
    }

    fn stands_clocks(&self) -> bool {
        true
    }

    fn deploy(
        &self,
        choice: &Choice,
        site: Site,
        task: &Task<'_>,
    ) -> Result<Arc<dyn System>, String> {
        let serializable = choice.ask == "serializable";
        let program = choice.program("etcd").to_owned();
        let on_lists = task.workload.name() == "append";
        let has_locks = task.workload.name() == "lock";
        let small_batches = choice.configuration.name == "small-batches";
        let program = program.into();
        Ok(Arc::new(Cluster { site, program, serializable, on_lists, has_locks, small_batches }))
    }
}

struct Cluster {
    site: Site,
    program: Box<Path>,
    /// Whether clients ask for serializable reads.
    serializable: bool,
    /// Whether transactions are on lists.
    on_lists: bool,
    /// Whether clients take locks.
    has_locks: bool,
    /// Whether stores commit after a few changes, and after each millisecond.
    small_batches: bool,
}

impl Cluster {
    /// Whether a node leads, and in which term.
    async fn leads(&self, node: &NodeName) -> Option<(u64, bool)> {
        let asked = async {
            let mut connection =
                Connection::open(&self.site.dialer(), &self.site.of(node).authority())
                    .await
                    .ok()?;
            let (_, body) = connection.post("/v3/maintenance/status", &json!({})).await.ok()?;
            serde_json::from_slice::<Json>(&body).ok()
        };
        let status = timeout(LEADER_DEADLINE, asked).await.ok()??;
        // 64-bit numbers are texts in this gateway.
        let text = |pointer: &str| status.pointer(pointer).and_then(Json::as_str);
        let term = text("/raftTerm").and_then(|term| term.parse().ok())?;
        Some((term, text("/leader") == text("/header/member_id")))
    }
}

impl System for Cluster {
    fn nodes(&self) -> &[NodeName] {
        &self.site.names
    }

    fn command(&self, node: &NodeName, _start: &StartOptions) -> Command {
        let place = self.site.of(node);
        let peer = |place: &crate::site::Place| format!("http://{}:{}", place.ip, place.peer_port);
        let client = format!("http://{}", place.authority());
        let members: Vec<String> =
            self.site.places.iter().map(|one| format!("{}={}", one.name, peer(one))).collect();
        let mut command = Command::new(&*self.program);
        command
            .args(["--name", node.as_str(), "--data-dir"])
            .arg(place.directory.join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer(place)])
            .args(["--initial-advertise-peer-urls", &peer(place)])
            .args(["--initial-cluster", &members.join(","), "--initial-cluster-state", "new"])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .current_dir(&place.directory);
        if self.small_batches {
            command.args(["--backend-batch-interval", "1ms", "--backend-batch-limit", "3"]);
        }
        command
    }

    fn is_ready<'a>(&'a self, node: &'a NodeName) -> BoxFuture<'a, bool> {
        let url = format!("http://{}/health", self.site.of(node).authority());
        Box::pin(async move { probe::serves(&self.site.dialer(), &url, Some("true")).await })
    }

    fn client(&self, worker: u32) -> Box<dyn Client> {
        let place = &self.site.places[worker as usize % self.site.places.len()];
        Box::new(EtcdClient {
            node: place.name.clone(),
            authority: place.authority(),
            dialer: Dialer::of_client(self.site.network.as_ref(), worker),
            serializable: self.serializable,
            on_lists: self.on_lists,
            has_locks: self.has_locks,
            connection: None,
            lease: None,
            taken: None,
            misconduct: None,
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

    fn compare(&self) -> Option<BoxFuture<'_, Compared>> {
        Some(Box::pin(agreement::compare(&self.site)))
    }

    fn leader(&self) -> BoxFuture<'_, Option<NodeName>> {
        Box::pin(async move {
            let asked = join_all(self.site.names.iter().map(|node| self.leads(node))).await;
            let answers = asked.into_iter().zip(&self.site.names);
            let leaders = answers.filter_map(|(answer, node)| {
                answer.filter(|(_, leads)| *leads).map(|(term, _)| (term, node))
            });
            leaders.max_by_key(|(term, _)| *term).map(|(_, node)| node.clone())
        })
    }
}

/// A client of one node.
struct EtcdClient {
    node: NodeName,
    authority: String,
    dialer: Dialer,
    serializable: bool,
    on_lists: bool,
    has_locks: bool,
    connection: Option<Connection>,
    /// Of a client that takes locks.
    lease: Option<Lease>,
    taken: Option<Taken>,
    misconduct: Option<String>,
}

/// What is known of a request that was not answered as usual.
type Unanswered = Answer;

impl EtcdClient {
    async fn post(&mut self, path: &str, body: &Json) -> Result<Json, Unanswered> {
        let Some(connection) = &mut self.connection else {
            let error = "unavailable: there is no connection".to_owned();
            return Err(Answer::Fail { error, unavailable: true });
        };
        let (status, body) = connection.post(path, body).await?;
        if status != 200 {
            // Also an error of the cluster leaves open what becomes of a proposal.
            let text: String = String::from_utf8_lossy(&body).chars().take(120).collect();
            return Err(Answer::info(format!("status {status}: {}", text.trim())));
        }
        serde_json::from_slice(&body)
            .map_err(|error| self.misunderstood(&format!("it is no JSON ({error})")))
    }

    /// An answer that nobody expects: the client is not to be believed.
    fn misunderstood(&mut self, why: &str) -> Answer {
        let why = format!("an answer of {}: {why}", self.node);
        self.misconduct = Some(why.clone());
        Answer::info(why)
    }

    async fn request(
        &mut self,
        request: &Request,
        deadline: Duration,
    ) -> Result<Answer, Unanswered> {
        let Request { f, key, value } = request;
        let value = value.as_deref().unwrap_or_default();
        let done = Ok(Answer::Ok { version: None, value: None });
        match f {
            Function::Get => {
                let found = self.range(json!({ "key": encode(key) })).await?;
                let value = found.into_iter().next().map(|pair| pair.value);
                Ok(Answer::Ok { version: None, value })
            }
            Function::Put => {
                self.post("/v3/kv/put", &put(key, value)).await?;
                done
            }
            Function::Add => {
                self.post("/v3/kv/put", &put(&format!("{key}/{value}"), "")).await?;
                done
            }
            Function::Read => self.elements(key).await,
            Function::Cas => self.compare_and_set(key, value).await,
            Function::Lock => self.lock(key, deadline).await,
            Function::Unlock => self.unlock(key).await,
            Function::Txn => match steps::parse(request) {
                Some(steps) => self.transaction(&steps).await,
                None => Ok(self.misunderstood(&format!("{value} is no transaction"))),
            },
            other => Ok(self.misunderstood(&format!("{other} is not known"))),
        }
    }

    async fn range(&mut self, mut body: Json) -> Result<Vec<Pair>, Unanswered> {
        body["serializable"] = json!(self.serializable);
        let answer = self.post("/v3/kv/range", &body).await?;
        pairs(&answer).map_err(|why| self.misunderstood(&why))
    }

    /// The elements of a set: what follows the prefix in each key.
    async fn elements(&mut self, set: &str) -> Result<Answer, Unanswered> {
        let prefix = format!("{set}/");
        // The keys of a prefix end before the prefix with a greater last byte.
        let end = format!("{set}0");
        let body = json!({ "key": encode(&prefix), "range_end": encode(&end), "keys_only": true });
        let found = self.range(body).await?;
        let elements = found.iter().map(|pair| pair.key.strip_prefix(&prefix)?.parse().ok());
        let elements: Option<Vec<u64>> = elements.collect();
        match elements {
            Some(elements) => {
                Ok(Answer::Ok { version: None, value: Some(json!(elements).to_string()) })
            }
            // That is the doing of the store. Which elements it has is not known.
            None => Ok(Answer::info(format!("{set} has keys that are no elements"))),
        }
    }

    /// Writes on conditions. Returns the revision of what it wrote, `None` if they did not hold.
    async fn write_if(&mut self, body: &Json) -> Result<Option<u64>, Unanswered> {
        let answer = self.post("/v3/kv/txn", body).await?;
        let revision = answer.pointer("/header/revision").and_then(Json::as_str);
        match (answer.get("succeeded"), revision.and_then(|revision| revision.parse().ok())) {
            (Some(Json::Bool(true)), Some(revision)) => Ok(Some(revision)),
            // The gateway leaves out what is false, and never the header.
            (None | Some(Json::Bool(false)), Some(_)) => Ok(None),
            _ => Err(self.misunderstood("it does not say whether the conditions held, and when")),
        }
    }

    async fn compare_and_set(&mut self, key: &str, pair: &str) -> Result<Answer, Unanswered> {
        let Ok((expected, new)) = serde_json::from_str::<(Option<String>, String)>(pair) else {
            return Ok(self.misunderstood(&format!("{pair} is no pair of values")));
        };
        let compare = match expected {
            Some(value) => {
                json!({ "key": encode(key), "target": "VALUE", "value": encode(&value) })
            }
            None => json!({ "key": encode(key), "target": "CREATE", "create_revision": "0" }),
        };
        let body = json!({ "compare": [compare], "success": [{ "requestPut": put(key, &new) }] });
        Ok(match self.write_if(&body).await? {
            Some(_) => Answer::Ok { version: None, value: None },
            None => Answer::Fail { error: "mismatch".to_owned(), unavailable: false },
        })
    }
}

impl EtcdClient {
    /// Executes the steps on what the keys hold at one revision, and writes the result if that is still so.
    async fn transaction(&mut self, steps: &[Step]) -> Result<Answer, Unanswered> {
        let before = self.snapshot(steps).await?;
        let stored = |key: &str| before.get(key).map(|(value, _)| value.clone());
        let mut now: BTreeMap<&str, Stored> =
            steps.iter().map(|step| (step.key(), stored(step.key()))).collect();
        let mut reads = Vec::new();
        let mut written = BTreeMap::new();
        // Of what was read of others; what was written gets its revision with the commit.
        let mut versions: Vec<Option<u64>> = vec![None; steps.len()];
        for (step, version) in steps.iter().zip(&mut versions) {
            let value = now.get_mut(step.key()).expect("every key has an entry");
            if let Step::Read(key) = step {
                reads.push(value.clone());
                let of_others = before.get(key).filter(|_| !written.contains_key(key.as_str()));
                *version = of_others.and_then(|(_, revision)| revision.parse().ok());
            } else {
                *value = steps::after(step, value);
                written.insert(step.key(), value.clone().unwrap_or_default());
            }
        }
        if !written.is_empty() {
            let keys = now.keys();
            let compare: Vec<Json> = keys
                .map(|key| {
                    // The revision of an absent key is 0.
                    let revision = before.get(*key).map_or("0", |(_, revision)| revision);
                    json!({ "key": encode(key), "target": "MOD", "mod_revision": revision })
                })
                .collect();
            let success: Vec<Json> = written
                .iter()
                .map(|(key, value)| json!({ "requestPut": put(key, value) }))
                .collect();
            let body = json!({ "compare": compare, "success": success });
            let Some(revision) = self.write_if(&body).await? else {
                let error = "conflict: a key was written meanwhile".to_owned();
                return Ok(Answer::Fail { error, unavailable: false });
            };
            for (step, version) in steps.iter().zip(&mut versions) {
                if !matches!(step, Step::Read(_)) {
                    *version = Some(revision);
                }
            }
        }
        // A list shows the order of what was appended to it.
        let version = (!self.on_lists).then(|| Version::of_steps(&versions));
        match steps::answer(steps, reads, self.on_lists) {
            Ok(value) => Ok(Answer::Ok { version, value: Some(value) }),
            // So it is stored: the client has asked as it should, and may have written.
            Err(why) => Ok(Answer::info(format!("unreadable: {why}"))),
        }
    }

    /// What the keys of a transaction hold, and the revision that wrote each, at one revision of the store.
    async fn snapshot(
        &mut self,
        steps: &[Step],
    ) -> Result<BTreeMap<String, (String, String)>, Unanswered> {
        let mut keys: Vec<&str> = steps.iter().map(Step::key).collect();
        keys.sort_unstable();
        keys.dedup();
        let range = |key: &&str| json!({ "requestRange": { "key": encode(key), "serializable": self.serializable } });
        let body = json!({ "success": keys.iter().map(range).collect::<Vec<_>>() });
        let answer = match self.post("/v3/kv/txn", &body).await {
            Ok(answer) => answer,
            // Nothing was written yet.
            Err(Answer::Info { error, .. }) => {
                return Err(Answer::Fail { error: format!("unread: {error}"), unavailable: true });
            }
            Err(answer) => return Err(answer),
        };
        let responses =
            answer.get("responses").and_then(Json::as_array).cloned().unwrap_or_default();
        if responses.len() != keys.len() {
            return Err(self.misunderstood("it does not answer each range"));
        }
        let mut found = BTreeMap::new();
        for response in &responses {
            let range = response.get("response_range").cloned().unwrap_or_default();
            let pairs = pairs(&range).map_err(|why| self.misunderstood(&why))?;
            found.extend(pairs.into_iter().map(|pair| (pair.key, (pair.value, pair.revision))));
        }
        Ok(found)
    }
}

/// A key with its value, and the revision that wrote it.
struct Pair {
    key: String,
    value: String,
    revision: String,
}

fn encode(text: &str) -> String {
    STANDARD.encode(text)
}

fn put(key: &str, value: &str) -> Json {
    json!({ "key": encode(key), "value": encode(value) })
}

/// The pairs of an answer to a range.
fn pairs(answer: &Json) -> Result<Vec<Pair>, String> {
    let text = |pair: &Json, field: &str| {
        let encoded = pair.get(field).and_then(Json::as_str).unwrap_or_default();
        let bytes =
            STANDARD.decode(encoded).map_err(|error| format!("it is not base64 ({error})"))?;
        // What is stored wrongly is a value that nobody wrote, as the checks will say.
        Ok::<String, String>(String::from_utf8_lossy(&bytes).into_owned())
    };
    let all = answer.get("kvs").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
    all.iter()
        .map(|pair| {
            let revision = pair.get("mod_revision").and_then(Json::as_str).unwrap_or_default();
            let revision = revision.to_owned();
            Ok(Pair { key: text(pair, "key")?, value: text(pair, "value")?, revision })
        })
        .collect()
}

impl Client for EtcdClient {
    fn open(&mut self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            self.connection = None;
            self.connection = Some(Connection::open(&self.dialer, &self.authority).await?);
            if !self.has_locks {
                return Ok(());
            }
            match timeout(LEASE_DEADLINE, self.take_lease()).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(Answer::Fail { error, .. } | Answer::Info { error, .. })) => Err(error),
                Ok(Err(Answer::Ok { .. })) | Err(_) => Err("timeout: no lease in time".to_owned()),
            }
        })
    }

    fn perform<'a>(
        &'a mut self,
        request: &'a Request,
        deadline: Duration,
    ) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            let answer = match timeout(deadline, self.request(request, deadline)).await {
                Ok(Ok(answer) | Err(answer)) => answer,
                Err(_) => Answer::info("timeout: no answer in time"),
            };
            if matches!(answer, Answer::Info { .. }) {
                // The next process holds nothing, and what this one may hold goes with its lease.
                self.lease = None;
                self.taken = None;
            }
            answer
        })
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        self.connection = None;
        self.lease = None;
        Box::pin(std::future::ready(()))
    }

    fn node(&self) -> Option<&NodeName> {
        Some(&self.node)
    }

    fn misconduct(&mut self) -> Option<String> {
        self.misconduct.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_wrongly_is_a_value() {
        let pair = |value: &str| json!({ "kvs": [{ "key": encode("k1"), "value": value }] });
        let read = |answer: &Json| pairs(answer).map(|pairs| pairs[0].value.clone());
        assert_eq!(read(&pair(&encode("7"))), Ok("7".to_owned()));
        // A bit has flipped: it is no UTF-8 any more, and certainly no value that somebody wrote.
        assert_eq!(read(&pair(&STANDARD.encode(b"\xb7"))), Ok("\u{fffd}".to_owned()));
        assert!(read(&pair("no base64!")).is_err());
    }
}
