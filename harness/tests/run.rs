//! Whole runs of the harness's program against real clusters: their verdicts, the files that they
//! leave, and that no process survives, however a run ends.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write as _},
    os::unix::{
        fs::chown,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

/// A generous limit for anything that is expected to happen.
const DEADLINE: Duration = Duration::from_secs(60);

/// One cluster at a time: several at once would compete for the machine, and the tests would test
/// timeouts.
static MACHINE: Mutex<()> = Mutex::new(());

/// The directories of a run: its records and its temporary files.
struct Workspace {
    store: TempDir,
    scratch: TempDir,
    _machine: MutexGuard<'static, ()>,
}

impl Workspace {
    fn new() -> Self {
        let directory = || tempfile::tempdir().expect("a directory for the test");
        let machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        Workspace { store: directory(), scratch: directory(), _machine: machine }
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_harness"));
        command.args(arguments.split_whitespace());
        command.arg("--store").arg(self.store.path());
        command.env("TMPDIR", self.scratch.path());
        command
    }

    /// Makes a run. Returns its exit status and its output.
    fn run(&self, arguments: &str) -> (Option<i32>, String) {
        let output = self.command(arguments).output().expect("the harness starts");
        let text = format!(
            "harness {arguments}\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        (output.status.code(), text)
    }

    fn start(&self, arguments: &str) -> Started {
        let mut command = self.command(arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Started(command.spawn().expect("the harness starts"))
    }

    fn latest(&self) -> PathBuf {
        fs::canonicalize(self.store.path().join("latest")).expect("a run directory")
    }

    /// The number of files in the directory for temporary files.
    fn left(&self) -> usize {
        fs::read_dir(self.scratch.path()).expect("it is there").count()
    }

    /// Waits until the history has this many lines.
    fn until_recorded(&self, lines: usize) {
        until("a history", || {
            let history = self.store.path().join("latest/history.jsonl");
            fs::read_to_string(history).is_ok_and(|text| text.lines().count() >= lines)
        });
    }
}

/// A running harness. Dropping it kills it.
struct Started(Child);

impl Started {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).expect("it runs");
    }

    fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        until("the end of the harness", || {
            status = self.0.try_wait().expect("it is our child");
            status.is_some()
        });
        status.expect("it has ended")
    }

    /// Its child processes, each with its start time, so that a reused process id is not mistaken for
    /// it. The kernel's lists of children leave some out while others end, so all processes are asked.
    fn children(&self) -> BTreeSet<(i32, String)> {
        let parent = self.0.id().to_string();
        let names = fs::read_dir("/proc").expect("there is /proc").flatten();
        let pids = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let child = |pid: i32| {
            let fields = stat(pid)?;
            (fields[PARENT] == parent).then(|| (pid, fields[START].clone()))
        };
        pids.filter_map(child).collect()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether disks can lose power here. If not, prints why.
fn disks() -> bool {
    match lab::disk::available() {
        Ok(()) => true,
        Err(why) => {
            // Past the capture of the test harness, which would hide it.
            let _ = writeln!(io::stderr(), "skipped: power loss: {why}");
            false
        }
    }
}

/// Makes the command run as a user who cannot mount file systems.
fn as_nobody(command: &mut Command, workspace: &Workspace) {
    const NOBODY: u32 = 65534;
    if disks() {
        for directory in [&workspace.store, &workspace.scratch] {
            chown(directory, Some(NOBODY), Some(NOBODY)).expect("root may");
        }
        command.uid(NOBODY).gid(NOBODY);
    }
}

/// The places of the parent and of the start time among the fields of [`stat`].
const PARENT: usize = 1;
const START: usize = 19;

/// The fields that the kernel tells of a process, after its name; `None` if it is gone or a zombie.
fn stat(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<String> = fields.split(' ').map(str::to_owned).collect();
    (fields[0] != "Z").then_some(fields)
}

/// The start time of a process, as the kernel counts it; `None` if it is gone or a zombie.
fn start_time(pid: i32) -> Option<String> {
    stat(pid).map(|mut fields| fields.swap_remove(START))
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "no {what} within {DEADLINE:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn json(path: &Path) -> serde_json::Value {
    let text = fs::read_to_string(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

#[test]
fn every_fault_alone_and_all_together_are_valid() {
    for faults in [
        "none",
        "kill-master",
        "kill-replica",
        "pause-master",
        "pause-replica",
        "restart-master",
        "restart-replica",
        "first-commit",
        "hostile-clients",
        "master-uncertainty",
        "replica-uncertainty",
        "partition",
        "messages",
        "second-master",
        "wipe-replica",
        "power-loss",
        "crash-matrix",
        "all",
    ] {
        if faults == "power-loss" && !disks() {
            continue;
        }
        let workspace = Workspace::new();
        let seconds = match faults {
            "all" => 16,
            "power-loss" | "crash-matrix" => 8,
            _ => 5,
        };
        let done = if faults == "all" && !disks() { "all-but-power-loss" } else { faults };
        let (status, text) =
            workspace.run(&format!("--faults {faults} --time-limit {seconds}s --seed 11"));
        assert_eq!(status, Some(0), "{text}");
        let last = text.lines().rfind(|line| line.starts_with("valid: "));
        assert!(last.is_some_and(|line| line.contains("twopc-")), "{text}");
        assert_eq!(workspace.left(), 0, "{text}");

        let run = workspace.latest();
        let test = json(&run.join("test.json"));
        assert_eq!(test["seed"], 11);
        let command = test["command"].as_str().expect("a command");
        assert!(command.contains(&format!("--faults {done} ")), "{command}");
        assert_eq!(json(&run.join("results.json"))["verdict"], "valid");
        assert_eq!(
            json(&run.join("final.json"))["replicas"].as_object().map(serde_json::Map::len),
            Some(3)
        );
        for node in ["master", "r1", "r2", "r3"] {
            for file in ["journal.bin", "log"] {
                let path = run.join("nodes").join(node).join(file);
                assert!(fs::metadata(&path).is_ok_and(|it| it.len() > 0), "{}", path.display());
            }
        }
        let mut replay = Command::new(env!("CARGO_BIN_EXE_harness"));
        let output = replay.arg("replay").arg(&run).output().expect("it starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert_eq!(text.matches(": same: ").count(), 4, "{text}");
        assert!(!text.contains("without a recorded result"), "{text}");
        let group = workspace.store.path().join(format!("twopc-{done}")).join("latest");
        assert_eq!(fs::canonicalize(group).ok(), Some(run));
    }
}

#[test]
fn a_killed_harness_leaves_no_process_and_a_readable_history() {
    let power_loss = disks().then_some("power-loss");
    for faults in ["none", "master-uncertainty", "pause-replica"].into_iter().chain(power_loss) {
        let workspace = Workspace::new();
        let mut harness = workspace.start(&format!("--faults {faults} --time-limit 60s --seed 3"));
        workspace.until_recorded(400);
        let mut nodes = BTreeSet::new();
        // A fault may have ended some of them, or all.
        until("most of the nodes", || {
            nodes = harness.children();
            nodes.len() >= 3
        });
        harness.signal(Signal::SIGKILL);
        assert_eq!(harness.wait().signal(), Some(9));
        for (pid, started) in nodes {
            until("end of every node", || start_time(pid).as_ref() != Some(&started));
        }

        let run = workspace.latest();
        let mut check = Command::new(env!("CARGO_BIN_EXE_harness"));
        let output = check.arg("check").arg(&run).output().expect("it starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // The end is missing, so some checks are unknown, but none is invalid.
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(
            text.lines().any(|line| line.contains("linearizability") && line.contains("valid"))
        );

        // The killed harness could not clean up. The next run does.
        assert_eq!(workspace.left(), 1);
        let (status, text) = workspace.run("--time-limit 1s");
        assert_eq!(status, Some(0), "{text}");
        assert_eq!(workspace.left(), 0);
    }
}

#[test]
fn ctrl_c_ends_a_run_in_order() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let workspace = Workspace::new();
        let mut harness = workspace.start("--faults pause-master --time-limit 60s --seed 4");
        workspace.until_recorded(400);
        until("pause", || {
            fs::read_to_string(workspace.store.path().join("latest/history.jsonl"))
                .is_ok_and(|text| text.contains(r#""f":"pause""#))
        });
        let nodes = harness.children();
        harness.signal(signal);
        assert_eq!(harness.wait().code(), Some(2), "after {signal}");
        for (pid, started) in nodes {
            assert_ne!(start_time(pid).as_ref(), Some(&started));
        }
        // What was recorded is judged, and nothing is wrong with it; but it is not the run that was asked for.
        let run = workspace.latest();
        let results = json(&run.join("results.json"));
        assert_eq!(results["verdict"], "unknown");
        let checks = results["checks"].as_array().expect("checks");
        for check in checks.iter().filter(|check| check["check"] != "unexpected-exits") {
            assert_eq!(check["verdict"], "valid", "{check}");
        }
        assert!(run.join("final.json").exists());
        assert_eq!(workspace.left(), 0);
    }
}

#[test]
fn a_fault_that_cannot_happen_makes_the_run_vacuous() {
    let workspace = Workspace::new();
    // Without writes there is no window of uncertainty.
    let (status, text) =
        workspace.run("--faults master-uncertainty --mix get=1 --time-limit 2s --seed 5");
    assert_eq!(status, Some(2), "{text}");
    assert!(text.contains("never injected"), "{text}");

    let mut inspect = Command::new(env!("CARGO_BIN_EXE_harness"));
    let output = inspect.arg("inspect").arg(workspace.latest()).output().expect("it starts");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(2), "{shown}");
    for part in ["--mix get=1,put=0,del=0", "Operations: ", "not reached", "never injected"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(shown.lines().last().is_some_and(|line| line.starts_with("unknown: ")), "{shown}");
}

#[test]
fn many_runs_print_a_line_each() {
    let workspace = Workspace::new();
    let (status, text) = workspace.run("--tls no --time-limit 1s --test-count 3 --seed 6");
    assert_eq!(status, Some(0), "{text}");
    let runs: Vec<_> = text.lines().filter(|line| line.starts_with("run ")).collect();
    assert_eq!(runs.len(), 3, "{text}");
    assert!(runs[0].starts_with("run 1 of 3: valid, seed 6, "), "{text}");
    let count = fs::read_dir(workspace.store.path().join("twopc-none")).expect("runs").count();
    assert_eq!(count, 4, "three runs and the link to the last");
}

#[test]
fn broken_rules_are_detected() {
    for (rule, faults, seconds) in [
        ("write-all", "kill-replica", 20),
        ("ack-after-durable", "replica-uncertainty", 20),
        // A read must meet the key of a write that waits for a vote. This needs many readers, and a
        // vote timeout longer than the pause of one replica while another restarts.
        (
            "relock-on-recovery",
            "kill-replica,pause-replica --concurrency 30 --timing vote_timeout_ms=4000",
            15,
        ),
        ("reads-respect-locks", "master-uncertainty", 20),
        ("exclusive-store", "second-master", 10),
        ("empty-store-refused", "wipe-replica", 10),
    ] {
        // Whether a crash hits what the rule protects is a matter of chance: three runs suffice.
        let detected = (7..10).any(|seed| {
            let workspace = Workspace::new();
            let arguments =
                format!("--break {rule} --faults {faults} --time-limit {seconds}s --seed {seed}");
            let (status, text) = workspace.run(&arguments);
            // On a busy machine a short run may end before every fault was injected.
            assert!(matches!(status, Some(0..=2)), "{text}");
            let last = text.lines().rfind(|line| line.starts_with("invalid: "));
            assert_eq!(status == Some(1), last.is_some_and(|line| line.contains(rule)), "{text}");
            status == Some(1)
        });
        assert!(detected, "{rule} was not detected");
    }
}

/// Each mistake is one that a single check sees: what it looks at, no other one does.
#[test]
fn mistakes_are_detected_by_the_check_that_looks() {
    for (mistake, run, check) in [
        ("version-before", "none --time-limit 2s", "reply-soundness"),
        ("watermark-stops", "none --time-limit 4s", "liveness"),
        ("vote-dropped", "none --time-limit 3s", "messages"),
        ("descriptor-leaked", "pause-master --time-limit 6s", "resources"),
        ("frame-end-forgotten", "kill-replica --time-limit 5s", "recovery"),
    ] {
        // A short run may have too few operations. A store that lacks the end of a frame may also find out by itself,
        // and then it is another check that sees the mistake.
        let detected = (1..9).any(|seed| {
            let workspace = Workspace::new();
            let (_, text) =
                workspace.run(&format!("--break {mistake} --faults {run} --seed {seed}"));
            text.lines().any(|line| {
                let mut words = line.split_whitespace();
                words.next() == Some(check) && words.next() == Some("invalid")
            })
        });
        assert!(detected, "{mistake} was not detected by {check}");
    }
}

#[test]
fn a_missing_sync_is_detected_by_a_power_loss_and_not_by_a_kill() {
    if !disks() {
        return;
    }
    for (broken, seconds) in [
        ("store-syncs", 10),
        ("store-meta-syncs", 10),
        // These need a kill, and a power loss right after the restart.
        ("epoch-forced", 15),
        ("incarnation-forced", 15),
    ] {
        let detected = (3..8).any(|seed| {
            let workspace = Workspace::new();
            let limits = format!("--time-limit {seconds}s --seed {seed}");
            let (status, text) =
                workspace.run(&format!("--break {broken} --faults power-loss {limits}"));
            assert!(matches!(status, Some(0..=2)), "{text}");
            status == Some(1)
        });
        assert!(detected, "{broken} was not detected");
    }
    for broken in ["store-syncs", "store-meta-syncs"] {
        let workspace = Workspace::new();
        let faults = "kill-master,kill-replica";
        let run = format!("--break {broken} --faults {faults} --time-limit 8s --seed 3");
        let (status, text) = workspace.run(&run);
        assert_eq!(status, Some(0), "{text}");
    }
}

#[test]
fn power_loss_without_permission_to_mount_is_one_line_of_error() {
    let workspace = Workspace::new();
    let mut command = workspace.command("--faults power-loss --time-limit 1s");
    as_nobody(&mut command, &workspace);
    let output = command.output().expect("the harness starts");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(254), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(
        text.contains("/dev/fuse") && text.contains("every other fault works without it"),
        "{text}"
    );
}

#[test]
fn all_leaves_out_power_loss_where_it_is_impossible() {
    let workspace = Workspace::new();
    let mut command = workspace.command("--faults all --time-limit 12s --seed 12");
    as_nobody(&mut command, &workspace);
    let output = command.output().expect("the harness starts");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    let warnings: Vec<_> =
        text.lines().filter(|line| line.contains("without power loss")).collect();
    assert!(matches!(warnings[..], [line] if line.contains("/dev/fuse")), "{text}");
    let run = workspace.latest();
    let command = json(&run.join("test.json"))["command"].to_string();
    assert!(command.contains(",wipe-replica,hostile-clients,crash-matrix "), "{command}");
    assert!(!command.contains("power-loss") && !command.contains("disk-"), "{command}");
    let history = fs::read_to_string(run.join("history.jsonl")).expect("a history");
    assert!(!history.contains("power-loss"));
    assert_eq!(workspace.left(), 0, "{text}");
}

/// Finds a counterexample for a broken rule with the model. Returns the schedule.
fn found_by_the_model(workspace: &Workspace, rule: &str, cluster: &[&str]) -> PathBuf {
    let schedule = workspace.scratch.path().join("schedule.json");
    let mut model = Command::new(env!("CARGO_BIN_EXE_harness"));
    model.args(["model", "--transactions", "1"]).args(cluster);
    model.args(["--break", rule, "--schedule"]).arg(&schedule);
    let output = model.output().expect("it starts");
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    schedule
}

#[test]
fn counterexamples_of_the_model_are_replayed_on_processes() {
    let crash: &[_] = &["--replica-crashes", "1"];
    let second_instance: &[_] = &["--second-instances", "1"];
    let crashes: &[_] = &["--master-crashes", "2"];
    let lost = ("epoch-forced", crashes, "before COMMIT was durable");
    for (rule, cluster, violation) in
        [("vote-forced", crash, "voted yes on 1.1"), ("exclusive-store", second_instance, "1.1")]
            .into_iter()
            .chain(disks().then_some(lost))
    {
        let workspace = Workspace::new();
        let schedule = found_by_the_model(&workspace, rule, cluster);
        let (status, text) = workspace.run(&format!("replay --real {}", schedule.display()));
        assert_eq!(status, Some(1), "{text}");
        assert!(text.contains("steps, 0 of them not forced"), "{text}");
        assert!(text.contains(violation), "{text}");
        assert_eq!(json(&workspace.latest().join("results.json"))["verdict"], "invalid");
        assert_eq!(workspace.left(), 1, "only the schedule: {text}");
    }
}

#[test]
fn a_step_that_cannot_be_forced_is_reported() {
    let workspace = Workspace::new();
    let crashes = ["--master-crashes", "2"];
    let schedule = found_by_the_model(&workspace, "epoch-forced", &crashes);
    let mut command = workspace.command(&format!("replay --real {}", schedule.display()));
    as_nobody(&mut command, &workspace);
    let output = command.output().expect("the harness starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let step = text.lines().skip_while(|line| !line.contains("loses power")).nth(1);
    let reported =
        step.is_some_and(|line| line.contains("NOT FORCED: killed instead, because no disk"));
    assert!(reported && text.contains("steps, 1 of them not forced"), "{text}");
}
