//! Samples of every format, and malformed inputs of every kind. The verdicts on the samples are tested
//! with the checker.

mod intervals;
mod others;
mod sessions;
mod transactions;
mod values;

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::{Completion, Invocation, MalformedHistory, MicroOp, Outcome};

/// Keeps the events in text form. Rejects what a process cannot do.
#[derive(Debug, Default)]
struct EventList {
    events: Vec<String>,
    /// Processes with an open operation, and whether an info has retired them.
    busy: HashMap<u64, bool>,
}

impl Sink for EventList {
    fn invoke(
        &mut self,
        process: u64,
        key: &str,
        invocation: Invocation<'_>,
    ) -> Result<(), MalformedHistory> {
        if let Some(retired) = self.busy.insert(process, false) {
            return Err(MalformedHistory::not_idle(process, retired));
        }
        self.events.push(format!("{process} {key} {invocation:?}"));
        Ok(())
    }

    fn complete(
        &mut self,
        process: u64,
        completion: Completion<'_>,
    ) -> Result<(), MalformedHistory> {
        if self.busy.remove(&process) != Some(false) {
            return Err(MalformedHistory::not_invoked(process));
        }
        if completion == Completion::Info {
            self.busy.insert(process, true);
        }
        self.events.push(format!("{process} {completion:?}"));
        Ok(())
    }
}

/// Keeps transactions in text form.
#[derive(Debug, Default)]
struct TransactionList(Vec<String>);

impl Sink for TransactionList {
    fn without_real_time(&mut self) {
        self.0.push("without real time".to_owned());
    }

    fn invoke(&mut self, process: u64, _: &str, _: Invocation<'_>) -> Result<(), MalformedHistory> {
        Err(MalformedHistory::not_idle(process, false))
    }

    fn complete(&mut self, process: u64, _: Completion<'_>) -> Result<(), MalformedHistory> {
        Err(MalformedHistory::not_invoked(process))
    }

    fn invoke_transaction(
        &mut self,
        process: u64,
        ops: &[MicroOp<'_, '_>],
    ) -> Result<(), MalformedHistory> {
        self.0.push(format!("{process} invoke{}", micro_ops(ops)));
        Ok(())
    }

    fn complete_transaction(
        &mut self,
        process: u64,
        ops: &[MicroOp<'_, '_>],
        outcome: Outcome,
    ) -> Result<(), MalformedHistory> {
        self.0.push(format!("{process} {outcome:?}{}", micro_ops(ops)));
        Ok(())
    }
}

fn micro_ops(ops: &[MicroOp<'_, '_>]) -> String {
    let version = |op: &MicroOp<'_, '_>| op.version.map_or(String::new(), |it| format!(" @{it}"));
    ops.iter()
        .map(|op| format!(" {} {} {}{}", op.f.name(), op.key, op.value, version(op)))
        .collect()
}

fn read(text: &str) -> Result<Vec<String>, String> {
    let format = recognise(text.as_bytes()).ok_or("unknown format")?;
    let mut sink = EventList::default();
    stream_from(&mut text.as_bytes(), format, &mut sink, Path::new("h"))
        .map_err(|error| error.to_string())?;
    Ok(sink.events)
}

const JSONL: &str = r#"{"index":0,"time":1,"process":0,"type":"invoke","f":"put","key":"a","value":"1"}
{"index":1,"time":2,"process":"nemesis","type":"info","f":"kill","value":{"node":"master"}}
{"index":2,"time":3,"process":0,"type":"ok","f":"put","key":"a","value":"1","version":"1.1"}
{"index":3,"time":4,"process":1,"type":"invoke","f":"get","key":"a"}
{"index":4,"time":5,"process":1,"type":"ok","f":"get","key":"a","value":"1","version":"1.1"}
"#;

