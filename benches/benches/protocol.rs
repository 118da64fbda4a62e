//! How much the protocol itself costs: one write from the client's request to the last
//! acknowledgement, through the machines of a master and its replicas, with storage and network
//! that take no time.

use std::{collections::VecDeque, hint::black_box};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use system::protocol::{
    CommitMode, Config, Effect, Event, Machine, Message, Node, Request, Rules, StoreId, Timing,
    Write,
};

/// A cluster in which everything happens at once.
struct Cluster {
    machines: Vec<Machine>,
    network: VecDeque<(Node, Node, Message)>,
    effects: Vec<Effect>,
    calls: u64,
    answers: u64,
}

fn place(node: Node) -> usize {
    match node {
        Node::Master => 0,
        Node::Replica(slot) => slot.into(),
    }
}

impl Cluster {
    fn new(replicas: u8) -> Self {
        let mut this = Cluster {
            machines: Vec::new(),
            network: VecDeque::new(),
            effects: Vec::new(),
            calls: 0,
            answers: 0,
        };
        let nodes = std::iter::once(Node::Master).chain((1..=replicas).map(Node::Replica));
        let mut started = Vec::new();
        for node in nodes {
            let config = Config {
                node,
                replicas,
                store: StoreId(place(node) as u64 + 1),
                bootstrap: true,
                commit: CommitMode::Logged,
                rules: Rules::ALL,
                timing: Timing::default(),
            };
            let (machine, effects) = Machine::recover(config, &[]);
            this.machines.push(machine);
            started.push((node, effects));
        }
        for (node, effects) in started {
            this.effects = effects;
            this.perform(node);
        }
        this.settle();
        this
    }

    fn step(&mut self, node: Node, event: Event) {
        self.machines[place(node)].step(event, &mut self.effects);
        self.perform(node);
    }

    /// Every force succeeds at once: what follows from it comes right behind.
    fn perform(&mut self, node: Node) {
        while !self.effects.is_empty() {
            let mut durable = 0;
            for effect in self.effects.drain(..) {
                match effect {
                    Effect::Send { to, message } => self.network.push_back((node, to, message)),
                    Effect::Force(lsn) => durable = lsn,
                    Effect::Reply { .. } => self.answers += 1,
                    _ => {}
                }
            }
            if durable > 0 {
                let machine = &mut self.machines[place(node)];
                machine.step(Event::Persisted(durable), &mut self.effects);
            }
        }
    }

    fn settle(&mut self) {
        while let Some((from, to, message)) = self.network.pop_front() {
            self.step(to, Event::Message { from, message });
        }
    }

    fn put(&mut self, key: &str) {
        self.calls += 1;
        let write = Write { key: key.into(), value: Some("a value of some length".into()) };
        let call = self.calls;
        self.step(Node::Master, Event::Client { call, request: Request::Write(write) });
        self.settle();
    }
}

fn writes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("protocol/write");
    group.throughput(Throughput::Elements(1));
    for replicas in [1, 3, 7] {
        group.bench_with_input(BenchmarkId::from_parameter(replicas), &replicas, |bench, n| {
            let mut cluster = Cluster::new(*n);
            bench.iter(|| cluster.put(black_box("key")));
            assert_eq!(cluster.answers, cluster.calls, "every write is answered");
        });
    }
    group.finish();
}

criterion_group!(benches, writes);
criterion_main!(benches);
