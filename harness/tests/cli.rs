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

#[test]
fn transactions_are_generated_judged_by_any_name_of_a_level_and_shown_on_a_page() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let path = |name: &str| directory.path().join(name).to_str().expect("UTF-8").to_owned();
    let [strict, skewed, page] = ["strict.jsonl", "skewed.jsonl", "page.html"].map(path);
    let generate = ["generate", "--workload", "append", "--txns", "500", "--seed", "3"];
    into_file(&[&generate[..], &["--level", "Strict Serializable"]].concat(), Path::new(&strict));
    into_file(&[&generate[..], &["--violate", "G2-Item"]].concat(), Path::new(&skewed));

    let check = |file: &str, claim: &str| output_of(&["check", file, "--claim", claim]);
    for claim in ["strict-serializable", "Strong PL-3", "snapshot_isolation", "durable"] {
        let (status, text) = check(&strict, claim);
        assert_eq!(status, Some(0), "{claim}: {text}");
    }
    let (status, text) = check(&skewed, "PL-SI");
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("claim: snapshot-isolation"), "{text}");
    let (status, text) = check(&skewed, "SERIALIZABLE");
    assert_eq!(status, Some(1), "{text}");
    for part in [
        "G2-item: rules out repeatable-read, and all that is stronger",
        "claim: serializable; strongest levels not ruled out: strong-snapshot-isolation",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    // A level of another kind of history decides nothing, and says so.
    let (status, text) = check(&strict, "exactly-once");
    assert_eq!(status, Some(2), "{text}");
    assert!(text.contains("transactions are judged as durable or by an isolation level"), "{text}");
    let (status, text) = check(&strict, "acid");
    assert_eq!(status, Some(254), "{text}");
    assert!(text.contains("unknown level 'acid': expected one of durable,"), "{text}");

    let (status, text) = output_of(&["check", &skewed, "--page", &page]);
    assert_eq!(status, Some(0), "only reported without a claim: {text}");
    let html = fs::read_to_string(&page).expect("the page was written");
    for part in ["<h2>G2-item", "class=\"edge rw\"", "before T"] {
        assert!(html.contains(part), "{part}\n{html}");
    }
    let (status, text) = output_of(&["check", &strict, &skewed, "--page", &page]);
    assert_eq!(
        (status, text.contains("--page goes with one history")),
        (Some(254), true),
        "{text}"
    );
}

#[test]
fn histories_of_other_tools_with_sessions_are_judged() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let path = directory.path().join("plume.txt");
    fs::write(&path, "w(1,1,0,0)\nw(1,2,0,1)\nr(1,2,1,2)\nr(1,1,1,3)\n").expect("written");
    let path = path.to_str().expect("UTF-8");
    let (status, text) = output_of(&["check", path, "--claim", "causal"]);
    assert_eq!(status, Some(1), "{text}");
    for part in [
        "causal-consistency is ruled out: no order of commits is possible",
        "T3 reads 1 of T0 although T2, which it sees, wrote 1 too",
        "strongest level of Biswas and Enea not ruled out: read-atomic",
        "strongest levels not ruled out: serializable",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let (status, text) = output_of(&["check", path, "--claim", "strict-serializable"]);
    assert_eq!(status, Some(1), "{text}");
    let (status, text) = output_of(&["check", path, "--claim", "strong-read-committed"]);
    assert_eq!(status, Some(2), "without real time nobody knows: {text}");
    assert!(text.contains("does not say which transactions returned before"), "{text}");
}

/// A store with three valid runs of one kind, and an invalid one.
fn store_of_runs() -> tempfile::TempDir {
    let store = tempfile::tempdir().expect("a directory for the test");
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../histories/golden/checks");
    for (name, verdict) in [("1", "valid"), ("2", "valid"), ("3", "valid"), ("4", "invalid")] {
        let run = store.path().join("twopc-none").join(format!("2026010{name}T000000Z"));
        copy(&kept.join("linearizability-invalid"), &run);
        let results = format!("{{\"verdict\": \"{verdict}\", \"checks\": []}}\n");
        fs::write(run.join("results.json"), results).expect("the disk has room");
    }
    for link in ["latest", "twopc-none/latest"] {
        let target =
            if link == "latest" { "twopc-none/20260103T000000Z" } else { "20260103T000000Z" };
        std::os::unix::fs::symlink(target, store.path().join(link)).expect("a link");
    }
    store
}

