//! The shards of a history together have the verdict of the whole: of operations by key, of transactions by component.

use std::{
    collections::{HashMap, VecDeque},
    fs,
    io::{self, BufWriter, Write as _},
    path::Path,
};

use checker::{
    Validity,
    file::{FileCheckOptions, FileReport, check_file},
    levels::Level,
};
use history::{
    Shard,
    synthetic::{
        PlantedViolation, SyntheticOptions, generate,
        transactions::{
            self, Isolation, LineWriter, PlantedAnomaly, SyntheticWorkload, TransactionOptions,
        },
    },
};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use serde_json::{Value as Json, json};

fn check(path: &Path, claim: Option<Level>, shard: Option<Shard>) -> FileReport {
    let options = FileCheckOptions { claim, shard, ..FileCheckOptions::default() };
    check_file(path, &options).expect("well formed")
}

/// Checks a history as a whole and by shards, compares, and returns the verdict of the whole. A search that is ended by
/// its limit may decide one of the two only: then the verdicts must not contradict each other.
fn compared(path: &Path, claim: Option<Level>, what: &str) -> Validity {
    let whole = check(path, claim, None);
    for of in [2, 5] {
        let shards: Vec<FileReport> =
            (1..=of).map(|number| check(path, claim, Shard::new(number, of))).collect();
        let verdict = shards.iter().map(|report| report.verdict).max().expect("there is one");
        let is_searched = shards.iter().chain([&whole]).any(|report| {
            report.transactions.as_ref().is_some_and(|found| !found.undecided.is_empty())
        });
        let is_open = is_searched && [verdict, whole.verdict].contains(&Validity::Unknown);
        assert!(
            verdict == whole.verdict || is_open,
            "{what}, {of} shards: {verdict}, and {} as a whole\n{shards:#?}\n{whole:#?}",
            whole.verdict
        );
        let operations: u64 = shards.iter().map(|report| report.operations).sum();
        assert_eq!(operations, whole.operations, "{what}, {of} shards");
        let keys: usize = shards.iter().map(|report| report.keys).sum();
        assert_eq!(keys, whole.keys, "{what}, {of} shards");
        // Operations have the same numbers everywhere, so the sentences are the same.
        let sorted = |reports: &[FileReport]| {
            let all = reports.iter().flat_map(|report| report.violations.clone());
            let mut all: Vec<String> = all.collect();
            all.sort();
            all
        };
        assert_eq!(sorted(&shards), sorted(std::slice::from_ref(&whole)), "{what}");
    }
    whole.verdict
}

#[test]
fn the_shards_of_operations_have_the_verdict_of_the_whole() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let path = directory.path().join("history.jsonl");
    let mut verdicts = HashMap::new();
    let planted = PlantedViolation::ALL.into_iter().map(Some);
    for violation in planted.chain([None]) {
        for seed in 0..8 {
            let options = SyntheticOptions {
                ops: 2_000,
                keys: 1 + seed as u32 * 7,
                concurrency: 10,
                indeterminate: 0.02,
                puts: 45,
                deletes: 10,
                seed,
                violation,
            };
            let mut out = BufWriter::new(fs::File::create(&path).expect("the disk has room"));
            generate(&options, |event| {
                serde_json::to_writer(&mut out, event)?;
                out.write_all(b"\n")
            })
            .and_then(|()| out.flush())
            .expect("the disk has room");
            let verdict = compared(&path, None, &format!("{violation:?}, seed {seed}"));
            let expected = if violation.is_some() { Validity::Invalid } else { Validity::Valid };
            assert_eq!(verdict, expected, "{violation:?}, seed {seed}");
            *verdicts.entry(verdict).or_insert(0) += 1;
        }
    }
    assert_eq!(verdicts[&Validity::Valid], 8);
}

#[test]
fn shards_agree_on_what_the_whole_history_says() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let path = directory.path().join("history");
    let event = |process: u32, kind: &str, f: &str, key: u32, value: &str| {
        format!("{{:process {process}, :type :{kind}, :f :{f}, :value [{key} {value}]}}\n")
    };
    let read = |process, key, value: &str| {
        event(process, "invoke", "read", key, "nil") + &event(process, "ok", "read", key, value)
    };
    // The registers begin with 0, which two keys show; one of the others contradicts it.
    let shown: String = (0..6).map(|key| read(0, key, "0")).collect();
    for (text, verdict, what) in [
        (shown.clone(), Validity::Valid, "an initial value"),
        (shown.clone() + &read(0, 6, "7"), Validity::Invalid, "a value of nobody"),
        // Not all begin with the same value.
        (shown + &read(0, 9, "nil"), Validity::Invalid, "an absent register"),
        (String::new(), Validity::Unknown, "nothing"),
    ] {
        fs::write(&path, format!("{text}{}", "{:process :nemesis, :type :info, :f :start}\n"))
            .expect("the disk has room");
        assert_eq!(compared(&path, None, what), verdict, "{what}");
    }
}

