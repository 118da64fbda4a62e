//! Soaks, which run seeds that failed before first, and records that go on where they were.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value as Json;

fn harness(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_harness"));
    command.env("TMPDIR", directory).current_dir(directory).stdin(Stdio::null());
    command.args(arguments).output().expect("the harness starts")
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).join("\n")
}

fn example(name: &str) -> String {
    let path: PathBuf =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("systems/file/example").join(name);
    path.to_str().expect("it is UTF-8").to_owned()
}

/// Whether something is missing here; a line says what.
fn is_skipped(output: &Output, missing: &str) -> bool {
    let said = text(output);
    let why = said.lines().find(|line| line.contains(missing));
    if let Some(why) = why {
        let _ = writeln!(io::stderr(), "skipped: {why}");
    }
    why.is_some()
}

fn kept(directory: &Path) -> Vec<Json> {
    let text = fs::read(directory.join("runs/.soak.json")).expect("it was written");
    serde_json::from_slice(&text).expect("it is JSON")
}

#[test]
fn a_seed_that_failed_is_kept_and_comes_first() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let stale = example("stale.toml");
    let soak = |more: &[&str]| {
        let faults = ["--workloads", "register", "--faults", "kill,pause:primary"];
        let rest = ["--time-limit", "4s", "--store", "runs", "--stop-at-find"];
        harness(
            directory.path(),
            &[&["soak", "--systems", &stale][..], &faults, &rest, more].concat(),
        )
    };
    let first = soak(&["--count", "6", "--seed", "1"]);
    if is_skipped(&first, "the program 'python3' is not found") {
        return;
    }
    assert_eq!(first.status.code(), Some(1), "{}", text(&first));
    let failed = kept(directory.path());
    assert_eq!((failed.len(), &failed[0]["failed"]), (1, &Json::from(1)), "{failed:?}");
    let seed = format!("--seed {}", failed[0]["seed"]);
    let find = text(&first);
    let mut lines = find.lines().skip_while(|line| !line.contains("invalid,"));
    assert!(lines.next().is_some_and(|line| line.ends_with(&seed)), "{find}");
    assert!(lines.next().is_some_and(|line| line.contains("is not linearizable")), "{find}");
    let record = lines.next().map(str::trim).expect("the record is named");
    assert!(directory.path().join(record).join("report.html").is_file(), "{record}");
    // What the next one draws does not matter: the seed comes before.
    let again = soak(&["--count", "1", "--seed", "2"]);
    let said = text(&again);
    let line = said.lines().find(|line| line.starts_with("run 1: ")).expect("there was a run");
    assert!(line.ends_with(&seed), "{said}");
    let now = kept(directory.path());
    let counted = match again.status.code() {
        Some(1) => now[0]["failed"] == 2,
        _ => now[0]["failed"] == 1,
    };
    assert!(counted, "{now:?}");
}

#[test]
fn a_soak_of_what_is_valid_is_valid_and_keeps_no_record() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let (fixed, store) = (example("fixed.toml"), ["--time-limit", "4s", "--store", "runs"]);
    let soak = ["soak", "--systems", &fixed, "--faults", "restart", "--count", "1"];
    let output = harness(directory.path(), &[&soak[..], &store].concat());
    if is_skipped(&output, "the program 'python3' is not found") {
        return;
    }
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(kept(directory.path()), Vec::<Json>::new());
    let left: Vec<_> = fs::read_dir(directory.path().join("runs")).expect("it is there").collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn what_cannot_be_soaked_is_refused() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    for (arguments, part) in [
        (&["--systems", "nosuch"][..], "there is no system 'nosuch'"),
        (&["--systems", "twopc", "--faults", "explode"], "'explode': this is no fault"),
        (&["--systems", "twopc", "--workloads", "bank"], "twopc has only register"),
        (&["--systems", "twopc", "--workloads", "x"], "there is no workload 'x'"),
        (&[], "--systems"),
    ] {
        let output = harness(directory.path(), &[&["soak"], arguments].concat());
        assert_eq!(output.status.code(), Some(254), "{}", text(&output));
        assert!(text(&output).contains(part), "{}", text(&output));
    }
    fs::create_dir(directory.path().join("histories")).expect("the disk has room");
    fs::write(directory.path().join("histories/.soak.json"), "{").expect("the disk has room");
    let output = harness(directory.path(), &["soak", "--systems", "twopc", "--count", "1"]);
    assert_eq!(output.status.code(), Some(254), "{}", text(&output));
    assert!(text(&output).contains("remove the file to forget"), "{}", text(&output));
}

#[test]
fn rows_of_the_record_have_names() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    for (arguments, part) in [
        (&["--row", "nosuch"][..], "there is no row 'nosuch': expected etcd-serializable-reads"),
        (&["--row", "etcd-lock", "--system", "redis"], "no row of --system has this name"),
    ] {
        let output = harness(directory.path(), &[&["record"], arguments].concat());
        assert_eq!(output.status.code(), Some(254), "{}", text(&output));
        assert!(text(&output).contains(part), "{}", text(&output));
    }
}

#[cfg(feature = "redis")]
#[test]
fn a_record_goes_on_where_it_was() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let record = |more: &[&str]| {
        let row = ["record", "--row", "redis-replica-reads", "--runs", "1", "--store", "runs"];
        harness(directory.path(), &[&row[..], more].concat())
    };
    let first = record(&[]);
    if is_skipped(&first, "is not installed") {
        return;
    }
    let table = String::from_utf8_lossy(&first.stdout).into_owned();
    let row = table.lines().find(|line| line.starts_with("| redis-replica-reads | "));
    let row = row.unwrap_or_else(|| panic!("{}", text(&first))).to_owned();
    let kept = directory.path().join("runs/.record/redis-replica-reads");
    let found = fs::read(kept.join("found-1.json")).expect("it was kept");
    let found: Json = serde_json::from_slice(&found).expect("it is JSON");
    let runs = || {
        let groups = fs::read_dir(directory.path().join("runs")).expect("it is there").flatten();
        let groups = groups.filter(|group| group.file_type().is_ok_and(|kind| kind.is_dir()));
        let runs = groups.filter_map(|group| fs::read_dir(group.path()).ok()).flatten().flatten();
        runs.filter(|run| run.path().join("history.jsonl").is_file() && !run.path().is_symlink())
            .count()
    };
    let before = runs();
    // Without its result the twin is run again, and the other is not.
    fs::remove_file(kept.join("valid-1.json")).expect("it was kept");
    let second = record(&[]);
    assert!(text(&second).contains("found-1.json is there: "), "{}", text(&second));
    assert_eq!(runs(), before + 1);
    let third = record(&[]);
    assert_eq!(runs(), before + 1);
    let table = String::from_utf8_lossy(&third.stdout).into_owned();
    let same = table.lines().find(|line| line.starts_with("| redis-replica-reads | "));
    // It may have been found or not; what was found is told again.
    let start = row.split(" | `harness ").next();
    assert_eq!(same.and_then(|same| same.split(" | `harness ").next()), start);
    // The result of another version does not count.
    let text = found.to_string().replace(found["version"].as_str().expect("a version"), "0.0");
    fs::write(kept.join("found-1.json"), text).expect("the disk has room");
    record(&[]);
    assert_eq!(runs(), before + 2);
}
