//! A disk that hangs: its node is not live, nothing new is begun, and it comes back by itself.

use std::time::Duration;

use protocol::{
    AbortReason, Body, ClusterId, CommitMode, Config, Effect, Event, Machine, Message, Node,
    Record, Reply, Request, Rules, StoreId, Timing, TxnId, Write,
};

const MASTER: StoreId = StoreId(1);
const STORES: [StoreId; 2] = [StoreId(2), StoreId(3)];
const R1: Node = Node::Replica(1);
const R2: Node = Node::Replica(2);

fn config(node: Node, store: StoreId) -> Config {
    let (commit, rules, timing) = (CommitMode::Logged, Rules::ALL, Timing::default());
    Config {
        node,
        replicas: 2,
        store,
        nonce: 0,
        bootstrap: false,
        commit,
        rules,
        timing,
        scrub_interval: Duration::ZERO,
        sequence_above: 0,
    }
}

fn member(node: Node, store: StoreId) -> Record {
    Record::Member { node, store }
}

fn step(machine: &mut Machine, event: Event) -> Vec<Effect> {
    let mut effects = Vec::new();
    machine.step(event, &mut effects);
    effects
}

fn message(from: Node, store: StoreId, epoch: u64, body: Body) -> Event {
    let message = Message {
        cluster: ClusterId(0),
        store,
        epoch,
        nonce: 0,
        watermark: TxnId::new(1, 1),
        decisions: 0,
        body,
    };
    Event::Message { from, message }
}

/// A master that takes writes, in epoch 2.
fn master() -> Machine {
    let records = [
        member(Node::Master, MASTER),
        member(R1, STORES[0]),
        member(R2, STORES[1]),
        Record::Epoch { epoch: 1, replicas: 2 },
    ];
    let (mut master, _) = Machine::recover(config(Node::Master, MASTER), &records);
    step(&mut master, Event::Persisted(1));
    for (replica, store) in [R1, R2].into_iter().zip(STORES) {
        let body = Body::FenceOk { incarnation: 1, in_doubt: Vec::new(), start: 0, commits: 0 };
        step(&mut master, message(replica, store, 2, body));
    }
    assert!(master.status().ready);
    master
}

fn alive(replica: Node, store: StoreId, ms: u64) -> Event {
    let force_age = Duration::from_millis(ms);
    let body = Body::Alive { incarnation: 1, start: 0, promised: None, force_age, applied: 0 };
    message(replica, store, 2, body)
}

/// Begins a write: the replicas that are asked to prepare it, or those that are not live.
fn write(master: &mut Machine, call: u64) -> Result<Vec<Node>, Vec<Node>> {
    let write = Write { key: format!("k{call}").as_str().into(), value: Some("v".into()) };
    let effects = step(master, Event::Client { call, request: Request::Write(write) });
    if let [Effect::Reply { reply: Reply::Aborted(AbortReason::Unavailable { missing }), .. }] =
        effects.as_slice()
    {
        return Err(missing.clone());
    }
    let asked = effects.iter().filter_map(|effect| match effect {
        Effect::Send { to, message: Message { body: Body::Prepare { .. }, .. } } => Some(*to),
        _ => None,
    });
    Ok(asked.collect())
}

/// The replica that a get is sent to, of those that any client may choose.
fn read(master: &mut Machine) -> Vec<Node> {
    let mut asked = Vec::new();
    for choice in 0..8 {
        let (key, deadline) = ("other".into(), Duration::from_secs(1));
        let request = Request::Get { key, choice, deadline };
        let effects = step(master, Event::Client { call: 1000 + choice, request });
        asked.extend(effects.iter().filter_map(|effect| match effect {
            Effect::Send { to, message: Message { body: Body::Read { .. }, .. } } => Some(*to),
            _ => None,
        }));
    }
    asked.sort_unstable();
    asked.dedup();
    asked
}

#[test]
fn writes_are_refused_while_the_disk_of_a_replica_hangs() {
    let mut master = master();
    let limit = 2000;
    step(&mut master, alive(R1, STORES[0], limit));
    assert_eq!(write(&mut master, 1), Ok(vec![R1, R2]), "slow, but not too slow");
    step(&mut master, alive(R1, STORES[0], limit + 1));
    let status = master.status();
    assert_eq!((status.ready, status.live, status.stalled), (false, vec![R2], vec![R1]));
    assert_eq!(write(&mut master, 2), Err(vec![R1]), "at once, and nothing is sent");
    assert_eq!(read(&mut master), [R2], "a get goes to a replica that answers");
    // It is still heard, so it needs no other handshake.
    step(&mut master, alive(R1, STORES[0], 0));
    let status = master.status();
    assert_eq!((status.ready, status.live, status.stalled), (true, vec![R1, R2], vec![]));
    assert_eq!(write(&mut master, 3), Ok(vec![R1, R2]));
    assert_eq!(read(&mut master), [R1, R2]);
}

#[test]
fn writes_are_refused_while_the_disk_of_the_master_hangs() {
    let mut master = master();
    step(&mut master, Event::ForceAge(Duration::from_secs(3)));
    assert!(!master.status().ready);
    assert_eq!(master.status().force_age, Duration::from_secs(3));
    assert_eq!(write(&mut master, 1), Err(vec![Node::Master]));
    assert_eq!(read(&mut master), [R1, R2], "a get needs no disk of the master");
    step(&mut master, Event::ForceAge(Duration::ZERO));
    assert_eq!(write(&mut master, 2), Ok(vec![R1, R2]));
}

#[test]
fn a_replica_tells_the_age_of_its_oldest_force() {
    let records = [
        member(R1, STORES[0]),
        Record::Incarnation { incarnation: 1 },
        member(Node::Master, MASTER),
        Record::Promise { epoch: 2 },
    ];
    let (mut replica, _) = Machine::recover(config(R1, STORES[0]), &records);
    step(&mut replica, Event::Persisted(1));
    let fence = Body::Fence {
        member: Some(STORES[0]),
        commit: CommitMode::Logged,
        members: Vec::new(),
        supersedes: None,
        seen: None,
        decided: None,
    };
    step(&mut replica, message(Node::Master, MASTER, 2, fence));
    assert!(replica.status().ready);
    for age in [Duration::from_secs(3), Duration::ZERO] {
        step(&mut replica, Event::ForceAge(age));
        assert_eq!(replica.status().ready, age.is_zero());
        let effects = step(&mut replica, message(Node::Master, MASTER, 2, Body::Heartbeat));
        let [Effect::Send { message, .. }] = effects.as_slice() else { panic!("{effects:?}") };
        let (start, promised, force_age, applied) = (0, None, age, 0);
        let alive = Body::Alive { incarnation: 2, start, promised, force_age, applied };
        assert_eq!(message.body, alive);
    }
}
