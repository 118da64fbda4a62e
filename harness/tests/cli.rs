//! The command line from outside: errors have a reason and an exit status, and the help describes
//! every fault.

#[path = "support/copy.rs"]
mod copy;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use twopc::faults::FaultName;

use self::copy::copy;

fn harness(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_harness")).args(arguments).output().expect("it starts")
}

#[test]
fn bad_arguments_end_with_254_and_a_reason() {
    let empty = tempfile::tempdir().expect("a directory for the test");
    let empty = empty.path().to_str().expect("a name in UTF-8");
    for (arguments, reason) in [
        (vec!["--faults", "kill-mister"], "'kill-mister' is not a fault"),
        (vec!["--faults", "none,kill-master"], "cannot be combined"),
        (vec!["test", "--faults", ""], "is not a fault"),
        (vec!["--time-limit", "soon"], "'soon' is not a duration"),
        (vec!["--concurrency", "0"], "not in 1.."),
        (vec!["--keys", "0"], "not in 1.."),
        (vec!["--replicas", "33"], "not in 1.."),
        (vec!["--rate=-1"], "is not a rate"),
        (vec!["--mix", "get=0"], "greater than 0"),
        (vec!["--mix", "cas=1"], "'cas' is not an operation"),
        (vec!["--faults", "kill-master", "--shard", "1/2"], "add crash-matrix to --faults"),
        (vec!["--seed", "lucky"], "invalid digit"),
        (vec!["--system", "oracle"], "twopc"),
        (vec!["--system-bin", empty], "there is no program"),
        (vec!["--break", "the-bank"], "unknown rule 'the-bank'"),
        (vec!["--store", "/dev/null/histories"], "--store"),
        (vec!["--no-such-flag"], "--no-such-flag"),
        (vec!["sing"], "sing"),
        (vec!["check"], "PATH"),
        (vec!["check", empty], "history.jsonl"),
        (vec!["check", "/nonexistent"], "/nonexistent"),
        (vec!["check", "a", "b", "--certify", "c"], "one PATH"),
        (vec!["check", "a", "--format", "xml"], "unknown format 'xml'"),
        (vec!["check", "a", "--initial"], "a value is required"),
        (vec!["check", "a", "--spec", "queue"], "unknown specification 'queue'"),
        (vec!["check", "a", "--memory", "1"], "not in 16"),
        (vec!["rules", "--commit", "votes", "decision-forced"], "use --commit logged"),
        (vec!["rules", "--real", "veto-forced"], "use --commit votes"),
        (vec!["--break", "veto-forced"], "has no effect with commit = logged: use --commit votes"),
        (vec!["test", "--commit", "votes", "--break", "no-guess-in-doubt"], "use --commit logged"),
        (vec!["model", "--break", "late-yes-is-void"], "use --commit votes"),
        (vec!["model", "--commit", "votes", "--break", "decision-forced"], "use --commit logged"),
        (vec!["sim", "--seeds", "0..1", "--break", "no-presumption"], "use --commit votes"),
        (vec!["verify", "/nonexistent", "c"], "/nonexistent"),
        (vec!["export", empty, "--format", "edn"], "history.jsonl"),
        (vec!["export", empty, "--format", "xml"], "unknown export format 'xml'"),
        (vec!["replay", empty], "journal"),
        (vec!["inspect", empty], "test.json"),
    ] {
        let output = harness(&arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(254), "{arguments:?}: {text}");
        assert!(text.contains(reason), "{arguments:?}: {text}");
        assert!(!text.contains("panicked"), "{arguments:?}: {text}");
    }
}

