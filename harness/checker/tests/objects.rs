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

#[test]
fn the_last_reads_of_a_set_are_those_that_no_other_one_follows() {
    let lines = [
        "0 invoke add 1",
        "0 ok add 1",
        "0 invoke read nil",
        "1 invoke read nil",
        "1 ok read #{}",
        "0 ok read #{1}",
    ];
    assert_verdict(&lines, None, Valid, "lost 0");
    let followed = [&lines[..], &["2 invoke read nil", "2 ok read #{}"]].concat();
    assert_verdict(&followed, None, Invalid, "1 is lost");
}

#[test]
fn reads_of_a_linearizable_set_form_a_chain() {
    let lines = |second: &'static str| {
        let [first, last] = ["2 ok read #{1}", "2 ok read #{1 2}"];
        [
            "0 invoke add 1",
            "1 invoke add 2",
            "2 invoke read nil",
            "3 invoke read nil",
            first,
            second,
        ]
        .into_iter()
        .chain(["0 ok add 1", "1 ok add 2", "2 invoke read nil", last])
        .collect::<Vec<&str>>()
    };
    let apart = lines("3 ok read #{2}");
    let words =
        "returned 1 without 2, and the read of object by process 3 (event 3) returned 2 without 1";
    assert_verdict(&apart, Some("linearizable"), Invalid, words);
    assert_verdict(&apart, None, Valid, "lost 0");
    for second in ["3 ok read #{1}", "3 ok read #{1 2}", "3 ok read #{}"] {
        assert_verdict(&lines(second), Some("linearizable"), Valid, "stale_reads 0");
    }
}

#[test]
fn nodes_of_recorded_lines_are_kept() {
    let line = |kind: &str, f: &str, node: &str, value: &str| {
        format!(
            "{{\"process\":0,\"type\":\"{kind}\",\"f\":\"{f}\",\"key\":\"s\",\"node\":\"{node}\",\"value\":{value}}}\n"
        )
    };
    let history = |second: &str| {
        let both = |f: &str, node: &str, invoked: &str, returned: &str| {
            line("invoke", f, node, invoked) + &line("ok", f, node, returned)
        };
        both("add", "n1", "1", "1")
            + &both("read", "n1", "null", "[1]")
            + &both("read", second, "null", "[]")
    };
    // A replica that lags has lost nothing; a node that had the element has.
    for (second, verdict) in [("n2", Valid), ("n1", Invalid)] {
        let report = check(&history(second), None).expect("well formed");
        assert_eq!(report.verdict, verdict, "{second}: {:?}", report.violations);
    }
}

#[test]
fn a_counter_that_only_grows_does_not_go_back() {
    let lines = |amount: &str, second: &str| {
        [
            format!("0 invoke inc {amount}"),
            "1 invoke read nil".to_owned(),
            format!("1 ok read {amount}"),
            "1 invoke read nil".to_owned(),
            format!("1 ok read {second}"),
        ]
    };
    for (amount, second, verdict) in
        [("5", "0", Invalid), ("5", "5", Valid), ("-5", "0", Invalid), ("-5", "-5", Valid)]
    {
        let lines = lines(amount, second);
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let words = if verdict == Invalid { "which is older than" } else { "wrong_reads 0" };
        assert_verdict(&lines, None, verdict, words);
        // A decrement that may have happened explains the way back.
        let both = [&["2 invoke inc -5", "3 invoke inc 5"], &lines[..]].concat();
        assert_verdict(&both, None, Valid, "wrong_reads 0");
    }
}