#[test]
fn runs_are_listed_compared_named_and_removed() {
    let store = store_of_runs();
    let path = store.path().to_str().expect("a name in UTF-8");
    let runs = |arguments: &[&str]| {
        let output = harness(&[&["runs"], arguments, &["--store", path]].concat());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text, error)
    };
    let listed = || {
        let (_, text, _) = runs(&["list", "--json"]);
        let run = |line: &str| {
            let run: serde_json::Value = serde_json::from_str(line).expect("JSON");
            run["run"].as_str().expect("a text").chars().nth(18).expect("a digit")
        };
        text.lines().map(run).collect::<String>()
    };
    assert_eq!(listed(), "4321");
    let (_, text, _) = runs(&["--verdict", "invalid"]);
    assert!(text.starts_with("invalid ") && text.contains("\n1 run, "), "{text}");
    let (status, text, _) =
        runs(&["compare", "twopc-none/20260101T000000Z", "twopc-none/20260104T000000Z"]);
    assert!(status == Some(0) && text.contains("verdict"), "{text}");

    // The first valid run has a name, so it stays; of the others, the latest does.
    assert_eq!(runs(&["name", "twopc-none/20260101T000000Z", "before the change"]).0, Some(0));
    assert!(runs(&[]).1.contains("(before the change)"));
    assert!(runs(&["gc", "--keep", "1", "--dry-run"]).1.contains("would remove"));
    assert_eq!(listed(), "4321");
    assert_eq!(runs(&["gc", "--keep", "1"]).0, Some(0));
    assert_eq!(listed(), "431");

    let (status, _, error) = runs(&["remove", "latest", "nobody/knows"]);
    assert_eq!(status, Some(254));
    assert!(error.contains("nobody/knows: no run of the store"), "{error}");
    assert_eq!(listed(), "431", "none is removed if one cannot be found");
    assert_eq!(runs(&["remove", "latest"]).0, Some(0));
    assert_eq!(listed(), "41");
    assert!(!store.path().join("latest").is_symlink(), "a link to a run that is gone");
    // Nothing outside of the store is a run of it.
    let outside = store_of_runs();
    let outside = outside.path().join("twopc-none/20260101T000000Z");
    assert_eq!(runs(&["remove", outside.to_str().expect("a name in UTF-8")]).0, Some(254));
    assert!(outside.exists());
}

