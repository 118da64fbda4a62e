//! What arrives at a node's port.
#![no_main]

#[path = "../src/http2.rs"]
mod http2;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| http2::target(bytes));
