//! Who is who: strangers, copies of a store that are put back or run beside the original, and healthy
//! stores, which are never taken for copies. Each rule is broken once to see what it prevents.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    time::Duration,
};

use protocol::{
    Body, CallId, ClusterId, CommitMode, Config, Decision, EPOCHS_AHEAD_MAX, Effect, Event, Facts,
    HaltKind, Key, Lsn, Machine, Message, Node, PeerKnowledge, Record, Reply, Request, Rule, Rules,
    Seen, StoreId, TXNS_AHEAD_MAX, TimerId, Timing, TxnId, Value, Version, Write,
    driver::{self, Clients, Environment, Halt, Network, Operator, Storage, Timers},
};

const MASTER: Node = Node::Master;
const R1: Node = Node::Replica(1);
const R2: Node = Node::Replica(2);
const NODES: [Node; 3] = [MASTER, R1, R2];

/// A store: its records are applied at once, and durable when `durable` says so.
#[derive(Clone, Default)]
struct Store {
    facts: Facts,
    data: BTreeMap<Key, (Version, Value)>,
    appended: Lsn,
}

/// Everything outside one machine.
#[derive(Default)]
struct Outside {
    store: Store,
    sent: VecDeque<(Node, Message)>,
    replies: Vec<Reply>,
    refused: Vec<String>,
}

impl Storage for Outside {
    type Error = Infallible;

    fn append(&mut self, record: Record) {
        self.store.appended += 1;
        if let Some((version, Write { key, value })) = self.store.facts.apply(&record) {
            match value {
                Some(value) => self.store.data.insert(key, (version, value)),
                None => self.store.data.remove(&key),
            };
        }
    }

    fn force(&mut self, _: Lsn) {}

    fn get(&mut self, key: &Key) -> Result<Option<(Version, Value)>, Infallible> {
        Ok(self.store.data.get(key).cloned())
    }
}

impl Network for Outside {
    fn send(&mut self, to: Node, message: Message) {
        self.sent.push_back((to, message));
    }
}

impl Timers for Outside {
    fn set_timer(&mut self, _: TimerId, _: Duration) {}
}

impl Clients for Outside {
    fn reply(&mut self, _: CallId, reply: Reply) {
        self.replies.push(reply);
    }
}

impl Operator for Outside {
    fn refused(&mut self, _: Node, why: &str) {
        self.refused.push(why.to_owned());
    }
}

impl Environment for Outside {}

struct Host {
    machine: Option<Machine>,
    outside: Outside,
    persisted: Lsn,
    halted: Option<Halt>,
}

/// A master and two replicas.
struct Cluster {
    rules: Rules,
    commit: CommitMode,
    hosts: BTreeMap<Node, Host>,
    starts: u64,
    calls: CallId,
}

impl Cluster {
    /// A cluster that has begun.
    fn new(commit: CommitMode, rules: Rules) -> Self {
        let mut cluster = Cluster { rules, commit, hosts: BTreeMap::new(), starts: 0, calls: 0 };
        for node in NODES {
            let outside = Outside::default();
            cluster.hosts.insert(node, Host { machine: None, outside, persisted: 0, halted: None });
            cluster.start(node);
        }
        cluster.settle();
        assert!(cluster.is_ready(), "{:?}", cluster.halts());
        cluster
    }

    fn logged(broken: Option<Rule>) -> Self {
        Cluster::new(CommitMode::Logged, broken.map_or(Rules::ALL, |rule| Rules::ALL.without(rule)))
    }

    fn host(&mut self, node: Node) -> &mut Host {
        self.hosts.get_mut(&node).expect("a node of the cluster")
    }

    fn is_ready(&self) -> bool {
        let ready = |host: &Host| host.machine.as_ref().is_some_and(|it| it.status().ready);
        self.hosts.values().all(ready)
    }

    fn halts(&self) -> Vec<(Node, &Halt)> {
        let halts = self.hosts.iter();
        halts.filter_map(|(node, host)| Some((*node, host.halted.as_ref()?))).collect()
    }