#[test]
fn counters_count_in_integers_of_any_size() {
    let big = "9223372036854775807";
    let lines = |amount: &str, read: &str| {
        [
            format!("0 invoke inc {amount}"),
            format!("0 ok inc {amount}"),
            format!("0 invoke inc {big}"),
            format!("0 ok inc {big}"),
            "0 invoke read nil".to_owned(),
            format!("0 ok read {read}"),
        ]
    };
    let huge = "1".repeat(40);
    for (amount, read, verdict) in [
        (big, "18446744073709551614", Valid),
        (big, "18446744073709551615", Invalid),
        ("10000000000000000000", "19223372036854775807", Valid),
        ("1.5", big, Unknown),
        ("1/2", big, Unknown),
        (&huge, big, Unknown),
        ("a", big, Unknown),
        ("1", "0.5", Unknown),
        ("1", &huge, Unknown),
        ("1", "nil", Invalid),
        ("1", ":a", Invalid),
    ] {
        let lines = lines(amount, read);
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let words = if verdict == Unknown { "no integer of at most 96 bits" } else { "" };
        assert_verdict(&lines, None, verdict, words);
    }
    let least = i64::MIN;
    for (read, verdict) in [("9223372036854775808", Valid), ("0", Invalid)] {
        let [invoke, ok, read] = [
            format!("0 invoke dec {least}"),
            format!("0 ok dec {least}"),
            format!("0 ok read {read}"),
        ];
        assert_verdict(&[&invoke, &ok, "0 invoke read nil", &read], None, verdict, "");
    }
    // Reads of large numbers are those of a counter, too.
    let adds = ["0 invoke add 10000000000000000000", "0 ok add 10000000000000000000"];
    let reads = ["0 invoke read nil", "0 ok read 10000000000000000000"];
    assert_verdict(&[adds, reads].concat(), None, Valid, "judged as a counter");
}

#[test]
fn balances_that_are_no_integers_are_not_judged() {
    let reads = |one: &str, other: &str| {
        let ok = |balance: &str| format!("0 ok read {{0 {balance}, 1 10}}");
        let invoke = "0 invoke read nil".to_owned();
        [invoke.clone(), ok(one), invoke, ok(other)]
    };
    for (one, other, verdict) in [
        ("10", "9.5", Unknown),
        ("9.5", "10", Unknown),
        ("9.5", "9.5", Unknown),
        ("10000000000000000000", "10000000000000000000", Valid),
        ("10000000000000000000", "10000000000000000001", Invalid),
    ] {
        let lines = reads(one, other);
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        assert_verdict(&lines, None, verdict, "");
    }
}

#[test]
fn banks_by_key() {
    let lines = [
        "0 invoke read [1 nil]",
        "0 ok read [1 {0 10, 1 10}]",
        "0 invoke read [2 nil]",
        "0 ok read [2 {0 50, 1 50}]",
        "0 invoke transfer [1 {:from 0, :to 1, :amount 5}]",
        "0 ok transfer [1 {:from 0, :to 1, :amount 5}]",
        "0 invoke read [1 nil]",
    ];
    let end = |read| [&lines[..], &[read]].concat();
    assert_verdict(&end("0 ok read [1 {0 5, 1 15}]"), None, Valid, "reads 3, wrong_totals 0");
    assert_verdict(&end("0 ok read [1 {0 50, 1 50}]"), None, Invalid, "100 instead of 20");
    let unread = [&lines[..4], &["0 invoke transfer [3 {:from 0, :to 1, :amount 5}]"]].concat();
    assert_verdict(&unread, None, Unknown, "3: no read of the balances succeeded");
}

#[test]
fn what_drains_of_unknown_outcome_took_out_is_not_lost() {
    let puts = ["0 invoke enqueue 1", "0 ok enqueue 1", "0 invoke enqueue 2", "0 ok enqueue 2"];
    let lines = |unknown: &[&'static str]| {
        [&puts[..], unknown, &["2 invoke drain nil", "2 ok drain []"]].concat()
    };
    let drain = ["1 invoke drain nil", "1 info drain nil"];
    assert_verdict(
        &lines(&drain),
        None,
        Unknown,
        "1 drains of unknown outcome may have taken them",
    );
    assert_verdict(&lines(&drain[..1]), None, Unknown, "1 drains of unknown outcome");
    let dequeue = ["1 invoke dequeue nil", "1 info dequeue nil"];
    assert_verdict(&lines(&dequeue), None, Invalid, "lost 2 acknowledged elements");
    let both = [&drain[..], &["3 invoke dequeue nil", "3 info dequeue nil"]].concat();
    assert_verdict(&lines(&both), None, Unknown, "1 dequeues and 1 drains");
}

