//! Runs the protocol's test scripts: text files with commands, and the recorded events and effects of
//! every machine. A script determines every delivery, force and crash; nothing is random or timed.
//!
//! Commands, one per line; the recorded output follows `---`:
//!
//! ```text
//! cluster replicas=2 [commit=votes] [break=RULE] [scrub=on]   start a master and replicas, and complete the
//!                                       handshakes
//! put KEY VALUE | del KEY | get KEY [at=N]   a client request; a get starts at the N-th live replica
//! read KEY… [at=N]                      a client reads several keys as one snapshot
//! range [from=KEY] [after=KEY] [to=KEY] [limit=N] [at=N]   a client reads a page of a range
//! deliver [KIND…] [from=NODE] [to=NODE] [again]   deliver messages in flight; 'again' keeps a copy
//! drop [KIND…] [from=NODE] [to=NODE]    lose messages in flight
//! force NODE…                           make the records of these nodes durable
//! write NODE…                           hand the records to the operating system, unsynced
//! timer NODE NAME…                      a timer expires
//! kill NODE                             SIGKILL
//! power-loss NODE [keep=N]              lose the unsynced records, except for the first N
//! start NODE [bootstrap] [commit=MODE]  start a stopped node on its store
//! rot NODE KEY                          damage the entry of a key
//! lose NODE KEY                         the entry of a key is gone, and no checksum shows it
//! wipe NODE                             replace the store of a stopped node by an empty one
//! settle                                force and deliver until nothing is in flight
//! status NODE | store NODE | network | timers NODE
//! ```
//!
//! After an intended change, run `UPDATE_GOLDENFILES=1 cargo test -p protocol --test testscripts` and
//! review the difference.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fmt::Write as _,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use goldenscript::{Command, Context};
use protocol::{
    CallId, CommitMode, Config, Effect, Event, Facts, Key, KeyRange, Lsn, Machine, Message, Node,
    Page, Query, RangeSummary, Record, Reply, Request, Rules, StoreId, TimerId, Timing, TxnId,
    Value, Version, Write,
    driver::{self, Clients, Environment, Network, Operator, Range, Storage, Timers},
};

test_each_file::test_each_path! { in "./system/protocol/testscripts" as scripts => run }

fn run(path: &std::path::Path) {
    goldenscript::run(&mut Cluster::default(), path).unwrap_or_else(|error| panic!("{error}"));
}

/// A cluster in which nothing happens but by command.
#[derive(Default)]
struct Cluster {
    nodes: BTreeMap<Node, Host>,
    /// Messages in flight, in the order sent.
    network: Vec<(Node, Node, Message)>,
    commit: CommitMode,
    rules: Rules,
    replicas: u8,
    calls: u64,
    stores: u64,
    scrubs: bool,
}

/// A node: its store survives its process.
#[derive(Default)]
struct Host {
    machine: Option<Machine>,
    store: LogStore,
    id: StoreId,
    timers: BTreeSet<TimerId>,
}

/// A store that keeps every record. Simple rather than fast: what it holds is replayed for each read.
#[derive(Default)]
struct LogStore {
    records: Vec<Record>,
    /// The number of records that the disk has.
    synced: usize,
    /// The number of records that the operating system has.
    written: usize,
    /// The number of records from before the last crash.
    inherited: usize,
    /// The keys whose entries have rotted, each with the number of records by then.
    damaged: BTreeMap<Key, usize>,
    /// The keys whose entries are gone, each with the number of records by then.
    lost: BTreeMap<Key, usize>,
}

/// The entry of a key is damaged.
#[derive(Debug)]
struct DamagedEntry(Key);

impl LogStore {
    fn append(&mut self, record: Record) {
        self.records.push(record);
    }

    /// The last position, counted from 1 after each crash.
    fn last(&self) -> Lsn {
        (self.records.len() - self.inherited) as Lsn
    }

    fn is_synced(&self) -> bool {
        self.synced == self.records.len()
    }

    fn write(&mut self) {
        self.written = self.records.len();
    }

    fn sync(&mut self) {
        self.synced = self.records.len();
        self.written = self.synced;
    }

    fn kill(&mut self) {
        self.records.truncate(self.written);
        self.inherited = self.records.len();
    }

