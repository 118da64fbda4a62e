//! A run that is told to end as soon as what clients saw cannot become right any more: it does, long
//! before its time is up, in order, and with all that a run leaves behind.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use harness::{
    checker::Results,
    history::{self, Action, NemesisEvent},
};

/// The run would go on for so long.
const TIME_LIMIT: &str = "10m";

/// It ends within this time, in which the master is stopped often enough that it cannot be missed:
/// one stop with a decision made and no client told is enough, once somebody reads the key.
const DEADLINE: Duration = Duration::from_secs(120);

/// A harness at work, ended with the test; its nodes end with it.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        // If it has ended already, there is nothing to end.
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
fn a_run_ends_when_nothing_can_make_it_right() {
    let [store, scratch] = [(); 2].map(|()| tempfile::tempdir().expect("a directory for the test"));
    // A harness that takes unknown outcomes for failures: each write that was decided when the
    // master died, and is read afterwards, is one that did not happen and was seen.
    let arguments = format!(
        "test --lie --faults master-uncertainty --fail-fast --time-limit {TIME_LIMIT} --keys 2 \
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
        assert!(began.elapsed() < DEADLINE, "the run goes on after {DEADLINE:?}");
        thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(status.code(), Some(1), "{arguments}");

    let directory = fs::canonicalize(store.path().join("latest")).expect("a run directory");
    let history = history::read(&directory.join("history.jsonl")).expect("well formed");
    assert!(!history.torn);
    let why = history.events.iter().find_map(|event| match &event.action {
        Action::Nemesis(NemesisEvent { f, value }) if f == "broken" => Some(value.clone()),
        _ => None,
    });
    let why = why.expect("it says why it ended");
    assert_eq!(why["ended"], true);
    let results = fs::read(directory.join("results.json")).expect("it was judged");
    let results: Results = serde_json::from_slice(&results).expect("as it was written");
    let linearizability = results.checks.iter().find(|check| check.check == "linearizability");
    let violations = &linearizability.expect("it is always judged").violations;
    let key = format!("{} is not linearizable: ", why["key"].as_str().expect("a name"));
    assert!(violations.iter().any(|violation| violation.starts_with(&key)), "{violations:?}");
    for file in ["test.json", "final.json", "report.html", "latency.svg", "rate.svg"] {
        assert!(directory.join(file).exists(), "{file} is missing");
    }
    for node in ["master", "r1", "r2", "r3"] {
        let journal = directory.join("nodes").join(node).join("journal.jsonl");
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
