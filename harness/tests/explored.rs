//! Results of exploration can be looked at again: a schedule of the model or the simulator is
//! replayed, and a failing seed leaves a run directory like a real run.

use std::{
    path::Path,
    process::{Command, Output},
};

fn harness(arguments: &[&str], within: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_harness"));
    command.args(arguments).current_dir(within).output().expect("it starts")
}

/// The output of a command that exits with this status.
#[track_caller]
fn output_with_status(status: i32, arguments: &[&str], within: &Path) -> String {
    let output = harness(arguments, within);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}:\n{stdout}\n{errors}");
    stdout
}

#[test]
fn a_schedule_of_the_model_is_replayed() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let within = directory.path();
    let found = output_with_status(1, &["model", "--break", "reads-respect-locks"], within);
    assert!(
        found.contains("R1: a read that is served returns the last committed write"),
        "{found}"
    );
    let replayed = output_with_status(1, &["replay", "schedule.json"], within);
    let step = "client call 0: put k1=v1";
    assert!(found.contains(step) && replayed.contains(step), "{replayed}");
    assert!(replayed.contains("✗ R1"), "{replayed}");

    // With the rule kept, nothing fails. A step that is impossible is named.
    let path = within.join("schedule.json");
    let text = std::fs::read_to_string(&path).expect("it was just written");
    let mended = text.replace("\"reads-respect-locks\"", "");
    std::fs::write(&path, mended).expect("the disk has room");
    let replayed = output_with_status(0, &["replay", "schedule.json"], within);
    assert!(
        replayed.contains("R1 is recorded as violated by this schedule, but holds"),
        "{replayed}"
    );
    let wrong = text.replacen("\"steps\": [", "\"steps\": [{\"restart\": {\"node\": \"r1\"}},", 1);
    std::fs::write(&path, wrong).expect("the disk has room");
    let output = harness(&["replay", "schedule.json"], within);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(254), "{errors}");
    assert!(errors.contains("not possible here: r1 restarts"), "{errors}");
}

#[test]
fn a_failing_seed_is_kept_as_a_run() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let within = directory.path();
    let broken = ["--break", "keep-outcome-until-watermark"];
    let found =
        output_with_status(1, &[&["sim", "--seeds", "0..200"], &broken[..]].concat(), within);
    assert!(found.contains("shrunk from"), "{found}");
    let run = "histories/latest";
    for file in
        ["history.jsonl", "test.json", "final.json", "results.json", "schedule.json", "report.html"]
    {
        assert!(within.join(run).join(file).is_file(), "{file} is missing");
    }
    for node in ["master", "r1", "r2"] {
        let journal = within.join(run).join("nodes").join(node).join("journal.bin");
        assert!(journal.is_file(), "{}", journal.display());
    }
    output_with_status(1, &["replay", &format!("{run}/schedule.json")], within);
    // Its journals replay like those of real nodes, and its record is checked like any other.
    output_with_status(0, &["replay", run], within);
    output_with_status(1, &["inspect", run], within);
    output_with_status(1, &["check", run], within);
    // The command that it names prints the same.
    let command = found.lines().find_map(|line| line.strip_prefix("again: harness "));
    let again: Vec<_> = command.expect("the command to run it again").split(' ').collect();
    let shown = output_with_status(1, &again, within);
    let steps = |text: &str| {
        let lines = text.lines().skip_while(|line| !line.contains("shrunk from"));
        lines.take_while(|line| !line.starts_with("again: ")).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(steps(&shown), steps(&found));

    let clean = output_with_status(0, &["sim", "--seeds", "0..20"], within);
    assert!(clean.contains("no seed is bad"), "{clean}");
}
