//! A run with `--fail-fast` ends as soon as its history cannot become linearizable any more, long
//! before its time limit, in order and with all files of a run.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use checker::Results;
use history::{Action, NemesisEvent};

/// The duration of the load without a violation.
const TIME_LIMIT: &str = "10m";

/// How long the run may take to find the violation. One stop of the master between its decision and its
/// reply suffices once a client reads the key, and the master is stopped many times within this time.
const DEADLINE: Duration = Duration::from_secs(120);

/// A running harness. Dropping it kills it, and its nodes with it.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn harness(arguments: &str, path: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_harness"));
    command.args(arguments.split_whitespace()).arg(path);
    command
}

#[test]
fn a_run_ends_when_its_history_cannot_become_linearizable() {
    let [store, scratch] = [(); 2].map(|()| tempfile::tempdir().expect("a directory for the test"));
    // The harness records unknown outcomes as failures. A write that was decided when the master died
    // is then a failed write whose value a later read returns.
    let arguments = format!(
        "test --misreport-unknown --faults master-uncertainty --fail-fast --time-limit {TIME_LIMIT} --keys 2 \
         --mix get=80,put=20 --seed 1 --store"
    );
    let mut command = harness(&arguments, store.path());
    command.env("TMPDIR", scratch.path()).stdout(Stdio::null()).stderr(Stdio::null());
    let began = Instant::now();
    let mut run = Started(command.spawn().expect("the harness starts"));
    let status = loop {
        if let Some(status) = run.0.try_wait().expect("it is our child") {
            break status;
        }
        assert!(began.elapsed() < DEADLINE, "the run continues after {DEADLINE:?}");
        thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(status.code(), Some(1), "{arguments}");

    let directory = fs::canonicalize(store.path().join("latest")).expect("a run directory");
    let history = history::read(&directory.join("history.jsonl")).expect("well formed");
    assert!(!history.torn);
    let ended = history.events.iter().find_map(|event| match &event.action {
        Action::Nemesis(NemesisEvent::Violated(violated)) => Some(violated),
        _ => None,
    });
    let violated = ended.expect("it records why it ended");
    assert!(violated.ended);
    let results = fs::read(directory.join("results.json")).expect("it was judged");
    let results: Results = serde_json::from_slice(&results).expect("as it was written");
    let linearizability = results.checks.iter().find(|check| check.check == "linearizability");
    let violations = &linearizability.expect("it is always judged").violations;
    let key = format!("{} is not linearizable: ", violated.key);
    assert!(violations.iter().any(|violation| violation.starts_with(&key)), "{violations:?}");
    for file in ["test.json", "final.json", "report.html", "latency.svg", "rate.svg"] {
        assert!(directory.join(file).exists(), "{file} is missing");
    }
    for node in ["master", "r1", "r2", "r3"] {
        let journal = directory.join("nodes").join(node).join("journal.bin");
        assert!(journal.exists(), "{} is missing", journal.display());
    }
    let left = fs::read_dir(scratch.path()).expect("it is there").count();
    assert_eq!(left, 0, "temporary files outlived the run");

    let Output { status, stdout, .. } =
        harness("check", &directory).output().expect("the harness starts");
    let said = String::from_utf8_lossy(&stdout);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(&key), "{said}");
}