    /// Starts a node on its store.
    fn start(&mut self, node: Node) {
        self.starts += 1;
        let config = Config {
            node,
            replicas: 2,
            store: StoreId(0xabc0 + NODES.iter().position(|it| *it == node).unwrap_or(0) as u64),
            nonce: self.starts,
            bootstrap: true,
            commit: self.commit,
            rules: self.rules,
            timing: Timing::default(),
            scrub_interval: Duration::ZERO,
            sequence_above: 0,
        };
        let host = self.host(node);
        host.outside.sent.clear();
        host.outside.store.appended = 0;
        host.persisted = 0;
        host.halted = None;
        let records: Vec<_> = host.outside.store.facts.records().cloned().collect();
        let (machine, effects) = Machine::recover(config, &records);
        host.machine = Some(machine);
        self.perform(node, effects);
    }

    fn stop(&mut self, node: Node) {
        let host = self.host(node);
        host.machine = None;
        host.outside.sent.clear();
    }

    fn perform(&mut self, node: Node, effects: Vec<Effect>) {
        let Host { machine, outside, halted, .. } = self.host(node);
        let Some(running) = machine else { return };
        let Ok(halt) = driver::perform_all(running, effects, outside);
        if halt.is_some() {
            *halted = halt;
            *machine = None;
        }
    }

    fn step(&mut self, node: Node, event: Event) {
        let mut effects = Vec::new();
        if let Some(machine) = &mut self.host(node).machine {
            machine.step(event, &mut effects);
        }
        self.perform(node, effects);
    }

    fn deliver(&mut self, from: Node, to: Node, message: Message) {
        self.step(to, Event::Message { from, message });
    }

    /// Everything becomes durable and every message arrives, except for what `lost` says.
    fn settle_without(&mut self, lost: impl Fn(Node, &Body) -> bool) {
        loop {
            let mut idle = true;
            for node in NODES {
                let host = self.host(node);
                if host.machine.is_some() && host.persisted < host.outside.store.appended {
                    host.persisted = host.outside.store.appended;
                    let event = Event::Persisted(host.persisted);
                    self.step(node, event);
                    idle = false;
                }
                while let Some((to, message)) = self.host(node).outside.sent.pop_front() {
                    if !lost(to, &message.body) {
                        self.deliver(node, to, message);
                    }
                    idle = false;
                }
            }
            if idle {
                return;
            }
        }
    }

    fn settle(&mut self) {
        self.settle_without(|_, _| false);
    }

    /// Heartbeats find out who is live, and everything settles.
    fn heartbeat(&mut self) {
        self.step(MASTER, Event::Timer(TimerId::Heartbeat));
        self.settle();
    }

    fn put(&mut self, key: &str, value: &str) {
        self.calls += 1;
        let write = Write { key: key.into(), value: Some(value.into()) };
        let call = self.calls;
        self.step(MASTER, Event::Client { call, request: Request::Write(write) });
    }

    fn restart(&mut self, node: Node) {
        self.stop(node);
        self.start(node);
        self.settle();
        self.heartbeat();
    }

    fn store(&mut self, node: Node) -> Store {
        self.host(node).outside.store.clone()
    }

    /// A message of this node as it would send it now.
    fn message(&mut self, node: Node, body: Body) -> Message {
        let (cluster, epoch, nonce) = self.promise();
        let store = StoreId(0xabc0 + NODES.iter().position(|it| *it == node).unwrap_or(0) as u64);
        Message { cluster, store, epoch, nonce, watermark: TxnId::default(), decisions: 0, body }
    }

