//! The cost of the protocol alone: one write from the client's request to the last acknowledgement,
//! through the machines of a master and its replicas, with a store and a network that take no time:
//! `cargo bench -p benches --bench protocol`.

use std::{collections::VecDeque, convert::Infallible, hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use system::protocol::{
    CallId, CommitMode, Config, Effect, Event, Key, Lsn, Machine, Message, Node, Record, Reply,
    Request, Rules, StoreId, TimerId, Timing, Value, Version, Write,
    driver::{self, Clients, Environment, Network, Operator, Storage, Timers},
};

/// A cluster without delays.
struct Cluster {
    machines: Vec<Machine>,
    world: World,
    /// A buffer, reused by every step.
    effects: Vec<Effect>,
    calls: u64,
}

/// The environment of the machine that is being stepped.
struct World {
    node: Node,
    network: VecDeque<(Node, Node, Message)>,
    /// The last record whose force was requested.
    forced: Lsn,
    replies: u64,
}

impl Storage for World {
    type Error = Infallible;

    fn append(&mut self, _: Record) {}

    fn force(&mut self, upto: Lsn) {
        self.forced = upto;
    }

    fn get(&mut self, _: &Key) -> Result<Option<(Version, Value)>, Infallible> {
        Ok(None)
    }
}

impl Network for World {
    fn send(&mut self, to: Node, message: Message) {
        self.network.push_back((self.node, to, message));
    }
}

impl Timers for World {
    fn set_timer(&mut self, _: TimerId, _: Duration) {}
}

impl Clients for World {
    fn reply(&mut self, _: CallId, _: Reply) {
        self.replies += 1;
    }
}

impl Operator for World {}

impl Environment for World {}

fn index(node: Node) -> usize {
    match node {
        Node::Master => 0,
        Node::Replica(slot) => slot.into(),
    }
}

impl Cluster {
    fn new(replicas: u8) -> Self {
        let world = World { node: Node::Master, network: VecDeque::new(), forced: 0, replies: 0 };
        let mut cluster = Cluster { machines: Vec::new(), world, effects: Vec::new(), calls: 0 };
        let nodes = std::iter::once(Node::Master).chain((1..=replicas).map(Node::Replica));
        let mut started = Vec::new();
        for node in nodes {
            let config = Config {
                node,
                replicas,
                store: StoreId(index(node) as u64 + 1),
                nonce: 1,
                bootstrap: true,
                commit: CommitMode::Logged,
                rules: Rules::ALL,
                timing: Timing::default(),
                scrub_interval: Duration::ZERO,
                sequence_above: 0,
            };
            let (machine, effects) = Machine::recover(config, &[]);
            cluster.machines.push(machine);
            started.push((node, effects));
        }
        for (node, effects) in started {
            cluster.effects = effects;
            cluster.perform(node);
        }
        cluster.run();
        cluster
    }

    fn step(&mut self, node: Node, event: Event) {
        self.machines[index(node)].step(event, &mut self.effects);
        self.perform(node);
    }

    /// Performs the effects of a node's machine. Forces complete at once.
    fn perform(&mut self, node: Node) {
        self.world.node = node;
        let machine = &mut self.machines[index(node)];
        while !self.effects.is_empty() {
            let Ok(_) = driver::perform_all(machine, self.effects.drain(..), &mut self.world);
            let forced = std::mem::take(&mut self.world.forced);
            if forced > 0 {
                machine.step(Event::Persisted(forced), &mut self.effects);
            }
        }
    }

    /// Delivers every message.
    fn run(&mut self) {
        while let Some((from, to, message)) = self.world.network.pop_front() {
            self.step(to, Event::Message { from, message });
        }
    }

    fn put(&mut self, key: &str) {
        self.calls += 1;
        let write = Write { key: key.into(), value: Some("a value of some length".into()) };
        let call = self.calls;
        self.step(Node::Master, Event::Client { call, request: Request::Write(write) });
        self.run();
    }
}

fn writes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("protocol/write");
    group.throughput(Throughput::Elements(1));
    for replicas in [1, 3, 7] {
        group.bench_with_input(BenchmarkId::from_parameter(replicas), &replicas, |bench, n| {
            let mut cluster = Cluster::new(*n);
            bench.iter(|| cluster.put(black_box("key")));
            assert_eq!(cluster.world.replies, cluster.calls, "every write is answered");
        });
    }
    group.finish();
}

criterion_group!(benches, writes);
criterion_main!(benches);
