//! Disks that rot under a replica or are full, and clients whose values look like the nodes' own formats.

use std::{fs, time::Instant};

use system::{
    client::{ReasonKind, WriteOutcome},
    protocol::{Node, Value},
};

use crate::support::{Cluster, DEADLINE, LONG_TIMEOUTS};

const R1: Node = Node::Replica(1);

async fn put(cluster: &Cluster, key: &str, value: impl Into<Value>) {
    let outcome = cluster.client().put(key, value).await;
    assert!(matches!(outcome, WriteOutcome::Committed { .. }), "{outcome:?}");
}

async fn get(cluster: &Cluster, key: &str) -> Option<Value> {
    let found = cluster.client().get(key).await.expect("some replica answers");
    found.map(|(_, value)| value)
}

/// Changes a byte at a distance from the start of every occurrence of some text in a node's data file.
fn rot(cluster: &Cluster, node: Node, text: &str, distance: isize) {
    let data = cluster.file(node, "").join("data.mdb");
    let mut bytes = fs::read(&data).expect("a data file");
    let places: Vec<_> = bytes
        .windows(text.len())
        .enumerate()
        .filter(|(_, window)| *window == text.as_bytes())
        .map(|(at, _)| at)
        .collect();
    assert!(!places.is_empty(), "'{text}' is in the file");
    for at in places {
        bytes[at.checked_add_signed(distance).expect("inside")] ^= 0x80;
    }
    fs::write(&data, bytes).expect("writable");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_entry_is_read_elsewhere_and_replaced_by_a_copy() {
    let mut cluster = Cluster::started(3, LONG_TIMEOUTS).await;
    put(&cluster, "value", "needle in the value").await;
    put(&cluster, "version", "needle behind the version").await;
    cluster.settled().await;
    cluster.stop(R1);
    rot(&cluster, R1, "needle in the value", 3);
    // The version is the 16 bytes before the value: it becomes greater than any other.
    rot(&cluster, R1, "needle behind the version", -16);
    cluster.start(R1, &[]);
    cluster.ready().await;

    for _ in 0..60 {
        assert_eq!(get(&cluster, "value").await, Some("needle in the value".into()));
        assert_eq!(get(&cluster, "version").await, Some("needle behind the version".into()));
    }
    let log = cluster.log(R1);
    for key in ["value", "version"] {
        let line = format!("the entry of key '{key}' is damaged: wrong checksum");
        assert_eq!(log.matches(&line).count(), 1, "reported once: {log}");
    }
    assert!(log.contains("(damaged keys so far: 2)"), "{log}");
    for key in ["value", "version"] {
        let line = format!("the damaged entry of key '{key}' is replaced by a copy");
        assert_eq!(log.matches(&line).count(), 1, "{log}");
    }
    let dumped = cluster.dump(Node::Replica(2)).await;
    assert_eq!(dumped.len(), 2);
    assert_eq!(cluster.dump(R1).await, dumped);
    // The copies are in the WAL, and then in the tables as well.
    cluster.kill(R1);
    for _ in 0..2 {
        cluster.start(R1, &[]);
        cluster.ready().await;
        assert_eq!(cluster.dump(R1).await, dumped);
        cluster.stop(R1);
    }
    let damaged = cluster.log(R1).matches("is damaged").count();
    assert_eq!(damaged, 2, "no more damage: {}", cluster.log(R1));
}

/// Pages that look like empty frames of many generations, in the format of the WAL without its salt, and in
/// the one before, aligned as the first value of a frame would be.
fn forged_pages(key: &str) -> Vec<u8> {
    const PAGE: usize = 4096;
    let before = 20 + 1 + 17 + 4 + 1 + 2 + key.len();
    let mut value = vec![0; PAGE - before];
    for generation in 1..25_u64 {
        let mut page = [&[0; 4][..], &generation.to_be_bytes(), &[0; 4]].concat();
        page.splice(..0, crc32fast::hash(&page).to_be_bytes());
        page.resize(PAGE, 0);
        value.extend(page);
        let mut page =
            [&[0; 4][..], &generation.to_be_bytes(), &[0; 8], &1_u64.to_be_bytes()].concat();
        page.resize(PAGE - 4, 0);
        value.extend(crc32c::crc32c(&page).to_be_bytes());
        value.extend(page);
    }
    value
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_look_like_frames_of_the_wal_stay_values() {
    // Small segments, so that the values are in both, over and over.
    let small = format!("{LONG_TIMEOUTS}\n[store]\nwal_bytes = 1048576");
    let mut cluster = Cluster::started(3, &small).await;
    let value = Value::from(forged_pages("key"));
    for round in 0..4 {
        for _ in 0..3 {
            put(&cluster, "key", value.clone()).await;
        }
        for node in cluster.names() {
            // In order, which moves everything to the tables, or not.
            if round % 2 == 0 { cluster.stop(node) } else { cluster.kill(node) }
        }
        for node in cluster.names() {
            cluster.start(node, &[]);
        }
        cluster.ready().await;
        assert!(get(&cluster, "key").await == Some(value.clone()), "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_cluster_refuses_values_and_goes_on() {
    let small = format!("{LONG_TIMEOUTS}\n[store]\nmap_bytes = 1048576\nwal_bytes = 65536");
    let mut cluster = Cluster::started(3, &small).await;
    let client = cluster.client();
    let key = |n: u32| format!("key{n}");
    let value = Value::from(vec![b'v'; 3000]);
    let mut stored = 0;
    let reason = loop {
        match client.put(key(stored).as_str(), value.clone()).await {
            WriteOutcome::Committed { .. } => stored += 1,
            WriteOutcome::Aborted(reason) => break reason,
            outcome @ WriteOutcome::Unknown(_) => panic!("{outcome:?}"),
        }
    };
    assert_eq!(reason.kind, ReasonKind::Full, "{reason}");
    assert!(stored > 20, "only {stored} fit");

    // A full replica starts, and everything but puts goes on.
    cluster.settled().await;
    cluster.kill(R1);
    cluster.start(R1, &[]);
    cluster.ready().await;
    assert_eq!(get(&cluster, "key0").await, Some(value.clone()));
    for n in 0..stored {
        let outcome = client.del(key(n).as_str()).await;
        assert!(matches!(outcome, WriteOutcome::Committed { .. }), "{n}: {outcome:?}");
    }
    // What the deletes have freed is counted at the next checkpoint, which a delete begins.
    let deadline = Instant::now() + DEADLINE;
    while !matches!(client.put("key0", value.clone()).await, WriteOutcome::Committed { .. }) {
        assert!(Instant::now() < deadline, "there is no room again");
        client.del("key1").await;
    }
}