    /// Loses the records that are not synced, except for the first of those that are written.
    fn power_loss(&mut self, keep: Option<usize>) {
        let unsynced = self.written - self.synced;
        let keep = keep.unwrap_or(unsynced);
        assert!(keep <= unsynced, "{keep} records cannot survive: only {unsynced} are written");
        self.records.truncate(self.synced + keep);
        self.inherited = self.records.len();
        self.sync();
    }

    /// What recovery sees, and the entries.
    fn state(&self) -> (Vec<Record>, BTreeMap<Key, (Version, Value)>) {
        let mut lost = self.lost.clone();
        let (facts, mut entries) = self.replay(&mut |written, position| {
            lost.retain(|key, at| key != written || position < *at);
        });
        entries.retain(|key, _| !lost.contains_key(key));
        (facts.records().cloned().collect(), entries)
    }

    /// Whether the entry of a key has rotted, and no write has replaced it since.
    fn is_damaged(&self, key: &Key) -> bool {
        let mut is_damaged = self.damaged.contains_key(key);
        self.replay(&mut |written, position| {
            is_damaged &= written != key || self.damaged.get(key).is_some_and(|at| position < *at);
        });
        is_damaged
    }

    fn replay(
        &self,
        written: &mut dyn FnMut(&Key, usize),
    ) -> (Facts, BTreeMap<Key, (Version, Value)>) {
        let (mut facts, mut entries) = (Facts::default(), BTreeMap::new());
        for (position, record) in self.records.iter().enumerate() {
            let Some((version, Write { key, value })) = facts.apply(record) else { continue };
            written(&key, position);
            match value {
                Some(value) => entries.insert(key, (version, value)),
                None => entries.remove(&key),
            };
        }
        (facts, entries)
    }
}

type Output = Result<String, Box<dyn Error>>;

