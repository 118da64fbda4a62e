//! Campaigns from outside: shards by hand and under schedulers, shards that are killed, and what is merged.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value as Json;

const HARNESS: &str = env!("CARGO_BIN_EXE_harness");

/// What shows a violation within a few seeds of each shard.
const BROKEN: &str = "reads-respect-locks";

/// How long to wait for what must happen.
const DEADLINE: Duration = Duration::from_secs(60);

fn harness(within: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(HARNESS);
    command.args(arguments).current_dir(within).envs(variables.iter().copied());
    command.output().expect("it starts")
}

/// Standard output of a command that exits with this status.
#[track_caller]
fn told(status: i32, output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{text}\n{errors}");
    text
}

/// Runs a command line in which words are separated by blanks.
#[track_caller]
fn run(status: i32, within: &Path, line: &str) -> String {
    let arguments: Vec<&str> = line.split(' ').collect();
    told(status, &harness(within, &[], &arguments))
}

/// The summary in the last line of an output.
#[track_caller]
fn summary(output: &str) -> Json {
    let line = output.lines().last().expect("a last line");
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// The command after this word in an output, run by a shell.
#[track_caller]
fn again(status: i32, within: &Path, text: &str) -> String {
    let found = text.lines().find_map(|line| line.trim().strip_prefix("again: harness "));
    let command = format!("{HARNESS} {}", found.expect("a command to run again"));
    let output = Command::new("sh").args(["-c", &command]).current_dir(within).output();
    told(status, &output.expect("a shell"))
}

fn skipped(why: &str) {
    // Past the capture of the test runner.
    let _ = writeln!(io::stderr(), "skipped: {why}");
}

fn is_installed(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    found.is_ok_and(|output| output.status.success())
}

#[test]
fn shards_are_merged_and_what_failed_is_repeated_and_tried_first() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let within = directory.path();
    let of = |number: u32| format!("--seeds 0..60 --shard {number}/3 --campaign c");
    let first = summary(&run(0, within, &format!("sim {}", of(1))));
    assert_eq!(
        (&first["done"], &first["verdict"], &first["unit"]),
        (&20.into(), &"valid".into(), &"seeds".into())
    );
    assert_eq!(first["command"], "harness sim --seeds 0..60");
    // The same shard is not repeated, and other work is refused.
    let same = harness(within, &[], &["sim", "--seeds", "0..60", "--shard=1/3", "--campaign", "c"]);
    assert_eq!(summary(&told(0, &same)), first);
    assert!(String::from_utf8_lossy(&same.stderr).contains("shard 1/3 is there"));
    run(254, within, "sim --seeds 0..61 --shard 1/3 --campaign c");
    run(254, within, "sim --seeds 0..61 --shard 2/3 --campaign c");
    run(254, within, "sim --seeds 0..60 --shard 1/4 --campaign c");

    // One of three: what is missing is named, and the verdict is unknown.
    let partial = run(2, within, "merge c");
    assert!(partial.contains("missing: shard 2: never begun"), "{partial}");
    let command = "again: harness sim --seeds 0..60 --shard 2/3 --campaign c";
    assert!(partial.contains(command), "{partial}");
    again(0, within, &partial);

    // Other work is refused here too, and what was done of it elsewhere does not make the campaign valid.
    run(254, within, &format!("sim {} --break {BROKEN}", of(3)));
    run(0, within, "sim --seeds 0..60 --commit votes --shard 3/3 --campaign v");
    let mixed = run(2, within, "merge c v");
    assert!(mixed.contains("3 of 3 shards") && mixed.contains("unknown because: "), "{mixed}");
    let broken = format!("sim {} --break {BROKEN}", of(3)).replace("--campaign c", "--campaign b");
    let bad = summary(&run(1, within, &broken));
    let seed = bad["failures"][0]["seed"].as_u64().expect("a seed");
    assert!((40..60).contains(&seed), "{bad}");
    assert!(bad["done"].as_u64() < bad["planned"].as_u64(), "it stops at the bad seed: {bad}");
    let merged = run(1, within, "merge c b");
    assert!(merged.contains("3 of 3 shards") && !merged.contains("missing"), "{merged}");
    assert!(merged.contains(&format!("seed {seed}, shard 3: ")), "{merged}");
    assert!(merged.contains("the shards are not of one command"), "{merged}");
    let repeated = again(1, within, &merged);
    assert!(repeated.contains(&format!("seed {seed}: invalid")), "{repeated}");
    // The record that is named is there, and so is what a merge writes; another one changes nothing.
    let record = merged.lines().find_map(|line| line.trim().strip_prefix("record: "));
    let record = within.join(record.expect("a record"));
    assert!(record.join("report.html").is_file(), "{}", record.display());
    let page = within.join("c/report.html");
    let read =
        || (fs::read(&page).expect("a page"), fs::read(within.join("c/merged.json")).expect("it"));
    let before = read();
    let text = String::from_utf8_lossy(&before.0).into_owned();
    assert!(
        text.contains(&format!("--break {BROKEN}")) && text.contains("2 valid, 1 invalid"),
        "{text}"
    );
    assert_eq!(run(1, within, "merge c b"), merged);
    assert_eq!(read(), before);

    // In the next campaign the seed is tried first, by the first shard.
    let next = format!("sim --seeds 1000..1010 --break {BROKEN} --campaign next --failed-first c");
    let first = summary(&run(1, within, &format!("{next} --shard 1/2")));
    assert_eq!((&first["failures"][0]["seed"], &first["done"]), (&seed.into(), &1.into()));
    let second =
        run(0, within, "sim --seeds 1000..1004 --campaign other --shard 2/2 --failed-first c");
    assert_eq!(summary(&second)["done"], 2);
    run(254, within, "sim --seeds 0..9 --failed-first c");
    run(254, within, "sim --seeds 0..9 --shard 1/2 --failed-first next");
}

