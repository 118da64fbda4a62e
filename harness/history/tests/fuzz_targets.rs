//! The fuzz targets of `fuzz/`, with any compiler: on their seeds, and on a bounded number of
//! mutations of these.

#[path = "../fuzz/src/readers.rs"]
mod readers;

use std::{fs, path::Path};

use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    test_runner::{Config, TestRunner},
};

#[test]
fn edn() {
    exercise("edn", 5_000, readers::edn);
}

#[test]
fn jsonl() {
    exercise("jsonl", 5_000, readers::jsonl);
}

#[test]
fn json() {
    exercise("json", 5_000, readers::json);
}

#[test]
fn lines() {
    exercise("lines", 5_000, readers::lines);
}

#[test]
fn binary() {
    exercise("binary", 5_000, readers::binary);
}

/// Calls a target with each of its seeds, and with seeds of which some bytes are replaced and a part
/// is removed or repeated.
fn exercise(name: &str, cases: u32, target: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let seeds: Vec<Vec<u8>> = fs::read_dir(directory)
        .expect("seeds are kept")
        .map(|seed| fs::read(seed.expect("a seed").path()).expect("a seed can be read"))
        .collect();
    seeds.iter().for_each(|seed| target(seed));
    let replaced = vec((any::<Index>(), any::<u8>()), 0..6);
    let part = (any::<Index>(), 0..64_usize, 0..3_usize);
    let mutated = (select(seeds), replaced, part).prop_map(|(mut bytes, replaced, part)| {
        for (at, byte) in replaced {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let (from, len, times) = part;
        let from = from.index(bytes.len());
        let to = bytes.len().min(from + len);
        let repeated = bytes[from..to].repeat(times);
        bytes.splice(from..to, repeated);
        bytes
    });
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&mutated, |bytes| {
            target(&bytes);
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}