    /// The cluster, and the epoch and nonce that r1 has promised to obey.
    fn promise(&mut self) -> (ClusterId, u64, u64) {
        let facts = &self.host(R1).outside.store.facts;
        let (mut cluster, mut promise, mut nonces) = (ClusterId(0), 0, BTreeMap::new());
        for record in facts.records() {
            match record {
                Record::Cluster { id } => cluster = *id,
                Record::Promise { epoch } => promise = *epoch,
                Record::Start { epoch, nonce } => {
                    nonces.insert(*epoch, *nonce);
                }
                _ => {}
            }
        }
        (cluster, promise, nonces[&promise])
    }

    /// A write that is prepared at both replicas, whose votes are lost.
    fn in_doubt(&mut self) -> TxnId {
        self.put("k", "v");
        self.settle_without(|_, body| matches!(body, Body::VoteYes { .. }));
        let machine = self.host(R1).machine.as_ref().expect("it runs");
        machine.status().unsettled[0].0
    }
}

fn refused(halts: &[(Node, &Halt)], node: Node, why: &str) {
    let [(halted, halt)] = halts else { panic!("{node} halts: {halts:?}") };
    assert_eq!((*halted, halt.kind), (node, HaltKind::Refused), "{halts:?}");
    assert!(halt.why.contains(why), "{}", halt.why);
}

#[test]
fn a_stranger_is_not_believed_to_be_a_replica() {
    for broken in [None, Some(Rule::PeerIdChecked)] {
        let mut cluster = Cluster::logged(broken);
        let txn = cluster.in_doubt();
        let body = Body::PeerAnswer { txn, answer: PeerKnowledge::Abort };
        let mut forged = cluster.message(R2, body);
        forged.store = StoreId(666);
        cluster.deliver(R2, R1, forged);
        let in_doubt = !cluster.host(R1).machine.as_ref().unwrap().status().unsettled.is_empty();
        assert_eq!(in_doubt, broken.is_none());
        assert_eq!(cluster.host(R1).outside.refused.len(), usize::from(broken.is_none()));
    }
}

#[test]
fn an_inquiry_of_a_stranger_makes_nobody_refuse() {
    let mut cluster = Cluster::logged(None);
    let before = cluster.store(R1).appended;
    for seq in 1..100 {
        let mut forged = cluster.message(R2, Body::PeerInquire { txn: TxnId::new(1, seq) });
        forged.store = StoreId(seq);
        cluster.deliver(R2, R1, forged);
    }
    assert_eq!(cluster.store(R1).appended, before);
}

#[test]
fn a_message_with_another_nonce_or_of_another_cluster_is_refused() {
    for broken in [None, Some(Rule::NonceOnEveryMessage)] {
        let mut cluster = Cluster::logged(broken);
        let txn = cluster.in_doubt();
        let body = Body::Decide { txn, decision: Decision::Abort };
        let mut other_cluster = cluster.message(MASTER, body.clone());
        other_cluster.cluster = ClusterId(999);
        let mut other_start = cluster.message(MASTER, body);
        other_start.nonce += 1;
        for forged in [other_cluster, other_start] {
            cluster.deliver(MASTER, R1, forged);
            let status = cluster.host(R1).machine.as_ref().unwrap().status();
            assert_eq!(status.unsettled.is_empty(), broken.is_some());
        }
    }
}

/// A copy of the master's store starts, and each of its starts counts an epoch that the original has
/// counted too.
#[test]
fn a_copy_of_the_master_with_the_same_epoch_halts() {
    for broken in [None, Some(Rule::NonceOnEveryMessage)] {
        let mut cluster = Cluster::logged(broken);
        cluster.stop(MASTER);
        let copy = cluster.store(MASTER);
        cluster.restart(MASTER);
        assert!(cluster.is_ready());
        cluster.stop(MASTER);
        cluster.host(MASTER).outside.store = copy;
        cluster.start(MASTER);
        cluster.settle();
        if broken.is_none() {
            refused(&cluster.halts(), MASTER, "this store is a copy");
        } else {
            assert!(cluster.is_ready(), "the replicas obey both: {:?}", cluster.halts());
        }
    }
}

