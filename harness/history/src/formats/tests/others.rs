//! Histories as other people write them: what is read, and what is refused in which words.

use super::{super::*, read};

/// What reading a text gives: its events, or the start of the error.
type Expected = Result<&'static [&'static str], &'static str>;

pub(super) fn check(text: &str, format: Format, expected: Expected) {
    assert_eq!(recognise(text.as_bytes()), Some(format), "{text}");
    match (read(text), expected) {
        (Ok(events), Ok(expected)) => assert_eq!(events, expected, "{text}"),
        (Err(error), Err(expected)) => {
            assert!(error.starts_with(expected), "{error}\nis not {expected}\n{text}");
        }
        (got, expected) => panic!("{got:?} is not {expected:?}\n{text}"),
    }
}

const WRITE_AND_READ: &[&str] =
    &["0 register Put(\"1\")", "0 Ok(None)", "1 register Get", "1 Ok(Some(\"1\"))"];

#[test]
fn logs_of_every_year_are_read() {
    let operations = [
        "0\t:invoke\t:write\t1",
        "0\t:ok\t:write\t1",
        "1\t:invoke\t:read\tnil",
        "1\t:ok\t:read\t1",
    ];
    let logged = |start: &str| -> String {
        operations.iter().map(|operation| format!("{start}{operation}\n")).collect()
    };
    for start in [
        "INFO  jepsen.util - ",
        "INFO [2018-02-04 22:14:07,143] jepsen worker 3 - jepsen.util ",
        "2022-07-28 07:51:01,403{GMT}\tINFO\t[jepsen worker 0] jepsen.util: ",
    ] {
        check(&logged(start), Format::JepsenLog, Ok(WRITE_AND_READ));
        // Other lines are of the test itself.
        let among = format!(
            "INFO [2018] main - jepsen.core Setting up nodes {{:a 1}}\n{}\tat java.lang.Thread\n",
            logged(start).replace('\n', "\r\nWARN jepsen.util: retrying after :timeout\n\n")
        );
        check(&among, Format::JepsenLog, Ok(WRITE_AND_READ));
        let spaces = logged(start).replace('\t', "   ");
        check(&spaces, Format::JepsenLog, Ok(WRITE_AND_READ));
        // A column after the value, as some testers have it.
        let hints = logged(start).replace('\n', " \t:hint 7\n");
        check(&hints, Format::JepsenLog, Ok(WRITE_AND_READ));
    }
    check(&logged(""), Format::JepsenText, Ok(WRITE_AND_READ));
    check(&format!("\u{feff}{}", logged("")), Format::JepsenText, Ok(WRITE_AND_READ));
}

#[test]
fn a_value_in_a_log_is_a_whole_form() {
    let event = |value: &str| format!("INFO jepsen.util - 0\t:invoke\t:write\t{value}\n");
    for (value, expected) in [
        ("[7 8 9]", Ok(&["0 register Put(\"[7 8 9]\")"][..])),
        ("[7 1]", Ok(&["0 7 Put(\"1\")"][..])),
        ("{:b 2, :a 1}", Ok(&["0 register Put(\"{:a 1 :b 2}\")"])),
        ("\"a b\"", Ok(&["0 register Put(\"\\\"a b\\\"\")"])),
        ("#inst \"2017\"", Ok(&["0 register Put(\"#inst \\\"2017\\\"\")"])),
        ("nil", Ok(&["0 register Del"])),
        // A blank may be part of a value that was not printed as EDN.
        ("a b", Err("h:1:39: 'b' follows the value")),
        ("1 2\t:timeout", Err("h:1:39: '2\t:timeout' follows the value")),
        ("[1", Err("h:1:37: not closed")),
        ("", Err("h:1:20: invoke write without a value")),
    ] {
        check(&event(value), Format::JepsenLog, expected);
    }
}