#[test]
fn no_element_comes_out_before_it_was_put_in() {
    let lines = [
        "0 invoke dequeue nil",
        "1 invoke dequeue nil",
        "1 ok dequeue 7",
        "2 invoke enqueue 7",
        "2 ok enqueue 7",
        "0 ok dequeue 7",
        "1 invoke dequeue nil",
        "1 ok dequeue nil",
    ];
    assert_verdict(&lines, None, Invalid, "returned 7 before the enqueue");
    // Of two that were put in, both had come out before the second one was.
    let twice = [
        &["2 invoke enqueue 7", "2 ok enqueue 7", "0 invoke dequeue nil", "0 ok dequeue 7"][..],
        &["0 invoke dequeue nil", "0 ok dequeue 7", "2 invoke enqueue 7", "2 ok enqueue 7"],
        &["0 invoke dequeue nil", "0 ok dequeue nil"],
    ]
    .concat();
    let words = "was put in 1 times at most and came out 2 times";
    assert_verdict(&twice, Some("exactly-once"), Invalid, words);
    assert_verdict(&twice, None, Valid, "delivered_twice 1");
}

#[test]
fn different_values_and_keys_are_not_mixed_up() {
    let set = |added: &str, read: &str| {
        [
            format!("0 invoke add {added}"),
            format!("0 ok add {added}"),
            "0 invoke read nil".to_owned(),
            format!("0 ok read {read}"),
        ]
    };
    for (added, read, verdict) in [
        ("[1 2]", "#{#{1 2}}", Invalid),
        ("#{1 2}", "#{[1 2]}", Invalid),
        ("#{1 2}", "#{#{2 1}}", Valid),
        ("{:a 1}", "#{{\"a\" 1}}", Invalid),
        ("{:a 1}", "[{:a 1}]", Valid),
        ("{1 2}", "#{{\"1\" 2}}", Invalid),
        ("{a 1}", "#{{\"a\" 1}}", Invalid),
        ("a", "#{{\"edn\" \"a\"}}", Invalid),
        ("#{1}", "#{{\"set\" [1]}}", Invalid),
        ("nil-a", "#{nil-a}", Valid),
    ] {
        let lines = set(added, read);
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        assert_verdict(&lines, None, verdict, "");
    }
    // 1 and "1" are two keys.
    let add = ["0 invoke add [1 5]", "0 ok add [1 5]"];
    let other = ["0 invoke read [\"1\" nil]", "0 ok read [\"1\" #{5}]"];
    let own = ["0 invoke read [1 nil]", "0 ok read [1 #{5}]"];
    assert_verdict(
        &[add, other, own].concat(),
        None,
        Invalid,
        "returned 5, which nobody has added",
    );
    assert_verdict(&[add, own].concat(), None, Valid, "lost 0");
    let increment = ["0 invoke inc [1 2]", "0 ok inc [1 2]"];
    let other = ["0 invoke read [\"1\" nil]", "0 ok read [\"1\" 2]"];
    assert_verdict(&[increment, other].concat(), None, Invalid, "must be from 0 to 0");
    // So are :a and "a".
    let accounts = [
        "0 invoke read nil",
        "0 ok read {:a 10, \"a\" 10}",
        "2 invoke transfer {:from :a, :to \"a\", :amount 5}",
        "0 invoke read nil",
        "1 invoke read nil",
        "1 ok read {:a 5, \"a\" 15}",
    ];
    let wrong = [&accounts[..], &["0 ok read {:a 5, \"a\" 10}"]].concat();
    assert_verdict(&wrong, None, Invalid, "adds up to 15 instead of 20");
    assert_verdict(&accounts, None, Valid, "wrong_totals 0");
}