#[test]
fn results_are_told_to_ci_services() {
    let store = store_of_runs();
    let run = store.path().join("twopc-none/20260104T000000Z");
    let file = store.path().join("junit.xml");
    let [run, file] = [&run, &file].map(|path| path.to_str().expect("a name in UTF-8"));
    let output = harness(&["check", run, "--junit", file, "--annotate", "github", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    let result: serde_json::Value = serde_json::from_str(&text).expect("JSON and nothing else");
    assert_eq!(result["verdict"], "invalid");
    let error = String::from_utf8_lossy(&output.stderr);
    let annotation = error.lines().find(|line| line.starts_with("::error ")).expect(&error);
    assert!(annotation.contains("title=linearizability%3A"), "{annotation}");
    let xml = fs::read_to_string(file).expect("it is written");
    assert!(
        xml.contains("<testcase") && xml.contains("name=\"linearizability\"><failure"),
        "{xml}"
    );
    for shell in ["bash", "zsh", "fish"] {
        let output = harness(&["completions", shell]);
        assert!(String::from_utf8_lossy(&output.stdout).contains("faults"), "{shell}");
    }
}

#[test]
fn every_rule_says_what_it_is_and_what_shows_it() {
    let output = harness(&["rules", "--list"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8_lossy(&output.stdout);
    for part in [
        "vote-forced\n    The system that is broken in this way ",
        "Shown by --faults replica-uncertainty.",
        "Shown without a fault.",
        "No fault shows it",
        "page-checksum",
        "store-syncs",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let one = harness(&["rules", "--list", "loop-spins"]);
    assert_eq!(String::from_utf8_lossy(&one.stdout).matches("Shown ").count(), 1);
}

#[test]
fn documented_commands_do_what_the_documents_say() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../histories/golden");
    let path = |path: &Path| path.to_str().expect("a name in UTF-8").to_owned();
    let run = directory.path().join("run");
    copy(&kept.join("caught/ack-after-durable"), &run);
    let run = path(&run);
    let file = directory.path().join("stale.jsonl");
    into_file(&["generate", "--violate", "stale-read"], &file);
    let skew = path(&kept.join("transactions/g-single.edn"));
    let file = path(&file);
    for (arguments, status, says) in [
        (vec!["check", &run], 1, "\nCause after 0.607 s (atomicity):\n  AC1: r1 acknowledged 1.5 "),
        (vec!["check", &run], 1, "\n  AC1: all nodes that reach a decision"),
        (vec!["check", &run], 1, "\n      ↳ AC1: r1 aborted 1.5 "),
        (vec!["check", &run, "--verbose"], 1, "\n    transactions: "),
        (vec!["inspect", &run], 1, "Cause after 0.607 s"),
        (vec!["check", &file], 1, "is not linearizable"),
        (vec!["check", &skew], 0, "G-single"),
        (vec!["check", &skew, "--claim", "serializable"], 1, "invalid: "),
        (vec!["check", &skew, "--claim", "read-committed"], 0, "valid: "),
        (vec!["rules", "--list", "vote-forced"], 0, "Shown by --faults replica-uncertainty."),
    ] {
        let (found, text) = output_of(&arguments);
        assert_eq!(found, Some(status), "{arguments:?}: {text}");
        assert!(format!("\n{text}").contains(says), "{arguments:?}: {text}");
    }
    let results = fs::read(Path::new(&run).join("results.json")).expect("it is written");
    let results: serde_json::Value = serde_json::from_slice(&results).expect("JSON");
    let cause = &results["cause"];
    assert_eq!((&cause["check"], &cause["impact"]), (&"atomicity".into(), &"wrong-answer".into()));
    assert_eq!(cause["consequences"].as_array().map(Vec::len), Some(3), "{cause}");
}

#[test]
fn colours_and_options_from_a_file() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../histories/golden");
    copy(&kept.join("caught/reads-respect-locks"), directory.path());
    let run = directory.path().to_str().expect("a name in UTF-8");
    let has_colours = |arguments: &[&str], no_color: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_harness"));
        let output = command.args(arguments).env("NO_COLOR", no_color).output().expect("it starts");
        output.stdout.contains(&0x1b)
    };
    assert!(!has_colours(&["check", run], ""), "not at a terminal");
    assert!(has_colours(&["check", run, "--color", "always"], ""));
    assert!(!has_colours(&["check", run, "--color", "never"], ""));
    assert!(has_colours(&["check", run, "--color=always"], "1"), "the option comes first");
    for (text, reason) in [
        ("fault = \"none\"", "unknown option 'fault'"),
        ("faults = [\"kill-mister\"]", "'kill-mister' is not a fault"),
        ("seed = ", "TOML parse error at line 1"),
    ] {
        let file = directory.path().join("options.toml");
        fs::write(&file, text).expect("the disk has room");
        let output = harness(&["--options", file.to_str().expect("a name in UTF-8")]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(254), "{error}");
        assert!(error.contains(reason), "{error}");
    }
    let output = harness(&["--options", "/nonexistent"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("--options /nonexistent: No such file"), "{error}");
    assert_eq!(output.status.code(), Some(254));
}