#[test]
fn errors_in_logs_are_no_values() {
    check(
        "0\t:invoke\t:write\t1\n\
         0\t:info\t:write\t0\t:timeout\n\
         1\t:invoke\t:cas\t[1 2]\n\
         1\t:fail\t:cas\t:connection-refused\n\
         1\t:invoke\t:cas\t[1 2]\n\
         1\t:fail\t:cas\t[1 2]\tjava.net.SocketException: reset\n\
         \tat java.lang.Thread\n\
         \n\
         2\t:invoke\t:read\tnil\n\
         2\t:fail\t:read\t#object[x 0x1f \"x\"]\n",
        Format::JepsenText,
        Ok(&[
            "0 register Put(\"1\")",
            "0 Info",
            "1 register Cas(Some(\"1\"), Some(\"2\"))",
            "1 Fail",
            "1 register Cas(Some(\"1\"), Some(\"2\"))",
            "1 Fail",
            "2 register Get",
            "2 Fail",
        ]),
    );
    // An operation that is cut is no line of an error.
    check(
        "0\t:invoke\t:write\t1\n0\t:info\t:write\t1\terror\n1\t:invo\t:read\n",
        Format::JepsenText,
        Err("h:3:1: expected process, type"),
    );
    // Only an error may have several lines.
    check(
        "0\t:invoke\t:write\t1\nat java\n",
        Format::JepsenText,
        Err("h:2:1: expected process, type"),
    );
    check(
        "I jepsen.util - 0\t:invoke\t:write\t1\nI jepsen.util - 0\t:okay\t:write\t1\n",
        Format::JepsenLog,
        Err("h:2:1: a line of jepsen.util that is no operation"),
    );
    check(
        "I jepsen.util - 0 :invoke :write 1\nI jepsen.util - 0 :okay :write 1\n",
        Format::JepsenLog,
        Err("h:2:1: a line of jepsen.util that is no operation"),
    );
}

/// Events of Jepsen's shape as JSON and as EDN.
fn both(events: &[&str], expected: Expected) {
    let json = events.join("\n") + "\n";
    let array = format!("\n [{}]\n", events.join(",\n"));
    let edn = json.replace("\"null\"", "nil");
    let names = ["process", "type", "f", "value", "index", "time", "key", "error", "extra"];
    let edn = names
        .iter()
        .fold(edn, |edn, name| edn.replace(&format!("\"{name}\":"), &format!(":{name} ")));
    let words = ["invoke", "ok", "fail", "info", "read", "write", "cas", "acquire", "release", "r"];
    let edn = words
        .iter()
        .fold(edn, |edn, word| edn.replace(&format!("\"{word}\""), &format!(":{word}")));
    let edn = edn.replace("null", "nil");
    // Errors in JSON are found at the end of an object.
    let without_position = |text: &str, format| {
        assert_eq!(recognise(text.as_bytes()), Some(format), "{text}");
        match (read(text), expected) {
            (Ok(events), Ok(expected)) => assert_eq!(events, expected, "{text}"),
            (Err(error), Err(expected)) => {
                let reason = error.splitn(4, ':').nth(3).unwrap_or_default().trim_start();
                let reason = reason.replace("[[r 1 nil]]", "[[:r 1 nil]]");
                assert!(reason.starts_with(expected), "{error}\nis not {expected}\n{text}");
            }
            (got, expected) => panic!("{got:?} is not {expected:?}\n{text}"),
        }
    };
    without_position(&json, Format::Json);
    without_position(&array, Format::Json);
    without_position(&edn, Format::Edn);
}