#[test]
fn a_copy_of_the_master_is_not_promised_anything() {
    for broken in [None, Some(Rule::FenceNamesSuperseded)] {
        let mut cluster = Cluster::logged(broken);
        let copy = cluster.store(MASTER);
        cluster.restart(MASTER);
        let original = cluster.store(MASTER);
        let promise = cluster.promise();
        cluster.host(MASTER).outside.store = copy;
        // The copy is started until it has counted past the original, unheard.
        for _ in 0..2 {
            cluster.stop(MASTER);
            cluster.start(MASTER);
            cluster.settle_without(|_, _| true);
        }
        cluster.heartbeat();
        if broken.is_some() {
            assert_ne!(cluster.promise(), promise, "the copy has taken over");
            continue;
        }
        refused(&cluster.halts(), MASTER, "this store is a copy");
        assert_eq!(cluster.promise(), promise);
        // So the original can come back.
        cluster.host(MASTER).outside.store = original;
        cluster.restart(MASTER);
        assert!(cluster.is_ready(), "{:?}", cluster.halts());
    }
}

#[test]
fn an_older_copy_of_the_masters_log_does_not_decide() {
    for broken in [None, Some(Rule::DecisionNumberChecked)] {
        let mut cluster = Cluster::logged(broken);
        let copy = cluster.store(MASTER);
        cluster.put("k", "v");
        // r1 commits, and r2 is in doubt.
        cluster.settle_without(|to, body| to == R2 && matches!(body, Body::Decide { .. }));
        assert_eq!(cluster.store(R1).data.len(), 1);
        cluster.stop(MASTER);
        cluster.host(MASTER).outside.store = copy;
        cluster.start(MASTER);
        cluster.settle_without(|to, _| to == R2);
        if broken.is_none() {
            refused(&cluster.halts(), MASTER, "knows of 1 commits and this store has decided 0");
            assert_eq!(cluster.host(R2).machine.as_ref().unwrap().status().unsettled.len(), 1);
        } else {
            cluster.heartbeat();
            assert_eq!(cluster.store(R2).data.len(), 0, "r2 has aborted what r1 has committed");
            assert_eq!(cluster.host(R2).machine.as_ref().unwrap().status().unsettled, []);
        }
    }
}

/// The copy leaves no trace: it halts, with a reason, and the original takes over when it is put back.
#[test]
fn the_original_comes_back_after_an_older_copy_of_the_master() {
    for broken in [None, Some(Rule::DecisionsBeforePromise)] {
        let mut cluster = Cluster::logged(broken);
        let copy = cluster.store(MASTER);
        for n in 0..3_u32 {
            cluster.put("k", &n.to_string());
            cluster.settle();
        }
        cluster.stop(MASTER);
        let (original, promise) = (cluster.store(MASTER), cluster.promise());
        cluster.host(MASTER).outside.store = copy;
        cluster.start(MASTER);
        cluster.settle();
        refused(&cluster.halts(), MASTER, "knows of 3 commits and this store has decided 0");
        assert_eq!(cluster.promise() == promise, broken.is_none());
        cluster.host(MASTER).outside.store = original;
        cluster.restart(MASTER);
        if broken.is_some() {
            refused(&cluster.halts(), MASTER, "this store is a copy");
            continue;
        }
        assert!(cluster.is_ready(), "{:?}", cluster.halts());
        cluster.put("k", "v");
        cluster.settle();
        let last = cluster.host(MASTER).outside.replies.last();
        assert!(matches!(last, Some(Reply::Committed { .. })), "{last:?}");
    }
}

