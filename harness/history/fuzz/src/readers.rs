//! What every reader of histories guarantees, whatever bytes it is given. Called by libFuzzer and by
//! `tests/fuzz_targets.rs`.
#![allow(dead_code, reason = "a target calls one function of these")]

use std::{
    io::{BufRead, BufReader},
    path::Path,
};

use history::{
    Completion, Event, Invocation, MalformedHistory, MicroOp, Outcome, Sink,
    formats::{Format, recognise, stream_from},
};

/// Jepsen's EDN, and Porcupine's.
pub(crate) fn edn(bytes: &[u8]) {
    reads_alike_in_pieces(Format::Edn, bytes);
    reads_alike_in_pieces(Format::Porcupine, bytes);
    value_is_normal(bytes);
}

/// The harness's own JSON lines.
pub(crate) fn jsonl(bytes: &[u8]) {
    reads_alike_in_pieces(Format::Jsonl, bytes);
    // An event that was read is written as the same event.
    for line in bytes.split(|byte| *byte == b'\n') {
        if let Ok(event) = serde_json::from_slice::<Event>(line) {
            let written = serde_json::to_vec(&event).expect("an event can be written");
            let again: Event = serde_json::from_slice(&written).expect("an event that was written");
            assert_eq!(again, event);
        }
    }
}

/// Events and operations as JSON: an array, or one object after the other.
pub(crate) fn json(bytes: &[u8]) {
    reads_alike_in_pieces(Format::Json, bytes);
    reads_alike_in_pieces(Format::Intervals, bytes);
}

/// Lines: Jepsen's logs and `history.txt`, and comma-separated values.
pub(crate) fn lines(bytes: &[u8]) {
    // It is recognised as something that can be read as text, or as nothing.
    if let Some(format) = recognise(bytes) {
        reads_alike_in_pieces(format, bytes);
    }
    reads_alike_in_pieces(Format::JepsenLog, bytes);
    reads_alike_in_pieces(Format::JepsenText, bytes);
    reads_alike_in_pieces(Format::Csv, bytes);
    reads_alike_in_pieces(Format::Plume, bytes);
    reads_alike_in_pieces(Format::Awdit, bytes);
}

/// The binary files of dbcop and Cobra.
pub(crate) fn binary(bytes: &[u8]) {
    reads_alike_in_pieces(Format::Dbcop, bytes);
    reads_alike_in_pieces(Format::Cobra, bytes);
}

/// An EDN value that was read is written in normal form: as the same value.
fn value_is_normal(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(Some(normal)) = Format::Edn.value(text) {
        let again = Format::Edn.value(&normal).expect("a value that was written");
        assert_eq!(again.as_deref(), Some(&*normal));
    }
}

/// A reader delivers the same events, and the same error with its position, however many bytes a
/// read returns at once.
fn reads_alike_in_pieces(format: Format, bytes: &[u8]) {
    let at_once = read(format, &mut &*bytes);
    if let Err(error) = &at_once.1 {
        assert!(error.starts_with("file:"), "no position: {error}");
    }
    for piece in [1, 7, 64] {
        let in_pieces = read(format, &mut BufReader::with_capacity(piece, bytes));
        assert_eq!(in_pieces, at_once, "{piece} bytes at a time");
    }
}

/// Everything that a reader delivers, and how it ends.
fn read(format: Format, input: &mut dyn BufRead) -> (Vec<String>, Result<(), String>) {
    let mut delivered = Delivered::default();
    let end = stream_from(input, format, &mut delivered, Path::new("file"));
    (delivered.0, end.map_err(|error| error.to_string()))
}

/// A sink that keeps the events as text.
#[derive(Default)]
struct Delivered(Vec<String>);

impl Sink for Delivered {
    fn invoke(
        &mut self,
        process: u64,
        key: &str,
        invocation: Invocation<'_>,
    ) -> Result<(), MalformedHistory> {
        self.0.push(format!("{process} {key} {invocation:?}"));
        Ok(())
    }

    fn complete(
        &mut self,
        process: u64,
        completion: Completion<'_>,
    ) -> Result<(), MalformedHistory> {
        self.0.push(format!("{process} {completion:?}"));
        Ok(())
    }

    fn invoke_transaction(
        &mut self,
        process: u64,
        ops: &[MicroOp<'_, '_>],
    ) -> Result<(), MalformedHistory> {
        self.0.push(format!("{process} {ops:?}"));
        Ok(())
    }

    fn complete_transaction(
        &mut self,
        process: u64,
        ops: &[MicroOp<'_, '_>],
        outcome: Outcome,
    ) -> Result<(), MalformedHistory> {
        self.0.push(format!("{process} {ops:?} {outcome:?}"));
        Ok(())
    }
}
