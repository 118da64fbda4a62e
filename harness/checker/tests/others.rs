//! Histories as other people write them get the right verdict, or are refused. Each is small enough to
//! be judged by hand.

use std::{fs, path::Path};

use checker::{
    Validity,
    certificate::{Certificates, Verified, verify_file},
    file::{FileCheckOptions, FileReport, check_file},
};
use history::ReadError;

/// Checks a text as a file, whole and partitioned: the verdicts must be the same.
fn check(text: &str, initial: Option<&str>) -> Result<FileReport, ReadError> {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let path = directory.path().join("history");
    fs::write(&path, text).expect("the disk has room");
    let options = FileCheckOptions { initial, ..FileCheckOptions::default() };
    let whole = check_file(&path, &options)?;
    // Every partition is small enough for this, and the file is larger.
    let memory = Some(text.len() as u64 - 1);
    let partitioned = check_file(&path, &FileCheckOptions { memory, ..options })?;
    if partitioned.unknown_because.iter().all(|reason| !reason.contains("--memory")) {
        assert_eq!(
            (partitioned.verdict, &partitioned.notes),
            (whole.verdict, &whole.notes),
            "{text}"
        );
    }
    certify(&path, &options, whole.verdict);
    Ok(whole)
}

/// A valid history has a certificate that the verifier accepts.
fn certify(path: &Path, options: &FileCheckOptions<'_>, verdict: Validity) {
    let file = path.with_extension("certificate");
    let certificates = Certificates::create(&file).expect("the disk has room");
    let initial = options.initial;
    let options = FileCheckOptions { certificates: Some(&certificates), ..*options };
    let certified = check_file(path, &options).expect("it was read before");
    assert_eq!(certified.verdict, verdict);
    certificates.finish().expect("the disk has room");
    if verdict == Validity::Valid {
        let verified = verify_file(path, None, None, initial, &file).expect("well formed");
        assert!(matches!(verified, Verified::Accepted { .. }), "{verified:?}");
    }
}

fn verdict(text: &str) -> Validity {
    check(text, None).unwrap_or_else(|error| panic!("{error}\n{text}")).verdict
}

/// Operations one after the other by two processes, as EDN: a function, and the value that it is invoked
/// with and that its completion has.
fn sequential(operations: &[(&str, &str, &str)]) -> String {
    let event = |at: usize, kind: &str, f: &str, value: &str| {
        format!("{{:process {}, :type :{kind}, :f :{f}, :value {value}}}\n", at % 2)
    };
    let both = |(at, (f, invoked, completed)): (usize, &(&str, &str, &str))| {
        event(at, "invoke", f, invoked) + &event(at, "ok", f, completed)
    };
    operations.iter().enumerate().map(both).collect()
}

#[test]
fn what_was_written_is_read_if_it_is_equal() {
    use Validity::{Invalid, Valid};
    for (written, read, expected) in [
        ("{:a 1, :b 2}", "{:b 2, :a 1}", Valid),
        ("#{:x :y}", "#{:y :x}", Valid),
        ("#{:x :y}", "[:x :y :z]", Invalid),
        ("#{1 2 3}", "[1 2 3]", Invalid),
        ("{1 2}", "#{1 2}", Invalid),
        ("(1 2 3)", "[1 2 3]", Valid),
        ("7", "7N", Valid),
        ("7", "7.0", Invalid),
        ("7", "\"7\"", Invalid),
        (":a", "\"a\"", Invalid),
        ("#a 7", "7", Invalid),
        ("#a 7", "#b 7", Invalid),
        ("{:n 1}", "{:n 2}", Invalid),
        ("[[1 2] 3 4]", "[[2 1] 3 4]", Invalid),
        ("##NaN", "##NaN", Valid),
        ("#\"a|b\"", "#\"a|b\"", Valid),
        ("nil", "nil", Valid),
        ("nil", "\"nil\"", Invalid),
    ] {
        let text = sequential(&[("write", written, written), ("read", "nil", read)]);
        assert_eq!(verdict(&text), expected, "{written} {read}");
        // The same as lines of a log.
        let line = |process: u8, rest: String| format!("I [w] jepsen.util: {process}\t{rest}\n");
        let log = [
            line(0, format!(":invoke\t:write\t{written}")),
            line(0, format!(":ok\t:write\t{written}")),
            line(1, ":invoke\t:read\tnil".to_owned()),
            line(1, format!(":ok\t:read\t{read}")),
        ];
        assert_eq!(verdict(&log.concat()), expected, "{written} {read}");
    }
    let event = |process: u8, kind: &str, f: &str, value: &str| {
        format!("{{\"process\":{process},\"type\":\"{kind}\",\"f\":\"{f}\",\"value\":{value}}}\n")
    };
    for (written, read, expected) in [
        ("1", "1.0", Valid),
        ("1", "\"1\"", Invalid),
        ("9007199254740993", "9007199254740992", Invalid),
        ("{\"a\":1,\"b\":[2]}", "{\"b\":[2.0],\"a\":1}", Valid),
        ("[1,2,3]", "[1,3,2]", Invalid),
        ("null", "null", Valid),
        ("\"null\"", "null", Invalid),
    ] {
        let text = [
            event(0, "invoke", "write", written),
            event(0, "ok", "write", written),
            event(1, "invoke", "read", "null"),
            event(1, "ok", "read", read),
        ];
        assert_eq!(verdict(&text.concat()), expected, "{written} {read}");
    }
}