#[test]
fn events_of_jepsens_shape_are_read() {
    both(
        &[
            r#"{"process":"nemesis","type":"info","f":"start","value":{"key":1},"index":null}"#,
            r#"{"process":0,"type":"invoke","f":"write","value":1,"index":3,"extra":[1]}"#,
            r#"{"process":0,"type":"ok","f":"write","value":1,"index":7}"#,
            r#"{"process":1,"type":"invoke","f":"read","time":null}"#,
            r#"{"process":1,"type":"ok","f":"read","value":1}"#,
        ],
        Ok(WRITE_AND_READ),
    );
    // What fail and info say of key and value is nothing that was observed.
    both(
        &[
            r#"{"process":0,"type":"invoke","f":"write","value":[5,1]}"#,
            r#"{"process":0,"type":"info","f":"write","value":0}"#,
            r#"{"process":1,"type":"invoke","f":"cas","value":[5,1,2]}"#,
            r#"{"process":1,"type":"fail","f":"cas","value":[6,[1,1]]}"#,
            r#"{"process":1,"type":"invoke","f":"cas","value":[5,[1,null]]}"#,
            r#"{"process":1,"type":"ok","f":"cas"}"#,
        ],
        Ok(&[
            "0 5 Put(\"1\")",
            "0 Info",
            "1 5 Cas(Some(\"1\"), Some(\"2\"))",
            "1 Fail",
            "1 5 Cas(Some(\"1\"), None)",
            "1 Ok(None)",
        ]),
    );
    // A key of its own. A completion may omit it.
    both(
        &[
            r#"{"process":0,"type":"invoke","f":"write","key":5,"value":[1,2]}"#,
            r#"{"process":0,"type":"ok","f":"write","value":[1,2]}"#,
            r#"{"process":0,"type":"invoke","f":"read","key":5}"#,
            r#"{"process":0,"type":"ok","f":"read","key":5,"value":null}"#,
        ],
        Ok(&["0 5 Put(\"[1 2]\")", "0 Ok(None)", "0 5 Get", "0 Ok(None)"]),
    );
}

#[test]
fn what_clojure_prints_in_other_fields_is_skipped() {
    check(
        "#jepsen.history.Op{:process 0, :type :invoke, :f :write, :value 1, :clock-offsets {\"n1\" 0.5}}\n\
         {:process 0, :type :ok, :f :write, :value 1, :error #object[java.lang.Thread 0x5e3b \"x\"]}\n\
         #knossos.op.Op{:process 1, :type :invoke, :f :read, :value nil, :index nil, :by #'user/run}\n\
         {:process 1, :type :ok, :f :read, :value 1, :exception #error {:cause \"\\\"\\b\", :via \
         [{:type java.io.IOException, :at [a$fn__1 invoke \"a.clj\" 12]}]}, :re #\"a\\\"[b]\", :x ##NaN}\n",
        Format::Edn,
        Ok(WRITE_AND_READ),
    );
}

#[test]
fn processes_can_have_any_name() {
    let named = |number: u64| (NAMED_PROCESSES + number).to_string();
    let edn = "{:process :a, :type :invoke, :f :read}\n\
               {:process :nemesis, :type :info, :f :kill}\n\
               {:process \"a\", :type :invoke, :f :read}\n\
               {:process -1, :type :invoke, :f :read}\n\
               {:process 3N, :type :invoke, :f :read}\n\
               {:process :a, :type :ok, :f :read, :value nil}\n\
               {:process 3, :type :ok, :f :read, :value nil}\n";
    let expected = [
        "0 register Get",
        "1 register Get",
        "2 register Get",
        "3 register Get",
        "0 Ok(None)",
        "3 Ok(None)",
    ];
    let events = read(edn).expect("well formed");
    let events: Vec<String> = events
        .into_iter()
        .map(|event| (0..3).fold(event, |event, n| event.replace(&named(n), &n.to_string())))
        .collect();
    assert_eq!(events, expected);
    for process in ["", ":process nil, "] {
        let text = format!("{{{process}:type :invoke, :f :read}}\n");
        check(&text, Format::Edn, Err("h:1:1: an event without a process"));
    }
    check("{:process :nemesys, :f :start}\n", Format::Edn, Err("h:1:1: an event without type"));
    let own = r#"{"index":0,"time":1,"process":"a","type":"invoke","f":"get","key":"k"}"#;
    check(&format!("{own}\n"), Format::Jsonl, Ok(&["9223372036854775808 k Get"]));
}

