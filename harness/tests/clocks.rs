//! Wrong clocks in runs: a lease that ends by the wall clock is lost, one by the monotonic clock is not; and a system
//! that does not say that it is to stand them is refused.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use checker::{Results, Validity};
use serde_json::Value as Json;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systems/file/example").join(name)
}

fn run(directory: &Path, system: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_harness"));
    command.env("TMPDIR", directory).current_dir(directory).stdin(Stdio::null());
    command.arg("--system").arg(example(system)).args(["--store", "runs"]).args(arguments);
    command.output().expect("the harness starts")
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).join("\n")
}

/// Why a run was not possible here.
fn not_possible(output: &Output) -> Option<String> {
    let said = text(output);
    let missing = ["the program 'python3' is not found", "wrong clocks need x86-64 Linux"];
    let why = said.lines().find(|line| missing.iter().any(|it| line.contains(it)))?;
    assert_eq!(output.status.code(), Some(254), "{said}");
    Some(why.to_owned())
}

/// The events of a kind in the history of the last run.
fn events(directory: &Path, f: &str) -> Vec<Json> {
    let history = fs::read_to_string(directory.join("runs/latest/history.jsonl"));
    let history = history.expect("the run has a history");
    let events = history.lines().filter_map(|line| serde_json::from_str(line).ok());
    let events = events.filter(|event: &Json| event["f"] == f);
    events.map(|event| event["value"].clone()).collect()
}

#[test]
fn a_lease_by_the_wall_clock_is_lost_and_one_by_the_monotonic_clock_is_not() {
    // One jump in four ends a lease that is held.
    for (system, status, time) in [("lock-wall.toml", 1, "60s"), ("lock-monotonic.toml", 0, "20s")]
    {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let arguments = ["--workload", "lock", "--faults", "clock", "--time", time, "--seed", "1"];
        let output = run(directory.path(), system, &arguments);
        if let Some(why) = not_possible(&output) {
            let _ = writeln!(io::stderr(), "skipped: {why}");
            return;
        }
        assert_eq!(output.status.code(), Some(status), "{system}: {}", text(&output));
        let results = fs::read(directory.path().join("runs/latest/results.json"));
        let results: Results =
            serde_json::from_slice(&results.expect("it was judged")).expect("results");
        let lock = results.check("lock").expect("it was checked");
        assert_eq!(lock.verdict == Validity::Invalid, status == 1);
        // Each fault says what was wrong, and ends with the processes that had it.
        let (wrong, right) =
            (events(directory.path(), "clock"), events(directory.path(), "clock-restored"));
        assert!(!wrong.is_empty() && wrong.len() == right.len(), "{wrong:?} {right:?}");
        for (wrong, right) in wrong.iter().zip(&right) {
            let clock = &wrong["clock"];
            assert!(clock["jump_ms"].is_i64() != clock["drift_ppm"].is_i64(), "{wrong}");
            assert!(
                right["processes"][0]["name"].as_str().is_some_and(|name| name.contains("python")),
                "{right}"
            );
            assert_eq!(right["refused"], Json::Null);
        }
        let page = fs::read_to_string(directory.path().join("runs/latest/report.html"));
        assert!(page.expect("the page was written").contains("the clock "));
    }
}

#[test]
fn a_system_that_does_not_say_so_is_not_meant_to_stand_wrong_clocks() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let output = run(directory.path(), "stale.toml", &["--faults", "kill,clock:primary"]);
    if not_possible(&output).is_some() {
        return;
    }
    assert_eq!(output.status.code(), Some(254), "{}", text(&output));
    let expected = "clock:primary: ";
    let said = text(&output);
    assert!(
        said.contains(expected) && said.contains("add clock = true to its table [faults]"),
        "{said}"
    );
}
