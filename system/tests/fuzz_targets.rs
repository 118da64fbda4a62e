//! The fuzz targets of `fuzz/` and `store/fuzz/`, with any compiler: on their seeds, and on a bounded number of
//! mutations of these.

#[path = "../fuzz/src/http2.rs"]
mod http2;
#[path = "../store/fuzz/src/wal.rs"]
mod wal;
#[path = "../fuzz/src/wire.rs"]
mod wire;

use std::{fs, path::Path};

use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    test_runner::{Config, TestRunner},
};

#[test]
fn http2() {
    exercise("fuzz/seeds/http2", 500, http2::target);
}

#[test]
fn wal() {
    // The bodies of the seed are records, in frames as the store itself writes them.
    let seed = fs::read("store/fuzz/seeds/wal/frames").expect("a seed");
    let found = wal::entries(wal::store_of(&seed).path());
    assert_eq!(found.map(|entries| entries.len()), Ok(2));
    exercise("store/fuzz/seeds/wal", 500, wal::target);
}

#[test]
fn wire() {
    exercise("fuzz/seeds/wire", 20_000, wire::target);
}

/// Calls a target with each of its seeds, and with seeds of which some bytes are replaced and a part
/// is removed or repeated.
fn exercise(seeds: &str, cases: u32, target: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(seeds);
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
