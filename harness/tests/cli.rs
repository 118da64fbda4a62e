//! The command line from outside: what is wrong is told in words with the exit status for it, and
//! the help is a manual.

use std::process::{Command, Output};

use harness::nemesis::FaultName;

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