/// A replica that has applied the later of two commits, and not the earlier one, has applied as many as the
/// copy has decided.
#[test]
fn an_older_copy_that_lacks_the_later_of_two_commits_does_not_decide() {
    for broken in [None, Some(Rule::DecisionsInEveryMessage)] {
        let mut cluster = Cluster::logged(broken);
        cluster.put("k", "v");
        cluster.settle_without(|_, body| matches!(body, Body::Decide { .. }));
        let copy = cluster.store(MASTER);
        cluster.put("l", "w");
        cluster.settle_without(|to, body| to == R2 && matches!(body, Body::Decide { .. }));
        let held = |cluster: &mut Cluster, node| -> Vec<Key> {
            cluster.store(node).data.keys().cloned().collect()
        };
        assert_eq!(held(&mut cluster, R1), ["l".into()]);
        cluster.stop(MASTER);
        // What r1 has heard outlives it.
        cluster.stop(R1);
        cluster.start(R1);
        cluster.host(MASTER).outside.store = copy;
        cluster.start(MASTER);
        // r1 does not hear of the earlier commit, which would make its own count tell.
        let is_lost = |to, body: &Body| to == R1 && matches!(body, Body::Decide { .. });
        cluster.settle_without(|to, body| to == R2 || is_lost(to, body));
        if broken.is_none() {
            refused(&cluster.halts(), MASTER, "knows of 2 commits and this store has decided 1");
            continue;
        }
        cluster.step(MASTER, Event::Timer(TimerId::Heartbeat));
        cluster.settle_without(is_lost);
        assert_eq!(cluster.host(R2).machine.as_ref().unwrap().status().unsettled, []);
        assert_eq!(held(&mut cluster, R2), ["k".into()], "r2 has aborted what r1 has committed");
    }
}

/// A Prepare that was sent to a replica waits for its next start, which may be that of a copy.
#[test]
fn an_older_copy_of_a_replica_does_not_vote_before_it_is_found_out() {
    for broken in [None, Some(Rule::HandshakeBeforeObeying)] {
        let mut cluster = Cluster::logged(broken);
        let copy = cluster.store(R1);
        cluster.put("k", "v");
        cluster.settle();
        cluster.stop(R1);
        let original = cluster.store(R1);
        cluster.put("l", "w");
        cluster.settle();
        cluster.host(R1).outside.store = copy;
        cluster.start(R1);
        let is_lost = |to, body: &Body| to == R1 && matches!(body, Body::Fence { .. });
        cluster.settle_without(is_lost);
        let write = Write { key: "l".into(), value: Some("w".into()) };
        let txn = TxnId::new(1, 2);
        let prepare =
            cluster.message(MASTER, Body::Prepare { txn, write, piggybacked: Vec::new() });
        cluster.deliver(MASTER, R1, prepare);
        cluster.settle_without(is_lost);
        let commits = |reply: &&Reply| matches!(reply, Reply::Committed { .. });
        let committed = cluster.host(MASTER).outside.replies.iter().filter(commits).count();
        cluster.heartbeat();
        if broken.is_some() {
            assert_eq!(committed, 2, "the vote of the copy counted");
            // It has applied as many commits as the original, so it is not found out: the first is lost.
            assert!(cluster.is_ready(), "{:?}", cluster.halts());
            assert_eq!(cluster.store(R1).data.get(&Key::from("k")), None);
            continue;
        }
        assert_eq!(committed, 1, "of the second write nobody knows the outcome yet");
        refused(&cluster.halts(), R1, "is an older copy");
        cluster.host(R1).outside.store = original;
        cluster.restart(R1);
        cluster.restart(R1);
        assert!(cluster.is_ready(), "{:?}", cluster.halts());
        assert_eq!(cluster.store(R1).data, cluster.store(R2).data);
    }
}

/// The replicas have heard of more transactions of the epoch than the copy has begun, which must not keep the
/// copy from hearing whose epoch it is.
#[test]
fn a_copy_of_an_earlier_epoch_halts_whatever_the_replicas_have_heard_since() {
    for commit in CommitMode::ALL {
        let mut cluster = Cluster::new(commit, Rules::ALL);
        let copy = cluster.store(MASTER);
        cluster.restart(MASTER);
        for n in 0..3_u32 {
            cluster.put("k", &n.to_string());
            cluster.settle();
        }
        cluster.heartbeat();
        cluster.stop(MASTER);
        cluster.host(MASTER).outside.store = copy;
        cluster.start(MASTER);
        cluster.settle();
        refused(&cluster.halts(), MASTER, "this store is a copy");
    }
}

