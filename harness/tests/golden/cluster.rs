//! A cluster in one thread: the real state machines and the interpreter of their effects, a network that
//! is a queue, and disks that are lists. It makes small runs for the checks, with journals and histories
//! like those of a real run.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    fs,
    path::Path,
    time::Duration,
};

use history::{
    Action, ClientEvent, Event, Function, Kind, NemesisEvent, RunDescription,
    Version as HistoryVersion,
};
use serde_json::{Value as Json, json};
use system::{
    journal::{self, Entry},
    protocol::{
        CallId, CommitMode, Config, Effect, Event as MachineEvent, Key, Lsn, Machine, Message,
        Node, Record, Reply, Request, Rules, StoreId, TimerId, Timing, TxnId, Value, Version,
        Write,
        driver::{self, Clients, Environment, Halt, Network, Operator, Storage, Timers},
    },
};
use twopc::checks::{FinalReplicaState, FinalState, JOURNAL, error_of};

/// The monotonic clock when the history begins.
const ORIGIN: u64 = 5_000_000_000;
const REPLICAS: u8 = 3;
const MILLISECOND: u64 = 1_000_000;

/// The content of a run directory.
#[derive(Clone)]
pub(crate) struct Files {
    pub(crate) description: RunDescription,
    pub(crate) history: Vec<Event>,
    pub(crate) journals: BTreeMap<Node, Vec<Entry>>,
    pub(crate) final_state: Option<FinalState>,
}

impl Files {
    /// Writes the run directory.
    pub(crate) fn save(&self, directory: &Path) {
        let lines = |entries: Vec<String>| entries.into_iter().map(|line| line + "\n").collect();
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            fs::create_dir_all(path.parent().expect("it is in the directory"))
                .expect("a directory");
            fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        };
        let pretty = |value: Json| serde_json::to_string_pretty(&value).expect("plain data") + "\n";
        write("test.json", pretty(json!(self.description)));
        write("history.jsonl", lines(self.history.iter().map(|event| line(&event)).collect()));
        for (node, entries) in &self.journals {
            let node = directory.join("nodes").join(node.to_string());
            fs::create_dir_all(&node).expect("a directory");
            let path = node.join(JOURNAL);
            let mut journal = journal::Writer::open(&path).expect("created");
            entries.iter().for_each(|entry| journal.add(entry));
            journal.write().expect("written");
        }
        if let Some(final_state) = &self.final_state {
            write("final.json", pretty(json!(final_state)));
        }
    }
}

fn line(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("plain data")
}

/// What survives a crash of a node.
#[derive(Default)]
struct Host {
    records: Vec<Record>,
    prepared: BTreeMap<TxnId, Write>,
    data: BTreeMap<Key, (Version, Value)>,
    journal: Vec<Entry>,
}

/// An open operation of a client.
struct OpenOperation {
    process: u64,
    f: Function,
    key: String,
    value: Option<String>,
}

pub(crate) struct Cluster {
    /// The machines of the nodes that run.
    machines: BTreeMap<Node, Machine>,
    world: World,
}

/// The environment of the machines.
struct World {
    /// The node whose effects are performed.
    node: Node,
    hosts: BTreeMap<Node, Host>,
    network: VecDeque<(Node, MachineEvent)>,
    open: BTreeMap<CallId, OpenOperation>,
    calls: CallId,
    clock: u64,
    files: Files,
}

impl Cluster {
    /// A cluster that has just started, for a run with these faults.
    pub(crate) fn new(faults: &[&str]) -> Self {
        let description = RunDescription {
            faults: faults.iter().map(ToString::to_string).collect(),
            replicas: Some(REPLICAS),
            clock_origin: Some(ORIGIN),
            convergence_deadline_ms: Some(10_000),
            ..RunDescription::default()
        };
        let files = Files {
            description,
            history: Vec::new(),
            journals: BTreeMap::new(),
            final_state: None,
        };
        let world = World {
            node: Node::Master,
            hosts: BTreeMap::new(),
            network: VecDeque::new(),
            open: BTreeMap::new(),
            calls: 0,
            clock: ORIGIN,
            files,
        };
        let mut cluster = Cluster { machines: BTreeMap::new(), world };
        for node in (1..=REPLICAS).map(Node::Replica).chain([Node::Master]) {
            cluster.start(node);
        }
        cluster.run();
        cluster
    }

    pub(crate) fn advance(&mut self, time: Duration) {
        self.world.clock += u64::try_from(time.as_nanos()).expect("a short while");
    }

    pub(crate) fn nemesis(&mut self, f: &str, value: Json) {
        let event = NemesisEvent::new(f, value).unwrap_or_else(|why| panic!("{why}"));
        self.world.record(Action::Nemesis(event));
    }