#[test]
fn a_scheduler_says_which_shard_it_is() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let within = directory.path();
    let sim = ["sim", "--seeds", "0..8", "--campaign", "c"];
    for (variables, shard) in [
        (
            &[
                ("SLURM_ARRAY_TASK_ID", "5"),
                ("SLURM_ARRAY_TASK_MIN", "5"),
                ("SLURM_ARRAY_TASK_COUNT", "4"),
            ][..],
            1,
        ),
        (&[("JOB_COMPLETION_INDEX", "1"), ("HARNESS_SHARDS", "4")], 2),
        (&[("AWS_BATCH_JOB_ARRAY_INDEX", "2"), ("AWS_BATCH_JOB_ARRAY_SIZE", "4")], 3),
        (&[("PARALLEL_SEQ", "4"), ("HARNESS_SHARDS", "4")], 4),
    ] {
        let found = summary(&told(0, &harness(within, variables, &sim)));
        assert_eq!((&found["shard"], &found["of"]), (&shard.into(), &4.into()), "{variables:?}");
    }
    assert!(run(0, within, "merge c").contains("4 of 4 shards: 8 seeds"));
    // Nothing says it; or what says it is no shard; or all of the work is done though something says it.
    let output = harness(within, &[], &sim);
    told(254, &output);
    assert!(String::from_utf8_lossy(&output.stderr).contains("Give --shard I/N"));
    let output = harness(within, &[("PARALLEL_SEQ", "5"), ("HARNESS_SHARDS", "4")], &sim);
    told(254, &output);
    assert!(String::from_utf8_lossy(&output.stderr).contains("PARALLEL_SEQ=5"));
    let whole =
        harness(within, &[("JOB_COMPLETION_INDEX", "1"), ("HARNESS_SHARDS", "4")], &sim[..3]);
    told(0, &whole);
    assert!(String::from_utf8_lossy(&whole.stderr).contains("--campaign DIR makes it do a shard"));
}

#[test]
fn what_the_machine_lacks_is_75_and_wrong_arguments_are_not() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let within = directory.path();
    // The directory of the campaign cannot be made: a file is in its place.
    fs::write(within.join("file"), "").expect("the disk has room");
    run(75, within, "sim --seeds 0..1 --shard 1/2 --campaign file/c");
    // A full disk, which every write to this device shows.
    if Path::new("/dev/full").exists() {
        fs::create_dir(within.join("full")).expect("the disk has room");
        std::os::unix::fs::symlink("/dev/full", within.join("schedules")).expect("a link");
        let rules = "rules decision-forced --commit logged --seeds 0 --schedules schedules --shard 1/1 --campaign f";
        run(75, within, rules);
        let merged = run(2, within, "merge f");
        assert!(merged.contains("missing: shard 1: failed on "), "{merged}");
    }
    // Neither is a limit of this machine: no descriptor is left for the partitions of a history.
    let text = run(0, within, "generate --ops 2000 --keys 400");
    fs::write(within.join("history.jsonl"), text).expect("the disk has room");
    let command =
        format!("ulimit -n 60; exec {HARNESS} check history.jsonl --shard 1/1 --campaign n");
    let output = Command::new("sh").args(["-c", &command]).current_dir(within).output();
    told(75, &output.expect("a shell"));
    let merged = run(2, within, "merge n");
    assert!(
        merged.contains("again: harness check history.jsonl --shard 1/1 --campaign n"),
        "{merged}"
    );
    again(0, within, &merged);
    run(254, within, "sim --seeds 0..1 --shard 3/2 --campaign c");
    run(254, within, "--faults none --test-count 4 --shard 1/2 --campaign c");
    run(254, within, "--faults none --shard 1/2");
    run(254, within, "merge nowhere");
    let output = harness(within, &[], &["rules", "--shard", "1/2", "--failed-first", "c"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("rows have no seeds"));
}