/// A history in which every component has the transactions of one synthetic history. Processes are shared: whichever
/// is idle does the next transaction of a component that is drawn.
fn write_components(path: &Path, all: &[TransactionOptions], seed: u64) -> io::Result<()> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut parts: Vec<VecDeque<Json>> = Vec::new();
    for options in all {
        let mut lines = Vec::new();
        let mut writer = LineWriter::new(&mut lines, options.workload);
        transactions::generate(options, |event| writer.event(event))?;
        writer.finish()?;
        let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        parts.push(lines.map(|line| serde_json::from_slice(line).expect("JSON")).collect());
    }
    let mut out = BufWriter::new(fs::File::create(path)?);
    let mut idle: Vec<u64> = (0..100).collect();
    let mut busy: HashMap<(usize, u64), u64> = HashMap::new();
    let (mut index, mut next) = (0, 100);
    while parts.iter().any(|part| !part.is_empty()) {
        let part = rng.random_range(0..parts.len());
        let Some(mut event) = parts[part].pop_front() else { continue };
        let own = (part, event["process"].as_u64().expect("a process"));
        let process = match event["type"].as_str() {
            Some("invoke") => {
                if idle.is_empty() {
                    idle.push(next);
                    next += 1;
                }
                let process = idle.swap_remove(rng.random_range(0..idle.len()));
                busy.insert(own, process);
                process
            }
            Some("info") => busy[&own],
            _ => {
                let process = busy.remove(&own).expect("it was invoked");
                idle.push(process);
                process
            }
        };
        event["process"] = json!(process);
        (event["index"], event["time"]) = (json!(index), json!(index * 1000));
        for step in event["value"].as_array_mut().expect("steps") {
            step[1] = json!(format!("{part}-{}", step[1].as_str().expect("a key")));
        }
        serde_json::to_writer(&mut out, &event)?;
        out.write_all(b"\n")?;
        index += 1;
    }
    out.flush()
}

fn options(
    workload: SyntheticWorkload,
    isolation: Isolation,
    anomaly: Option<PlantedAnomaly>,
    seed: u64,
) -> TransactionOptions {
    TransactionOptions {
        transactions: 60,
        keys: 3,
        writes_per_key: 32,
        steps: 4,
        concurrency: 4,
        indeterminate: 0.02,
        workload,
        isolation,
        seed,
        anomaly,
    }
}

#[test]
fn the_shards_of_transactions_have_the_verdict_of_the_whole() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let path = directory.path().join("history.jsonl");
    let mut verdicts: HashMap<Validity, u32> = HashMap::new();
    for workload in [SyntheticWorkload::Append, SyntheticWorkload::Registers] {
        let anomalies = PlantedAnomaly::ALL
            .into_iter()
            .filter(|anomaly| workload == SyntheticWorkload::Append || anomaly.is_of_registers());
        // The search for an order of writes to registers is long where real time does not give one.
        let is_short = |isolation: &Isolation| {
            workload == SyntheticWorkload::Append || *isolation == Isolation::StrictSerializable
        };
        let isolations =
            Isolation::ALL.into_iter().filter(is_short).map(|isolation| (isolation, None));
        let planted = anomalies.map(|anomaly| (Isolation::StrictSerializable, Some(anomaly)));
        for (seed, (isolation, anomaly)) in (0..).zip(isolations.chain(planted)) {
            // One component has the anomaly, or the weaker isolation; the others are strict.
            let all: Vec<TransactionOptions> = (0..4)
                .map(|part| match part {
                    2 => options(workload, isolation, anomaly, seed * 10),
                    _ => options(workload, Isolation::StrictSerializable, None, seed * 10 + part),
                })
                .collect();
            write_components(&path, &all, seed).expect("the disk has room");
            for claim in [
                None,
                Some("read-committed"),
                Some("snapshot-isolation"),
                Some("serializable"),
                Some("strong-session-serializable"),
                Some("strict-serializable"),
                Some("strong-snapshot-isolation"),
                (workload == SyntheticWorkload::Registers).then_some("causal-consistency"),
            ] {
                let what = format!("{workload:?}, {isolation:?}, {anomaly:?}, {claim:?}");
                let claim = claim.map(|claim| claim.parse().expect("a level"));
                *verdicts.entry(compared(&path, claim, &what)).or_default() += 1;
            }
        }
    }
    assert!(verdicts[&Validity::Valid] > 50 && verdicts[&Validity::Invalid] > 50, "{verdicts:?}");
}

/// Each of two sessions writes one register, and then does not see the write of the other. No register by itself shows
/// that the order of the sessions is broken.
#[test]
fn where_sessions_count_they_join_components() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let path = directory.path().join("history.jsonl");
    let mut lines = Vec::new();
    for (process, f, key, value) in
        [(0, "w", "x", Some(1)), (1, "w", "y", Some(1)), (0, "r", "y", None), (1, "r", "x", None)]
    {
        for kind in ["invoke", "ok"] {
            let index = lines.len();
            let steps = json!([[f, key, value]]);
            lines.push(json!({
                "index": index, "time": index, "process": process, "type": kind, "f": "txn", "value": steps
            }));
        }
    }
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(&path, text).expect("the disk has room");
    let claim = |name: &str| Some(name.parse().expect("a level"));
    let verdict = compared(&path, claim("strong-session-serializable"), "sessions");
    assert_eq!(verdict, Validity::Invalid);
    assert_eq!(compared(&path, claim("serializable"), "dependencies"), Validity::Valid);
    assert_eq!(compared(&path, claim("strict-serializable"), "real time"), Validity::Invalid);
}
