//! Jepsen's histories of sets, counters, queues and banks are found by their content and judged by the checks
//! of runs. Each is small enough to be judged by hand.

use std::fs;

use checker::{
    Validity,
    file::{FileCheckOptions, FileReport, check_file},
    levels::Level,
};
use history::ReadError;

fn check(text: &str, claim: Option<&str>) -> Result<FileReport, ReadError> {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let path = directory.path().join("history.edn");
    fs::write(&path, text).expect("the disk has room");
    let claim = claim.map(|claim| claim.parse::<Level>().expect(claim));
    check_file(&path, &FileCheckOptions { claim, ..FileCheckOptions::default() })
}

/// Events as EDN, of `process type f value` each.
fn events(lines: &[&str]) -> String {
    let event = |line: &&str| {
        let mut words = line.splitn(4, ' ');
        let mut word = || words.next().expect("four words");
        let (process, kind, f, value) = (word(), word(), word(), word());
        format!("{{:process {process}, :type :{kind}, :f :{f}, :value {value}, :time 1}}\n")
    };
    lines.iter().map(event).collect()
}

/// The verdict, and a part of what is said of it.
#[track_caller]
fn assert_verdict(lines: &[&str], claim: Option<&str>, verdict: Validity, words: &str) {
    let report = check(&events(lines), claim).unwrap_or_else(|error| panic!("{error}"));
    let FileReport { violations, unknown_because, notes, .. } = &report;
    let said = violations.iter().chain(unknown_because).chain(notes);
    let said: Vec<&str> = said.map(String::as_str).collect();
    let said = said.join("\n");
    assert_eq!(report.verdict, verdict, "{said}");
    assert!(said.contains(words), "{said}");
}

use Validity::{Invalid, Unknown, Valid};

#[test]
fn sets() {
    let adds = ["0 invoke add 1", "0 ok add 1", "1 invoke add 2", "1 info add 2"];
    let read = |elements: &str| {
        let ok = format!("0 ok read {elements}");
        let mut lines: Vec<String> = adds.iter().map(ToString::to_string).collect();
        lines.extend(["0 invoke read nil".to_owned(), ok]);
        lines
    };
    for (elements, verdict, words) in [
        ("#{1}", Valid, "judged as a set: lost 0"),
        ("#{1 2}", Valid, "lost 0"),
        ("[2 1]", Valid, "lost 0"),
        ("#{2}", Invalid, "1 is lost"),
        ("#{}", Invalid, "1 is lost"),
        ("#{1 3}", Invalid, "returned 3, which nobody has added"),
        ("[1 1]", Invalid, "returned 1 twice"),
    ] {
        let lines = read(elements);
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        assert_verdict(&lines, None, verdict, words);
    }
    assert_verdict(&adds, None, Unknown, "no read of their set succeeded");
    // An element that a read missed and a later one returned is not lost, but was read stale.
    let stale = [
        "0 invoke add :a",
        "0 ok add :a",
        "1 invoke read nil",
        "1 ok read #{}",
        "1 invoke read nil",
        "1 ok read #{:a}",
    ];
    assert_verdict(&stale, None, Valid, "stale_reads 1");
    assert_verdict(&stale, Some("linearizable"), Invalid, "stale read");
    // Values of different kinds are different elements.
    let kinds = ["0 invoke add a", "0 ok add a", "1 invoke read nil", "1 ok read [\"a\"]"];
    assert_verdict(&kinds, None, Invalid, "returned \"a\", which nobody has added");
}

#[test]
fn elements_that_are_added_several_times() {
    let set = |second: &'static str, read: &'static str| {
        ["0 invoke add 1", "0 ok add 1", "1 invoke add 1", second, "0 invoke read nil", read]
    };
    for second in ["1 ok add 1", "1 fail add 1", "1 info add 1"] {
        assert_verdict(&set(second, "0 ok read #{1}"), None, Valid, "lost 0");
        assert_verdict(&set(second, "0 ok read #{}"), None, Invalid, "1 is lost");
    }
    let queue = |second: &'static str, drained: &'static str| {
        [
            ["0 invoke enqueue 1", "0 ok enqueue 1", "1 invoke enqueue 1", second],
            ["2 invoke drain nil", drained, "0 invoke drain nil", "0 ok drain []"],
        ]
        .concat()
    };
    let exactly = Some("exactly-once");
    let [ok, fail, info] = ["1 ok enqueue 1", "1 fail enqueue 1", "1 info enqueue 1"];
    assert_verdict(&queue(ok, "2 ok drain [1 1]"), exactly, Valid, "delivered_twice 0");
    assert_verdict(&queue(ok, "2 ok drain [1]"), None, Invalid, "lost 1 acknowledged elements");
    assert_verdict(&queue(info, "2 ok drain [1]"), exactly, Valid, "lost 0");
    assert_verdict(&queue(info, "2 ok drain [1 1]"), exactly, Valid, "delivered_twice 0");
    assert_verdict(&queue(fail, "2 ok drain [1]"), exactly, Valid, "lost 0");
    assert_verdict(&queue(fail, "2 ok drain [1 1]"), exactly, Invalid, "came out 2 times");
    assert_verdict(&queue(ok, "2 ok drain [1 1 1]"), exactly, Invalid, "at most and came out 3");
}

