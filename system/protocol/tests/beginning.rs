//! The beginning of a cluster with stores and nodes of earlier versions. Their masters took writes
//! before the records of the replicas' stores were durable, and their replicas promised an epoch to a
//! master that did not name them.

use std::time::Duration;

use protocol::{
    Body, ClusterId, CommitMode, Config, Effect, Event, HaltKind, Machine, Message, Node, Record,
    Rules, StoreId, Timing, TxnId, Write,
};

const MASTER: StoreId = StoreId(1);
const R1: StoreId = StoreId(2);
const R2: StoreId = StoreId(3);

fn config(node: Node, store: StoreId, bootstrap: bool) -> Config {
    let (commit, rules, timing) = (CommitMode::Votes, Rules::ALL, Timing::default());
    Config {
        node,
        replicas: 2,
        store,
        nonce: 0,
        bootstrap,
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

/// What a master of an earlier version has made durable with its start.
fn started() -> Vec<Record> {
    vec![member(Node::Master, MASTER), Record::Votes, Record::Epoch { epoch: 1, replicas: 2 }]
}

fn step(machine: &mut Machine, event: Event) -> Vec<Effect> {
    let mut effects = Vec::new();
    machine.step(event, &mut effects);
    effects
}

/// A message of epoch 1.
fn message(from: Node, store: StoreId, body: Body) -> Event {
    let message = Message {
        cluster: ClusterId(0),
        store,
        epoch: 1,
        nonce: 0,
        watermark: TxnId::new(1, 1),
        decisions: 0,
        body,
    };
    Event::Message { from, message }
}

fn alive_body(incarnation: u64) -> Body {
    Body::Alive { incarnation, start: 0, promised: None, force_age: Duration::ZERO, applied: 0 }
}

/// The stores that the Fences among the effects name.
fn named(effects: &[Effect]) -> Vec<(Node, Option<StoreId>)> {
    let fences = effects.iter().filter_map(|effect| match effect {
        Effect::Send { to, message: Message { body: Body::Fence { member, .. }, .. } } => {
            Some((*to, *member))
        }
        _ => None,
    });
    fences.collect()
}

const NAMED: [(Node, Option<StoreId>); 2] =
    [(Node::Replica(1), Some(R1)), (Node::Replica(2), Some(R2))];
const UNKNOWN: [(Node, Option<StoreId>); 2] = [(Node::Replica(1), None), (Node::Replica(2), None)];

#[test]
fn a_master_whose_store_holds_every_member_names_them_at_once() {
    let mut records = started();
    records.extend([member(Node::Replica(1), R1), member(Node::Replica(2), R2)]);
    let (mut master, _) = Machine::recover(config(Node::Master, MASTER, false), &records);
    assert_eq!(named(&step(&mut master, Event::Persisted(1))), NAMED);
    for (slot, store) in [(1, R1), (2, R2)] {
        let body = Body::FenceOk { incarnation: 1, in_doubt: Vec::new(), start: 0, commits: 0 };
        let message = Message {
            cluster: ClusterId(0),
            store,
            epoch: 2,
            nonce: 0,
            watermark: TxnId::new(1, 1),
            decisions: 0,
            body,
        };
        step(&mut master, Event::Message { from: Node::Replica(slot), message });
    }
    assert!(master.status().ready, "{:?}", master.status());
}

/// In votes mode an earlier version could lose its members in a crash. The operator has to start such
/// a master with `--bootstrap`, as before; then they are made durable before the next write.
#[test]
fn a_master_that_lost_its_members_begins_again() {
    let (mut master, _) = Machine::recover(config(Node::Master, MASTER, false), &started());
    step(&mut master, Event::Persisted(1));
    let effects = step(&mut master, message(Node::Replica(1), R1, alive_body(1)));
    let [Effect::Warn(why)] = effects.as_slice() else { panic!("a warning, not {effects:?}") };
    assert!(why.contains("it is not a member") && why.contains("--bootstrap"), "{why}");

    let (mut master, _) = Machine::recover(config(Node::Master, MASTER, true), &started());
    assert_eq!(named(&step(&mut master, Event::Persisted(1))), UNKNOWN);
    let r1 = member(Node::Replica(1), R1);
    let alive = |slot, store| message(Node::Replica(slot), store, alive_body(1));
    assert_eq!(step(&mut master, alive(1, R1)), [Effect::Append(r1)]);
    let r2 = member(Node::Replica(2), R2);
    assert_eq!(step(&mut master, alive(2, R2)), [Effect::Append(r2), Effect::Force(3)]);
    assert_eq!(step(&mut master, alive(2, R2)), [], "a Fence would be answered by Alive again");
    assert_eq!(named(&step(&mut master, Event::Persisted(2))), []);
    assert_eq!(named(&step(&mut master, Event::Persisted(3))), NAMED);
}

#[test]
fn replicas_of_an_earlier_version_are_asked_again() {
    let (mut master, _) = Machine::recover(config(Node::Master, MASTER, true), &[]);
    assert_eq!(named(&step(&mut master, Event::Persisted(3))), UNKNOWN);
    let promised = |slot, store| {
        let body = Body::FenceOk { incarnation: 1, in_doubt: Vec::new(), start: 0, commits: 0 };
        message(Node::Replica(slot), store, body)
    };
    step(&mut master, promised(1, R1));
    step(&mut master, promised(2, R2));
    assert!(!master.status().ready, "the records of their stores are not durable");
    assert_eq!(named(&step(&mut master, Event::Persisted(5))), NAMED);
    step(&mut master, promised(1, R1));
    step(&mut master, promised(2, R2));
    assert!(master.status().ready, "{:?}", master.status());
}

/// A replica that was admitted by an earlier version keeps its master, its promise and its locks.
#[test]
fn a_replica_of_an_earlier_version_belongs_to_its_master() {
    let txn = TxnId::new(1, 1);
    let write = Write { key: "k".into(), value: Some("v".into()) };
    let records = [
        member(Node::Replica(1), R1),
        Record::Votes,
        Record::Incarnation { incarnation: 1 },
        member(Node::Master, MASTER),
        Record::Promise { epoch: 1 },
        Record::Prepare { txn, write },
    ];
    let (mut replica, _) = Machine::recover(config(Node::Replica(1), R1, false), &records);
    step(&mut replica, Event::Persisted(1));
    let fence = |member| Body::Fence {
        member,
        commit: CommitMode::Votes,
        members: Vec::new(),
        supersedes: None,
        seen: None,
        decided: None,
    };
    let from = |store, body| message(Node::Master, store, body);
    let body = |effects: &[Effect]| match effects {
        [Effect::Send { message, .. }] => message.body.clone(),
        effects => panic!("one message, not {effects:?}"),
    };
    let effects = step(&mut replica, from(MASTER, fence(None)));
    assert_eq!(body(&effects), alive_body(2));
    let effects = step(&mut replica, from(StoreId(9), fence(Some(R1))));
    assert!(matches!(effects.as_slice(), [Effect::Warn(_)]), "another master: {effects:?}");
    let effects = step(&mut replica, from(MASTER, fence(Some(R1))));
    let in_doubt = vec![(txn, "k".into())];
    assert_eq!(body(&effects), Body::FenceOk { incarnation: 2, in_doubt, start: 0, commits: 0 });
    let effects = step(&mut replica, from(MASTER, fence(Some(StoreId(9)))));
    assert!(
        matches!(effects.as_slice(), [Effect::Halt { kind: HaltKind::Refused, .. }]),
        "{effects:?}"
    );
}