#[test]
fn old_names_are_accepted_with_a_warning() {
    // The run itself is refused, because two of the options make no sense together.
    let output = harness(&["--faults", "twin-master", "--part", "1/2", "--timing", "vote=900"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(254), "{text}");
    for (old, new) in
        [("twin-master", "second-master"), ("--part", "--shard"), ("vote", "vote_timeout_ms")]
    {
        assert!(text.contains(&format!("'{old}' is now called '{new}'")), "{text}");
    }
    assert!(text.contains("only the crash matrix has shards"), "{text}");
}

#[test]
fn the_help_describes_every_fault() {
    let output = harness(&["--help"]);
    assert!(output.status.success());
    let help = String::from_utf8_lossy(&output.stdout);
    for fault in FaultName::ALL {
        assert!(help.contains(fault.name()), "{fault}");
    }
    for part in ["254", "255", "results.json", "Ctrl-C", "Examples", "--test-count"] {
        assert!(help.contains(part), "{part}");
    }
    assert!(harness(&["--version"]).status.success());
}

#[test]
fn a_run_is_inspected() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../histories/golden");
    copy(&kept.join("checks/linearizability-invalid"), directory.path());
    let path = directory.path().to_str().expect("a name in UTF-8");
    let inspect = |arguments: &[&str]| {
        let output = harness(arguments);
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(!text.contains('\u{1b}'), "colours without a terminal: {text}");
        (output.status.code(), text)
    };
    let (status, text) = inspect(&["inspect", path]);
    assert_eq!(status, Some(2), "{text}");
    assert!(text.contains("not checked yet"), "{text}");

    let (status, text) = inspect(&["check", path]);
    assert_eq!(status, Some(1), "{text}");
    for file in ["report.html", "latency.svg", "quantiles.svg", "rate.svg", "in-doubt.svg"] {
        assert!(directory.path().join(file).exists(), "{file}");
    }
    let (status, text) = inspect(&["inspect", path]);
    assert_eq!(status, Some(1), "{text}");
    for part in [
        "The history of k1 is not linearizable",
        "├",
        "the longest linearizable prefix ends with: ",
        "Operations: 8",
        "linearizability  invalid",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let (_, all) = inspect(&["inspect", path, "--json"]);
    let all: serde_json::Value = serde_json::from_str(&all).expect("JSON");
    assert_eq!(all["verdict"], "invalid");
    assert_eq!(all["counterexamples"][0]["key"], "k1");
    let count = |more: &[&str]| {
        let (_, text) = inspect(&[&["inspect", path, "--json"], more].concat());
        let text: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        text["operations"].as_array().map(Vec::len)
    };
    assert_eq!(count(&[]), None, "operations are listed only on request");
    let total = all["operations_total"].as_u64().and_then(|n| usize::try_from(n).ok());
    assert_eq!(count(&["--from", "0s"]), total);
    assert_eq!(count(&["--to", "0s", "--from", "0s"]).map(|n| n < total.unwrap_or(0)), Some(true));
    let of_key = count(&["--key", "k1"]).expect("some");
    assert!(of_key > 0 && of_key <= total.expect("a number"));
    assert_eq!(count(&["--key", "no-such-key"]), Some(0));
    assert_eq!(count(&["--process", "4000000000"]), Some(0));
    assert_eq!(harness(&["inspect", path, "--from", "soon"]).status.code(), Some(254));
}

/// Runs a command and writes its standard output to a file.
fn into_file(arguments: &[&str], path: &Path) {
    let output = harness(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    fs::write(path, output.stdout).expect("the disk has room");
}

/// Runs a command. Returns its exit status and its output.
fn output_of(arguments: &[&str]) -> (Option<i32>, String) {
    let output = harness(arguments);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn histories_in_files_are_checked_certified_and_exported() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let path = |name: &str| directory.path().join(name).to_str().expect("UTF-8").to_owned();
    let [good, bad, edn, porcupine, certificate] =
        ["good.jsonl", "bad.jsonl", "good.edn", "bad.txt", "certificate"].map(path);
    let generate = ["generate", "--ops", "3000", "--keys", "3", "--seed", "4"];
    into_file(&generate, Path::new(&good));
    into_file(&[&generate[..], &["--violate", "lost-write"]].concat(), Path::new(&bad));
    into_file(&["export", &good, "--format", "edn"], Path::new(&edn));
    into_file(&["export", &bad, "--format", "porcupine"], Path::new(&porcupine));

    // Several files: a total, and a line for each that is not valid; on demand one for the others too.
    let (status, text) = output_of(&["check", &good, &bad, &edn, &porcupine]);
    assert_eq!((status, text.contains(&format!("valid: {good}"))), (Some(1), false), "{text}");
    let (status, text) = output_of(&["check", "--each", &good, &bad, &edn, &porcupine]);
    assert_eq!(status, Some(1), "{text}");
    for part in [
        format!("valid: {good}: 3000 operations on 3 keys"),
        format!("invalid: {bad}: "),
        format!("valid: {edn}: "),
        format!("invalid: {porcupine}: "),
        "k0 is not linearizable: ".to_owned(),
        "4 files: 2 valid, 2 invalid, 0 unknown".to_owned(),
    ] {
        assert!(text.contains(&part), "{part}\n{text}");
    }
    let (status, text) = output_of(&["check", "--json", &bad]);
    let report: serde_json::Value = serde_json::from_str(&text).expect("one JSON object");
    assert_eq!(
        (status, &report["verdict"], &report["format"]),
        (Some(1), &"invalid".into(), &"jsonl".into())
    );

    // The format can be given, and is then not detected.
    assert_eq!(output_of(&["check", &edn, "--format", "edn", "--spec", "register"]).0, Some(0));
    let (status, text) = output_of(&["check", &edn, "--format", "jsonl"]);
    assert_eq!((status, text.contains("good.edn:1:")), (Some(254), true), "{text}");
    // Without time there is no verdict. Registers need no search, so the history is of another object.
    fs::write(path("append"), APPENDS).expect("the disk has room");
    assert_eq!(output_of(&["check", &path("append")]).0, Some(0));
    let (status, text) = output_of(&["check", &path("append"), "--timeout", "0"]);
    assert_eq!((status, text.contains("no verdict within 0ns")), (Some(2), true), "{text}");
    let (status, text) = output_of(&["check", &path("append"), "--spec", "register"]);
    assert_eq!(
        (status, text.contains("append:1:1: a register has no append")),
        (Some(254), true),
        "{text}"
    );

    // A certificate is valid by itself, and only for its own history.
    let (status, text) = output_of(&["check", &good, "--certify", &certificate]);
    assert_eq!((status, text.contains("3 of 3 keys certified")), (Some(0), true), "{text}");
    let (status, text) = output_of(&["verify", &good, &certificate]);
    assert_eq!((status, text.starts_with("valid: ")), (Some(0), true), "{text}");
    let (status, text) = output_of(&["verify", &bad, &certificate]);
    assert_eq!((status, text.starts_with("invalid: ")), (Some(1), true), "{text}");
    // With two operations of the order exchanged, the verifier must reject the certificate.
    let lines = fs::read_to_string(&certificate).expect("it was just written");
    let mut line: serde_json::Value =
        serde_json::from_str(lines.lines().next().expect("a key")).expect("JSON");
    let order = line["order"].as_array_mut().expect("an order");
    let last = order.len() - 1;
    order.swap(0, last);
    let rest: String = lines.lines().skip(1).map(|line| format!("{line}\n")).collect();
    fs::write(&certificate, format!("{line}\n{rest}")).expect("the disk has room");
    let (status, text) = output_of(&["verify", &good, &certificate]);
    assert_eq!((status, text.starts_with("invalid: ")), (Some(1), true), "{text}");
    fs::write(&certificate, "{\"key\":3}\n").expect("the disk has room");
    let (status, text) = output_of(&["verify", &good, &certificate]);
    assert_eq!((status, text.contains("certificate:1:8: ")), (Some(254), true), "{text}");
}

#[test]
fn many_files_are_judged_although_some_cannot_be_read() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let root = directory.path();
    let write = |name: &str, text: &str| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("it is in a directory"))
            .expect("the disk has room");
        fs::write(path, text).expect("the disk has room");
    };
    let good = "0\t:invoke\t:write\t1\n0\t:ok\t:write\t1\n";
    let stale = format!("{good}1\t:invoke\t:read\tnil\n1\t:ok\t:read\tnil\n");
    write("a.txt", good);
    // A directory of Jepsen's store counts as one history, whatever else is in it.
    write("store/history.txt", good);
    write("store/test.jepsen", "JEPSEN\0");
    write("store/results.edn", "{:valid? true}");
    write(".hidden", "no history");
    let all = |arguments: &[&str]| {
        let root = root.to_str().expect("a name in UTF-8");
        output_of(&[&["check", root], arguments].concat())
    };
    let (status, text) = all(&[]);
    assert_eq!((status, &*text), (Some(0), "2 files: 2 valid, 0 invalid, 0 unknown\n"), "{text}");
    let (_, text) = all(&["--each"]);
    assert!(text.contains("store/history.txt: 1 operations on 1 keys"), "{text}");

    // One that cannot be read is one line, and does not keep the others from being judged.
    write("b.jepsen", "JEPSEN\0");
    let (status, text) = all(&[]);
    assert_eq!((status, text.lines().count()), (Some(254), 2), "{text}");
    assert!(
        text.contains("b.jepsen:1:1: Jepsen's binary format (.jepsen): give history.edn"),
        "{text}"
    );
    assert!(text.ends_with("3 files: 2 valid, 0 invalid, 0 unknown, 1 unreadable\n"), "{text}");
    let (_, text) = all(&["--json"]);
    assert_eq!(text.lines().filter(|line| line.contains("\"verdict\":null")).count(), 1, "{text}");

    // A history without operations is unknown. A file that cannot be read outranks it.
    write("c.edn", "[]");
    assert_eq!(all(&[]).0, Some(254));
    fs::remove_file(root.join("b.jepsen")).expect("it was written");
    assert_eq!(all(&[]).0, Some(2));

    // A violation outranks everything.
    write("b.jepsen", "JEPSEN\0");
    write("d.txt", &stale);
    let (status, text) = all(&[]);
    assert!(text.contains("'get = nothing' of process 1"), "{text}");
    assert!(text.ends_with("5 files: 2 valid, 1 invalid, 1 unknown, 1 unreadable\n"), "{text}");
    assert_eq!(status, Some(1));
}

