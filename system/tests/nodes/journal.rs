//! Journals: an entry is written before its effect leaves the process, and the results of reads are
//! events like all others.

use std::{
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::symlink,
    },
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        signal::Signal,
    },
};
use system::{
    client::WriteOutcome,
    journal::Entry,
    protocol::{Body, Effect, Event, Message, Node, ReadId, Record, Reply},
};

use crate::support::{Cluster, LONG_TIMEOUTS, within};

const MASTER: Node = Node::Master;
const R1: Node = Node::Replica(1);

/// No heartbeat arrives during a test, so that a node has nothing to write but what the test causes.
const QUIET: &str =
    "[timing]\nvote_timeout_ms = 30000\nretransmit_ms = 60000\nheartbeat_ms = 60000";

fn has_effect(cluster: &Cluster, node: Node, wanted: impl Fn(&Effect) -> bool) -> bool {
    let journal = cluster.journal(node);
    journal.iter().any(|entry| matches!(entry, Entry::Effect(effect) if wanted(effect)))
}

fn sends(effect: &Effect, wanted: impl Fn(&Body) -> bool) -> bool {
    matches!(effect, Effect::Send { message: Message { body, .. }, .. } if wanted(body))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_left_a_stopped_node_is_in_its_journal() {
    let mut cluster = Cluster::started(1, LONG_TIMEOUTS).await;
    type Wanted = fn(&Effect, &str) -> bool;
    let points: [(Node, &str, Wanted); 6] = [
        (MASTER, "master:after-send:prepare", |effect, key| {
            sends(
                effect,
                |body| matches!(body, Body::Prepare { write, .. } if write.key == key.into()),
            )
        }),
        (
            MASTER,
            "master:before-persist:commit",
            |effect, key| matches!(effect, Effect::Append(Record::CommitDecision { key: of, .. }) if *of == key.into()),
        ),
        (
            MASTER,
            "master:after-reply:ok",
            |effect, _| matches!(effect, Effect::Reply { reply: Reply::Committed { version }, .. } if version.seq == 3),
        ),
        (
            R1,
            "replica:before-persist:prepare",
            |effect, key| matches!(effect, Effect::Append(Record::Prepare { write, .. }) if write.key == key.into()),
        ),
        (R1, "replica:after-send:vote-yes", |effect, _| {
            sends(effect, |body| matches!(body, Body::VoteYes { txn } if txn.seq == 5))
        }),
        (R1, "replica:after-send:ack", |effect, _| {
            sends(effect, |body| matches!(body, Body::Ack { txns, .. } if txns[0].seq == 6))
        }),
    ];
    for (node, point, wanted) in points {
        cluster.arm(node, point);
        let client = cluster.client();
        let put = tokio::spawn(async move { client.put(point, "v").await });
        cluster.wait_for_hit(node, point);
        assert!(has_effect(&cluster, node, |effect| wanted(effect, point)), "{point}");
        cluster.signal(node, Signal::SIGCONT);
        assert!(matches!(put.await.expect("no panic"), WriteOutcome::Committed { .. }), "{point}");
        cluster.settled().await;
    }
}

/// The reads that were served, those whose results returned, and those that were answered.
fn reads(journal: &[Entry]) -> [Vec<ReadId>; 3] {
    let mut reads = [const { Vec::new() }; 3];
    for entry in journal {
        match entry {
            Entry::Effect(Effect::Serve { read, .. }) => reads[0].push(*read),
            Entry::Event { event: Event::ReadResult { read, .. }, .. } => reads[1].push(*read),
            Entry::Effect(Effect::Send { message, .. }) => {
                if let Body::Value { read, .. } = message.body {
                    reads[2].push(read);
                }
            }
            _ => {}
        }
    }
    reads
}

#[tokio::test(flavor = "multi_thread")]
async fn results_of_reads_are_events() {
    let mut cluster = Cluster::started(1, LONG_TIMEOUTS).await;
    let WriteOutcome::Committed { version } = cluster.client().put("k", "v").await else {
        panic!("committed");
    };
    // Many at once, so that some are served in one iteration of the event loop.
    let gets = (0..200).map(|_| {
        let client = cluster.client();
        tokio::spawn(async move { client.get("k").await })
    });
    for found in futures::future::join_all(gets).await {
        assert_eq!(found.expect("no panic"), Ok(Some((version, "v".into()))));
    }
    for (point, answered) in
        [("replica:before-send:value", false), ("replica:after-send:value", true)]
    {
        cluster.arm(R1, point);
        let client = cluster.client();
        let get = tokio::spawn(async move { client.get("absent").await });
        cluster.wait_for_hit(R1, point);
        let [served, returned, sent] = reads(&cluster.journal(R1));
        assert!(served.len() > 200, "{}", served.len());
        assert_eq!((&served, &served), (&returned, &sent), "{point}");
        // The replica is stopped. Only what has left it can reach the master.
        let last = *served.last().expect("the last one");
        let arrived = |cluster: &Cluster| {
            cluster.journal(MASTER).iter().any(|entry| {
                matches!(entry, Entry::Event { event: Event::Message { message, .. }, .. }
                    if matches!(message.body, Body::Value { read, .. } if read == last))
            })
        };
        if answered {
            within("the value", || arrived(&cluster).then_some(()));
        } else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert!(!arrived(&cluster), "{point}");
        }
        cluster.signal(R1, Signal::SIGCONT);
        assert_eq!(get.await.expect("no panic"), Ok(None));
    }
}