#[test]
fn runs_and_rows_are_shared_among_shards() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let within = directory.path();
    let test = "--faults none --time-limit 300ms --seed 5 --test-count 3 --campaign runs";
    let mut done = 0;
    for number in 1..=2 {
        let told = summary(&run(0, within, &format!("{test} --shard {number}/2")));
        done += told["done"].as_u64().expect("a number");
    }
    assert_eq!(done, 3);
    let merged = run(0, within, "merge runs");
    assert!(merged.contains("2 of 2 shards: 3 runs"), "{merged}");
    let rules =
        "rules --commit logged --seeds 0 decision-forced vote-forced write-all --campaign rows";
    let mut done = 0;
    for number in 1..=2 {
        let told = summary(&run(0, within, &format!("{rules} --shard {number}/2")));
        done += told["done"].as_u64().expect("a number");
    }
    assert_eq!(done, 3);
    // Each row is in one shard only.
    let output = run(0, within, &format!("{} --shard 1/2", rules.replace("rows", "once")));
    let has_row = |rule: &str| output.lines().any(|line| line.starts_with(rule));
    assert!(has_row("decision-forced") && !has_row("vote-forced"), "{output}");
}

#[test]
fn a_large_history_is_checked_by_shards() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let within = directory.path();
    for (violation, status) in [("", 0), (" --violate stale-read", 1)] {
        let text = run(0, within, &format!("generate --ops 20000 --keys 40{violation}"));
        fs::write(within.join("history.jsonl"), text).expect("the disk has room");
        run(status, within, "check history.jsonl");
        let campaign = format!("c{status}");
        let mut worst = 0;
        for number in 1..=4 {
            let line = format!("check history.jsonl --shard {number}/4 --campaign {campaign}");
            let words: Vec<&str> = line.split(' ').collect();
            let output = harness(within, &[], &words);
            let told = summary(&String::from_utf8_lossy(&output.stdout));
            assert!(
                told["done"].as_u64().is_some_and(|done| (1_000..12_000).contains(&done)),
                "{told}"
            );
            worst = worst.max(output.status.code().expect("it exits"));
        }
        assert_eq!(worst, status);
        let merged = run(status, within, &format!("merge {campaign}"));
        assert!(
            merged.contains("4 of 4 shards: 20") && merged.contains(" operations in "),
            "{merged}"
        );
        assert_eq!(merged.contains("k0 is not linearizable"), status == 1, "{merged}");
    }
    // The command that repeats a check has the options of the first one.
    let options = "--spec register --initial 0 --format jsonl --memory 512 --timeout 30s";
    run(1, within, &format!("check history.jsonl {options} --shard 1/1 --campaign options"));
    let merged = run(1, within, "merge options");
    assert!(merged.contains(&format!("again: harness check history.jsonl {options}")), "{merged}");
    again(1, within, &merged);
    // A shard of what the file was before is not one of what it is now.
    let text = fs::read_to_string(within.join("history.jsonl")).expect("it is there");
    fs::write(within.join("history.jsonl"), text.replace("\"k1\"", "\"k0\""))
        .expect("there is room");
    for number in 1..=2 {
        let line = format!("check history.jsonl --shard {number}/4 --campaign c1");
        let output = harness(within, &[], &line.split(' ').collect::<Vec<_>>());
        told(254, &output);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains("was made when history.jsonl was another file"), "{errors}");
    }
    run(254, within, "check nowhere.jsonl --shard 1/4 --campaign nowhere");
    run(254, within, "check history.jsonl --certify c --shard 1/4");
    let kept = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../histories/golden/checks/linearizability-invalid");
    let kept = kept.to_str().expect("a name in UTF-8");
    let output = harness(within, &[], &["check", kept, "--shard", "1/4"]);
    told(254, &output);
    assert!(String::from_utf8_lossy(&output.stderr).contains("name its history.jsonl"));
}