#[test]
fn locks_are_read_as_cas() {
    both(
        &[
            r#"{"process":0,"type":"invoke","f":"acquire","value":null}"#,
            r#"{"process":0,"type":"ok","f":"acquire","value":null}"#,
            r#"{"process":0,"type":"invoke","f":"release"}"#,
            r#"{"process":0,"type":"fail","f":"release"}"#,
        ],
        Ok(&[
            "0 lock Cas(None, Some(\"(held)\"))",
            "0 Ok(None)",
            "0 lock Cas(Some(\"(held)\"), None)",
            "0 Fail",
        ]),
    );
    both(
        &[
            r#"{"process":0,"type":"invoke","f":"acquire"}"#,
            r#"{"process":1,"type":"invoke","f":"read"}"#,
        ],
        Err("read: operations on registers and on locks in one history"),
    );
}

#[test]
fn other_objects_are_refused_by_name() {
    both(
        &[r#"{"process":0,"type":"invoke","f":"read","value":[["r",1,null],["r",2,null]]}"#],
        Err("[["),
    );
    for (f, value, reason) in [
        ("txn", "[]", "[] is a transaction, and only operations on single keys are expected here"),
        ("add", "1", "add is an operation on a set or a counter: registers"),
        ("enqueue", "1", "enqueue is an operation on a queue: registers"),
        ("dequeue", "1", "dequeue is an operation on a queue: registers"),
        ("increment", "1", "increment is an operation on a counter: registers"),
        ("transfer", "{:from 0}", "transfer is a transfer of a bank: registers"),
        ("append", "1", "append: appends to texts are read in history.jsonl"),
        ("jump", "1", "unknown operation jump: expected read, write, cas"),
        ("read", "[[:r 1 nil] [:append 2 3]]", "[[:r 1 nil] [:append 2 3]] is a transaction"),
        ("write", "[[:w 1 1]]", "[[:w 1 1]] is a transaction"),
    ] {
        let text = format!("{{:process 0, :type :invoke, :f :{f}, :value {value}}}\n");
        check(&text, Format::Edn, Err(&*format!("h:1:1: {reason}").leak()));
    }
}

#[test]
fn what_only_reads_collections_is_no_register() {
    let reads = [
        r#"{"process":0,"type":"invoke","f":"read"}"#,
        r#"{"process":0,"type":"ok","f":"read","value":{}}"#,
    ];
    both(&reads, Err("reads of collections such as {}, and no writes: a bank"));
    let write = [r#"{"process":1,"type":"invoke","f":"write","value":{}}"#];
    both(
        &[&reads[..], &write].concat(),
        Ok(&["0 register Get", "0 Ok(Some(\"{}\"))", "1 register Put(\"{}\")"]),
    );
}

#[test]
fn events_that_disagree_are_refused() {
    let event = |f: &str, value: &str| {
        format!(
            "{{:process 0, :type :invoke, :f :{f}, :value {value}}}\n{{:process 0, :type :fail, :f :{f}}}\n"
        )
    };
    for (first, second, reason) in [
        (
            ("write", "[1 2]"),
            ("read", "nil"),
            "read with the value nil: some events of this history name",
        ),
        (
            ("read", "nil"),
            ("write", "[1 2]"),
            "write with the value [1 2]: some events of this history name",
        ),
        (("read", "[1 nil]"), ("cas", "[1 2]"), "cas with the value [1 2]: some events"),
        (("read", "nil"), ("cas", "[1 2 3]"), "cas of [1 2 3]: expected [old new]"),
        (("read", "nil"), ("cas", "1"), "cas of 1: expected [old new]"),
    ] {
        let text = event(first.0, first.1) + &event(second.0, second.1);
        check(&text, Format::Edn, Err(&*format!("h:3:1: {reason}").leak()));
    }
    // In a history of one register, an old value and a new one that is a list.
    let text = event("read", "nil") + &event("cas", "[1 [2 3]]");
    assert_eq!(
        read(&text).expect("well formed")[2],
        "0 register Cas(Some(\"1\"), Some(\"[2 3]\"))"
    );
    check(
        r#"{"process":0,"type":"invoke","f":"read","object":"x"}"#,
        Format::Json,
        Err("h:1:53: the field object may say"),
    );
    let keys = "{:process 0, :type :invoke, :f :read, :key \"shard\", :value [1 nil]}\n";
    check(keys, Format::Edn, Err("h:1:1: read with a key and the value [1 nil]: two keys"));
    let twice = "{:process 0, :process 1, :type :invoke, :f :read}";
    check(twice, Format::Edn, Err("h:1:1: an event with two fields :process"));
    check(
        "{:process 0, :type :invoke, :f :read, :index :x}",
        Format::Edn,
        Err("h:1:1: index :x: expected a number"),
    );
    check(
        r#"{"process":0,"process":1,"type":"invoke"}"#,
        Format::Json,
        Err("h:1:41: an event with two fields process"),
    );
    check(
        "[{\"process\":0,\"type\":\"invoke\",\"f\":\"read\"},\n 7]",
        Format::Json,
        Err("h:2:3: invalid type: integer `7`, expected an object"),
    );
    check(
        "[{\"process\":0,\"type\":\"invoke\",\"f\":\"read\"}",
        Format::Json,
        Err("h:1:41: EOF while parsing a list"),
    );
}

#[test]
fn formats_are_told_apart_by_structure() {
    for (text, format) in [
        ("{:type :info, :f :start, :value {:key \"n1\"}, :process :nemesis}", Format::Edn),
        (
            "; :key \n{:process 0, :type :invoke, :f :read, :error \"jepsen.util - 0 :invoke :read nil\"}",
            Format::Edn,
        ),
        ("[[{:process 0, :type :invoke, :f :write, :value \":key \\\"\"", Format::Edn),
        ("[]", Format::Edn),
        ("#knossos.op.Op{:process 0, :type :invoke, :f :get, :key \"a\"}", Format::Porcupine),
        (
            "{:process :nemesis, :f :x, :type :info}\n{:process 0, :type :invoke, :f :put, :key \"a\", :value \"\"}",
            Format::Porcupine,
        ),
        ("[\n{\"process\":\"nemesis\",\"type\":\"info\",\"f\":\"x\"}]", Format::Json),
        (
            "{\"process\":\"nemesis\",\"type\":\"info\",\"f\":\"x\",\"index\":0,\"time\":1}\n{\"process\":0,\"type\":\"invoke\",\"f\":\"read\",\"index\":1,\"time\":1}",
            Format::Json,
        ),
        (
            "{ \"process\": 0,\n \"type\": \"invoke\", \"f\": \"get\", \"key\": \"a\", \"index\": 0, \"time\": 7}",
            Format::Jsonl,
        ),
        (
            "{\"process\":0,\"type\":\"invoke\",\"f\":\"get\",\"key\":\"a\",\"index\":0,\"time\":7}\n{\"process\":1,\"type\":\"invoke\",\"f\":\"put\",\"key\":\"a\",\"value\":1,\"index\":1,\"time\":7}",
            Format::Json,
        ),
        (
            "{\"process\":0,\"type\":\"invoke\",\"f\":\"get\",\"key\":\"a\",\"index\":0,\"time\":7}\n\
             {\"process\":1,\"type\":\"invoke\",\"f\":\"put\",\"key\":\"a\",\"value\":1,\"index\":1,\"time\":7}",
            Format::Json,
        ),
        ("{\"note\":\"process,type\",\"f\":\"r\",\"call\":1}", Format::Intervals),
        ("", Format::Jsonl),
    ] {
        assert_eq!(recognise(text.as_bytes()), Some(format), "{text}");
        let marked = [&BYTE_ORDER_MARK[..], text.as_bytes()].concat();
        assert_eq!(recognise(&marked), Some(format), "{text}");
    }
    for text in ["a,b,c\n1,2,3", "# Notes", "{\"a\":1}", "[1, 2]", "<html>", "client;op;start"] {
        assert_eq!(recognise(text.as_bytes()), None, "{text}");
    }
}

#[test]
fn files_that_are_no_text_are_refused_with_what_to_give_instead() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    for (name, content, reason) in [
        ("test.jepsen", &b"JEPSEN\0\0"[..], "Jepsen's binary format (.jepsen): give history.edn"),
        ("renamed", b"JEPSEN\0\0", "Jepsen's binary format (.jepsen): give history.edn"),
        ("test.fressian", b"\xef\xda", "Jepsen's binary format (.fressian): give history.edn"),
        ("history.edn", b"\x1f\x8b\x08", "compressed (gzip)"),
        ("history.txt", b"\xff\xfe0\0", "UTF-16"),
        ("core", b"\x7fELF\0", "a binary file"),
        ("README", b"# Notes\n", "unknown format: expected events as JSON or EDN"),
    ] {
        let path = directory.path().join(name);
        std::fs::write(&path, content).expect("the disk has room");
        let error = detect(&path).expect_err(name).to_string();
        assert!(error.contains(&format!("{name}:1:1: {reason}")), "{error}");
    }
    // The operations of a log may come after a long setup.
    let path = directory.path().join("jepsen.log");
    let setup = "INFO [main] jepsen.core: installing\n".repeat(5000);
    let log = setup + "INFO [w] jepsen.util: 0\t:invoke\t:read\tnil\n";
    std::fs::write(&path, log).expect("the disk has room");
    assert_eq!(detect(&path).expect("a log"), Format::JepsenLog);
}

#[test]
fn own_lines_may_have_cas_and_append() {
    let lines = [
        r#"{"index":0,"time":0,"process":0,"type":"invoke","f":"cas","key":"a","value":[null,"x"]}"#,
        r#"{"index":1,"time":0,"process":0,"type":"ok","f":"cas","key":"a","value":[null,"x"]}"#,
        r#"{"index":2,"time":0,"process":0,"type":"invoke","f":"append","key":"a","value":"y"}"#,
        r#"{"index":3,"time":0,"process":0,"type":"info","f":"append","key":"a","value":0}"#,
    ];
    let text = lines.map(|line| format!("{line}\n")).concat();
    check(
        &text,
        Format::Jsonl,
        Ok(&["0 a Cas(None, Some(\"x\"))", "0 Ok(None)", "0 a Append(\"y\")", "0 Info"]),
    );
    for (from, to, reason) in [
        (
            "\"ok\",\"f\":\"cas\",\"key\":\"a\",\"value\":[null,\"x\"]",
            "\"ok\",\"f\":\"cas\",\"key\":\"a\",\"value\":[\"x\",null]",
            "h:2:1: process 0 completes cas",
        ),
        ("[null,\"x\"]", "[null]", "h:1:1: a cas needs [old, new]"),
        ("[null,\"x\"]", "[null,\"x\",\"y\"]", "h:1:1: a cas needs [old, new]"),
        ("\"y\"", "null", "h:3:1: append needs a value"),
    ] {
        check(&text.replacen(from, to, 1), Format::Jsonl, Err(reason));
    }
}

#[test]
fn a_key_under_another_name_is_not_overlooked() {
    let line = |name: &str, f: &str| {
        format!(
            "{{\"index\":0,\"time\":1,\"process\":0,\"type\":\"invoke\",\"f\":\"{f}\",\
             \"{name}\":\"k\",\"value\":\"1\"}}\n"
        )
    };
    let missing = "h:1:1: key: expected text; operations on one register are called read and write";
    check(&line("kye", "put"), Format::Jsonl, Err(missing));
    check(&line("keys", "write"), Format::Json, Err("h:1:83: the field keys may say what"));
    check(&line("node", "write"), Format::Json, Ok(&["0 register Put(\"\\\"1\\\"\")"]));
    let edn =
        |name: &str| format!("{{:process 0, :type :invoke, :f :write, {name} :a, :value 1}}\n");
    for (name, reason) in [
        (":table", "h:1:1: the field table may say what"),
        ("\"table\"", "h:1:1: the field table may say what"),
        (":keys", "h:1:1: the field keys may say what"),
    ] {
        check(&edn(name), Format::Edn, Err(reason));
    }
    check(&edn(":node"), Format::Edn, Ok(&["0 register Put(\"1\")"]));
}
