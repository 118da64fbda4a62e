//! Runs of systems that a file describes: the example and its repaired twin, clients that misbehave, and
//! what must not outlive a run.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use checker::{Results, Validity};
use tempfile::TempDir;

/// How long something has to happen that must happen.
const DEADLINE: Duration = Duration::from_secs(20);

/// Whether Python is here. Says so if it is not.
fn has_python() -> bool {
    let found =
        Command::new("python3").arg("--version").output().is_ok_and(|it| it.status.success());
    if !found {
        let _ = writeln!(io::stderr(), "skipped: python3 is not installed");
    }
    found
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systems/file/example").join(name)
}

fn harness(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_harness"));
    command.env("TMPDIR", directory).current_dir(directory).stdin(Stdio::null());
    command
}

fn run(directory: &Path, system: &Path, arguments: &[&str]) -> Output {
    let system = system.to_str().expect("it is UTF-8");
    let mut command = harness(directory);
    command.args(["--system", system, "--store", "runs"]).args(arguments);
    command.output().expect("the harness starts")
}

fn text(output: &Output) -> String {
    let both = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    both.join("\n")
}

fn results(directory: &Path) -> Results {
    let path = directory.join("runs/latest/results.json");
    let text = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).expect("it has the form of results")
}

fn scratch() -> TempDir {
    tempfile::tempdir().expect("a directory for the test")
}

/// The processes whose command line contains a text.
fn processes_with(part: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("there is /proc").flatten() {
        if entry.file_name() == *std::process::id().to_string() {
            continue;
        }
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(part) {
            found.push(format!("{} {line}", entry.file_name().display()));
        }
    }
    found
}

/// The processes that a test's shell scripts have become: those that follow a file of the test.
fn tails(marker: &str) -> Vec<String> {
    let mut found = processes_with(&format!("tail -f /dev/null {marker}"));
    // The scripts and the keepers have it in their arguments.
    found.retain(|line| !line.contains("__node") && !line.contains("sh -c"));
    found
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "not in time: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_example_is_not_linearizable() {
    if !has_python() {
        return;
    }
    let directory = scratch();
    let arguments =
        ["--workload", "register", "--faults", "kill,pause", "--time", "8s", "--seed", "7"];
    let output = run(directory.path(), &example("stale.toml"), &arguments);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let results = results(directory.path());
    let linearizability = results.check("linearizability").expect("it was checked");
    assert_eq!(linearizability.verdict, Validity::Invalid);
    // The record can be judged again, and shown.
    let again =
        harness(directory.path()).args(["check", "runs/latest"]).output().expect("it starts");
    assert_eq!(again.status.code(), Some(1), "{}", text(&again));
    let shown =
        harness(directory.path()).args(["inspect", "runs/latest"]).output().expect("it starts");
    assert!(text(&shown).contains("is not linearizable"), "{}", text(&shown));
    let page = fs::read_to_string(directory.path().join("runs/latest/report.html"));
    assert!(page.expect("the page was written").contains("linearizab"));
    let log = fs::read_to_string(directory.path().join("runs/latest/nodes/primary/log"));
    assert!(log.expect("the node has a log").contains("primary listens"));
}

#[test]
fn its_repaired_twin_is() {
    if !has_python() {
        return;
    }
    let directory = scratch();
    for workload in ["register", "cas-register"] {
        let arguments = [
            "--workload",
            workload,
            "--faults",
            "kill,pause,restart",
            "--time",
            "12s",
            "--seed",
            "7",
        ];
        let output = run(directory.path(), &example("fixed.toml"), &arguments);
        assert_eq!(output.status.code(), Some(0), "{workload}: {}", text(&output));
    }
}