/// Where the votes make the commits, a copy that has the master's last epoch lacks none of them. It
/// takes over as the original would, and is the original from then on.
#[test]
fn a_copy_of_the_master_lacks_no_vote() {
    let mut cluster = Cluster::new(CommitMode::Votes, Rules::ALL);
    let copy = cluster.store(MASTER);
    cluster.put("k", "v");
    // r1 commits, and r2 is in doubt.
    cluster.settle_without(|to, body| to == R2 && matches!(body, Body::Decide { .. }));
    cluster.stop(MASTER);
    let original = cluster.store(MASTER);
    cluster.host(MASTER).outside.store = copy;
    cluster.restart(MASTER);
    assert!(cluster.is_ready(), "{:?}", cluster.halts());
    assert_eq!(cluster.store(R2).data, cluster.store(R1).data);
    assert_eq!(cluster.store(R2).data.len(), 1);
    cluster.host(MASTER).outside.store = original;
    cluster.restart(MASTER);
    refused(&cluster.halts(), MASTER, "this store is a copy");
}

/// A Fence that was sent before the last commits arrives late. It is from the epoch that is promised, so
/// nothing depends on it.
#[test]
fn a_late_fence_of_a_healthy_master_is_answered() {
    let mut cluster = Cluster::logged(None);
    let fence = Body::Fence {
        member: Some(StoreId(0xabc1)),
        commit: CommitMode::Logged,
        members: Vec::new(),
        supersedes: Some((0, 0)),
        seen: None,
        decided: Some(0),
    };
    let late = cluster.message(MASTER, fence);
    cluster.put("k", "v");
    cluster.settle();
    cluster.deliver(MASTER, R1, late);
    cluster.settle();
    cluster.heartbeat();
    assert!(cluster.is_ready(), "{:?}", cluster.halts());
}

#[test]
fn an_older_copy_of_a_replica_does_not_serve() {
    for commit in CommitMode::ALL {
        // The copy lacks a vote, or only a commit.
        for after_vote in [false, true] {
            for broken in [None, Some(Rule::RestoredStoreRefused)] {
                let rules = broken.map_or(Rules::ALL, |rule| Rules::ALL.without(rule));
                let mut cluster = Cluster::new(commit, rules);
                let mut copy = cluster.store(R1);
                cluster.put("k", "v");
                if after_vote {
                    cluster.settle_without(|_, body| matches!(body, Body::VoteYes { .. }));
                    copy = cluster.store(R1);
                    let txn = cluster.host(R1).machine.as_ref().unwrap().status().unsettled[0].0;
                    let timer = TimerId::Retransmit { txn, round: 0 };
                    cluster.step(MASTER, Event::Timer(timer));
                }
                cluster.settle();
                assert_eq!(cluster.store(R1).data.len(), 1);
                cluster.stop(R1);
                cluster.host(R1).outside.store = copy;
                cluster.start(R1);
                cluster.settle();
                cluster.heartbeat();
                if broken.is_none() {
                    refused(&cluster.halts(), R1, "is an older copy");
                } else {
                    assert!(cluster.is_ready(), "{:?}", cluster.halts());
                    assert_eq!(cluster.store(R1).data.len(), 0, "an acknowledged write is lost");
                }
            }
        }
    }
}

#[test]
fn a_copy_of_a_replica_beside_the_original_is_found() {
    let mut cluster = Cluster::logged(None);
    cluster.put("k", "v");
    cluster.settle();
    let copy = cluster.store(R1);
    cluster.restart(R1);
    assert!(cluster.is_ready());
    // It has the same number of starts, and lacks nothing.
    cluster.stop(R1);
    cluster.host(R1).outside.store = copy;
    cluster.start(R1);
    cluster.settle();
    cluster.heartbeat();
    refused(&cluster.halts(), R1, "another process runs on a copy");
}