    /// A client invokes an operation. Its request waits in the network.
    pub(crate) fn invoke(&mut self, process: u64, f: Function, key: &str, value: Option<&str>) {
        let value = value.map(str::to_owned);
        self.world.record(Action::Client(ClientEvent {
            process,
            kind: Kind::Invoke,
            f,
            key: key.to_owned(),
            value: value.clone(),
            version: None,
            error: None,
            node: None,
        }));
        self.world.calls += 1;
        let call = self.world.calls;
        let request = match f {
            Function::Get => Request::Get {
                key: key.into(),
                choice: self.world.calls,
                deadline: Duration::from_secs(1),
            },
            _ => {
                Request::Write(Write { key: key.into(), value: value.as_deref().map(Value::from) })
            }
        };
        self.world.open.insert(call, OpenOperation { process, f, key: key.to_owned(), value });
        self.world.network.push_back((Node::Master, MachineEvent::Client { call, request }));
    }

    /// An operation from invocation to completion, without concurrent ones.
    pub(crate) fn op(&mut self, process: u64, f: Function, key: &str, value: Option<&str>) {
        self.invoke(process, f, key, value);
        self.run();
    }

    pub(crate) fn start(&mut self, node: Node) {
        let slot = match node {
            Node::Master => 0,
            Node::Replica(slot) => u64::from(slot),
        };
        let host = self.world.hosts.entry(node).or_default();
        let config = Config {
            node,
            replicas: REPLICAS,
            store: StoreId(100 + slot),
            nonce: 0,
            bootstrap: host.records.is_empty(),
            commit: CommitMode::Logged,
            rules: Rules::ALL,
            timing: Timing::default(),
            scrub_interval: Duration::ZERO,
            sequence_above: 0,
        };
        let records = kept(&host.records);
        let (machine, effects) = Machine::recover(config.clone(), &records);
        self.machines.insert(node, machine);
        self.world.clock += MILLISECOND;
        host.journal.push(Entry::Start {
            t: self.world.clock,
            config,
            records,
            read_results: true,
        });
        host.journal.extend(effects.iter().cloned().map(Entry::Effect));
        self.perform(node, effects);
    }

    /// Kills a node: messages to it are lost, and its clients get no replies.
    pub(crate) fn kill(&mut self, node: Node) {
        self.machines.remove(&node);
        self.world.network.retain(|(to, _)| *to != node);
        if node == Node::Master {
            self.world.disconnect_clients();
        }
    }

    /// Delivers messages until none is left.
    pub(crate) fn run(&mut self) {
        self.run_until(|_, _| false);
    }

    /// Delivers messages until `stop` selects an effect of a node. The effects of that event are in the
    /// journal but not performed.
    pub(crate) fn run_until(&mut self, stop: impl Fn(Node, &Effect) -> bool) {
        while let Some((to, event)) = self.world.network.pop_front() {
            let Some(machine) = self.machines.get_mut(&to) else { continue };
            self.world.clock += MILLISECOND;
            let mut effects = Vec::new();
            machine.step(event.clone(), &mut effects);
            self.world.node = to;
            self.world.stepped(&event, &effects);
            if effects.iter().any(|effect| stop(to, effect)) {
                return;
            }
            self.perform(to, effects);
        }
    }

    fn perform(&mut self, node: Node, effects: Vec<Effect>) {
        self.world.node = node;
        let machine = self.machines.get_mut(&node).expect("it runs");
        let Ok(halt) = driver::perform_all(machine, effects, &mut self.world);
        if let Some(Halt { why, .. }) = halt {
            panic!("{node} halted: {why}");
        }
    }

    /// Makes unforced records durable at every node, as an idle node does.
    pub(crate) fn force_all(&mut self) {
        let nodes: Vec<Node> = self.world.hosts.keys().copied().collect();
        for node in nodes {
            let host = &self.world.hosts[&node];
            let started =
                host.journal.iter().rposition(|entry| matches!(entry, Entry::Start { .. }));
            let appended = host.journal[started.expect("it was started")..]
                .iter()
                .filter(|entry| matches!(entry, Entry::Effect(Effect::Append(_))))
                .count();
            self.world.network.push_back((node, MachineEvent::Persisted(appended as u64)));
        }
        self.run();
    }

