//! A history gets the same verdict in whichever format it is written, and that of the plain search.

use std::{cell::Cell, fmt::Write as _, fs, path::Path};

use checker::{
    Validity,
    file::{FileCheckOptions, check_file},
    linearizability::{ObservedCall, SearchLimits, SearchResult, SequentialSpec, search},
};
use proptest::prelude::*;

/// What an operation does, with values as small numbers; 0 stands for an absent key.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    Read(u8),
    Write(u8),
    Cas(u8, u8),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Ok,
    Fail,
    Info,
}

/// An operation of a process: the times are positions, each taken once.
#[derive(Clone, Debug)]
struct Operation {
    process: usize,
    key: u8,
    op: Op,
    invoked: usize,
    completed: usize,
    end: End,
}

/// Histories of a few processes, each with one operation at a time, and none after an info.
fn history() -> impl Strategy<Value = Vec<Operation>> {
    let op = prop_oneof![
        3 => (0..4_u8).prop_map(Op::Read),
        2 => (0..4_u8).prop_map(Op::Write),
        1 => (0..4_u8, 0..4_u8).prop_map(|(from, to)| Op::Cas(from, to)),
    ];
    let end = prop_oneof![6 => Just(End::Ok), 1 => Just(End::Fail), 1 => Just(End::Info)];
    let step = (0..3_usize, 0..2_u8, op, end);
    prop::collection::vec(step, 1..20).prop_map(|steps| {
        let mut operations: Vec<Operation> = Vec::new();
        let mut open: [Option<usize>; 3] = [None; 3];
        let mut retired = [0; 3];
        let mut time = 0;
        // Each step invokes an operation of a process, or completes the one that is open.
        for (client, key, op, end) in steps {
            time += 1;
            let process = client + 3 * retired[client];
            if let Some(at) = open[client].take() {
                operations[at].completed = time;
                operations[at].end = end;
                retired[client] += usize::from(end == End::Info);
                continue;
            }
            open[client] = Some(operations.len());
            let completed = usize::MAX;
            operations.push(Operation {
                process,
                key,
                op,
                invoked: time,
                completed,
                end: End::Info,
            });
        }
        operations
    })
}

/// The events in their order: the operation, and whether it completes.
fn events(operations: &[Operation]) -> Vec<(&Operation, bool)> {
    let mut events: Vec<(usize, &Operation, bool)> = Vec::new();
    for operation in operations {
        events.push((operation.invoked, operation, false));
        if operation.completed < usize::MAX {
            events.push((operation.completed, operation, true));
        }
    }
    events.sort_by_key(|(time, ..)| *time);
    events.into_iter().map(|(_, operation, completes)| (operation, completes)).collect()
}

/// How values are written: as numbers, texts, or structures.
#[derive(Clone, Copy, Debug)]
struct Values {
    absent: &'static str,
    written: [&'static str; 3],
    separator: &'static str,
}

const EDN: [Values; 3] = [
    Values { absent: "nil", written: ["1", "2N", "1.0"], separator: " " },
    Values {
        absent: "nil",
        written: ["{:a 1 :b #{2 3}}", "{:a 1 :b [2 3]}", "\"nil\""],
        separator: " ",
    },
    Values { absent: "nil", written: ["[1 2 3]", "#t [1 2 3]", "#{1 2 3}"], separator: " " },
];
const JSON: [Values; 2] = [
    Values { absent: "null", written: ["1", "1.5", "\"1\""], separator: "," },
    Values { absent: "null", written: ["{\"a\":[1]}", "{\"a\":1}", "[1,2,3]"], separator: "," },
];
const TEXTS: Values =
    Values { absent: "null", written: ["\"1\"", "\"2\"", "\"a b\""], separator: "," };

impl Values {
    fn value(&self, value: u8) -> &str {
        if value == 0 { self.absent } else { self.written[usize::from(value) - 1] }
    }

    /// The value field of an event: what an invocation says, or what an ok says.
    fn of(&self, op: Op, completes: bool) -> String {
        match op {
            Op::Read(value) if completes => self.value(value).to_owned(),
            Op::Read(_) => self.absent.to_owned(),
            Op::Write(value) => self.value(value).to_owned(),
            Op::Cas(from, to) => {
                format!("[{}{}{}]", self.value(from), self.separator, self.value(to))
            }
        }
    }
}

fn kind(operation: &Operation, completes: bool) -> &'static str {
    match operation.end {
        _ if !completes => "invoke",
        End::Ok => "ok",
        End::Fail => "fail",
        End::Info => "info",
    }
}