const EDN: &str = r#"{:type :invoke, :f :write, :value 3, :time 10, :process 0, :index 0}
{:type :info, :f :start, :process :nemesis, :time 11, :index 1}
{:type :ok, :f :write, :value 3, :time 12, :process 0, :index 2}
#jepsen.history.Op{:index 3, :time 13, :type :invoke, :process 1, :f :cas, :value [3 4]}
{:index 4, :time 14, :type :ok, :process 1, :f :cas, :value [3 4], :extra {:a #{1 2}}}
{:type :invoke, :f :read, :value nil, :process 2} ; a remark
{:type :ok, :f :read, :value 4, :process 2}
"#;

const INDEPENDENT: &str = r#"[{:type :invoke, :f :write, :value [1 3], :process 0}
 {:type :ok, :f :write, :value [1 3], :process 0}
 {:type :invoke, :f :read, :value [2 nil], :process 0}
 {:type :ok, :f :read, :value [2 3], :process 0}
 {:type :invoke, :f :cas, :value [1 [3 5]], :process 0}
 {:type :fail, :f :cas, :value [1 [3 5]], :process 0}]
"#;

const LOG: &str = "INFO  jepsen.util - 0\t:invoke\t:write\t3
INFO  jepsen.util - 1\t:invoke\t:read\tnil
INFO  jepsen.util - :nemesis\t:info\t:start\tnil
INFO  jepsen.util - 0\t:ok\t:write\t3
INFO  jepsen.util - 1\t:ok\t:read\t3
INFO  jepsen.util - 1\t:invoke\t:cas\t[3 4]
INFO  jepsen.util - 1\t:fail\t:cas\t[3 4]
INFO  jepsen.util - 2   :invoke   :read   nil
INFO  jepsen.util - 2   :fail   :read   :timed-out
";

const PORCUPINE: &str = r#"{:process 9, :type :invoke, :f :get, :key "0", :value nil}
{:process 8, :type :invoke, :f :append, :key "0", :value "x 8 0 y"}
{:process 8, :type :ok, :f :append, :key "0", :value "x 8 0 y"}
{:process 9, :type :ok, :f :get, :key "0", :value "x 8 0 y"}
{:process 8, :type :invoke, :f :append, :key "0", :value "x 8 1 y"}
{:process 8, :type :ok, :f :append, :key "0", :value "x 8 1 y"}
{:process 9, :type :invoke, :f :get, :key "0", :value nil}
{:process 9, :type :ok, :f :get, :key "0", :value "x 8 0 yx 8 1 y"}
"#;

#[test]
fn every_format_is_recognised_and_read() {
    let one_register = [
        "0 register Put(\"3\")",
        "0 Ok(None)",
        "1 register Cas(Some(\"3\"), Some(\"4\"))",
        "1 Ok(None)",
        "2 register Get",
        "2 Ok(Some(\"4\"))",
    ];
    let log = [
        "0 register Put(\"3\")",
        "1 register Get",
        "0 Ok(None)",
        "1 Ok(Some(\"3\"))",
        "1 register Cas(Some(\"3\"), Some(\"4\"))",
        "1 Fail",
        "2 register Get",
        "2 Fail",
    ];
    let independent = [
        "0 1 Put(\"3\")",
        "0 Ok(None)",
        "0 2 Get",
        "0 Ok(Some(\"3\"))",
        "0 1 Cas(Some(\"3\"), Some(\"5\"))",
        "0 Fail",
    ];
    let porcupine = [
        "9 0 Get",
        "8 0 Append(\"x 8 0 y\")",
        "8 Ok(None)",
        "9 Ok(Some(\"x 8 0 y\"))",
        "8 0 Append(\"x 8 1 y\")",
        "8 Ok(None)",
        "9 0 Get",
        "9 Ok(Some(\"x 8 0 yx 8 1 y\"))",
    ];
    for (text, format, events) in [
        (
            JSONL,
            Format::Jsonl,
            &["0 a Put(\"1\")", "0 Ok(None)", "1 a Get", "1 Ok(Some(\"1\"))"][..],
        ),
        (EDN, Format::Edn, &one_register),
        (INDEPENDENT, Format::Edn, &independent),
        (LOG, Format::JepsenLog, &log),
        (PORCUPINE, Format::Porcupine, &porcupine),
    ] {
        assert_eq!(recognise(text.as_bytes()), Some(format), "{text}");
        assert_eq!(read(text).expect("well formed"), events, "{text}");
    }
    assert_eq!(recognise(b"a,b,c\n1,2,3"), None);
}

#[test]
fn a_last_line_without_a_newline_counts_if_it_is_whole() {
    let whole = JSONL.trim_end();
    assert_eq!(read(whole), read(JSONL));
    let cut = &whole[..whole.len() - 1];
    assert_eq!(read(cut).expect("a torn last line is ignored").last().expect("a get"), "1 a Get");
    let wrong = whole.replace("\"index\":4", "\"index\":5");
    let error = read(&wrong).expect_err("a whole line is not ignored");
    assert!(error.starts_with("h:5:1: index 5, expected 4"), "{error}");
}

#[test]
fn errors_name_their_position() {
    for (text, expected) in [
        (JSONL.replace("\"get\"", "\"jump\""), "h:4:1: unknown operation 'jump'"),
        (JSONL.replace("\"time\":4", "\"time\":x"), "h:4:19: expected value"),
        (EDN.replace(":write, :value 3, :time 12", ":jump"), "h:3:1: unknown operation jump"),
        (EDN.replace("[3 4], :extra", "[3 4, :extra"), "h:5:"),
        (INDEPENDENT.replace("}]", "}"), "h:1:1: not closed"),
        (LOG.replace("[3 4]", "[3"), "h:6:36: not closed"),
        (
            LOG.replace("1\t:ok", "7\t:ok"),
            "h:5:21: process 7 completes an operation it has not invoked",
        ),
        (PORCUPINE.replace(":append", ":jump"), "h:2:1: unknown operation :jump"),
        (PORCUPINE.replace("\"x 8 0 y\"", "17"), "h:2:1: :value 17"),
    ] {
        let error = read(&text).err().unwrap_or_else(|| panic!("it is malformed: {text}"));
        assert!(error.starts_with(expected), "{error}\nis not {expected}");
    }
}

#[test]
fn a_completion_agrees_with_its_invocation() {
    let last = |text: &str, from: &str, to: &str| {
        let (before, after) = text.rsplit_once(from).expect(from);
        format!("{before}{to}{after}")
    };
    let last_of = |text: &str| read(text).expect("well formed").pop().expect("an event");
    let nil = INDEPENDENT.replace(":fail, :f :cas, :value [1 [3 5]]", ":info, :f :cas");
    assert_eq!(last_of(&nil), "0 Info");
    let keyword =
        INDEPENDENT.replace(":fail, :f :cas, :value [1 [3 5]]", ":fail, :f :cas, :value :no");
    assert_eq!(last_of(&keyword), "0 Fail");
    let timed_out = LOG.replace(":fail\t:cas\t[3 4]", ":info\t:cas\t:timed-out");
    assert_eq!(read(&timed_out).expect("well formed")[5], "1 Info");
    let omitted = JSONL.replace(
        "\"value\":\"1\",\"version\":\"1.1\"}\n{\"index\":3",
        "\"version\":\"1.1\"}\n{\"index\":3",
    );
    assert_ne!(omitted, JSONL);
    assert_eq!(read(&omitted).expect("well formed"), read(JSONL).expect("well formed"));
    for (text, expected) in [
        (
            last(JSONL, "\"get\"", "\"del\""),
            "h:5:1: process 1 completes del 1 of a, but invoked get of a",
        ),
        (
            last(JSONL, "\"key\":\"a\"", "\"key\":\"b\""),
            "h:5:1: process 1 completes get of b, but invoked get of a",
        ),
        (
            JSONL.replace(
                "\"value\":\"1\",\"version\":\"1.1\"}\n{\"index\":3",
                "\"value\":\"2\"}\n{\"index\":3",
            ),
            "h:3:1: process 0 completes put 2 of a, but invoked put 1 of a",
        ),
        (
            EDN.replace(":ok, :f :write, :value 3", ":ok, :f :write, :value 4"),
            "h:3:1: process 0 completes write 4 of register, but invoked write 3 of register",
        ),
        (
            last(EDN, ":f :read, :value 4", ":f :write, :value 4"),
            "h:7:1: process 2 completes write 4 of register, but invoked read of register",
        ),
        (
            INDEPENDENT.replace(":value [2 3]", ":value [1 3]"),
            "h:4:2: process 0 completes read of 1, but invoked read of 2",
        ),
        (
            INDEPENDENT
                .replace(":fail, :f :cas, :value [1 [3 5]]", ":ok, :f :cas, :value [1 [3 6]]"),
            "h:6:2: process 0 completes cas [3 6] of 1, but invoked cas [3 5] of 1",
        ),
        (
            LOG.replace("0\t:ok\t:write\t3", "0\t:ok\t:write\t4"),
            "h:4:21: process 0 completes write 4 of register, but invoked write 3 of register",
        ),
        (
            LOG.replace("1\t:fail\t:cas", "1\t:ok\t:write"),
            "h:7:21: process 1 completes write of register, but invoked cas of register",
        ),
        (
            last(PORCUPINE, ":ok, :f :append, :key \"0\"", ":ok, :f :append, :key \"1\""),
            "h:6:1: process 8 completes append of 1, but invoked append of 0",
        ),
        (
            PORCUPINE.replace(
                ":ok, :f :append, :key \"0\", :value \"x 8 1 y\"",
                ":ok, :f :append, :key \"0\", :value \"x\"",
            ),
            "h:6:1: process 8 completes append x of 0, but invoked append x 8 1 y of 0",
        ),
    ] {
        let error = read(&text).err().unwrap_or_else(|| panic!("it does not agree: {text}"));
        assert_eq!(error, expected, "{text}");
    }
}

#[test]
fn missing_fields_and_events_are_errors() {
    for (text, expected) in [
        (JSONL.replace("\"index\":3", "\"index\":4"), "h:4:1: index 4, expected 3: events"),
        (JSONL.replace("\"index\":2,", ""), "h:3:82: missing field `index`"),
        (JSONL.split_once('\n').expect("lines").1.to_owned(), "h:1:1: index 1, expected 0"),
        (JSONL.replace("\"time\":4", "\"time\":2"), "h:4:1: time 2 after time 3"),
        (JSONL.replace("\"time\":2,", ""), "h:2:82: missing field `time`"),
        (JSONL.replace(",\"key\":\"a\"}", "}"), "h:4:1: key: expected text"),
        (
            JSONL.replace("\"get\",\"key\":\"a\",\"value\":\"1\"", "\"get\",\"key\":\"a\""),
            "h:5:1: an ok get needs a value",
        ),
        (EDN.replace(":index 3", ":index 2"), "h:4:1: index 2 after index 2"),
        (EDN.replace(":read, :value 4", ":read"), "h:7:1: ok read without a value"),
        (
            EDN.replace(":write, :value 3, :time 10", ":write"),
            "h:1:1: invoke write without a value",
        ),
        (
            INDEPENDENT
                .replace(":invoke, :f :read, :value [2 nil]", ":invoke, :f :read, :value nil"),
            "h:3:2: read with the value nil: some events of this history name a key",
        ),
        (
            PORCUPINE.replace(":ok, :f :append, :key \"0\", :value", ":ok, :f :append, :value"),
            "h:3:1: an event without a :key",
        ),
        (
            EDN.replace(":cas, :value [3 4]}", ":cas, :value [3 4], :key 1}"),
            "h:4:1: cas with the value [3 4]: some events",
        ),
        (
            PORCUPINE.replace(
                ":ok, :f :get, :key \"0\", :value \"x 8 0 y\"",
                ":ok, :f :get, :key \"0\"",
            ),
            "h:4:1: :ok :get without a :value",
        ),
    ] {
        let error = read(&text).err().unwrap_or_else(|| panic!("something is missing: {text}"));
        assert!(error.starts_with(expected), "{error}\nis not {expected}");
    }
}

/// Reading in pieces of any size gives the same events, or the same error.
fn reads_the_same_in_pieces(
    bytes: &[u8],
    format: Format,
    piece: usize,
) -> Result<(), TestCaseError> {
    let read = |input: &mut dyn BufRead| {
        let mut sink = EventList::default();
        let result = stream_from(input, format, &mut sink, Path::new("h"));
        (result.map_err(|error| error.to_string()), sink.events)
    };
    let at_once = read(&mut &*bytes);
    let in_pieces = read(&mut BufReader::with_capacity(piece, bytes));
    prop_assert_eq!(at_once, in_pieces);
    Ok(())
}

/// Samples of which some bytes are replaced, inserted or removed.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let sample = prop::sample::select(vec![JSONL, EDN, INDEPENDENT, LOG, PORCUPINE]);
    let change =
        (0..2000_usize, 0..4_u8, prop::sample::select(b"[]{}()#\"\\:;, \tn0\xff".to_vec()));
    (sample, prop::collection::vec(change, 1..6)).prop_map(|(sample, changes)| {
        let mut bytes = sample.as_bytes().to_vec();
        for (at, how, byte) in changes {
            let at = at % bytes.len();
            match how {
                0 if bytes.len() > 1 => drop(bytes.remove(at)),
                1 => bytes.insert(at, byte),
                2 => bytes.truncate(at + 1),
                _ => bytes[at] = byte,
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn no_input_makes_a_reader_panic(
        bytes in damaged(),
        format in 0..Format::ALL.len(),
        piece in 1..200_usize,
    ) {
        let formats = [recognise(&bytes), Some(Format::ALL[format])];
        for format in formats.into_iter().flatten() {
            let mut sink = EventList::default();
            if let Err(error) = stream_from(&mut &*bytes, format, &mut sink, Path::new("h")) {
                let message = error.to_string();
                prop_assert!(message.starts_with("h:"), "{message}");
            }
            reads_the_same_in_pieces(&bytes, format, piece)?;
        }
    }
}