/// Starts harness, and signals it as soon as that is due.
#[track_caller]
fn signalled(within: &Path, line: &str, is_due: impl Fn() -> bool) -> Output {
    let mut command = Command::new(HARNESS);
    command.args(line.split(' ')).current_dir(within);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let deadline = Instant::now() + DEADLINE;
    while !is_due() {
        assert!(Instant::now() < deadline, "nothing happened in time: {line}");
        thread::sleep(Duration::from_millis(5));
    }
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().expect("a process"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it is our child");
    child.wait_with_output().expect("it is our child")
}

/// Whether a file that something writes while a run lasts contains this.
fn is_in_a_run(store: &Path, text: &str) -> bool {
    fs::read_to_string(store.join("latest/history.jsonl"))
        .is_ok_and(|history| history.contains(text))
}

#[test]
fn a_violation_that_was_found_before_a_signal_is_kept() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let within = directory.path();
    let attempt = || {
        let mut found = fs::read_dir(within.join("c")).ok()?.flatten().map(|entry| entry.path());
        found.find(|path| path.join("runs").is_dir())
    };
    // A write that was decided when the master died is recorded as failed, and a later read returns its value.
    let test = "test --misreport-unknown --faults master-uncertainty --keys 2 --mix get=80,put=20 --tls no \
                --time-limit 60s --seed 1 --test-count 2";
    let line = format!("{test} --shard 1/1 --campaign c");
    let violated = "\"f\":\"broken\"";
    let output = signalled(within, &line, || {
        attempt().is_some_and(|path| is_in_a_run(&path.join("runs"), violated))
    });
    let bad = summary(&told(1, &output));
    assert_eq!(
        (&bad["verdict"], &bad["done"], &bad["planned"]),
        (&"invalid".into(), &1.into(), &2.into())
    );
    let merged = run(1, within, "merge c");
    let record = merged.lines().find_map(|line| line.trim().strip_prefix("record: "));
    assert!(within.join(record.expect("a record")).join("report.html").is_file(), "{merged}");
}

#[test]
fn runs_that_a_signal_ends_are_not_valid() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let within = directory.path();
    let line = "test --faults none --tls no --time-limit 60s --seed 4 --test-count 50";
    let store = within.join("histories");
    let output = signalled(within, line, || is_in_a_run(&store, "\"ok\""));
    let text = told(2, &output);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("a signal ended it after 1 of 50 runs"), "{errors}");
    assert!(text.contains("a signal interrupted the run"), "{text}");
    // It is in the record.
    let again = run(2, within, "check histories/latest");
    assert!(again.contains("a signal interrupted the run"), "{again}");
}

#[test]
fn a_check_that_is_killed_leaves_nothing_beside_the_history() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let within = directory.path();
    let text = run(0, within, "generate --ops 400000 --keys 400");
    fs::create_dir(within.join("input")).expect("the disk has room");
    fs::write(within.join("input/history.jsonl"), text).expect("the disk has room");
    let output = signalled(within, "check input/history.jsonl --shard 1/1 --campaign c", || {
        // It has begun, and partitions are what it does first.
        within.join("c").is_dir()
    });
    assert!(output.status.code() != Some(0), "it was too fast to be killed");
    let left: Vec<_> = fs::read_dir(within.join("input")).expect("it is there").flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn the_command_of_the_kubernetes_job_does_its_shard() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let job = include_str!("../campaign/schedulers/kubernetes.yaml");
    let line = job.lines().find_map(|line| line.trim().strip_prefix("command: "));
    let command: Vec<String> = serde_json::from_str(line.expect("a command")).expect("a list");
    let (program, arguments) = command.split_first().expect("a program");
    assert_eq!(program, "harness");
    // The volume is a directory here, and the seeds are few.
    let here = directory.path().to_str().expect("a name in UTF-8");
    let arguments: Vec<String> = arguments
        .iter()
        .map(|argument| {
            argument.replace("/campaign/", &format!("{here}/")).replace("0..100000", "0..200")
        })
        .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let shards = job.split("name: HARNESS_SHARDS\n").nth(1).and_then(|rest| rest.split('"').nth(1));
    let variables = [("JOB_COMPLETION_INDEX", "99"), ("HARNESS_SHARDS", shards.expect("a number"))];
    let told = summary(&told(0, &harness(directory.path(), &variables, &arguments)));
    assert_eq!((&told["shard"], &told["done"]), (&100.into(), &2.into()));
    assert!(directory.path().join("nightly/shard-100-of-100/summary.json").is_file());
}