#[test]
fn a_redacted_run_has_no_key_or_value_and_shows_the_same() {
    if !has_python() {
        return;
    }
    let directory = scratch();
    let arguments = ["--faults", "kill,pause", "--time", "8s", "--seed", "7", "--redact"];
    let output = run(directory.path(), &example("stale.toml"), &arguments);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let results = results(directory.path());
    let linearizability = results.check("linearizability").expect("it was checked");
    assert_eq!(linearizability.verdict, Validity::Invalid);
    for file in ["history.jsonl", "results.json", "nodes/primary/log"] {
        let path = directory.path().join("runs/latest").join(file);
        let kept = fs::read_to_string(path).expect("it was written");
        // The keys are k0 to k15.
        let is_key = |word: &str| word.starts_with('k') && word[1..].parse::<u32>().is_ok();
        let found = kept.split(|letter: char| !letter.is_alphanumeric()).find(|word| is_key(word));
        assert_eq!(found, None, "{file}");
    }
}

#[test]
fn a_fault_whose_second_part_hits_nobody_was_not_injected() {
    if !has_python() {
        return;
    }
    let directory = scratch();
    let arguments = ["--faults", "pause:all+kill", "--time", "4s", "--seed", "3"];
    let output = run(directory.path(), &example("fixed.toml"), &arguments);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    let why = "pause:all+kill was asked for and never injected";
    assert!(text(&output).contains(why), "{}", text(&output));
}

#[test]
fn a_run_that_becomes_too_large_is_unknown() {
    if !has_python() {
        return;
    }
    let directory = scratch();
    let arguments = ["--time", "60s", "--seed", "7", "--max-run-bytes", "100000"];
    let begun = Instant::now();
    let output = run(directory.path(), &example("fixed.toml"), &arguments);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("larger than --max-run-bytes allows"), "{}", text(&output));
    assert!(begun.elapsed() < Duration::from_secs(40), "the load was ended early");
}

/// The record is on a file system of 200 kB, in a mount namespace that ends with the harness.
#[test]
fn a_run_whose_record_finds_no_space_is_unknown() {
    let is_possible = Command::new("unshare").args(["-m", "true"]).output();
    if !is_possible.is_ok_and(|it| it.status.success()) || !has_python() {
        let _ = writeln!(io::stderr(), "skipped: a full disk: mounting a small one needs root");
        return;
    }
    let directory = scratch();
    fs::create_dir(directory.path().join("runs")).expect("a directory");
    let mount = r#"mount -t tmpfs -o size=200k none runs && "$@"; status=$?; cat runs/*/*/results.json; exit $status"#;
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", mount, "sh", env!("CARGO_BIN_EXE_harness"), "--system"])
        .arg(example("fixed.toml"))
        .args(["--store", "runs", "--time", "60s", "--seed", "7"])
        .env("TMPDIR", directory.path())
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("there is no space for the record"), "{}", text(&output));
    assert!(!text(&output).contains("\"verdict\": \"valid\""), "{}", text(&output));
}

/// A store that consists of a client only: registers in a file, behind a lock. The nodes do nothing.
const CLIENT: &str = r#"
import fcntl, json, os, sys, time
STORE, HOW = sys.argv[1:3]
hello = json.loads(sys.stdin.readline())
print(json.dumps({"hello": 1, "ops": ["read", "write", "txn"]}), flush=True)
def load():
    return json.load(open(STORE)) if os.path.exists(STORE) else {}
def step(data, f, key, value):
    if f == "append":
        data[key] = data.get(key, []) + [value]
    return [f, key, data.get(key, []) if f == "r" else value]