impl goldenscript::Runner for Cluster {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Output {
        let mut args = command.consume_args();
        let mut pairs = BTreeMap::new();
        while let Some((key, value)) = args.next_key() {
            pairs.insert(key.to_owned(), value.to_owned());
        }
        let mut words = Vec::new();
        while let Some(word) = args.next_pos() {
            words.push(word.to_owned());
        }
        let nodes = || words.iter().map(|word| word.parse()).collect::<Result<Vec<Node>, _>>();
        let node = || words.first().ok_or("a node is missing")?.parse::<Node>();
        match command.name.as_str() {
            "cluster" => self.cluster(&pairs),
            "put" => {
                let [key, value] = words.as_slice() else { Err("put KEY VALUE")? };
                let value = Some(Value::from(value.as_str()));
                Ok(self.client(Request::Write(Write { key: key.as_str().into(), value })))
            }
            "del" => {
                let [key] = words.as_slice() else { Err("del KEY")? };
                Ok(self.client(Request::Write(Write { key: key.as_str().into(), value: None })))
            }
            "get" => {
                let [key] = words.as_slice() else { Err("get KEY")? };
                let at: u64 = pairs.get("at").map_or(Ok(1), |at| at.parse())?;
                let key = Key::from(key.as_str());
                let deadline = Duration::from_secs(1);
                Ok(self.client(Request::Get { key, choice: at - 1, deadline }))
            }
            "read" | "range" => {
                let at: u64 = pairs.get("at").map_or(Ok(1), |at| at.parse())?;
                let key = |name| pairs.get(name).map(|key: &String| Key::from(key.as_str()));
                let query = if command.name == "read" {
                    Query::Keys(words.iter().map(|key| key.as_str().into()).collect())
                } else {
                    let (from, after, to) = (key("from"), key("after"), key("to"));
                    let limit = pairs.get("limit").map_or(Ok(100), |limit| limit.parse())?;
                    Query::Range(KeyRange { from, after, to, limit })
                };
                let deadline = Duration::from_secs(1);
                Ok(self.client(Request::Snapshot { query, choice: at - 1, deadline }))
            }
            "deliver" => {
                let again = words.iter().any(|word| word == "again");
                words.retain(|word| word != "again");
                let due = self.take(&words, &pairs, again)?;
                Ok(due
                    .into_iter()
                    .map(|(from, to, message)| self.receive(from, to, message))
                    .collect())
            }
            "drop" => {
                let lost = self.take(&words, &pairs, false)?;
                Ok(lost
                    .iter()
                    .map(|(from, to, message)| format!("{from} to {to}: {}\n", message.body))
                    .collect())
            }
            "force" => nodes()?.into_iter().map(|node| self.force(node)).collect(),
            "write" => {
                for node in nodes()? {
                    self.host(node)?.store.write();
                }
                Ok(String::new())
            }
            "timer" => {
                let name = words[1..].join(" ");
                let node = node()?;
                let host = self.host(node)?;
                let id = host.timers.iter().copied().find(|id| id.to_string() == name);
                let id = id.ok_or_else(|| format!("{node} has no timer '{name}'"))?;
                host.timers.remove(&id);
                Ok(self.step(node, Event::Timer(id)))
            }
            "kill" | "power-loss" => {
                let host = self.host(node()?)?;
                host.machine = None;
                host.timers.clear();
                if command.name == "kill" {
                    host.store.kill();
                } else {
                    host.store.power_loss(pairs.get("keep").map(|n| n.parse()).transpose()?);
                }
                Ok(String::new())
            }
            "rot" => {
                let [_, key] = words.as_slice() else { Err("rot NODE KEY")? };
                let store = &mut self.host(node()?)?.store;
                let position = store.records.len();
                store.damaged.insert(key.as_str().into(), position);
                Ok(String::new())
            }
            "lose" => {
                let [_, key] = words.as_slice() else { Err("lose NODE KEY")? };
                let store = &mut self.host(node()?)?.store;
                let position = store.records.len();
                store.lost.insert(key.as_str().into(), position);
                Ok(String::new())
            }
            "find-damage" => {
                let [_, key] = words.as_slice() else { Err("find-damage NODE KEY")? };
                let (node, key) = (node()?, Key::from(key.as_str()));
                if !self.host(node)?.store.is_damaged(&key) {
                    Err(format!("the entry of {key} is not damaged at {node}"))?;
                }
                Ok(self.step(node, Event::Damaged { key }))
            }
            "wipe" => {
                self.stores += 1;
                let id = StoreId(self.stores);
                *self.host(node()?)? = Host { id, ..Host::default() };
                Ok(String::new())
            }
            "start" => {
                let bootstrap = words.iter().any(|word| word == "bootstrap");
                let commit = pairs.get("commit").map_or(Ok(self.commit), |mode| mode.parse())?;
                Ok(self.start(node()?, bootstrap, commit))
            }
            "settle" => self.settle(),
            "status" => {
                let machine = self.host(node()?)?.machine.as_ref().ok_or("the node is down")?;
                let status = machine.status();
                let mut out = format!(
                    "epoch {}, incarnation {}, watermark {}, {}\n",
                    status.epoch,
                    status.incarnation,
                    status.watermark,
                    if status.ready { "ready" } else { "not ready" }
                );
                for (txn, key) in status.unsettled {
                    writeln!(out, "unsettled: {txn} {key}")?;
                }
                Ok(out)
            }
            "store" => {
                let store = &self.host(node()?)?.store;
                let (records, entries) = store.state();
                let mut out = String::new();
                for (key, (version, value)) in entries {
                    let damaged = if store.is_damaged(&key) { ", damaged" } else { "" };
                    writeln!(out, "{key} = {value} (version {version}{damaged})")?;
                }
                for record in records {
                    writeln!(out, "{record}")?;
                }
                Ok(out)
            }
            "network" => {
                let line = |(from, to, message): &(Node, Node, Message)| {
                    format!("{from} to {to}: {}\n", message.body)
                };
                Ok(self.network.iter().map(line).collect())
            }
            "timers" => {
                let host = self.host(node()?)?;
                Ok(host.timers.iter().map(|id| format!("{id}\n")).collect())
            }
            name => Err(format!("unknown command '{name}'"))?,
        }
    }
}

