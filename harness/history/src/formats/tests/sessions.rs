//! The formats with sessions and without times.

use std::fs;

use super::*;

fn transactions(bytes: &[u8], format: Format) -> Result<Vec<String>, String> {
    let mut sink = TransactionList::default();
    let mut input = bytes;
    stream_from(&mut input, format, &mut sink, Path::new("h"))
        .map_err(|error| error.to_string())?;
    Ok(sink.0)
}

#[test]
fn plumes_text_is_read_by_session() {
    let text =
        "w(1,5,0,0)\nr(2,0,0,0)\n\nr(1,5,1,1)\nw(3,1,1,-1)\nr(1,0,0,2)\nw(4,0,1,3)\nr(4,0,1,3)\n";
    assert_eq!(recognise(text.as_bytes()), Some(Format::Plume));
    let read = transactions(text.as_bytes(), Format::Plume).expect("well formed");
    let expected = [
        "without real time",
        "0 invoke w 1 5 r 2 nil",
        "0 Ok w 1 5 r 2 nil",
        "1 invoke r 1 nil",
        "1 Ok r 1 5",
        "0 invoke r 1 nil",
        "0 Ok r 1 nil",
        "1 invoke w 3 1",
        "1 Fail",
        // Somebody writes 0 to this register.
        "1 invoke w 4 0 r 4 nil",
        "1 Ok w 4 0 r 4 0",
    ];
    assert_eq!(read, expected);
    // A write of 0 that failed wrote nothing.
    let failed = b"w(1,0,0,-1)\nw(1,5,0,1)\nr(1,0,1,2)\n";
    let read = transactions(failed, Format::Plume).expect("well formed");
    assert!(read.contains(&"1 Ok r 1 nil".to_owned()), "{read:?}");
    for (text, reason) in [
        ("w(1,5,0,0)\nw(1,x,0,0)\n", "h:2:1: expected r(key,value,session,transaction)"),
        ("w(1,5,0,7)\nw(1,6,1,7)\n", "h:2:1: transaction 7 is in session 1, and before it was in"),
        ("r(1,5,0)\n", "h:1:1: expected r(key"),
    ] {
        let error = transactions(text.as_bytes(), Format::Plume).expect_err(text);
        assert!(error.starts_with(reason), "{error}");
    }
}

#[test]
fn awdits_tests_are_read_and_their_zeros_are_written() {
    let text = "w 0 0\n=====\nw 0 1\n-----\nr 0 1\n\n=====\nr 0 0";
    assert_eq!(recognise(text.as_bytes()), Some(Format::Awdit));
    let read = transactions(text.as_bytes(), Format::Awdit).expect("well formed");
    let invoked: Vec<&String> = read.iter().filter(|line| line.contains("Ok")).collect();
    assert_eq!(invoked, ["0 Ok w 0 0", "1 Ok w 0 1", "2 Ok r 0 0", "1 Ok r 0 1"]);
    let error = transactions(b"w 0 0\nx 1 1\n", Format::Awdit).expect_err("no access");
    assert!(error.starts_with("h:2:1: expected 'r key value'"), "{error}");
}

/// A history of dbcop's with one session and two transactions, the second of which failed.
fn dbcop() -> Vec<u8> {
    let mut bytes = Vec::new();
    for parameter in [0_u64, 1, 1, 2, 2] {
        bytes.extend(parameter.to_le_bytes());
    }
    for text in ["made here", "2019-04-02T10:59:36.4+02:00", "2019-04-02T10:59:41.9+02:00"] {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    }
    let transaction = |accesses: &[(bool, u64, u64, bool)], is_committed: bool| {
        let mut bytes = (accesses.len() as u64).to_le_bytes().to_vec();
        for (is_write, key, value, is_done) in accesses {
            bytes.push(u8::from(*is_write));
            bytes.extend(key.to_le_bytes());
            bytes.extend(value.to_le_bytes());
            bytes.push(u8::from(*is_done));
        }
        bytes.push(u8::from(is_committed));
        bytes
    };
    let first = transaction(&[(true, 7, 1, true), (false, 8, 0, true), (true, 9, 3, false)], true);
    let second = transaction(&[(true, 7, 2, true)], false);
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend(2_u64.to_le_bytes());
    bytes.extend(first);
    bytes.extend(second);
    bytes
}

#[test]
fn dbcops_histories_are_recognised_and_read() {
    let bytes = dbcop();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("history.bincode");
    fs::write(&path, &bytes).expect("written");
    assert_eq!(detect(&path).ok(), Some(Format::Dbcop));
    let read = transactions(&bytes, Format::Dbcop).expect("well formed");
    let expected = [
        "without real time",
        "0 invoke w 7 1 r 8 nil",
        "0 Ok w 7 1 r 8 nil",
        "0 invoke w 7 2",
        "0 Fail",
    ];
    assert_eq!(read, expected);
    let cut = transactions(&bytes[..bytes.len() - 1], Format::Dbcop).expect_err("cut");
    assert!(cut.contains("the file ends in the middle of a history"), "{cut}");
    let longer = [&bytes[..], &[0]].concat();
    let longer = transactions(&longer, Format::Dbcop).expect_err("too long");
    assert!(longer.contains("more follows the last session"), "{longer}");
}

fn record(letter: u8, numbers: &[u64]) -> Vec<u8> {
    let mut bytes = vec![letter];
    numbers.iter().for_each(|number| bytes.extend(number.to_be_bytes()));
    bytes
}

#[test]
fn cobras_logs_are_read_as_one_history() {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, records: &[Vec<u8>]| {
        fs::write(directory.path().join(name), records.concat()).expect("written");
    };
    let read_nothing = record(b'R', &[0xbebe_ebee, 0xbebe_ebee, 4, 0]);
    write(
        "T2.log",
        &[
            record(b'S', &[10]),
            record(b'W', &[77, 4, 0]),
            record(b'C', &[10]),
            record(b'S', &[11]),
            record(b'W', &[78, 4, 0]),
            record(b'A', &[11]),
        ],
    );
    write(
        "T10.log",
        &[
            record(b'S', &[20]),
            read_nothing,
            record(b'C', &[20]),
            record(b'S', &[21]),
            record(b'R', &[10, 77, 4, 0]),
        ],
    );
    write("T2.debug", &[b"ignored".to_vec()]);
    assert!(is_directory_history(directory.path()));
    assert_eq!(detect(directory.path()).ok(), Some(Format::Cobra));
    let mut sink = TransactionList::default();
    stream(directory.path(), Format::Cobra, &mut sink).expect("well formed");
    let expected = [
        "without real time",
        "0 invoke w 4 77",
        "0 Ok w 4 77",
        "1 invoke r 4 nil",
        "1 Ok r 4 nil",
        "0 invoke w 4 78",
        "0 Fail",
        "1 invoke r 4 nil",
        "1 Info",
    ];
    assert_eq!(sink.0, expected);
    let error = detect(&directory.path().join("T2.log")).expect_err("one of several");
    assert!(
        error.to_string().contains("give the directory with the logs of all sessions"),
        "{error}"
    );
    write("T3.log", &[record(b'S', &[30]), record(b'C', &[31])]);
    let error = stream(directory.path(), Format::Cobra, &mut TransactionList::default());
    let error = error.expect_err("another transaction ends").to_string();
    assert!(error.contains("log 2, byte 18: transaction 31 ends, but transaction 30"), "{error}");
}