#[test]
fn values_of_tuples_are_not_mixed_up() {
    let stale = sequential(&[
        ("write", "[9 5]", "[9 5]"),
        ("write", "[9 6]", "[9 6]"),
        ("read", "[9 nil]", "[9 5]"),
    ]);
    assert_eq!(verdict(&stale), Validity::Invalid);
    // 9 and 9N are one key, 9.0 is another one.
    let key = |key: &str| {
        sequential(&[
            ("write", "[9 5]", "[9 5]"),
            ("read", &format!("[{key} nil]"), &format!("[{key} nil]")),
        ])
    };
    assert_eq!(verdict(&key("9N")), Validity::Invalid);
    assert_eq!(verdict(&key("9.0")), Validity::Valid);
    let cas = |cas: &str| {
        sequential(&[
            ("write", "[\"k\" 1]", "[\"k\" 1]"),
            ("cas", cas, cas),
            ("read", "[\"k\" nil]", "[\"k\" 2]"),
        ])
    };
    assert_eq!(verdict(&cas("[\"k\" 1 2]")), Validity::Valid);
    assert_eq!(verdict(&cas("[\"k\" [1 2]]")), Validity::Valid);
    assert_eq!(verdict(&cas("[\"k\" 3 2]")), Validity::Invalid);
}

#[test]
fn only_the_nemesis_is_left_out() {
    let lost = sequential(&[("write", "1", "1"), ("write", "2", "2"), ("read", "nil", "1")]);
    for (zero, one) in
        [(":p", ":q"), ("\"p\"", "\"q\""), ("0.5", "-3"), ("p", "[1 2]"), ("0", "0N")]
    {
        let named = lost.replace(":process 0", &format!(":process {zero}"));
        let named = named.replace(":process 1", &format!(":process {one}"));
        let report = check(&named, None).expect("well formed");
        assert_eq!((report.verdict, report.operations), (Validity::Invalid, 3), "{zero} {one}");
    }
}

#[test]
fn what_failed_did_not_happen() {
    let operations = |cas: &str, read: &str| {
        format!(
            "{{:process 0, :type :invoke, :f :write, :value 2}}\n{{:process 0, :type :ok, :f :write, :value 2}}\n\
             {{:process 1, :type :invoke, :f :cas, :value [2 3]}}\n{{:process 1, :type {cas}}}\n\
             {{:process 0, :type :invoke, :f :read}}\n{{:process 0, :type :ok, :f :read, :value {read}}}\n"
        )
    };
    // That it failed although its value was there is no contradiction: it may not have been tried.
    assert_eq!(verdict(&operations(":fail, :f :cas", "2")), Validity::Valid);
    assert_eq!(verdict(&operations(":fail, :f :cas", "3")), Validity::Invalid);
    for value in ["0", "[9 9]", "nil", ":timeout", "[2 3]"] {
        let fail = format!(":fail, :f :cas, :value {value}");
        let info = format!(":info, :f :cas, :value {value}");
        assert_eq!(verdict(&operations(&fail, "3")), Validity::Invalid, "{value}");
        assert_eq!(verdict(&operations(&info, "2")), Validity::Valid, "{value}");
        assert_eq!(verdict(&operations(&info, "3")), Validity::Valid, "{value}");
        assert_eq!(verdict(&operations(&info, "4")), Validity::Invalid, "{value}");
    }
}