impl Cluster {
    fn cluster(&mut self, pairs: &BTreeMap<String, String>) -> Output {
        *self = Cluster::default();
        self.replicas = pairs.get("replicas").map_or(Ok(2), |count| count.parse())?;
        if let Some(commit) = pairs.get("commit") {
            self.commit = commit.parse()?;
        }
        if let Some(rule) = pairs.get("break") {
            self.rules = self.rules.without(rule.parse()?);
        }
        self.scrubs = pairs.contains_key("scrub");
        let replicas = (1..=self.replicas).map(Node::Replica);
        for node in std::iter::once(Node::Master).chain(replicas) {
            self.stores += 1;
            let host = Host { id: StoreId(self.stores), ..Host::default() };
            self.nodes.insert(node, host);
            self.start(node, true, self.commit);
        }
        self.settle()?;
        Ok(String::new())
    }

    fn host(&mut self, node: Node) -> Result<&mut Host, String> {
        self.nodes.get_mut(&node).ok_or_else(|| format!("there is no {node}"))
    }

    fn start(&mut self, node: Node, bootstrap: bool, commit: CommitMode) -> String {
        let host = self.nodes.get_mut(&node).expect("the caller has checked the node");
        let timing = Timing { peer_inquiry_after: 1, watermark_batch: 2, ..Timing::default() };
        let (rules, replicas, store) = (self.rules, self.replicas, host.id);
        let config = Config {
            node,
            replicas,
            store,
            nonce: 0,
            bootstrap,
            commit,
            rules,
            timing,
            scrub_interval: if self.scrubs { Duration::from_secs(1) } else { Duration::ZERO },
            sequence_above: 0,
        };
        let (records, _) = host.store.state();
        let (machine, effects) = Machine::recover(config, &records);
        host.machine = Some(machine);
        let mut out = format!("{node} starts\n");
        self.perform(node, effects, &mut out);
        out
    }

    fn client(&mut self, request: Request) -> String {
        self.calls += 1;
        self.step(Node::Master, Event::Client { call: self.calls, request })
    }

    fn force(&mut self, node: Node) -> Output {
        let store = &mut self.host(node)?.store;
        store.sync();
        let last = store.last();
        Ok(self.step(node, Event::Persisted(last)))
    }

    fn receive(&mut self, from: Node, to: Node, message: Message) -> String {
        self.step(to, Event::Message { from, message })
    }

    /// Removes matching messages from the network.
    fn take(
        &mut self,
        kinds: &[String],
        pairs: &BTreeMap<String, String>,
        keep: bool,
    ) -> Result<Vec<(Node, Node, Message)>, String> {
        let endpoint = |name| pairs.get(name).map(|node: &String| node.parse::<Node>()).transpose();
        let (sender, receiver) = (endpoint("from")?, endpoint("to")?);
        let matches = |(from, to, message): &(Node, Node, Message)| {
            sender.is_none_or(|node| node == *from)
                && receiver.is_none_or(|node| node == *to)
                && (kinds.is_empty() || kinds.iter().any(|kind| kind == message.body.kind()))
        };
        let (taken, rest): (Vec<_>, Vec<_>) = self.network.drain(..).partition(matches);
        self.network = rest;
        if keep {
            self.network.extend(taken.iter().cloned());
        }
        if taken.is_empty() {
            return Err("no such message is in flight".to_owned());
        }
        Ok(taken)
    }

    fn settle(&mut self) -> Output {
        let mut out = String::new();
        for _ in 0..100 {
            let nodes: Vec<_> = self.nodes.keys().copied().collect();
            let mut idle = self.network.is_empty();
            for node in nodes {
                let host = &self.nodes[&node];
                if host.machine.is_some() && !host.store.is_synced() {
                    idle = false;
                    out += &self.force(node)?;
                }
            }
            if idle {
                return Ok(out);
            }
            for (from, to, message) in std::mem::take(&mut self.network) {
                out += &self.receive(from, to, message);
            }
        }
        Err("the cluster does not settle")?
    }

    /// Lets a node process an event. A node that is down loses it.
    fn step(&mut self, node: Node, event: Event) -> String {
        let mut out = format!("{node}: {event}\n");
        let host = self.nodes.get_mut(&node).expect("every sender and receiver is a node");
        let Some(machine) = &mut host.machine else {
            out.insert_str(out.len() - 1, " (is down)");
            return out;
        };
        let mut effects = Vec::new();
        machine.step(event, &mut effects);
        self.perform(node, effects, &mut out);
        out
    }

