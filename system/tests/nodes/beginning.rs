//! The beginning of a cluster: the master is killed as soon as it has answered the first write.

use std::{fs, time::Duration};

use nix::sys::signal::Signal;
use system::{
    client::{ReasonKind, WriteOutcome},
    journal::Entry,
    protocol::{Body, Effect, Event, Node, Record},
};

use crate::support::Cluster;

const MASTER: Node = Node::Master;
const R1: Node = Node::Replica(1);
const R2: Node = Node::Replica(2);

/// The master must know its replicas then, and refuse one that has lost its store: the last one that
/// it has met, whose record is the youngest.
async fn knows_its_replicas_after_the_first_write(commit: &str) {
    let mut cluster = Cluster::new(2, &format!("commit = \"{commit}\""));
    for node in cluster.names() {
        cluster.start(node, &["--bootstrap"]);
    }
    let point = "master:after-reply:ok";
    cluster.arm(MASTER, point);
    // Without waiting until the cluster is ready: that would give lazy records the time to become
    // durable.
    let client = cluster.client();
    loop {
        match client.put("k", "v").await {
            WriteOutcome::Committed { .. } => break,
            WriteOutcome::Aborted(reason) if reason.kind == ReasonKind::Unavailable => {}
            outcome => panic!("{outcome:?}"),
        }
    }
    cluster.wait_for_hit(MASTER, point);
    for node in [MASTER, R2] {
        cluster.signal(node, Signal::SIGKILL);
        cluster.ended(node);
    }
    assert_members_precede_writes(&cluster.journal(MASTER));
    fs::remove_dir_all(cluster.file(R2, "")).expect("r2's store is removed");

    cluster.start(R2, &["--bootstrap"]);
    cluster.start(MASTER, &[]);
    assert_eq!(cluster.ended(R2).code(), Some(2), "{}", cluster.log(R2));
    let why = "a replica that lost its data must not rejoin";
    assert!(cluster.log(R2).contains(why), "{}", cluster.log(R2));
    cluster.until(MASTER, |status| status.live == [R1]).await;
    // Where the votes decide, the key may stay locked at r1: only r2 could tell that it has not
    // vetoed.
    let client = cluster.client().timeout(Duration::from_secs(2));
    match client.get("k").await {
        Ok(found) => assert_eq!(found.expect("it was committed").1.as_bytes(), b"v"),
        Err(why) => assert_eq!(commit, "votes", "{why:?}"),
    }
    let outcome = client.put("k", "w").await;
    assert!(matches!(&outcome, WriteOutcome::Aborted(_)), "{outcome:?}");
}

/// The master must have forced its records of the replicas, and waited for that, before the first
/// Prepare. (Lazy records may happen to be durable in time as well.)
fn assert_members_precede_writes(journal: &[Entry]) {
    let (mut appended, mut member, mut forced, mut durable) = (0, 0, 0, 0);
    for entry in journal {
        match entry {
            Entry::Effect(Effect::Append(record)) => {
                appended += 1;
                if matches!(record, Record::Member { node: Node::Replica(_), .. }) {
                    member = appended;
                }
            }
            Entry::Effect(Effect::Force(lsn)) => forced = *lsn,
            Entry::Event { event: Event::Persisted(lsn), .. } => durable = *lsn,
            Entry::Effect(Effect::Send { message, .. })
                if matches!(message.body, Body::Prepare { .. }) =>
            {
                let lsns = (member, forced, durable);
                assert!(0 < member && member <= forced && member <= durable, "{lsns:?}");
                return;
            }
            _ => {}
        }
    }
    panic!("the journal has no Prepare");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logged_master_knows_its_replicas_after_the_first_write() {
    knows_its_replicas_after_the_first_write("logged").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voting_master_knows_its_replicas_after_the_first_write() {
    knows_its_replicas_after_the_first_write("votes").await;
}
