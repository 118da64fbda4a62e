//! The write-ahead log of a store.
#![no_main]

#[path = "../src/wal.rs"]
mod wal;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wal::target(bytes));