    /// Performs the effects of a node's machine, and lists them.
    fn perform(&mut self, node: Node, effects: Vec<Effect>, out: &mut String) {
        let host = self.nodes.get_mut(&node).expect("every sender and receiver is a node");
        let Host { machine: process, store, timers, .. } = host;
        let machine = process.as_mut().expect("the node runs");
        let mut environment =
            ListedEnvironment { node, store, timers, network: &mut self.network, out };
        let halt = driver::perform_all(machine, effects, &mut environment);
        let halt = halt.expect("a damaged entry is reported to the machine");
        if halt.is_some() {
            *process = None;
        }
    }
}

/// The environment of a node: lists every effect that is performed.
struct ListedEnvironment<'a> {
    node: Node,
    store: &'a mut LogStore,
    timers: &'a mut BTreeSet<TimerId>,
    network: &'a mut Vec<(Node, Node, Message)>,
    out: &'a mut String,
}

impl Storage for ListedEnvironment<'_> {
    type Error = DamagedEntry;

    fn append(&mut self, record: Record) {
        self.store.append(record);
    }

    /// The command `force` says when.
    fn force(&mut self, _: Lsn) {}

    fn get(&mut self, key: &Key) -> Result<Option<(Version, Value)>, DamagedEntry> {
        if self.store.is_damaged(key) {
            return Err(DamagedEntry(key.clone()));
        }
        Ok(self.store.state().1.remove(key))
    }

    fn page(&mut self, range: &KeyRange) -> Result<Page, DamagedEntry> {
        let (_, entries) = self.store.state();
        let mut page = Page::default();
        for (key, (version, value)) in entries {
            if !range.contains(&key) {
                continue;
            }
            if self.store.is_damaged(&key) {
                return Err(DamagedEntry(key));
            }
            if page.entries.len() == range.limit as usize {
                page.end = Some(key);
                break;
            }
            page.entries.push((key, version, value));
        }
        Ok(page)
    }

    fn damaged_key(DamagedEntry(key): &DamagedEntry) -> Option<Key> {
        Some(key.clone())
    }

    /// The tables are what is durable.
    fn checkpoint(&mut self, upto: Lsn) -> bool {
        (self.store.inherited as Lsn) + upto <= self.store.synced as Lsn
    }

    fn summarize(&mut self, range: &Range, below: TxnId) -> Result<RangeSummary, DamagedEntry> {
        let (_, entries) = self.store.state();
        let intact = entries.into_iter().filter(|(key, _)| {
            range.after.as_ref().is_none_or(|after| key > after) && !self.store.is_damaged(key)
        });
        let mut digest = DefaultHasher::new();
        let mut summary = RangeSummary { upto: None, version: None, rows: 0, digest: 0 };
        for (key, (version, value)) in intact.take(range.rows_max as usize) {
            if range.upto.as_ref().is_some_and(|upto| key > *upto) {
                break;
            }
            let counts = version < below;
            if counts {
                summary.rows += 1;
                (&key, version, value).hash(&mut digest);
            }
            (summary.upto, summary.version) = (Some(key), counts.then_some(version));
        }
        summary.digest = digest.finish();
        Ok(summary)
    }

    fn is_damaged_entry(_: &DamagedEntry) -> bool {
        true
    }
}

impl Network for ListedEnvironment<'_> {
    fn send(&mut self, to: Node, message: Message) {
        self.network.push((self.node, to, message));
    }
}

impl Timers for ListedEnvironment<'_> {
    fn set_timer(&mut self, id: TimerId, _: Duration) {
        self.timers.insert(id);
    }
}

impl Clients for ListedEnvironment<'_> {
    fn reply(&mut self, _: CallId, _: Reply) {}
}

impl Operator for ListedEnvironment<'_> {}

impl Environment for ListedEnvironment<'_> {
    fn performing(&mut self, effect: &Effect) {
        // Nearly every step sets timers and forces; the commands `timers` and `force` show them.
        if !matches!(effect, Effect::SetTimer { .. } | Effect::Force(_)) {
            writeln!(self.out, "    {effect}").expect("writing to a string");
        }
    }
}
