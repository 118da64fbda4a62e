//! Random messages at the peers' port, through the wire format and into the state machines. A stranger,
//! who does not know the identity of a store or of the cluster, can neither stop a node nor change what the cluster does.
//! Whoever knows it can do harm, but a number out of bounds does none, and nothing panics.
//!
//! `TWOPC_FUZZ_BATCHES=10000000 cargo test -p system --test peer_messages` for a long run.

use std::{collections::BTreeSet, convert::Infallible, env, time::Duration};

use prost::Message as _;
use proto::v1::{self as pb, envelope::Body as Wire};
use rand::{Rng, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use system::{
    protocol::{
        CallId, CommitMode, Config, Effect, Event, Key, Lsn, Machine, Message, Node, Record, Reply,
        Request, Rules, StoreId, TXNS_AHEAD_MAX, TimerId, Timing, TxnId, Value, Version, Write,
        driver::{self, Clients, Environment, Network, Operator, Storage, Timers},
    },
    store::Limits,
    wire,
};

const REPLICAS: u8 = 3;
/// Messages in a batch of the test, at most.
const BATCH_MAX: usize = 4;

/// The number of random batches.
fn batches() -> u64 {
    let text = env::var("TWOPC_FUZZ_BATCHES").unwrap_or_else(|_| "20000".to_owned());
    text.parse().expect("TWOPC_FUZZ_BATCHES is a number")
}

/// Everything outside one machine.
#[derive(Default)]
struct Outside {
    appended: Lsn,
    sent: Vec<(Node, Message)>,
    timers: BTreeSet<TimerId>,
    committed: u64,
    refused: u64,
}

impl Storage for Outside {
    type Error = Infallible;

    fn append(&mut self, _: Record) {
        self.appended += 1;
    }

    fn force(&mut self, _: Lsn) {}

    fn get(&mut self, _: &Key) -> Result<Option<(Version, Value)>, Infallible> {
        Ok(None)
    }
}

impl Network for Outside {
    fn send(&mut self, to: Node, message: Message) {
        self.sent.push((to, message));
    }
}

impl Timers for Outside {
    fn set_timer(&mut self, id: TimerId, _: Duration) {
        self.timers.insert(id);
    }
}

impl Clients for Outside {
    fn reply(&mut self, _: CallId, reply: Reply) {
        self.committed += u64::from(matches!(reply, Reply::Committed { .. }));
    }
}

impl Operator for Outside {
    fn refused(&mut self, _: Node, _: &str) {
        self.refused += 1;
    }
}

impl Environment for Outside {}

struct Host {
    machine: Machine,
    outside: Outside,
    persisted: Lsn,
}

/// A cluster whose messages travel in their wire format.
struct Cluster {
    rng: ChaCha8Rng,
    hosts: Vec<Host>,
    /// Messages in flight, and some that have arrived: material for forgeries.
    flying: Vec<(Node, Node, Message)>,
    seen: Vec<(Node, Node, Message)>,
    calls: CallId,
    halted: Option<String>,
}

fn index(node: Node) -> usize {
    match node {
        Node::Master => 0,
        Node::Replica(slot) => slot.into(),
    }
}

fn store(node: Node) -> StoreId {
    StoreId(0x5eed_0000_0000_0000 + index(node) as u64)
}

impl Cluster {
    fn new(seed: u64, commit: CommitMode) -> Self {
        let nodes = std::iter::once(Node::Master).chain((1..=REPLICAS).map(Node::Replica));
        let mut cluster = Cluster {
            rng: ChaCha8Rng::seed_from_u64(seed),
            hosts: Vec::new(),
            flying: Vec::new(),
            seen: Vec::new(),
            calls: 0,
            halted: None,
        };
        for node in nodes {
            let timing = Timing { watermark_batch: 8, ..Timing::default() };
            let config = Config {
                node,
                replicas: REPLICAS,
                store: store(node),
                nonce: 0xb007 + index(node) as u64,
                bootstrap: true,
                commit,
                rules: Rules::ALL,
                timing,
                scrub_interval: Duration::ZERO,
                sequence_above: 0,
            };
            let (machine, effects) = Machine::recover(config, &[]);
            cluster.hosts.push(Host { machine, outside: Outside::default(), persisted: 0 });
            cluster.perform(index(node), effects);
        }
        cluster
    }

    fn perform(&mut self, host: usize, effects: Vec<Effect>) {
        let from = if host == 0 { Node::Master } else { Node::Replica(host as u8) };
        let Host { machine, outside, .. } = &mut self.hosts[host];
        let Ok(halt) = driver::perform_all(machine, effects, outside);
        if let Some(halt) = halt {
            self.halted = Some(format!("{from}: {}", halt.why));
        }
        self.flying.extend(outside.sent.drain(..).map(|(to, message)| (from, to, message)));
    }

    fn step(&mut self, host: usize, event: Event) {
        let mut effects = Vec::new();
        self.hosts[host].machine.step(event, &mut effects);
        self.perform(host, effects);
    }

    /// Delivers what a batch holds once it has been encoded, decoded and checked, as a node does.
    fn deliver(&mut self, from: Node, to: Node, envelopes: Vec<pb::Envelope>) {
        let batch = pb::Batch { envelopes, ..pb::Batch::default() };
        let mut batch = pb::Batch::decode(&*batch.encode_to_vec()).expect("just encoded");
        wire::expand(&mut batch.envelopes);
        for envelope in batch.envelopes {
            let Ok(message) = wire::from_wire(envelope) else { return };
            if wire::check_bounds(&message, &Limits::default()).is_ok() {
                self.step(index(to), Event::Message { from, message });
            }
        }
    }

    /// Something that happens in every cluster.
    fn honest_step(&mut self) {
        match self.rng.random_range(0..10) {
            0 => {
                let key = Key::from(format!("k{}", self.rng.random_range(0..4)).as_str());
                let write = Write { key, value: Some("v".into()) };
                self.calls += 1;
                let request = Request::Write(write);
                self.step(0, Event::Client { call: self.calls, request });
            }
            1..=3 => {
                let host = self.rng.random_range(0..self.hosts.len());
                let Host { outside: Outside { appended, .. }, persisted, .. } =
                    &mut self.hosts[host];
                if *persisted < *appended {
                    *persisted = *appended;
                    let event = Event::Persisted(*persisted);
                    self.step(host, event);
                }
            }
            4 if self.rng.random_ratio(1, 8) => {
                let host = self.rng.random_range(0..self.hosts.len());
                let timers = &self.hosts[host].outside.timers;
                let timer = timers.iter().nth(self.rng.random_range(0..timers.len().max(1)));
                if let Some(timer) = timer.copied() {
                    self.hosts[host].outside.timers.remove(&timer);
                    self.step(host, Event::Timer(timer));
                }
            }
            _ => {
                if self.flying.is_empty() {
                    return;
                }
                let next = self.rng.random_range(0..self.flying.len().min(4));
                let (from, to, message) = self.flying.remove(next);
                if self.seen.len() < 256 {
                    self.seen.push((from, to, message.clone()));
                } else {
                    let slot = self.rng.random_range(0..256);
                    self.seen[slot] = (from, to, message.clone());
                }
                self.deliver(from, to, vec![wire::to_wire(message)]);
            }
        }
    }

    /// A batch that looks like one of the cluster, with some fields replaced. `forge` changes who the
    /// sender claims to be.
    fn hostile_batch(&mut self, forge: impl Fn(&mut ChaCha8Rng, &mut pb::Envelope)) {
        if self.seen.is_empty() {
            return;
        }
        let (from, to, _) = self.seen[self.rng.random_range(0..self.seen.len())].clone();
        let mut envelopes = Vec::new();
        for _ in 0..self.rng.random_range(1..=BATCH_MAX) {
            let (_, _, message) = &self.seen[self.rng.random_range(0..self.seen.len())];
            let mut envelope = wire::to_wire(message.clone());
            mutate(&mut self.rng, &mut envelope);
            forge(&mut self.rng, &mut envelope);
            envelopes.push(envelope);
        }
        self.deliver(from, to, envelopes);
    }
}

/// A number that is interesting, or close to the one that was there.
fn number(rng: &mut impl Rng, was: u64) -> u64 {
    match rng.random_range(0..8) {
        0 => 0,
        1 => u64::MAX,
        2 => rng.random(),
        3 => rng.random::<u64>() >> rng.random_range(0..64),
        4 => was.wrapping_add(TXNS_AHEAD_MAX).wrapping_add(rng.random_range(0..3)),
        5 => was.wrapping_sub(1),
        _ => was.wrapping_add(rng.random_range(0..4)),
    }
}

fn mutate_txn(rng: &mut impl Rng, txn: &mut Option<pb::TxnId>) {
    let pb::TxnId { epoch, seq } = txn.unwrap_or_default();
    *txn = match rng.random_range(0..6) {
        0 => None,
        1 => Some(pb::TxnId { epoch: number(rng, epoch), seq }),
        2 => Some(pb::TxnId { epoch: number(rng, epoch), seq: number(rng, seq) }),
        _ => Some(pb::TxnId { epoch, seq: number(rng, seq) }),
    };
}

/// Replaces some of the fields of a message.
fn mutate(rng: &mut impl Rng, envelope: &mut pb::Envelope) {
    if rng.random_ratio(1, 4) {
        envelope.epoch = number(rng, envelope.epoch);
    }
    if rng.random_ratio(1, 3) {
        mutate_txn(rng, &mut envelope.watermark);
    }
    if rng.random_ratio(1, 4) {
        // A body of any kind about a transaction that exists, or nearly.
        let mut txn = envelope.watermark;
        mutate_txn(rng, &mut txn);
        let key = vec![b'k'; [0, 1, 2, 511, 600][rng.random_range(0..5)]].into();
        let decision = rng.random_range(0..4);
        let (answer, commit) = (rng.random_range(0..6), rng.random_range(0..4));
        let read = Some(pb::ReadId { epoch: 1, n: number(rng, 1), attempt: rng.random() });
        envelope.body = Some(match rng.random_range(0..21) {
            0 => Wire::Fence(pb::Fence { commit, ..pb::Fence::default() }),
            1 => Wire::FenceOk(pb::FenceOk {
                incarnation: number(rng, 1),
                in_doubt: vec![pb::InDoubt { txn, key }],
                ..pb::FenceOk::default()
            }),
            2 => Wire::Prepare(pb::Prepare { txn, key, ..pb::Prepare::default() }),
            3 => Wire::VoteYes(pb::VoteYes { txn }),
            4 => Wire::VoteNo(pb::VoteNo { txn, holder: txn, full: rng.random() }),
            5 => Wire::Decide(pb::Decide { txn, decision }),
            6 => Wire::Ack(pb::Ack { txns: txn.into_iter().collect(), commits: number(rng, 1) }),
            7 => Wire::Inquire(pb::Inquire { txn }),
            8 => Wire::Read(pb::Read { read, key, wait_ns: rng.random(), ..pb::Read::default() }),
            9 => Wire::Value(pb::Value { read, found: None }),
            10 => Wire::Busy(pb::Busy { read, txn }),
            11 => Wire::Alive(pb::Alive {
                incarnation: number(rng, 1),
                start: number(rng, 1),
                promised: Some(pb::Promise { epoch: number(rng, 1), nonce: number(rng, 1) }),
                force_age_ms: number(rng, 1),
                applied: number(rng, 1),
            }),
            12 => Wire::Stale(pb::Stale { promised: number(rng, 1) }),
            13 => Wire::PeerInquire(pb::PeerInquire { txn }),
            15 => Wire::Leaving(pb::Leaving { incarnation: number(rng, 1) }),
            14 => Wire::PeerAnswer(pb::PeerAnswer { txn, answer }),
            16 => {
                let heal = Some(pb::HealId { incarnation: number(rng, 1), n: number(rng, 1) });
                Wire::HealRequest(pb::HealRequest { heal, key })
            }
            17 => {
                let heal = Some(pb::HealId { incarnation: number(rng, 1), n: number(rng, 1) });
                let found = pb::Found { version: txn, ..pb::Found::default() };
                Wire::HealAnswer(pb::HealAnswer { heal, key, found: Some(found) })
            }
            18 => {
                let scrub = Some(pb::ScrubId { incarnation: number(rng, 1), n: number(rng, 1) });
                let (after, rows_max) = (Some(key), rng.random());
                Wire::ScrubRequest(pb::ScrubRequest { scrub, after, rows_max, below: txn })
            }
            19 => {
                let scrub = Some(pb::ScrubId { incarnation: number(rng, 1), n: number(rng, 1) });
                let (upto, version) = (Some(key), txn);
                let (rows, digest) = (number(rng, 1), number(rng, 1));
                let answer = pb::ScrubAnswer { scrub, below: txn, upto, version, rows, digest };
                Wire::ScrubAnswer(answer)
            }
            _ => Wire::Veto(pb::Veto { txn }),
        });
        return;
    }
    match &mut envelope.body {
        Some(
            Wire::Prepare(pb::Prepare { txn, .. })
            | Wire::VoteYes(pb::VoteYes { txn })
            | Wire::VoteNo(pb::VoteNo { txn, .. })
            | Wire::Decide(pb::Decide { txn, .. })
            | Wire::PeerAnswer(pb::PeerAnswer { txn, .. }),
        ) if rng.random_ratio(1, 2) => {
            mutate_txn(rng, txn);
        }
        Some(Wire::FenceOk(ok)) => ok.incarnation = number(rng, ok.incarnation),
        Some(Wire::Fence(fence)) if rng.random_ratio(1, 2) => fence.member = Some(rng.random()),
        _ => {}
    }
}

/// Both modes, each with a number of clusters, and the batches spread over them.
fn each_cluster(run: impl Fn(Cluster, u64)) {
    let each = batches().div_ceil(20);
    for seed in 0..10 {
        for commit in CommitMode::ALL {
            run(Cluster::new(seed, commit), each);
        }
    }
}

#[test]
fn strangers_change_nothing() {
    each_cluster(|mut cluster, batches| {
        // Who the stores belong to is known once the cluster has begun.
        while !cluster.hosts.iter().all(|host| host.machine.status().ready) {
            cluster.honest_step();
        }
        for _ in 0..batches {
            for _ in 0..4 {
                cluster.honest_step();
            }
            cluster.hostile_batch(|rng, envelope| {
                // Either the store or the cluster is unknown to the stranger.
                match rng.random_range(0..3) {
                    0 => envelope.store = rng.random::<u64>() >> 8,
                    1 => envelope.cluster_id = rng.random::<u64>() >> 8,
                    _ => envelope.cluster_id = 0,
                }
            });
            assert_eq!(cluster.halted, None);
        }
        let before = cluster.hosts[0].outside.committed;
        let mut steps = 0;
        while cluster.hosts[0].outside.committed < before + 3 {
            cluster.honest_step();
            steps += 1;
            assert!(steps < 1_000_000, "no write commits any more");
        }
        assert_eq!(cluster.halted, None);
        for host in &cluster.hosts {
            assert_eq!(host.machine.status().epoch, 1);
        }
    });
}

#[test]
fn numbers_out_of_bounds_change_nothing() {
    each_cluster(|mut cluster, batches| {
        for _ in 0..batches {
            for _ in 0..4 {
                cluster.honest_step();
            }
            cluster.hostile_batch(|_, _| {});
            // What a forger who knows everything does is a violation of the protocol.
            if cluster.halted.is_some() {
                let commit = CommitMode::ALL[cluster.rng.random_range(0..2)];
                cluster = Cluster::new(cluster.rng.random(), commit);
            }
            for host in &cluster.hosts {
                let status = host.machine.status();
                // Each forged message may raise them once.
                let reachable = TxnId::new(1 << 40, 1 << 50);
                assert!(status.watermark < reachable, "{status:?}");
                assert!(status.epoch < 1 << 40 && status.incarnation < 1 << 40, "{status:?}");
            }
        }
    });
}
