//! Journals written and read: whole, torn, damaged, by several processes, and while they grow.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
};

use journal::{Entry, Lines, Writer, read};
use proptest::{collection::vec, prelude::*};
use protocol::{Effect, Event, HaltKind};

/// A journal in a directory of its own.
fn empty() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("journal");
    (directory, path)
}

fn event(n: u64) -> Entry {
    Entry::Event { t: n, event: Event::Persisted(n) }
}

/// Writes batches of 1, 2, 3 and so on entries, each batch with the next numbers.
fn write(path: &Path, batches: u64, next: &mut u64) {
    let mut writer = Writer::open(path).expect("opened");
    for batch in 1..=batches {
        for _ in 0..batch {
            writer.add(&event(*next));
            *next += 1;
        }
        writer.write().expect("written");
    }
}

fn entries(path: &Path) -> Vec<Entry> {
    read(path).expect("opened").map(|item| item.expect("an entry").1).collect()
}

fn numbered(n: u64) -> Vec<Entry> {
    (0..n).map(event).collect()
}

#[test]
fn every_process_appends_after_the_one_before() {
    let (_directory, path) = empty();
    let mut next = 0;
    for _ in 0..3 {
        write(&path, 5, &mut next);
        drop(Writer::open(&path).expect("opened, and nothing written"));
    }
    let lines: Vec<_> = read(&path).expect("opened").map(|item| item.expect("an entry")).collect();
    assert_eq!(lines, (1..).zip(numbered(next)).collect::<Vec<_>>());
}

#[test]
fn a_long_batch_and_one_that_cannot_be_compressed_come_back() {
    let (_directory, path) = empty();
    // Sixteen hexadecimal digits of a permutation of u64: about half of the text is noise.
    let noise = |n: u64| format!("{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let value: String = (0..20_000).map(noise).collect();
    let halt = |why: String| Entry::Effect(Effect::Halt { kind: HaltKind::Violation, why });
    let batch = [halt("x".repeat(1 << 20)), halt(value), event(7)];
    let mut writer = Writer::open(&path).expect("opened");
    for _ in 0..2 {
        batch.iter().for_each(|entry| writer.add(entry));
        writer.write().expect("written");
    }
    assert_eq!(entries(&path), [batch.clone(), batch].concat());
    assert!(fs::metadata(&path).expect("it exists").len() < 1 << 20, "it is compressed");
}

/// The compressor may return before it has compressed all that it was given.
#[test]
fn batches_of_any_length_come_back() {
    let (_directory, path) = empty();
    let mut writer = Writer::open(&path).expect("opened");
    let mut state = 1_u64;
    let mut entry = |length: usize| {
        let mut byte = |_| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            format!("\\x{:02x}", state >> 56)
        };
        let why = (0..length).map(&mut byte).collect();
        Entry::Effect(Effect::Halt { kind: HaltKind::Violation, why })
    };
    let written: Vec<Entry> = (0..400).map(|n| entry(n * 7919 % 50_021)).collect();
    for entry in &written {
        writer.add(entry);
        writer.write().expect("written");
    }
    assert!(entries(&path) == written);
}

#[test]
fn a_torn_frame_is_not_read_and_is_cut_off_when_the_journal_is_opened() {
    let (_directory, path) = empty();
    write(&path, 3, &mut 0);
    let whole = fs::read(&path).expect("readable");
    let mut kept = Vec::new();
    for end in 0..=whole.len() {
        fs::write(&path, &whole[..end]).expect("written");
        let before = entries(&path);
        let mut next = before.len() as u64;
        assert_eq!(before, numbered(next), "{end} bytes");
        kept.push(next);
        write(&path, 2, &mut next);
        assert_eq!(entries(&path), numbered(next), "{end} bytes and two batches");
    }
    kept.dedup();
    assert_eq!(kept, [0, 1, 3, 6], "a batch is read as a whole or not at all");
}

#[test]
fn damage_is_an_error_and_nothing_is_cut_off() {
    let (_directory, path) = empty();
    write(&path, 3, &mut 0);
    let whole = fs::read(&path).expect("readable");
    // Without its first bytes it is not a journal but plain lines, of which none is complete or an
    // entry.
    for at in 8..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&path, &bytes).expect("written");
        let error = read(&path).expect("opened").find_map(Result::err).expect("damage is noticed");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.to_string().starts_with("damaged at byte "), "{error}");
        let error = Writer::open(&path).expect_err("damage is noticed");
        assert!(error.to_string().starts_with("damaged at byte "), "{error}");
        assert_eq!(fs::read(&path).expect("readable"), bytes, "byte {at}");
    }
    fs::write(&path, "no journal").expect("written");
    let error = Writer::open(&path).expect_err("it is no journal");
    assert!(error.to_string().contains("byte 0"), "{error}");
    assert_eq!(fs::read(&path).expect("readable"), b"no journal");
}

#[test]
fn a_journal_is_read_while_it_grows_byte_by_byte() {
    let (directory, path) = empty();
    write(&path, 3, &mut 0);
    let whole = fs::read(&path).expect("readable");
    let growing = directory.path().join("growing");
    let mut file = OpenOptions::new().create(true).append(true).open(&growing).expect("created");
    let mut lines = Lines::open(&growing).expect("opened");
    let mut read: Vec<Entry> = Vec::new();
    for byte in whole {
        file.write_all(&[byte]).expect("written");
        while let Some((number, line)) = lines.next_line().expect("readable") {
            assert_eq!(number, read.len() + 1);
            read.push(serde_json::from_slice(line).expect("an entry"));
        }
    }
    assert_eq!(read, numbered(6));
}

#[test]
fn plain_lines_of_earlier_versions_are_read_without_an_incomplete_last_one() {
    let (_directory, path) = empty();
    let mut text = String::new();
    for entry in numbered(4) {
        text += &(serde_json::to_string(&entry).expect("an entry") + "\n");
    }
    fs::write(&path, text + "{\"event\":{\"t\":9").expect("written");
    assert_eq!(entries(&path), numbered(4));
}

/// A frame with this body and valid checksums.
fn frame(kind: u32, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend_from_slice(&u32::try_from(body.len()).expect("it is short").to_le_bytes());
    frame.extend_from_slice(&kind.to_le_bytes());
    frame.extend_from_slice(&crc32fast::hash(&frame).to_le_bytes());
    frame.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
    frame.extend_from_slice(body);
    frame
}

proptest! {
    /// Whatever follows the magic, in frames whose checksums match: an end or an error, no panic and
    /// no endless loop.
    #[test]
    fn any_frames_are_read_to_an_end_or_an_error(
        frames in vec((0_u32..3, vec(any::<u8>(), 0..200)), 0..6),
        rest in vec(any::<u8>(), 0..20),
    ) {
        let (_directory, path) = empty();
        let frames = frames.iter().flat_map(|(kind, body)| frame(*kind, body));
        let bytes: Vec<u8> = b"2PC-JRN1".iter().copied().chain(frames).chain(rest).collect();
        fs::write(&path, bytes).expect("written");
        let mut lines = Lines::open(&path).expect("opened");
        while let Ok(Some(_)) = lines.next_line() {}
    }
}