fn name(op: Op) -> &'static str {
    match op {
        Op::Read(_) => "read",
        Op::Write(_) => "write",
        Op::Cas(..) => "cas",
    }
}

/// Lines of process, type, function and tuple, and maps of them.
fn jepsen(operations: &[Operation], values: &Values, line: impl Fn([&str; 4]) -> String) -> String {
    events(operations)
        .into_iter()
        .map(|(operation, completes)| {
            let value = format!("[{} {}]", operation.key, values.of(operation.op, completes));
            let process = operation.process.to_string();
            line([&process, kind(operation, completes), name(operation.op), &value])
        })
        .collect()
}

fn json(operations: &[Operation], values: &Values, keys: bool) -> String {
    events(operations)
        .into_iter()
        .map(|(operation, completes)| {
            let Operation { process, key, op, .. } = operation;
            let value = values.of(*op, completes);
            let value = if keys {
                format!("\"key\":{key},\"value\":{value}")
            } else {
                format!("\"value\":[{key},{value}]")
            };
            let (kind, f) = (kind(operation, completes), name(*op));
            format!("{{\"process\":\"p{process}\",\"type\":\"{kind}\",\"f\":\"{f}\",{value}}}\n")
        })
        .collect()
}

fn recorded(operations: &[Operation]) -> String {
    let mut text = String::new();
    for (index, (operation, completes)) in events(operations).into_iter().enumerate() {
        let Operation { process, key, op, .. } = operation;
        let value = TEXTS.of(*op, completes);
        let f = match op {
            Op::Read(_) => "get",
            Op::Write(0) => "del",
            Op::Write(_) => "put",
            Op::Cas(..) => "cas",
        };
        let kind = kind(operation, completes);
        writeln!(
            text,
            "{{\"index\":{index},\"time\":0,\"process\":{process},\"type\":\"{kind}\",\"f\":\"{f}\",\
             \"key\":\"{key}\",\"value\":{value}}}"
        )
        .expect("memory can be written");
    }
    text
}

/// Operations with start and end, the last one first.
fn intervals(operations: &[Operation], values: &Values) -> String {
    let mut text = String::new();
    for operation in operations.iter().rev() {
        let Operation { process, key, op, invoked, completed, end } = operation;
        let value = values.of(*op, true);
        let ok = match end {
            End::Ok => "\"ok\"",
            End::Fail => "\"fail\"",
            End::Info => "\"info\"",
        };
        let end = if *completed < usize::MAX { completed.to_string() } else { "null".to_owned() };
        writeln!(
            text,
            "{{\"client\":{process},\"op\":\"{}\",\"key\":{key},\"value\":{value},\"start\":{invoked},\
             \"end\":{end},\"ok\":{ok}}}",
            name(*op)
        )
        .expect("memory can be written");
    }
    text
}

fn csv(operations: &[Operation]) -> String {
    let mut text = "key,op,value,old,new,call,return,status\n".to_owned();
    let cell = |value: u8| if value == 0 { "nil".to_owned() } else { format!("v{value}") };
    for operation in operations {
        let Operation { key, op, invoked, completed, end, .. } = operation;
        let values = match op {
            Op::Read(value) | Op::Write(value) => format!("{},,", cell(*value)),
            Op::Cas(from, to) => format!(",{},{}", cell(*from), cell(*to)),
        };
        let ok = match end {
            End::Ok => "true",
            End::Fail => "fail",
            End::Info => "timeout",
        };
        let end = if *completed < usize::MAX { completed.to_string() } else { String::new() };
        writeln!(text, "{key},{},{values},{invoked},{end},{ok}", name(*op))
            .expect("memory can be written");
    }
    text
}

/// A register with cas.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct Register(u8);

impl SequentialSpec for Register {
    type Op = Op;
    /// Whether what was observed is possible.
    type Ret = bool;

    fn invoke(&mut self, op: &Op) -> bool {
        match *op {
            Op::Read(value) => self.0 == value,
            Op::Write(value) => {
                self.0 = value;
                true
            }
            Op::Cas(from, to) if self.0 == from => {
                self.0 = to;
                true
            }
            Op::Cas(..) => false,
        }
    }
}