#[test]
fn sets_by_key() {
    let lines = [
        "0 invoke add [x 1]",
        "0 ok add [x 1]",
        "0 invoke add [y 1]",
        "0 info add [y 1]",
        "1 invoke read [x nil]",
        "1 ok read [x #{1}]",
        "1 invoke read [y nil]",
        "1 ok read [y #{}]",
    ];
    assert_verdict(&lines, None, Valid, "lost 0");
    let lost = [&lines[..5], &["1 ok read [x #{}]"]].concat();
    assert_verdict(&lost, None, Invalid, "1 is lost");
}

#[test]
fn counters() {
    let adds = ["0 invoke add 5", "0 ok add 5", "1 invoke add -2", "2 invoke read nil"];
    for (value, verdict) in [("5", Valid), ("3", Valid), ("6", Invalid), ("0", Invalid)] {
        let ok = format!("2 ok read {value}");
        assert_verdict(&[&adds[..], &[&ok]].concat(), None, verdict, "judged as a counter");
    }
    let named = ["0 invoke inc nil", "0 ok inc nil", "0 invoke dec 3", "0 ok dec 3"];
    let read = |value| [&named[..], &["0 invoke read nil", value]].concat();
    assert_verdict(&read("0 ok read -2"), None, Valid, "wrong_reads 0");
    assert_verdict(&read("0 ok read 2"), None, Invalid, "it must be from -2 to -2");
}

#[test]
fn queues() {
    let puts = ["0 invoke enqueue 1", "0 ok enqueue 1", "1 invoke enqueue 2", "1 fail enqueue 2"];
    let end = |lines: &[&'static str]| [&puts[..], lines].concat();
    let drained = end(&["0 invoke drain nil", "0 ok drain [1]"]);
    assert_verdict(&drained, None, Valid, "judged as a queue");
    let lost = end(&["0 invoke drain nil", "0 ok drain []"]);
    assert_verdict(&lost, None, Invalid, "lost 1 acknowledged elements");
    let failed = end(&["0 invoke drain nil", "0 ok drain [1 2]"]);
    assert_verdict(&failed, None, Invalid, "but the enqueue of object by process 1");
    let left = end(&["0 invoke dequeue nil", "0 ok dequeue 1"]);
    assert_verdict(&left, None, Unknown, "was not emptied");
    let unseen = end(&[
        "0 invoke dequeue nil",
        "0 info dequeue nil",
        "1 invoke dequeue nil",
        "1 ok dequeue nil",
    ]);
    assert_verdict(&unseen, None, Unknown, "dequeues of unknown outcome may have taken them");
    let twice =
        end(&["0 invoke dequeue nil", "0 ok dequeue 1", "0 invoke drain nil", "0 ok drain [1]"]);
    assert_verdict(&twice, None, Valid, "delivered_twice 1");
    assert_verdict(&twice, Some("exactly-once"), Invalid, "came out 2 times");
    assert_verdict(
        &drained,
        Some("linearizable"),
        Unknown,
        "cannot be claimed for the workload queue",
    );
}

#[test]
fn banks() {
    let lines = [
        "0 invoke read nil",
        "0 ok read {0 10, 1 10}",
        "1 invoke transfer {:from 0, :to 1, :amount 3}",
        "0 invoke read nil",
        "0 ok read {0 7, 1 13}",
        "1 ok transfer {:from 0, :to 1, :amount 3}",
    ];
    assert_verdict(&lines, None, Valid, "judged as a bank: reads 2, wrong_totals 0");
    let skewed = [&lines[..4], &["0 ok read {0 7, 1 10}"]].concat();
    let words =
        "adds up to 17 instead of 20, to which the read of object by process 0 (event 0) does";
    assert_verdict(&skewed, None, Invalid, words);
    assert_verdict(&skewed, Some("durable"), Unknown, "nothing of a bank is judged");
    let absent = [&lines[..4], &["0 ok read {0 7, 1 nil}"]].concat();
    assert_verdict(&absent, None, Invalid, "returned no integers");
    // A bank that nobody has moved money in, with balances in a row.
    assert_verdict(&["0 invoke read nil", "0 ok read {:a 1}"], None, Valid, "reads 1");
    let row =
        ["1 invoke transfer {:from 0, :to 1, :amount 3}", "0 invoke read nil", "0 ok read [4 6]"];
    assert_verdict(&row, None, Valid, "reads 1");
    assert_verdict(&lines[2..4], None, Unknown, "no read of the balances succeeded");
}

#[test]
fn what_is_of_two_objects_or_none_is_refused() {
    for (lines, words) in [
        (&["0 invoke add 1", "1 invoke enqueue 1"][..], "operations on a set and on a queue"),
        (&["0 invoke add 1", "1 invoke write 1"], "write in a history of an object"),
        (&["0 invoke write 1", "1 invoke add 1"], "add is an operation on a set or a counter"),
        (&["0 invoke generate 1"], "unknown operation generate"),
        (&["0 invoke add nil"], "invokes add without a value"),
        (&["0 invoke add 1", "0 ok add 2"], "with the value 2, but invoked it with 1"),
        (&["0 ok add 2"], "completes an operation it has not invoked"),
        (
            &[
                "0 invoke add 1",
                "1 invoke read nil",
                "1 ok read 1",
                "1 invoke read nil",
                "1 ok read #{1}",
            ],
            "neither a set nor a counter",
        ),
        (&["0 invoke add 1", "1 invoke read [x nil]"], "expected [key value]"),
    ] {
        let error = check(&events(lines), None).expect_err(words).to_string();
        assert!(error.contains(words), "{error}");
    }
}