/// Restarts in any order, with everything that was not forced lost or kept, and with the master's
/// notes about the replicas lost: no store is taken for a copy.
#[test]
fn a_healthy_store_is_never_refused() {
    for commit in CommitMode::ALL {
        let mut cluster = Cluster::new(commit, Rules::ALL);
        for round in 0..200_u32 {
            cluster.put(["k", "l"][round as usize % 2], &round.to_string());
            if round % 3 == 0 {
                cluster.settle_without(|to, body| {
                    to == R2 && matches!(body, Body::Decide { .. }) && round % 2 == 0
                });
            } else {
                cluster.settle();
            }
            let node = NODES[round as usize % 3];
            if round % 7 == 0 {
                cluster.stop(node);
                if node == MASTER {
                    let store = &mut cluster.host(node).outside.store;
                    let mut facts = Facts::default();
                    for record in store.facts.records() {
                        if !matches!(record, Record::Seen { .. }) {
                            facts.restore(record.clone());
                        }
                    }
                    store.facts = facts;
                }
                cluster.restart(node);
                cluster.heartbeat();
            }
            assert_eq!(cluster.halts(), [], "round {round}");
        }
        cluster.heartbeat();
        assert!(cluster.is_ready());
    }
}

/// A Fence that says what was known earlier may arrive at any time.
#[test]
fn a_late_fence_does_not_make_a_healthy_store_a_copy() {
    let mut cluster = Cluster::logged(None);
    let fence = |seen| Body::Fence {
        member: Some(StoreId(0xabc1)),
        commit: CommitMode::Logged,
        members: Vec::new(),
        supersedes: Some((0, 0)),
        seen: Some(seen),
        decided: None,
    };
    cluster.put("k", "v");
    cluster.settle();
    let late = cluster.message(MASTER, fence(Seen { incarnation: 1, nonce: 2, ..Seen::default() }));
    cluster.deliver(MASTER, R1, late);
    assert_eq!(cluster.halts(), []);
    let ahead = Seen { incarnation: 1, nonce: 2, voted: TxnId::new(1, 9), commits: 1 };
    let message = cluster.message(MASTER, fence(ahead));
    cluster.deliver(MASTER, R1, message);
    refused(&cluster.halts(), R1, "is an older copy");
}

/// What an earlier version has made durable: no identities, no nonces, no counts.
#[test]
fn stores_of_an_earlier_version_are_upgraded() {
    let mut cluster = Cluster::logged(None);
    cluster.put("k", "v");
    // r1 has not applied it yet, and the master has to send it again.
    cluster.settle_without(|to, body| to == R1 && matches!(body, Body::Decide { .. }));
    for node in NODES {
        cluster.stop(node);
        let store = &mut cluster.host(node).outside.store;
        let mut facts = Facts::default();
        for record in store.facts.records() {
            let new = match record {
                Record::Member { node: Node::Replica(_), .. } => node != MASTER,
                Record::Cluster { .. }
                | Record::Start { .. }
                | Record::Commits { .. }
                | Record::Seen { .. } => true,
                _ => false,
            };
            let own = matches!(record, Record::Member { node: of, .. } if *of == node);
            if !new || own {
                facts.restore(record.clone());
            }
        }
        store.facts = facts;
    }
    // The replicas first: they know neither the cluster nor each other.
    for node in [R1, R2, MASTER] {
        cluster.start(node);
        cluster.settle();
    }
    cluster.heartbeat();
    assert!(cluster.is_ready(), "{:?}", cluster.halts());
    assert_eq!(cluster.store(R1).data.len(), 1);
    assert!(!cluster.promise().0.is_unknown());
    for node in NODES {
        cluster.restart(node);
        assert!(cluster.is_ready(), "{:?}", cluster.halts());
    }
    cluster.put("k", "w");
    cluster.settle();
    assert!(matches!(cluster.host(MASTER).outside.replies.last(), Some(Reply::Committed { .. })));
}