#[test]
fn a_lock_is_held_once() {
    let lock =
        |first: &str, second: &str| sequential(&[(first, "nil", "nil"), (second, "nil", "nil")]);
    assert_eq!(verdict(&lock("acquire", "release")), Validity::Valid);
    assert_eq!(verdict(&lock("acquire", "acquire")), Validity::Invalid);
    let report = check(&lock("lock", "lock"), None).expect("well formed");
    assert_eq!(report.verdict, Validity::Invalid);
    assert!(report.violations[0].contains("'acquire' of process 1"), "{:?}", report.violations);
    assert_eq!(verdict(&lock("release", "acquire")), Validity::Invalid);
    // Two locks.
    let two = sequential(&[("acquire", "[1 nil]", "[1 nil]"), ("acquire", "[2 nil]", "[2 nil]")]);
    assert_eq!(verdict(&two), Validity::Valid);
    let csv = "client,op,start,end\na,acquire,0,1\nb,acquire,0.5,2\n";
    assert_eq!(verdict(csv), Validity::Invalid);
}

#[test]
fn the_initial_value_is_given_or_shown() {
    let initial = |text: &str, initial| check(text, initial).expect("well formed");
    let shown =
        sequential(&[("read", "nil", "7"), ("cas", "[7 8]", "[7 8]"), ("read", "nil", "8")]);
    assert_eq!(initial(&shown, None).verdict, Validity::Valid);
    assert!(initial(&shown, None).notes[0].starts_with("the registers begin with 7: "));
    for (value, expected) in [
        ("7", Validity::Valid),
        ("7N", Validity::Valid),
        ("7.0", Validity::Invalid),
        ("nil", Validity::Invalid),
    ] {
        assert_eq!(initial(&shown, Some(value)).verdict, expected, "{value}");
    }

    // A value that was read once, or was written later, may be a violation as well.
    for suggested in [
        sequential(&[("read", "nil", "7"), ("write", "8", "8")]),
        sequential(&[("read", "nil", "7"), ("read", "nil", "7"), ("write", "7", "7")]),
    ] {
        let report = initial(&suggested, None);
        assert_eq!(report.verdict, Validity::Invalid);
        assert!(report.notes[0].contains("--initial '7'"), "{:?}", report.notes);
        assert_eq!(initial(&suggested, Some("7")).verdict, Validity::Valid);
    }
    // Reads that contradict each other, or come after a write, suggest nothing.
    for violation in [
        sequential(&[("read", "nil", "7"), ("read", "nil", "7"), ("read", "nil", "nil")]),
        sequential(&[("read", "nil", "7"), ("read", "nil", "8")]),
        sequential(&[("write", "1", "1"), ("read", "nil", "7"), ("read", "nil", "7")]),
        sequential(&[
            ("read", "[1 nil]", "[1 7]"),
            ("read", "[2 nil]", "[2 nil]"),
            ("cas", "[1 [7 8]]", "[1 [7 8]]"),
        ]),
    ] {
        let report = initial(&violation, None);
        assert_eq!(
            (report.verdict, report.notes.len()),
            (Validity::Invalid, 0),
            "{:?}",
            report.notes
        );
    }

    // Each key begins so, and what is deleted is not what it began with.
    let keys = sequential(&[
        ("read", "[1 nil]", "[1 7]"),
        ("read", "[2 nil]", "[2 7]"),
        ("write", "[2 nil]", "[2 nil]"),
        ("read", "[2 nil]", "[2 nil]"),
        ("read", "[1 nil]", "[1 7]"),
    ]);
    assert_eq!(initial(&keys, None).verdict, Validity::Valid);
    let back = keys + &sequential(&[("read", "[2 nil]", "[2 7]")]);
    let report = initial(&back, None);
    assert_eq!(report.verdict, Validity::Invalid);
    assert!(
        report.violations[0].contains("found '7', but there is no write of it"),
        "{:?}",
        report.violations
    );
    // Without --initial, the null of our own lines is what it says.
    let own = r#"{"index":0,"time":0,"process":0,"type":"invoke","f":"get","key":"a"}
{"index":1,"time":0,"process":0,"type":"ok","f":"get","key":"a","value":"7"}
{"index":2,"time":0,"process":0,"type":"invoke","f":"cas","key":"a","value":["7","8"]}
{"index":3,"time":0,"process":0,"type":"ok","f":"cas","key":"a"}
"#;
    assert_eq!(initial(own, None).verdict, Validity::Invalid);
    assert_eq!(initial(own, Some("7")).verdict, Validity::Valid);
}

