//! A store that crashes at any moment of its life, also while a checkpoint runs in the background: a copy of
//! its directory is what a killed process leaves. It must open, and hold what was durable.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, mpsc},
    time::Duration,
};

use store::{
    Lsn, Observer, Opened, RowError, RowKey, Rule, Rules, Schema, Store, StoreError, StoreOptions,
    SyncMode, Write,
};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(30);
const FILES: [&str; 4] = ["LOCK", "data.mdb", "wal-0", "wal-1"];

/// A put; the number is its version. The last one is the only fact.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Put {
    number: u64,
    value: Vec<u8>,
}

impl Put {
    fn new(number: u64) -> Put {
        let bytes = [10, 300, 5000][usize::try_from(number % 3).unwrap()];
        Put { number, value: vec![u8::try_from(number % 251).unwrap(); bytes] }
    }

    fn key(&self) -> Vec<u8> {
        format!("key{}", self.number % 7).into_bytes()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Puts;

impl Schema for Puts {
    type Record = Put;
    type Facts = Option<Put>;
    type Key = Vec<u8>;
    type Value = Vec<u8>;
    type Version = u64;

    fn apply(facts: &mut Option<Put>, put: &Put) -> Option<Write<Self>> {
        *facts = Some(put.clone());
        Some(Write {
            key: put.key(),
            version: put.number,
            value: Some(put.value.clone()),
            heals: false,
        })
    }

    fn growth(put: &Put) -> Option<usize> {
        Some(put.value.len())
    }

    fn restore(facts: &mut Option<Put>, put: Put) {
        *facts = Some(put);
    }

    fn records(facts: &Option<Put>) -> impl Iterator<Item = &Put> {
        facts.iter()
    }

    fn row_key(_: &Put) -> RowKey {
        RowKey::new(b'p', &[])
    }

    fn encode(put: &Put, into: &mut Vec<u8>) {
        into.extend_from_slice(&put.number.to_be_bytes());
        into.extend_from_slice(&put.value);
    }

    fn decode(_: &[u8], bytes: &[u8]) -> Result<Put, RowError> {
        let (number, value) = bytes.split_first_chunk().ok_or("short")?;
        Ok(Put { number: u64::from_be_bytes(*number), value: value.to_vec() })
    }

    fn version_to_bytes(version: u64) -> [u8; 16] {
        u128::from(version).to_be_bytes()
    }

    fn version_from_bytes(bytes: [u8; 16]) -> Option<u64> {
        u128::from_be_bytes(bytes).try_into().ok()
    }
}

/// Stops the writer before and after each group, until it is released.
struct Stops(mpsc::Sender<Vec<Put>>, mpsc::Receiver<()>);

impl Observer<Put> for Stops {
    fn before(&mut self, batch: &[Put]) {
        self.after(batch);
    }

    fn after(&mut self, batch: &[Put]) {
        // The test may have ended.
        if self.0.send(batch.to_vec()).is_ok() {
            let _ = self.1.recv_timeout(DEADLINE);
        }
    }
}

fn options(rules: Rules) -> StoreOptions {
    StoreOptions {
        create: true,
        map_bytes: 8 << 20,
        wal_bytes: 20 * 4096,
        // A copy of the directory has what was written, synced or not.
        sync_mode: SyncMode::None,
        rules,
        ..StoreOptions::default()
    }
}

fn open(dir: &Path, rules: Rules) -> Result<Opened<Puts>, StoreError> {
    Store::open(dir, options(rules), Box::new(|_: Result<Lsn, Arc<StoreError>>| ()))
}

/// What a store holds after these puts.
fn expected(last: u64) -> BTreeMap<Vec<u8>, (u64, Vec<u8>)> {
    (1..=last).map(Put::new).map(|put| (put.key(), (put.number, put.value))).collect()
}

fn found(store: &Store<Puts>) -> BTreeMap<Vec<u8>, (u64, Vec<u8>)> {
    let entries = store.entries().unwrap().map(Result::unwrap);
    entries.map(|(key, version, value)| (key, (version, value))).collect()
}

/// Opens what a crash at this moment would leave.
fn crash(dir: &Path, rules: Rules, durable: u64) -> Result<(), String> {
    let copy = TempDir::new().unwrap();
    for file in FILES {
        fs::copy(dir.join(file), copy.path().join(file)).unwrap();
    }
    let Opened { store, records, .. } = open(copy.path(), rules).map_err(|e| e.to_string())?;
    let last = records.first().map_or(0, |put| put.number);
    if last != durable || found(&store) != expected(durable) {
        return Err(format!("put {durable} was durable, but the store is as after {last}"));
    }
    Ok(())
}

/// Puts in groups, with crashes before and after each, while further puts wait in the queue. Returns the
/// number of crashes that were survived, and of different states of the tables among them.
fn live(rules: Rules) -> Result<(usize, usize), String> {
    let dir = TempDir::new().unwrap();
    let (stop, stops) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let (report, reports) = mpsc::channel();
    let persisted = Box::new(move |durable: Result<Lsn, Arc<StoreError>>| {
        let _ = report.send(durable.map_err(|error| error.to_string()));
    });
    let observer = Box::new(Stops(stop, released));
    let opened =
        Store::<Puts>::open_observed(dir.path(), options(rules), persisted, Some(observer));
    let Opened { mut store, .. } = opened.unwrap();
    let lived = survive(dir.path(), rules, &mut store, &stops, &release, &reports);
    // The writer must not wait for a test that has ended.
    drop((stops, release));
    let (crashes, tables, appended) = lived?;
    store.close().map_err(|error| error.to_string())?;
    crash(dir.path(), rules, appended)?;
    Ok((crashes, tables))
}

/// The rounds of `live`. Returns the number of crashes, of different states of the tables among them, and of
/// puts.
fn survive(
    dir: &Path,
    rules: Rules,
    store: &mut Store<Puts>,
    stops: &mpsc::Receiver<Vec<Put>>,
    release: &mpsc::Sender<()>,
    reports: &mpsc::Receiver<Result<Lsn, String>>,
) -> Result<(usize, usize, u64), String> {
    let (mut crashes, mut tables) = (0, Vec::new());
    let (mut appended, mut durable) = (0, 0);
    for round in 0..40_u64 {
        if appended == durable {
            appended += 1;
            store.append(Put::new(appended));
        }
        store.force(store.last());
        for after in [false, true] {
            let batch = stops.recv_timeout(DEADLINE).expect("a group");
            if after {
                durable = batch.last().expect("a group is not empty").number;
            }
            crash(dir, rules, durable)?;
            crashes += 1;
            let data = fs::read(dir.join("data.mdb")).unwrap();
            if tables.last() != Some(&data) {
                tables.push(data);
            }
            // These wait in the queue while the group is written.
            for _ in 0..round % 3 {
                appended += 1;
                store.append(Put::new(appended));
            }
            release.send(()).unwrap();
        }
        let mut reported = 0;
        while reported < durable {
            reported = reports.recv_timeout(DEADLINE).expect("a report")?;
        }
    }
    Ok((crashes, tables.len(), appended))
}

#[test]
fn a_crash_at_any_moment_keeps_what_was_durable() {
    let (crashes, tables) = live(Rules::ALL).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(crashes, 80);
    assert!(tables > 4, "the tables had only {tables} states");
}

#[test]
fn a_checkpoint_of_records_that_are_not_durable_is_noticed() {
    let lost = live(Rules::ALL.without(Rule::CheckpointAtBoundary));
    assert!(lost.is_err(), "{lost:?}");
}

#[test]
fn a_segment_under_a_salt_that_is_not_durable_is_lost() {
    let lost = live(Rules::ALL.without(Rule::SaltBeforeSegment));
    assert!(lost.is_err(), "{lost:?}");
}