/// The verdict of the plain search. A cas that may have been executed may have found another value, and
/// then it did nothing; leaving it out says the same.
fn searched(operations: &[Operation]) -> Validity {
    let is_valid = |key: u8| {
        let of_key = operations.iter().filter(|operation| operation.key == key);
        let calls: Vec<ObservedCall<Op, bool>> = of_key
            .filter(|operation| operation.end == End::Ok || !matches!(operation.op, Op::Read(_)))
            .map(|operation| ObservedCall {
                op: operation.op,
                ret: (operation.end == End::Ok).then_some(true),
                failed: operation.end == End::Fail,
                invoked: operation.invoked as u64,
                returned: (operation.end == End::Ok).then_some(operation.completed as u64),
            })
            .collect();
        let result = search(&Register::default(), &calls, &SearchLimits::default());
        matches!(result, SearchResult::Valid(_))
    };
    if is_valid(0) && is_valid(1) { Validity::Valid } else { Validity::Invalid }
}

fn verdict(path: &Path, text: &str, initial: &str) -> Validity {
    fs::write(path, text).expect("the disk has room");
    // Whether a history shows another initial value is not the question here.
    let options = FileCheckOptions { initial: Some(initial), ..FileCheckOptions::default() };
    check_file(path, &options).unwrap_or_else(|error| panic!("{error}\n{text}")).verdict
}

/// The same history after a write of a value to every key.
fn after_writes(operations: &[Operation], value: u8) -> Vec<Operation> {
    let write = |key: u8| Operation {
        process: 1000,
        key,
        op: Op::Write(value),
        invoked: 2 * usize::from(key),
        completed: 2 * usize::from(key) + 1,
        end: End::Ok,
    };
    let later = |time: usize| if time < usize::MAX { time + 10 } else { time };
    let moved = operations.iter().map(|operation| Operation {
        invoked: later(operation.invoked),
        completed: later(operation.completed),
        ..operation.clone()
    });
    (0..2).map(write).chain(moved).collect()
}

#[test]
fn a_history_gets_the_same_verdict_in_every_format() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let path = directory.path().join("history");
    let config =
        ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
    let counts = [Cell::new(0), Cell::new(0)];
    proptest!(config, |(operations in history())| {
        let expected = searched(&operations);
        let count = &counts[usize::from(expected == Validity::Valid)];
        count.set(count.get() + 1);
        let mut texts = vec![recorded(&operations), csv(&operations)];
        // Who only reads maps and sets is refused: it may be a bank.
        let has_writes = operations.iter().any(|operation| !matches!(operation.op, Op::Read(_)));
        let is_read = |values: &&Values| {
            has_writes || values.written.iter().all(|value| !value.contains('{'))
        };
        for values in EDN.iter().filter(is_read) {
            let map = |[process, kind, f, value]: [&str; 4]| {
                format!("{{:process :p{process}, :type :{kind}, :f :{f}, :value {value}}}\n")
            };
            let columns = |[process, kind, f, value]: [&str; 4]| {
                format!("{process}\t:{kind}\t:{f}\t{value}\n")
            };
            let logged = |fields: [&str; 4]| format!("INFO [w] jepsen.util: {}", columns(fields));
            texts.push(jepsen(&operations, values, map));
            texts.push(format!("[{}]", jepsen(&operations, values, map)));
            texts.push(jepsen(&operations, values, columns));
            texts.push(jepsen(&operations, values, logged));
        }
        for values in JSON.iter().filter(is_read) {
            for keys in [true, false] {
                let lines = json(&operations, values, keys);
                texts.push(format!("[{}]", lines.trim_end().replace('\n', ",\n")));
                texts.push(lines);
            }
            texts.push(intervals(&operations, values));
        }
        for text in texts {
            prop_assert_eq!(verdict(&path, &text, "nil"), expected, "{}", text);
        }
    });
    assert!(counts.iter().all(|count| count.get() > 30), "both verdicts are frequent: {counts:?}");
}

#[test]
fn an_initial_value_is_one_that_was_written_before() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let path = directory.path().join("history");
    let config =
        ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() };
    let counts = [Cell::new(0), Cell::new(0)];
    proptest!(config, |(operations in history(), value in 1..4_u8)| {
        let initial = EDN[0].value(value);
        let map = |[process, kind, f, value]: [&str; 4]| {
            format!("{{:process {process}, :type :{kind}, :f :{f}, :value {value}}}\n")
        };
        let written = verdict(&path, &jepsen(&after_writes(&operations, value), &EDN[0], map), "nil");
        let count = &counts[usize::from(written == Validity::Valid)];
        count.set(count.get() + 1);
        let text = jepsen(&operations, &EDN[0], map);
        prop_assert_eq!(verdict(&path, &text, initial), written, "{} {}", initial, text);
    });
    assert!(counts.iter().all(|count| count.get() > 100), "both verdicts are frequent: {counts:?}");
}
