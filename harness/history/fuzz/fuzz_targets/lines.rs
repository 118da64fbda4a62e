//! Logs, `history.txt` and comma-separated values.
#![no_main]

#[path = "../src/readers.rs"]
mod readers;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| readers::lines(bytes));