#[test]
fn what_is_not_ok_decides_only_if_it_does_not_matter() {
    let history = |ok: &str, read: &str| {
        format!(
            "{{\"op\":\"write\",\"key\":\"k\",\"value\":1,\"start\":0,\"end\":1,\"ok\":true}}\n\
             {{\"op\":\"write\",\"key\":\"k\",\"value\":2,\"start\":2,\"end\":3,\"ok\":{ok}}}\n\
             {{\"op\":\"read\",\"key\":\"k\",\"value\":{read},\"start\":4,\"end\":5,\"ok\":true}}\n"
        )
    };
    use Validity::{Invalid, Unknown, Valid};
    for (ok, verdicts) in [
        // The verdicts if 1, 2 or 3 was read.
        ("true", [Invalid, Valid, Invalid]),
        ("\"fail\"", [Valid, Invalid, Invalid]),
        ("\"info\"", [Valid, Valid, Invalid]),
        ("false", [Valid, Unknown, Invalid]),
    ] {
        for (read, expected) in ["1", "2", "3"].into_iter().zip(verdicts) {
            let report = check(&history(ok, read), None).expect("well formed");
            assert_eq!(report.verdict, expected, "{ok} {read}");
            let explains = report.unknown_because.iter().any(|why| why.contains("with ok: false"));
            assert_eq!(explains, expected == Unknown, "{:?}", report.unknown_because);
        }
    }
}

#[test]
fn operations_at_equal_times_are_concurrent() {
    let csv = |write: (&str, &str), read: (&str, &str)| {
        format!(
            "op,value,start,end\nread,,{},{}\nwrite,1,{},{}\n",
            read.0, read.1, write.0, write.1
        )
    };
    assert_eq!(verdict(&csv(("0", "1"), ("1", "2"))), Validity::Valid);
    assert_eq!(verdict(&csv(("0", "1"), ("1.000000001", "2"))), Validity::Invalid);
    // As floats these times would be equal.
    let (end, start) = ("1700000000000000001", "1700000000000000002");
    assert_eq!(verdict(&csv(("0", end), (start, "1700000000000000003"))), Validity::Invalid);
    assert_eq!(verdict(&csv(("5", "5"), ("5", "5"))), Validity::Valid);
}

#[test]
fn appends_are_recognised_in_our_own_lines() {
    let line = |index: u8, kind: &str, f: &str, value: &str| {
        format!(
            "{{\"index\":{index},\"time\":0,\"process\":0,\"type\":\"{kind}\",\"f\":\"{f}\",\"key\":\"a\"{value}}}\n"
        )
    };
    let history = |read: &str| {
        [
            line(0, "invoke", "get", ""),
            line(1, "ok", "get", ",\"value\":null"),
            line(2, "invoke", "append", ",\"value\":\"x\""),
            line(3, "ok", "append", ""),
            line(4, "invoke", "append", ",\"value\":\"y\""),
            line(5, "ok", "append", ",\"value\":\"y\""),
            line(6, "invoke", "get", ""),
            line(7, "ok", "get", &format!(",\"value\":\"{read}\"")),
        ]
        .concat()
    };
    assert_eq!(verdict(&history("xy")), Validity::Valid);
    assert_eq!(verdict(&history("yx")), Validity::Invalid);
    // An error of another kind is told as it is.
    let error =
        check(&history("xy").replace("\"index\":7", "\"index\":8"), None).expect_err("a gap");
    assert!(error.to_string().contains(":8:1: index 8, expected 7"), "{error}");
}
