//! Reads of several keys: as a list, and as a range, page by page.

use std::time::Duration;

use nix::sys::signal::Signal;
use system::{
    client::{Entry, KeysOf, RangeOf, ReadError, ReasonKind, WriteOutcome},
    protocol::{Key, Node, Query},
};

use crate::support::{Cluster, LONG_TIMEOUTS, text};

const R1: Node = Node::Replica(1);
const R2: Node = Node::Replica(2);

async fn put(cluster: &Cluster, key: &str, value: &str) {
    let outcome = cluster.client().put(key, value).await;
    assert!(matches!(outcome, WriteOutcome::Committed { .. }), "{outcome:?}");
}

fn keys(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(|(key, ..)| key.to_string()).collect()
}

fn all(page_entries: u32) -> RangeOf {
    RangeOf { keys: KeysOf::ALL, page_entries }
}

fn reason<T>(read: Result<T, ReadError>) -> ReasonKind {
    match read {
        Err(ReadError::Refused(reason)) => reason.kind,
        Err(ReadError::Failed(why)) => panic!("lost: {why}"),
        Ok(_) => panic!("answered"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_keys_and_ranges_are_read() {
    let cluster = Cluster::started(2, LONG_TIMEOUTS).await;
    let client = cluster.client();
    for key in ["a", "b1", "b2", "\u{ff}"] {
        put(&cluster, key, &format!("of {key}")).await;
    }
    let WriteOutcome::Committed { version: last } = client.put("b3", "of b3").await else {
        panic!("no commit")
    };
    // At once: the decisions come with the query.
    let read = client.read(["b3", "none", "a"].map(Key::from)).await.expect("a snapshot");
    let found: Vec<_> =
        read.found.iter().map(|found| found.as_ref().map(|(_, value)| value.to_string())).collect();
    assert_eq!(found, [Some("of b3".to_owned()), None, Some("of a".to_owned())]);
    assert_eq!(read.found[0].as_ref().map(|(version, _)| *version), Some(last));
    cluster.settled().await;
    let read = client.read([Key::from("a")]).await.expect("a snapshot");
    assert!(read.watermark > last, "{} of {last}", read.watermark);

    let page = client.page(&all(2), None).await.expect("a page");
    assert_eq!(
        (keys(&page.entries), page.end),
        (vec!["a".to_owned(), "b1".to_owned()], Some("b2".into()))
    );
    let rest = client.page(&all(0), Some("b1".into())).await.expect("a page");
    assert_eq!(
        (keys(&rest.entries), rest.end),
        (["b2", "b3", "\\xc3\\xbf"].map(str::to_owned).to_vec(), None)
    );
    let prefix = RangeOf { keys: KeysOf::Prefix("b".into()), page_entries: 0 };
    let page = client.page(&prefix, Some("b1".into())).await.expect("a page");
    assert_eq!((keys(&page.entries), page.end), (vec!["b2".to_owned(), "b3".to_owned()], None));
    let bounds = KeysOf::Bounds { from: Some("b".into()), to: Some("b3".into()) };
    let page = client.page(&RangeOf { keys: bounds, page_entries: 0 }, None).await.expect("a page");
    assert_eq!(keys(&page.entries), ["b1", "b2"]);
    let none = KeysOf::Bounds { from: Some("x".into()), to: Some("b".into()) };
    let page = client.page(&RangeOf { keys: none, page_entries: 0 }, None).await.expect("a page");
    assert_eq!((page.entries, page.end), (vec![], None));

    let many = (0..=Query::KEYS_MAX).map(|n| Key::from(format!("k{n}").as_str()));
    assert_eq!(reason(client.read(many.clone()).await), ReasonKind::Invalid);
    assert_eq!(reason(client.read([]).await), ReasonKind::Invalid);
    assert_eq!(reason(client.read([Key::from("")]).await), ReasonKind::Invalid);
    assert!(client.read(many.skip(1)).await.is_ok());

    let run =
        |args: &[&str]| text(&cluster.client_program(args).output().expect("the program ends"));
    let (code, output) = run(&["read", "a", "none"]);
    assert_eq!((code, output.as_str()), (Some(0), "a\t1.1\tof a\nnone\tabsent"));
    let (code, output) = run(&["list", "b", "--page", "1"]);
    let listed: Vec<_> = output.lines().filter_map(|line| line.split('\t').next()).collect();
    assert_eq!((code, listed), (Some(0), vec!["b1", "b2", "b3"]));
    let (code, output) = run(&["list", "--from", "b2", "--limit", "2"]);
    assert_eq!(code, Some(0), "{output}");
    assert!(output.starts_with("b2\t") && output.contains("go on with --after 'b3'"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_has_at_most_the_size_of_the_longest_value() {
    let extra = format!("{LONG_TIMEOUTS}\n[store]\nmax_value_bytes = 40000\n");
    let cluster = Cluster::started(1, &extra).await;
    let client = cluster.client();
    let value = "v".repeat(39_000);
    for n in 0..3 {
        put(&cluster, &format!("k{n}"), &value).await;
    }
    assert!(client.read([Key::from("k0")]).await.is_ok());
    assert_eq!(reason(client.read(["k0", "k1"].map(Key::from)).await), ReasonKind::TooLarge);
    let page = client.page(&all(0), None).await.expect("a page");
    assert_eq!((keys(&page.entries), page.end), (vec!["k0".to_owned()], Some("k1".into())));
}

/// A write that is in doubt at the one replica that can answer: a page ends before its key, though the key is
/// absent, and a read of the key does not answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_ends_before_a_key_that_is_in_doubt() {
    let cluster_config = format!("{LONG_TIMEOUTS}\n");
    let mut cluster = Cluster::started(2, &cluster_config).await;
    put(&cluster, "a", "1").await;
    put(&cluster, "c", "1").await;
    cluster.settled().await;
    cluster.signal(R2, Signal::SIGSTOP);
    let client = cluster.client();
    let writer = client.clone();
    let write = tokio::spawn(async move { writer.put("b", "1").await });
    cluster
        .until(R1, |status| status.unsettled.iter().any(|(_, key)| *key == Key::from("b")))
        .await;
    let page = client.page(&all(0), None).await.expect("a page");
    assert_eq!((keys(&page.entries), page.end), (vec!["a".to_owned()], Some("b".into())));
    let within = client.clone().timeout(Duration::from_millis(500));
    assert!(within.read(["a", "b"].map(Key::from)).await.is_err());
    assert!(within.page(&all(0), Some("a".into())).await.is_err());
    assert!(client.page(&all(0), Some("b".into())).await.is_ok());
    cluster.signal(R2, Signal::SIGCONT);
    write.await.expect("no panic");
    let page = client.page(&all(0), None).await.expect("a page");
    assert!(page.end.is_none() && page.entries.len() >= 2, "{page:?}");
}
