//! The command line from outside: what is wrong is told in words with the exit status for it, and
//! the help is a manual.

#[path = "support/copy.rs"]
mod copy;

use std::{
    path::Path,
    process::{Command, Output},
};

use harness::nemesis::FaultName;

use self::copy::copy;

fn harness(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_harness")).args(arguments).output().expect("it starts")
}

#[test]
fn bad_arguments_end_with_254_and_a_reason() {
    let empty = tempfile::tempdir().expect("a directory for the test");
    let empty = empty.path().to_str().expect("a name in UTF-8");
    for (arguments, reason) in [
        (vec!["--faults", "kill-mister"], "'kill-mister' is no fault"),
        (vec!["--faults", "none,kill-master"], "goes with no other"),
        (vec!["test", "--faults", ""], "is no fault"),
        (vec!["--time-limit", "soon"], "'soon' is no time"),
        (vec!["--concurrency", "0"], "not in 1.."),
        (vec!["--keys", "0"], "not in 1.."),
        (vec!["--replicas", "33"], "not in 1.."),
        (vec!["--rate=-1"], "is no rate"),
        (vec!["--mix", "get=0"], "above 0"),
        (vec!["--mix", "cas=1"], "'cas' is no operation"),
        (vec!["--seed", "lucky"], "invalid digit"),
        (vec!["--system", "oracle"], "twopc"),
        (vec!["--system-bin", empty], "there is no program"),
        (vec!["--break", "the-bank"], "'the-bank' is no rule"),
        (vec!["--store", "/dev/null/histories"], "--store"),
        (vec!["--no-such-flag"], "--no-such-flag"),
        (vec!["sing"], "sing"),
        (vec!["check"], "PATH"),
        (vec!["check", empty], "history.jsonl"),
        (vec!["replay", empty], "journal"),
        (vec!["inspect", empty], "test.json"),
    ] {
        let output = harness(&arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(254), "{arguments:?}: {said}");
        assert!(said.contains(reason), "{arguments:?}: {said}");
        assert!(!said.contains("panicked"), "{arguments:?}: {said}");
    }
}

#[test]
fn the_help_is_a_manual() {
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
    let place = tempfile::tempdir().expect("a directory for the test");
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../histories/golden");
    copy(&kept.join("checks/linearizability-invalid"), place.path());
    let path = place.path().to_str().expect("a name in UTF-8");
    let say = |arguments: &[&str]| {
        let output = harness(arguments);
        let said = String::from_utf8(output.stdout).expect("text");
        assert!(!said.contains('\u{1b}'), "colours without a terminal: {said}");
        (output.status.code(), said)
    };
    let (status, said) = say(&["inspect", path]);
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("not judged yet"), "{said}");

    let (status, said) = say(&["check", path]);
    assert_eq!(status, Some(1), "{said}");
    for file in ["report.html", "latency.svg", "quantiles.svg", "rate.svg", "in-doubt.svg"] {
        assert!(place.path().join(file).exists(), "{file}");
    }
    let (status, said) = say(&["inspect", path]);
    assert_eq!(status, Some(1), "{said}");
    for part in [
        "What clients saw of k1 has no order",
        "├",
        "the longest prefix with an order ends: ",
        "Faults, and the replicas in doubt then",
        "linearizability  invalid",
    ] {
        assert!(said.contains(part), "{part}\n{said}");
    }
    let (_, all) = say(&["inspect", path, "--json"]);
    let all: serde_json::Value = serde_json::from_str(&all).expect("JSON");
    assert_eq!(all["verdict"], "invalid");
    assert_eq!(all["counterexamples"][0]["key"], "k1");
    let count = |more: &[&str]| {
        let (_, told) = say(&[&["inspect", path, "--json"], more].concat());
        let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
        told["operations"].as_array().map(Vec::len)
    };
    assert_eq!(count(&[]), None, "only where some are asked for");
    let total = all["operations_total"].as_u64().and_then(|n| usize::try_from(n).ok());
    assert_eq!(count(&["--from", "0s"]), total);
    assert_eq!(count(&["--to", "0s", "--from", "0s"]).map(|n| n < total.unwrap_or(0)), Some(true));
    let of_key = count(&["--key", "k1"]).expect("some");
    assert!(of_key > 0 && of_key <= total.expect("a number"));
    assert_eq!(count(&["--key", "no-such-key"]), Some(0));
    assert_eq!(count(&["--process", "4000000000"]), Some(0));
    assert_eq!(harness(&["inspect", path, "--from", "soon"]).status.code(), Some(254));
}