    /// Ends the run: heals, lets the nodes converge, and reads the final states.
    pub(crate) fn finish(mut self) -> Files {
        self.nemesis("heal", Json::Null);
        self.force_all();
        self.world.clock += MILLISECOND;
        let mut final_state = FinalState {
            time: self.world.clock - ORIGIN,
            replicas: BTreeMap::new(),
            master_unsettled: Some(self.unsettled(Node::Master)),
            invariant_violations: None,
        };
        for node in (1..=REPLICAS).map(Node::Replica) {
            let entries = self.world.hosts[&node].data.iter();
            let entries =
                entries.map(|(key, (version, value))| (key.clone(), *version, value.clone()));
            let replica =
                FinalReplicaState { entries: entries.collect(), in_doubt: self.unsettled(node) };
            final_state.replicas.insert(node, replica);
        }
        self.world.files.final_state = Some(final_state);
        self.world.files.journals =
            self.world.hosts.into_iter().map(|(node, host)| (node, host.journal)).collect();
        self.world.files
    }

    fn unsettled(&self, node: Node) -> Vec<(TxnId, Key)> {
        self.machines[&node].status().unsettled
    }
}

impl World {
    fn host(&mut self) -> &mut Host {
        self.hosts.get_mut(&self.node).expect("it was started")
    }

    fn record(&mut self, action: Action) {
        self.clock += MILLISECOND;
        let index = self.files.history.len() as u64;
        self.files.history.push(Event { index, time: self.clock - ORIGIN, action });
    }

    /// Every open operation fails with a connection error.
    fn disconnect_clients(&mut self) {
        for (_, OpenOperation { process, f, key, value }) in std::mem::take(&mut self.open) {
            let kind = if f == Function::Get { Kind::Fail } else { Kind::Info };
            let error = Some("connection reset".to_owned());
            self.record(Action::Client(ClientEvent {
                process,
                kind,
                f,
                key,
                value,
                version: None,
                error,
                node: None,
            }));
        }
    }
}

impl Storage for World {
    type Error = Infallible;

    fn append(&mut self, record: Record) {
        let host = self.host();
        match &record {
            Record::Prepare { txn, write } => {
                host.prepared.insert(*txn, write.clone());
            }
            Record::Commit { txn } => match host.prepared[txn].clone() {
                Write { key, value: Some(value) } => {
                    host.data.insert(key, (*txn, value));
                }
                Write { key, value: None } => {
                    host.data.remove(&key);
                }
            },
            _ => {}
        }
        host.records.push(record);
    }

    fn force(&mut self, upto: Lsn) {
        self.network.push_back((self.node, MachineEvent::Persisted(upto)));
    }

    fn get(&mut self, key: &Key) -> Result<Option<(Version, Value)>, Infallible> {
        Ok(self.host().data.get(key).cloned())
    }
}

impl Network for World {
    fn send(&mut self, to: Node, message: Message) {
        self.network.push_back((to, MachineEvent::Message { from: self.node, message }));
    }
}

impl Timers for World {
    fn set_timer(&mut self, _: TimerId, _: Duration) {}
}

impl Clients for World {
    fn reply(&mut self, call: CallId, reply: Reply) {
        let Some(OpenOperation { process, f, key, value }) = self.open.remove(&call) else {
            return;
        };
        let mut event = ClientEvent {
            process,
            kind: Kind::Ok,
            f,
            key,
            value,
            version: None,
            error: None,
            node: None,
        };
        match reply {
            Reply::Committed { version } => event.version = Some(HistoryVersion::new(version)),
            Reply::Aborted(reason) => {
                event.kind = Kind::Fail;
                event.error = Some(error_of(&reason));
            }
            Reply::Value(found) => {
                event.version = found.as_ref().map(|(version, _)| HistoryVersion::new(version));
                event.value = found.map(|(_, value)| value.to_string());
            }
            Reply::Snapshot { .. } => unreachable!("these clients read single keys"),
            Reply::Unavailable => {
                event.kind = Kind::Fail;
                event.error = Some("unavailable: nobody answered".to_owned());
            }
        }
        self.record(Action::Client(event));
    }
}

impl Operator for World {}

impl Environment for World {
    fn stepped(&mut self, event: &MachineEvent, effects: &[Effect]) {
        let t = self.clock;
        let journal = &mut self.host().journal;
        journal.push(Entry::Event { t, event: event.clone() });
        journal.extend(effects.iter().cloned().map(Entry::Effect));
    }
}

/// The records that a recovery reads. A master's END erases its COMMIT.
fn kept(records: &[Record]) -> Vec<Record> {
    let ended: Vec<TxnId> = records
        .iter()
        .filter_map(|record| match record {
            Record::End { txn } => Some(*txn),
            _ => None,
        })
        .collect();
    records
        .iter()
        .filter(|record| match record {
            Record::End { .. } => false,
            Record::CommitDecision { txn, .. } => !ended.contains(txn),
            _ => true,
        })
        .cloned()
        .collect()
}