/// A program that does as harness, but does shard 37 of a campaign in which a rule is broken, beside the other one, and
/// is killed at its first attempt at shard 50 when that has begun. The arguments are those of shard I of 100, by the
/// variable of the scheduler.
fn write_wrapper(within: &Path, index: &str) -> PathBuf {
    let path = within.join("wrapper");
    let text = format!(
        r#"#!/bin/bash
if [ "${{{index}}}" = 37 ]; then
    exec {HARNESS} "${{@/#campaign/broken}}" --break {BROKEN}
fi
if [ "${{{index}}}" = 50 ] && mkdir {}/first 2>/dev/null; then
    # Nobody reads what it prints, so that it does not come to its end.
    mkfifo first/output
    exec 3<>first/output
    dd if=/dev/zero of=first/output oflag=nonblock bs=4096 count=1000 2>/dev/null
    {HARNESS} "$@" >&3 3>&- &
    until ls -d campaign/.shard-050-of-100.* >/dev/null 2>&1; do sleep 0.02; done
    kill -KILL $!
    wait $!
    exit 137
fi
exec {HARNESS} "$@"
"#,
        within.display()
    );
    fs::write(&path, text).expect("the disk has room");
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&path, permissions).expect("it is ours");
    path
}

/// What both schedulers must have done.
#[track_caller]
fn check_campaign(within: &Path) {
    assert!(within.join("first").is_dir(), "no shard was killed");
    let merged = run(1, within, "merge campaign broken");
    assert!(merged.contains("100 of 100 shards"), "{merged}");
    assert!(merged.contains(", shard 37: ") && !merged.contains("missing"), "{merged}");
    let repeated = again(1, within, &merged);
    assert!(repeated.contains(": invalid"), "{repeated}");
    let hidden = fs::read_dir(within.join("campaign")).expect("it is there").flatten();
    let hidden =
        hidden.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b".")).count();
    assert_eq!(hidden, 0, "what the killed attempt left is removed");
}

#[test]
fn gnu_parallel_does_a_campaign() {
    if !is_installed("parallel") {
        return skipped(
            "a campaign by GNU parallel: it is not installed (apt-get install parallel)",
        );
    }
    let directory = tempfile::tempdir().expect("a directory for the test");
    let within = directory.path();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("campaign/schedulers/parallel.sh");
    let output = Command::new("sh")
        .arg(script)
        .args(["sim", "--seeds", "0..300"])
        .env("HARNESS", write_wrapper(within, "PARALLEL_SEQ"))
        .env("HOME", within)
        .current_dir(within)
        .output()
        .expect("it starts");
    // One shard is not valid.
    told(1, &output);
    check_campaign(within);
}

#[test]
fn slurm_does_a_campaign() {
    let programs = ["munged", "slurmctld", "slurmd", "sbatch", "unshare", "ip"];
    if let Some(missing) = programs.into_iter().find(|program| !is_installed(program)) {
        return skipped(&format!(
            "a campaign by Slurm: {missing} is not installed (apt-get install munge slurmctld slurmd slurm-client)"
        ));
    }
    let isolated =
        Command::new("unshare").args(["--pid", "--fork", "--net", "--uts", "true"]).output();
    if !isolated.is_ok_and(|output| output.status.success()) {
        return skipped("a campaign by Slurm: it takes namespaces, which need root");
    }
    let directory = tempfile::tempdir().expect("a directory for the test");
    let within = directory.path();
    let crate_directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    let daemons = within.join("slurm");
    fs::create_dir(&daemons).expect("the disk has room");
    let mut cluster = Command::new("bash")
        .arg(crate_directory.join("tests/support/slurm.sh"))
        .arg(&daemons)
        .args(["sbatch", "--wait"])
        .arg(crate_directory.join("campaign/schedulers/slurm.sh"))
        .args(["sim", "--seeds", "0..300"])
        .env("HARNESS", write_wrapper(within, "SLURM_ARRAY_TASK_ID"))
        .current_dir(within)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let deadline = Instant::now() + 5 * DEADLINE;
    while cluster.try_wait().expect("it is our child").is_none() {
        if Instant::now() > deadline {
            cluster.kill().expect("it is our child");
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    let output = cluster.wait_with_output().expect("it is our child");
    let said = |name: &str| fs::read_to_string(daemons.join(name)).unwrap_or_default();
    let status = output.status.code();
    assert_eq!(
        status,
        Some(1),
        "sbatch --wait: {}\n{}",
        String::from_utf8_lossy(&output.stderr),
        said("slurmctld.log")
    );
    assert!(
        said("slurmctld.log").contains("Requeuing JobId"),
        "no shard was requeued: {}",
        said("slurmctld.log")
    );
    check_campaign(within);
}