#[test]
fn registers_can_begin_with_a_value() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let path = |name: &str| directory.path().join(name).to_str().expect("UTF-8").to_owned();
    let history = path("history.txt");
    fs::write(&history, "0\t:invoke\t:read\tnil\n0\t:ok\t:read\t[7]\n").expect("the disk has room");
    let (status, text) = output_of(&["check", &history]);
    assert_eq!((status, text.contains("--initial '[7]'")), (Some(1), true), "{text}");
    assert_eq!(output_of(&["check", &history, "--initial", "(7)"]).0, Some(0));
    assert_eq!(output_of(&["check", &history, "--initial", "[7.0]"]).0, Some(1));
    let (status, text) = output_of(&["check", &history, "--initial", "[7"]);
    assert_eq!((status, text.contains("--initial '[7': not closed")), (Some(254), true), "{text}");

    // A certificate is for the same initial value.
    let certificate = path("certificate");
    let certify = ["check", &history, "--initial", "[7]", "--certify", &certificate];
    assert_eq!(output_of(&certify).0, Some(0));
    assert_eq!(output_of(&["verify", &history, &certificate]).0, Some(1));
    assert_eq!(output_of(&["verify", &history, &certificate, "--initial", "[7]"]).0, Some(0));
}

/// What clears a screen, in a terminal that is sent it.
const CLEAR: &str = "\u{1b}[2J\u{9b}8m";