def perform(f, key, value):
    early = load()
    with open(STORE + ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        data = early if HOW == "unlocked" else load()
        answer = data.get(key)
        if f == "write":
            data[key] = answer = value
        if f == "txn":
            answer = [step(data, *one) for one in value]
        if f != "read":
            # A client that is killed leaves the old file or the new one.
            with open(STORE + ".new", "w") as new:
                json.dump(data, new)
            os.replace(STORE + ".new", STORE)
        return answer
count = 0
for line in sys.stdin:
    request = json.loads(line)
    answer = {"id": request["id"], "type": "ok"}
    if request["do"] == "invoke":
        count += 1
        answer["value"] = perform(request["f"], request["key"], request["value"])
        if count == 20:
            if HOW == "die":
                sys.exit(1)
            if HOW == "hang":
                time.sleep(1000)
            if HOW == "late":
                time.sleep(1.6)
            if HOW == "garbage":
                print("Traceback (most recent call last):", flush=True)
            if HOW == "twice":
                print(json.dumps(answer), flush=True)
            if HOW == "stranger":
                print(json.dumps({"id": 123456, "type": "ok"}), flush=True)
            if HOW == "untyped":
                answer["type"] = "done"
        if HOW == "unvalued" and request["f"] == "read" and count > 20:
            del answer["value"]
        if HOW == "lie" and request["f"] == "write" and count % 5 == 0:
            answer = {"id": request["id"], "type": "fail", "error": "conflict"}
    print(json.dumps(answer), flush=True)
"#;

/// Writes a system whose client misbehaves in one way.
fn misbehaving(directory: &Path, how: &str) -> PathBuf {
    fs::write(directory.join("client.py"), CLIENT).expect("the disk has room");
    let file = directory.join("misbehaving.toml");
    let system = format!(
        r#"
[system]
name = "misbehaving"
[roles.node]
count = 2
start = ["sh", "-c", "echo up; sleep 600"]
ports = []
ready = {{ log = "^up$" }}
[client]
kind = "exec"
command = ["python3", "{{home}}/client.py", "{{home}}/store", "{how}"]
[claims]
register = "linearizable"
"#
    );
    fs::write(&file, system).expect("the disk has room");
    file
}

#[test]
fn half_of_a_fault_is_no_fault() {
    if !has_python() {
        return;
    }
    let directory = scratch();
    let file = misbehaving(directory.path(), "not");
    let single = fs::read_to_string(&file).expect("it is there").replace("count = 2", "count = 1");
    fs::write(&file, single).expect("the disk has room");
    let arguments = ["--faults", "pause>kill:followers", "--time", "3s", "--seed", "3"];
    let output = run(directory.path(), &file, &arguments);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    let why = "part 2 of pause>kill:followers was asked for and never injected";
    assert!(text(&output).contains(why), "{}", text(&output));
}

#[test]
fn a_run_that_a_signal_ends_is_unknown() {
    if !has_python() {
        return;
    }
    let directory = scratch();
    let file = misbehaving(directory.path(), "not");
    let mut command = harness(directory.path());
    command.arg("--system").arg(&file).args(["--store", "runs", "--time", "60s", "--seed", "7"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    wait_until("an operation", || {
        let history = fs::read_to_string(directory.path().join("runs/latest/history.jsonl"));
        history.is_ok_and(|history| history.contains("\"ok\""))
    });
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().expect("a process"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it is our child");
    let output = child.wait_with_output().expect("it is our child");
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    // It is in the record, so that another check says the same.
    let again =
        harness(directory.path()).args(["check", "runs/latest"]).output().expect("it starts");
    assert_eq!(again.status.code(), Some(2), "{}", text(&again));
    assert!(text(&again).contains("a signal interrupted the run"), "{}", text(&again));
}

#[test]
fn transactions_of_a_client_are_judged_by_the_claim() {
    if !has_python() {
        return;
    }
    for (how, status, part) in
        [("behave", 0, "transactions     valid"), ("unlocked", 1, "transactions     invalid")]
    {
        let directory = scratch();
        let file = misbehaving(directory.path(), how);
        let arguments = [
            "--workload",
            "append",
            "--claim",
            "strict-serializable",
            "--time",
            "3s",
            "--rate",
            "150",
        ];
        let output = run(directory.path(), &file, &arguments);
        let text = text(&output);
        assert_eq!(output.status.code(), Some(status), "{how}: {text}");
        assert!(text.contains(part), "{how}: {text}");
        // The history is one of transactions for the checker of files, too.
        let again = harness(directory.path())
            .args(["check", "runs/latest/history.jsonl", "--claim", "strict-serializable"])
            .output()
            .expect("it starts");
        assert_eq!(again.status.code(), Some(status), "{how}");
    }
}

#[test]
fn nodes_run_under_the_account_that_the_file_names() {
    use std::os::unix::fs::PermissionsExt as _;
    if !nix::unistd::geteuid().is_root() {
        let _ = writeln!(io::stderr(), "skipped: only root can start a program as another account");
        return;
    }
    let directory = scratch();
    // The account has to reach its directory, which is in here.
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(directory.path(), open).expect("it is ours");
    let file = misbehaving(directory.path(), "behave");
    let text = fs::read_to_string(&file).expect("it was written");
    let text = text
        .replace("echo up;", "id -un; touch {dir}/own && echo up;")
        .replace("ports = []", "ports = []\nuser = \"nobody\"");
    fs::write(&file, text).expect("the disk has room");
    let output = run(directory.path(), &file, &["--time", "1s"]);
    let log = fs::read_to_string(directory.path().join("runs/latest/nodes/n1/log"));
    assert_eq!(log.expect("the node has a log"), "nobody\nup\n", "{}", self::text(&output));
    let refused =
        fs::read_to_string(&file).expect("it is here").replace("nobody", "no-such-account");
    fs::write(&file, refused).expect("the disk has room");
    let output = run(directory.path(), &file, &["--time", "1s"]);
    assert_eq!(output.status.code(), Some(254));
    assert!(self::text(&output).contains("there is no account 'no-such-account'"));
}

#[test]
fn clients_that_misbehave_are_never_valid_by_accident() {
    if !has_python() {
        return;
    }
    for (how, status, part) in [
        // The control: the same client, when it behaves.
        ("behave", 0, ""),
        // An operation was lost with the child, and another child goes on: nothing is wrong with that.
        ("die", 0, "the client has ended"),
        ("hang", 0, "the client did not answer in time"),
        ("late", 0, "the client did not answer in time"),
        ("garbage", 2, "a line is not JSON: Traceback"),
        ("twice", 2, "twice"),
        ("stranger", 2, "request 123456, which nobody has sent"),
        ("untyped", 2, "the type of an answer is ok, fail or info"),
        ("unvalued", 2, "an ok read needs a number, a text or null"),
        ("lie", 1, "is not linearizable"),
    ] {
        let directory = scratch();
        let file = misbehaving(directory.path(), how);
        let arguments = ["--time", "5s", "--seed", "3", "--concurrency", "4", "--keys", "4"];
        let output = run(directory.path(), &file, &arguments);
        assert_eq!(output.status.code(), Some(status), "{how}: {}", text(&output));
        let history = fs::read_to_string(directory.path().join("runs/latest/history.jsonl"));
        let recorded = history.expect("the history was written") + &text(&output);
        assert!(recorded.contains(part), "{how}: '{part}' is not in the record\n{}", text(&output));
    }
}

#[test]
fn a_trial_finds_what_makes_a_client_worthless() {
    if !has_python() {
        return;
    }
    let directory = scratch();
    let check = |file: &Path| {
        let mut command = harness(directory.path());
        command.args(["system", "check"]).arg(file).output().expect("it starts")
    };
    let good = check(&example("fixed.toml"));
    assert_eq!(good.status.code(), Some(0), "{}", text(&good));
    assert!(text(&good).contains("write while every node is killed: "), "{}", text(&good));
    // This one answers although every node is paused: it does not talk to them.
    let bad = check(&misbehaving(directory.path(), "behave"));
    assert_eq!(bad.status.code(), Some(254), "{}", text(&bad));
    assert!(text(&bad).contains("was answered ok while every node was paused"), "{}", text(&bad));
}

#[test]
fn what_is_wrong_with_a_file_is_named_with_its_line() {
    let directory = scratch();
    let file = directory.path().join("bad.toml");
    let good = fs::read_to_string(example("fixed.toml")).expect("the example is there");
    for (from, to, part) in [
        ("count = 2", "cuont = 2", "unknown field `cuont`"),
        ("count = 2", "count = 0", "bad.toml:16: count = 0: a role has from 1 to 99 nodes"),
        ("\"{name}\"", "\"{label}\"", "bad.toml:10: '{label}' is no placeholder"),
        ("kind = \"exec\"", "kind = \"java\"", "kind = 'java': expected exec"),
        ("tcp = \"client\"", "tcp = \"rpc\"", "the role has no such port; its ports are client"),
        (
            "register = \"linearizable\"",
            "register = \"fast\"",
            "unknown level 'fast': expected one of",
        ),
        ("register = \"linearizable\"", "wagon = \"linearizable\"", "there is no workload 'wagon'"),
        (
            "[claims]",
            "[hooks]\nmember_add = [\"true\"]\n\n[claims]",
            "member_remove and member_add belong together",
        ),
        (
            "\"python3\", \"{home}/client.py\"",
            "\"python-9\"",
            "the program 'python-9' is not found: install python3",
        ),
    ] {
        fs::write(&file, good.replacen(from, to, 1)).expect("the disk has room");
        let output = run(directory.path(), &file, &["--time", "1s"]);
        assert_eq!(output.status.code(), Some(254), "{part}: {}", text(&output));
        assert!(text(&output).contains(part), "'{part}' is not in: {}", text(&output));
        assert!(text(&output).contains("bad.toml:"), "no line in: {}", text(&output));
    }
    for (fault, part) in
        [("replace", "add member_remove and member_add"), ("promote", "add promote")]
    {
        let output = run(directory.path(), &example("fixed.toml"), &["--faults", fault]);
        assert_eq!(output.status.code(), Some(254), "{fault}: {}", text(&output));
        assert!(text(&output).contains(part), "'{part}' is not in: {}", text(&output));
    }
    let missing = run(directory.path(), Path::new("./missing.toml"), &[]);
    assert!(text(&missing).contains("harness system new NAME"), "{}", text(&missing));
}

#[test]
fn members_are_replaced_and_promoted_and_a_hook_that_does_nothing_is_found() {
    let has_etcd = Command::new("etcd").arg("--version").output().is_ok();
    if !has_python() || !has_etcd {
        let _ = writeln!(io::stderr(), "skipped: etcd is not installed");
        return;
    }
    let directory = scratch();
    let arguments = ["--faults", "replace,promote", "--time", "12s", "--seed", "1"];
    let output = run(directory.path(), &example("etcd.toml"), &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let results = results(directory.path());
    let faults = results.check("faults").expect("it is made").measured["injected"].clone();
    for fault in ["replace", "promote"] {
        assert!(faults[fault].as_i64() >= Some(1), "{faults}");
    }

    let idle = fs::read_to_string(example("etcd.toml")).expect("the example is there");
    let (before, after) = idle.split_once("promote = [").expect("it has the hook");
    let (_, after) = after.split_once('\n').expect("more follows");
    let file = directory.path().join("idle.toml");
    fs::write(&file, format!("{before}promote = [\"true\"]\n{after}")).expect("there is room");
    fs::copy(example("etcd-members.py"), directory.path().join("etcd-members.py")).expect("room");
    let mut command = harness(directory.path());
    let output = command.args(["system", "check"]).arg(&file).output().expect("it starts");
    assert_eq!(output.status.code(), Some(254), "{}", text(&output));
    assert!(text(&output).contains("n3 is added, and all are ready"), "{}", text(&output));
    assert!(text(&output).contains("was promoted, and the hook leader says"), "{}", text(&output));
}

#[test]
fn a_new_file_is_a_file() {
    let directory = scratch();
    let new = || {
        let mut command = harness(directory.path());
        command.args(["system", "new", "mykv"]).output().expect("it starts")
    };
    let output = new();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    // All that is missing is the program.
    let file = directory.path().join("mykv.toml");
    let checked = run(directory.path(), &file, &[]);
    assert!(text(&checked).contains("the program './mykv' is not found"), "{}", text(&checked));
    fs::write(directory.path().join("mykv"), "").expect("the disk has room");
    assert!(directory.path().join("mykv-client.py").exists());
    let again = new();
    assert_eq!(again.status.code(), Some(254), "{}", text(&again));
    assert!(text(&again).contains("is not overwritten"), "{}", text(&again));
}

#[test]
fn nothing_outlives_a_harness_that_is_killed() {
    if !has_python() {
        return;
    }
    let directory = scratch();
    let file = directory.path().join("forking.toml");
    // A node that leaves its process group and its parent, as daemons do.
    let marker = format!("{}/marker", directory.path().display());
    let system = format!(
        r#"
[system]
name = "forking"
[roles.node]
count = 2
start = ["sh", "-c", "(setsid sh -c 'echo up; exec tail -f /dev/null {marker}' &); echo up; exec tail -f /dev/null {marker}"]
ports = []
ready = {{ log = "^up$" }}
[client]
kind = "exec"
command = ["python3", "{{home}}/client.py", "{{home}}/store", "behave"]
"#
    );
    misbehaving(directory.path(), "behave");
    fs::write(&file, system).expect("the disk has room");
    fs::write(directory.path().join("marker"), "").expect("the disk has room");
    let mut harness = harness(directory.path());
    harness.args(["--system", "./forking.toml", "--time", "60s", "--store", "runs"]);
    let harness = harness.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut harness = KillOnDrop(harness.expect("the harness starts"));
    let tails = || tails(&marker);
    let clients = || processes_with(&format!("{}/client.py", directory.path().display()));
    wait_until("the nodes and clients run", || tails().len() >= 4 && !clients().is_empty());
    harness.0.kill().expect("it runs");
    harness.0.wait().expect("it was killed");
    wait_until("everything is gone", || tails().is_empty() && clients().is_empty());
}

/// Makes a run in the virtual network. `None`, with a line, where there can be none.
fn run_in_network(directory: &Path, system: &Path, arguments: &[&str]) -> Option<Output> {
    let output = run(directory, system, arguments);
    let said = text(&output);
    let why = said.lines().find(|line| line.contains("a virtual network needs"));
    if let Some(why) = why {
        assert_eq!(output.status.code(), Some(254), "{said}");
        let _ = writeln!(io::stderr(), "skipped: {why}");
        return None;
    }
    Some(output)
}

/// The values of the events of a kind in the history of the last run.
fn events(directory: &Path, f: &str) -> Vec<serde_json::Value> {
    let path = directory.join("runs/latest/history.jsonl");
    let history = fs::read_to_string(&path).expect("the run has a history");
    let events = history.lines().filter_map(|line| serde_json::from_str(line).ok());
    let events = events.filter(|event: &serde_json::Value| event["f"] == f);
    events.map(|event| event["value"].clone()).collect()
}

#[test]
fn a_replica_that_is_cut_off_is_stale_and_the_repaired_twin_is_not() {
    if !has_python() {
        return;
    }
    let faults = "partition:replica1,partition:one-way";
    let arguments = ["--faults", faults, "--time", "12s", "--seed", "7"];
    for (file, status) in [("stale.toml", 1), ("fixed.toml", 0)] {
        let directory = scratch();
        let Some(output) = run_in_network(directory.path(), &example(file), &arguments) else {
            return;
        };
        assert_eq!(output.status.code(), Some(status), "{file}: {}", text(&output));
        let injected = events(directory.path(), "network-fault");
        let of_replica = injected.iter().find(|value| value["fault"] == "partition:replica1");
        let of_replica = of_replica.expect("it was injected");
        assert_eq!(of_replica["at"], "replica1 | primary, replica2", "{of_replica}");
        assert_eq!(of_replica["messages"].as_array().map(Vec::len), Some(4), "{of_replica}");
        let restored = events(directory.path(), "network-restored");
        assert_eq!(restored.len(), injected.len());
        let dropped = |value: &serde_json::Value| value["intercepted"]["messages"].as_u64();
        assert!(restored.iter().any(|value| dropped(value) > Some(0)), "{restored:?}");
        let health = events(directory.path(), "network-health");
        assert_eq!((health.len(), &health[0]["dropped"]), (1, &serde_json::json!(0)));
    }
}

#[test]
fn a_partition_that_drops_no_packet_was_not_injected() {
    if !has_python() {
        return;
    }
    let directory = scratch();
    // Its nodes do nothing.
    let file = misbehaving(directory.path(), "behave");
    let arguments = ["--faults", "partition:halves", "--time", "6s", "--seed", "7"];
    let Some(output) = run_in_network(directory.path(), &file, &arguments) else { return };
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    let expected = "partition:halves was asked for and never injected";
    assert!(text(&output).contains(expected), "{}", text(&output));
    let missed = events(directory.path(), "miss");
    assert_eq!(missed[0]["why"], "no packet was sent over the links that were cut");
}

#[test]
fn where_nodes_run_is_chosen_by_the_file_the_fault_and_the_option() {
    let directory = scratch();
    let refused = |system: &Path, arguments: &[&str], part: &str| {
        let output = run(directory.path(), system, arguments);
        assert_eq!(output.status.code(), Some(254), "{}", text(&output));
        assert!(text(&output).contains(part), "{}", text(&output));
    };
    let file = misbehaving(directory.path(), "behave");
    let partition = ["--lab", "local", "--faults", "partition"];
    refused(&file, &partition, "partition needs the virtual network");
    let written = fs::read_to_string(&file).expect("it was written");
    let with = |line: &str| {
        let text = written.replace("name = \"misbehaving\"", &format!("name = \"m\"\n{line}"));
        fs::write(&file, text).expect("the disk has room");
    };
    with("netns = \"required\"");
    refused(&file, &["--lab", "local"], "the system file says netns = \"required\"");
    with("netns = \"always\"");
    refused(&file, &[], "misbehaving.toml:4: netns = 'always': expected required or best");
    if !has_python() {
        return;
    }
    for (line, lab) in [("", None), ("netns = \"best\"", Some("netns"))] {
        with(line);
        let Some(output) = run_in_network(directory.path(), &file, &["--time", "1s"]) else {
            return;
        };
        assert!(output.status.code() < Some(254), "{}", text(&output));
        let test = fs::read_to_string(directory.path().join("runs/latest/test.json"));
        let test: serde_json::Value =
            serde_json::from_str(&test.expect("it was written")).expect("it is JSON");
        // Where there can be no network, this one does without.
        let is_as_asked = test["lab"].as_str() == lab || fs::metadata("/dev/net/tun").is_err();
        assert!(is_as_asked, "{line}: {test}");
    }
}

struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a tree under a keeper, and checks that signals reach all of it.
fn keeper_holds_a_tree(options: &[&str]) {
    let directory = scratch();
    let marker = directory.path().join("marker").display().to_string();
    let script = format!("(setsid tail -f /dev/null {marker} &); exec tail -f /dev/null {marker}");
    fs::write(&marker, "").expect("the disk has room");
    let mut command = Command::new(env!("CARGO_BIN_EXE_harness"));
    command.arg("__node").args(options).args(["--", "sh", "-c", &script]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut keeper = KillOnDrop(command.spawn().expect("the keeper starts"));
    let mut stdin = keeper.0.stdin.take().expect("it is piped");
    let tails = || tails(&marker);
    let states = || -> Vec<char> {
        let state = |line: String| {
            let pid = line.split(' ').next().unwrap_or_default();
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).unwrap_or('?')
        };
        tails().into_iter().map(state).collect()
    };
    wait_until("both run", || tails().len() == 2);
    stdin.write_all(b"signal 19\n").expect("the keeper reads");
    wait_until("both are stopped", || states() == ['T', 'T']);
    stdin.write_all(b"signal 18\n").expect("the keeper reads");
    wait_until("both run again", || states().iter().all(|state| *state == 'S'));
    stdin.write_all(b"signal 9\n").expect("the keeper reads");
    let status = keeper.0.wait().expect("it is our child");
    assert!(!status.success());
    // The keeper exits when the tree is gone, not before.
    assert!(tails().is_empty());
}

#[test]
fn a_keeper_holds_a_tree_in_a_namespace() {
    keeper_holds_a_tree(&[]);
}

#[test]
fn a_keeper_holds_a_tree_without_namespaces() {
    keeper_holds_a_tree(&["--subreaper"]);
}

#[test]
fn a_keeper_exits_as_the_program_did() {
    use std::os::unix::process::ExitStatusExt as _;
    for options in [&[][..], &["--subreaper"]] {
        let status = |script: &str| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_harness"));
            command.arg("__node").args(options).args(["--", "sh", "-c", script]);
            let mut keeper = KillOnDrop(command.stdin(Stdio::piped()).spawn().expect("it starts"));
            let stdin = keeper.0.stdin.take();
            let status = keeper.0.wait().expect("it is our child");
            drop(stdin);
            status
        };
        assert_eq!(status("exit 7").code(), Some(7));
        assert_eq!(status("kill -TERM $$").signal(), Some(15));
    }
}