/// A journal in memory. Once it is sealed, writing to it fails.
struct SealableJournal(OwnedFd);

impl SealableJournal {
    /// Becomes the journal of a node that has not started yet.
    fn of(cluster: &Cluster, node: Node) -> Self {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = memfd_create("journal", flags).expect("a file in memory");
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        symlink(path, cluster.file(node, ".journal")).expect("a link");
        SealableJournal(file)
    }

    fn seal(&self) {
        let seal = FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW);
        fcntl(&self.0, seal).expect("it allows sealing");
    }
}

/// A cluster of one replica, with `k = v`, in which nothing happens any more by itself. This node has a
/// journal that can be sealed.
async fn with_sealable_journal(node: Node) -> (Cluster, SealableJournal) {
    let mut cluster = Cluster::new(1, QUIET);
    let journal = SealableJournal::of(&cluster, node);
    for node in [R1, MASTER] {
        cluster.start(node, &["--bootstrap"]);
    }
    cluster.ready().await;
    assert!(matches!(cluster.client().put("k", "v").await, WriteOutcome::Committed { .. }));
    cluster.settled().await;
    // Records that nobody waits for are synced a little later, and the machine is told.
    within("every record durable", || {
        every_record_is_durable(&cluster.journal(node)).then_some(())
    });
    (cluster, journal)
}

/// Whether the machine of a node that has started once knows that all its records are durable.
fn every_record_is_durable(journal: &[Entry]) -> bool {
    let (mut appended, mut durable) = (0, 0);
    for entry in journal {
        match entry {
            Entry::Effect(Effect::Append(_)) => appended += 1,
            Entry::Event { event: Event::Persisted(lsn), .. } => durable = *lsn,
            _ => {}
        }
    }
    durable == appended
}

async fn seal(cluster: &Cluster, node: Node, journal: &SealableJournal) {
    journal.seal();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(cluster.status(node).await.is_ok(), "{node} has something to write by itself");
}

fn ends_for_its_journal(cluster: &mut Cluster, node: Node) {
    assert_eq!(cluster.ended(node).code(), Some(1), "{}", cluster.log(node));
    let log = cluster.log(node);
    assert!(log.contains("journal") && log.contains("not permitted"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_is_not_answered_without_a_journal() {
    let (mut cluster, journal) = with_sealable_journal(R1).await;
    seal(&cluster, R1, &journal).await;
    let get = cluster.client().timeout(Duration::from_secs(2)).get("k").await;
    assert!(get.is_err(), "{get:?}");
    ends_for_its_journal(&mut cluster, R1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_appended_without_a_journal() {
    let (mut cluster, journal) = with_sealable_journal(R1).await;
    seal(&cluster, R1, &journal).await;
    let client = cluster.client();
    let put = tokio::spawn(async move { client.put("l", "v").await });
    ends_for_its_journal(&mut cluster, R1);
    std::fs::remove_file(cluster.file(R1, ".journal")).expect("the link");
    cluster.start(R1, &[]);
    cluster.until(R1, |_| true).await;
    let [Entry::Start { records, .. }, ..] = &cluster.journal(R1)[..] else {
        panic!("a journal begins with a start");
    };
    let of_the_put = |record: &Record| matches!(record, Record::Prepare { write, .. } if write.key == "l".into());
    assert!(!records.iter().any(of_the_put), "{records:?}");
    put.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_without_a_journal() {
    let (mut cluster, journal) = with_sealable_journal(MASTER).await;
    seal(&cluster, MASTER, &journal).await;
    let put = cluster.client().put("l", "v").await;
    assert!(matches!(put, WriteOutcome::Unknown(_)), "{put:?}");
    ends_for_its_journal(&mut cluster, MASTER);
    assert!(!has_effect(&cluster, R1, |effect| {
        matches!(effect, Effect::Append(Record::Prepare { write, .. }) if write.key == "l".into())
    }));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_is_answered_without_a_journal() {
    let (mut cluster, journal) = with_sealable_journal(MASTER).await;
    cluster.arm(R1, "replica:before-send:value");
    let client = cluster.client();
    let get = tokio::spawn(async move { client.get("k").await });
    cluster.wait_for_hit(R1, "replica:before-send:value");
    seal(&cluster, MASTER, &journal).await;
    cluster.signal(R1, Signal::SIGCONT);
    let get = get.await.expect("no panic");
    assert!(get.is_err(), "{get:?}");
    ends_for_its_journal(&mut cluster, MASTER);
}