#[test]
fn what_a_record_says_cannot_control_the_terminal() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../histories/golden");
    copy(&kept.join("checks/linearizability-invalid"), directory.path());
    let path = directory.path().to_str().expect("a name in UTF-8");
    let history = directory.path().join("history.jsonl");
    let text = fs::read_to_string(&history).expect("the kept history");
    let key = serde_json::to_string(&format!("k1{CLEAR}\nvalid: all")).expect("JSON");
    fs::write(&history, text.replace("\"k1\"", &key)).expect("the disk has room");
    let file = history.to_str().expect("a name in UTF-8");
    let mut wrong = fs::read_to_string(&history).expect("the history");
    wrong = wrong.replacen("\"invoke\"", "\"ok\"", 1).replacen("\"get\"", &key, 1);
    let malformed = directory.path().join("malformed.jsonl");
    fs::write(&malformed, wrong).expect("the disk has room");
    let malformed = malformed.to_str().expect("a name in UTF-8");
    for arguments in [
        &["check", path][..],
        &["check", file],
        &["check", file, malformed],
        &["check", malformed],
        &["check", "--json", file],
        &["inspect", path],
        &["inspect", path, "--process", "0", "--process", "1", "--process", "2"],
        &["inspect", path, "--json"],
        &["replay", path],
        &["verify", file, malformed],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_harness"))
            .args(arguments)
            .env("CLICOLOR_FORCE", "1")
            .output()
            .expect("it starts");
        let text = String::from_utf8([output.stdout, output.stderr].concat()).expect("text");
        assert!(!text.contains("\u{1b}[2J") && !text.contains('\u{9b}'), "{arguments:?}: {text:?}");
        assert!(text.lines().all(|line| line != "valid: all"), "{arguments:?}: {text:?}");
        if arguments[1] != malformed && !["replay", "verify"].contains(&arguments[0]) {
            assert!(text.contains("k1\\u001b[2J\\u009b8m"), "{arguments:?}: {text}");
        }
        if arguments.contains(&"--json") {
            assert!(
                serde_json::from_str::<serde_json::Value>(&text).is_ok(),
                "{arguments:?}: {text}"
            );
        }
    }
}

#[test]
fn no_time_in_a_history_stops_the_harness() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../histories/golden");
    copy(&kept.join("checks/linearizability-invalid"), directory.path());
    let path = directory.path().to_str().expect("a name in UTF-8");
    let file = directory.path().join("history.jsonl");
    let history = fs::read_to_string(&file).expect("the kept history");
    let mut lines: Vec<serde_json::Value> =
        history.lines().map(|line| serde_json::from_str(line).expect("an event")).collect();
    let half = lines.len() / 2;
    for (time, statuses) in [(history::TIME_MAX, [1, 1]), (u64::MAX, [254, 254])] {
        lines[half..].iter_mut().for_each(|line| line["time"] = time.into());
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(&file, text).expect("the disk has room");
        for (command, status) in ["check", "inspect"].into_iter().zip(statuses) {
            let (found, text) = output_of(&[command, path]);
            assert_eq!(found, Some(status), "{command} at {time}: {text}");
            assert_eq!(text.contains("is later than"), status == 254, "{command}: {text}");
        }
    }
}

const APPENDS: &str = r#"{:process 8, :type :invoke, :f :append, :key "0", :value "x 8 0 y"}
{:process 8, :type :ok, :f :append, :key "0", :value "x 8 0 y"}
{:process 9, :type :invoke, :f :get, :key "0", :value nil}
{:process 9, :type :ok, :f :get, :key "0", :value "x 8 0 y"}
"#;