#[test]
fn nobody_waits_for_a_replica_that_leaves() {
    for commit in CommitMode::ALL {
        let mut cluster = Cluster::new(commit, Rules::ALL);
        cluster.put("k", "v");
        // The Prepare to r1 is lost with the process.
        cluster.settle_without(|to, body| to == R1 && matches!(body, Body::Prepare { .. }));
        cluster.step(R1, Event::Leave);
        cluster.settle();
        assert!(!cluster.host(R1).machine.as_ref().unwrap().status().ready);
        assert!(!cluster.host(MASTER).machine.as_ref().unwrap().status().ready);
        let replies = cluster.host(MASTER).outside.replies.len();
        // In votes mode an abort needs a veto, which the other replica gives.
        assert_eq!(replies, 1, "{commit}");
        cluster.put("l", "v");
        let last = cluster.host(MASTER).outside.replies.last().cloned();
        let Some(Reply::Aborted(reason)) = last else { panic!("{last:?}") };
        assert_eq!(reason.to_string(), "not live: r1");
        // It is silent, and comes back.
        cluster.heartbeat();
        assert!(!cluster.is_ready());
        cluster.restart(R1);
        assert!(cluster.is_ready(), "{:?}", cluster.halts());
    }
}

/// Whoever knows the identities can still not do lasting harm with one number.
#[test]
fn numbers_out_of_bounds_change_nothing() {
    let mut cluster = Cluster::logged(None);
    cluster.put("k", "v");
    cluster.settle();
    let far = TxnId::new(1, TXNS_AHEAD_MAX + 100);
    let write = Write { key: "l".into(), value: None };
    let fence = Body::Fence {
        member: Some(StoreId(0xabc1)),
        commit: CommitMode::Logged,
        members: Vec::new(),
        supersedes: Some((1, cluster.promise().2)),
        seen: None,
        decided: None,
    };
    let mut forged = Vec::new();
    let mut watermark = cluster.message(MASTER, Body::Heartbeat);
    watermark.watermark = far;
    forged.push((MASTER, R1, watermark));
    let mut epoch = cluster.message(MASTER, fence);
    epoch.epoch = EPOCHS_AHEAD_MAX + 2;
    forged.push((MASTER, R1, epoch));
    let prepare = Body::Prepare { txn: far, write, piggybacked: Vec::new() };
    forged.push((MASTER, R1, cluster.message(MASTER, prepare)));
    forged.push((R2, R1, cluster.message(R2, Body::PeerInquire { txn: far })));
    let stale = Body::Stale { promised: EPOCHS_AHEAD_MAX + 2 };
    forged.push((R2, MASTER, cluster.message(R2, stale)));
    let mut later = cluster.message(R2, Body::Heartbeat);
    later.epoch = EPOCHS_AHEAD_MAX + 2;
    forged.push((R2, MASTER, later));
    let mut watermark = cluster.message(R2, Body::Heartbeat);
    watermark.watermark = TxnId::new(1, 3);
    forged.push((R2, MASTER, watermark));
    forged.push((R2, MASTER, cluster.message(R2, Body::VoteYes { txn: TxnId::new(1, 2) })));
    let mut before: Vec<_> = Vec::new();
    for node in [MASTER, R1] {
        before.push(cluster.host(node).machine.clone());
    }
    for (n, (from, to, message)) in forged.into_iter().enumerate() {
        let refused = cluster.host(to).outside.refused.len();
        cluster.deliver(from, to, message);
        assert_eq!(cluster.host(to).outside.refused.len(), refused + 1, "message {n}");
    }
    assert_eq!(cluster.halts(), []);
    for (node, before) in [MASTER, R1].into_iter().zip(before) {
        assert_eq!(cluster.host(node).machine, before, "{node}");
    }
}
