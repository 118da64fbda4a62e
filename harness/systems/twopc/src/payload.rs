//! The keys and values that clients really use. A history names them shortly: a key is `k7` or `k9:511`,
//! a value `3-12` or `3-12:wal:8192`. What is sent for a name is determined by the name alone: keys with long
//! common prefixes and bytes that are no text, values of any size up to more than the store accepts,
//! with bytes that look like the store's own formats. So a history stays small, and a value that comes
//! back changed by a single byte has no name that a client ever wrote.
//!
//! Names without a shape stand for themselves, as in histories of earlier versions.

use std::fmt;

use history::Function;
use lab::{
    client::Answer,
    request::Request,
    workload::{Generator, RequestSource},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use system::{
    journal::Entry,
    protocol::{
        Body, Effect, Event, Key, Record, Request as ClientRequest, Snapshot, Value, Write,
    },
    store::KEY_BYTES_MAX,
};

use crate::snapshots::SnapshotValue;

/// The longest value that the store accepts by default, in bytes. Names of kept histories depend on it.
const VALUE_BYTES_MAX: usize = 1 << 20;
/// Of a value without a name, this many bytes are told.
const EXCERPT_BYTES: usize = 64;
/// A name that is followed by a body is at most this long, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// What the body of a value consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Letters and digits.
    Text,
    /// Zeros, as in a file that was extended and never written.
    Zeros,
    /// Well-formed pages of a write-ahead log: of this format, and frames of the one before.
    Wal,
    /// Length prefixes of gRPC and messages of the protocol.
    Wire,
    /// Lines of a journal or a history.
    Json,
    /// Terminal escapes, quotes, and bytes that are no UTF-8.
    Terminal,
}

impl Shape {
    const ALL: [Shape; 6] =
        [Shape::Text, Shape::Zeros, Shape::Wal, Shape::Wire, Shape::Json, Shape::Terminal];

    fn name(self) -> &'static str {
        match self {
            Shape::Text => "text",
            Shape::Zeros => "zeros",
            Shape::Wal => "wal",
            Shape::Wire => "wire",
            Shape::Json => "json",
            Shape::Terminal => "terminal",
        }
    }

    fn find(name: &str) -> Option<Shape> {
        Shape::ALL.into_iter().find(|shape| shape.name() == name)
    }

    /// Appends one piece of the body.
    fn write(self, rng: &mut ChaCha8Rng, out: &mut Vec<u8>) {
        match self {
            Shape::Text => {
                let letter = rng.random_range(b'a'..=b'z');
                out.extend_from_slice(&[letter; 40]);
            }
            Shape::Zeros => out.extend_from_slice(&[0; 64]),
            Shape::Wal => wal_page(rng, out),
            Shape::Wire => {
                let length = rng.random_range(0..=u32::MAX);
                out.push(0);
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(b"\x0a\x06\x08\x01\x10\xff\xff\x01\x12\x02k1");
            }
            Shape::Json => {
                let n: u16 = rng.random();
                let line = format!(
                    "{{\"effect\":{{\"append\":{{\"commit\":{{\"txn\":\"1.{n}\"}}}}}}}}\r\n\\x00\","
                );
                out.extend_from_slice(line.as_bytes());
            }
            Shape::Terminal => {
                let byte = rng.random_range(0x80..=0xff);
                out.extend_from_slice(b"\x1b[2J\x1b]0;\x07'\"<b>&\r");
                out.extend_from_slice(&[byte, 0xc0, 0xaf, 0x00]);
            }
        }
    }
}

/// A page of a log as somebody makes it up who has read about the format: a header with a small
/// generation, a guessed salt, and a checksum that fits.
fn wal_page(rng: &mut ChaCha8Rng, out: &mut Vec<u8>) {
    const PAGE: usize = 4096;
    let mut page = vec![0; PAGE];
    let salt: u64 = if rng.random_bool(0.5) { 0 } else { rng.random() };
    page[8..16].copy_from_slice(&rng.random_range(1_u64..20).to_be_bytes());
    page[16..24].copy_from_slice(&salt.to_be_bytes());
    page[24..32].copy_from_slice(&rng.random_range(0_u64..1000).to_be_bytes());
    page[36..40].copy_from_slice(&rng.random_range(0_u32..5000).to_be_bytes());
    let sum = crc32c::crc32c(&page[4..]);
    page[..4].copy_from_slice(&sum.to_be_bytes());
    out.extend_from_slice(&page);
}

/// The name of a value that has a body.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ShapedName<'a> {
    /// What makes it unique.
    unique: &'a str,
    shape: Shape,
    /// The size of the whole value, in bytes.
    bytes: usize,
}

impl fmt::Display for ShapedName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.unique, self.shape.name(), self.bytes)
    }
}

impl<'a> ShapedName<'a> {
    fn parse(name: &'a str) -> Option<Self> {
        let mut parts = name.split(':');
        let (unique, shape, bytes) = (parts.next()?, parts.next()?, parts.next()?);
        let bytes: usize = bytes.parse().ok()?;
        let named = ShapedName { unique, shape: Shape::find(shape)?, bytes };
        // A value from outside must not make the reader of a record allocate what it likes.
        let fits = (NAME_BYTES_MAX + 1..=2 * VALUE_BYTES_MAX).contains(&bytes);
        let fits = fits && name.len() <= NAME_BYTES_MAX;
        (fits && named.to_string() == name).then_some(named)
    }

    /// The value: its name, a line feed, and the body.
    fn value(&self) -> Vec<u8> {
        let mut value = self.to_string().into_bytes();
        let mut rng = ChaCha8Rng::seed_from_u64(hash(&value));
        value.push(b'\n');
        while value.len() < self.bytes {
            self.shape.write(&mut rng, &mut value);
        }
        value.truncate(self.bytes);
        value
    }
}

/// A hash that never changes: names of kept histories depend on it.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The value that a name stands for.
pub(crate) fn value_bytes(name: &str) -> Vec<u8> {
    match ShapedName::parse(name) {
        Some(shaped) => shaped.value(),
        None => name.as_bytes().to_vec(),
    }
}

/// The name of a value. A value that no name stands for is its own name if it is short; otherwise its
/// beginning, its length and a hash of it are.
pub(crate) fn value_name(value: &Value) -> Value {
    let bytes = value.as_bytes();
    let head = &bytes[..bytes.len().min(NAME_BYTES_MAX + 1)];
    let name = head.split(|byte| *byte == b'\n').next().and_then(|name| str::from_utf8(name).ok());
    if let Some(shaped) = name.and_then(ShapedName::parse)
        && bytes.len() == shaped.bytes
        && shaped.value() == bytes
    {
        return Value::from(shaped.to_string().as_str());
    }
    if bytes.len() <= 2 * EXCERPT_BYTES {
        return value.clone();
    }
    let mut excerpt = bytes[..EXCERPT_BYTES].to_vec();
    let rest = format!("... ({} bytes in all, hash {:016x})", bytes.len(), hash(bytes));
    excerpt.extend_from_slice(rest.as_bytes());
    excerpt.into()
}

/// The name of the key with this number: one key in eight is as long as a key may be, and one in eight
/// shares a shorter prefix with others.
pub(crate) fn numbered_key(number: u32) -> String {
    match number % 8 {
        1 => format!("k{number}:{KEY_BYTES_MAX}"),
        5 => format!("k{number}:48"),
        _ => format!("k{number}"),
    }
}

/// A value that is written to the key with this number when the run has settled. No client of the load writes such
/// a value. One in eight spans pages of the log, and one is longer than 16 bits can say.
pub(crate) fn settled_value(number: usize, attempt: u32) -> String {
    let unique = format!("settled-{number}-{attempt}");
    let bytes = match number % 8 {
        3 => 6000,
        6 => (1 << 16) + 100 + number,
        _ => return unique,
    };
    ShapedName { unique: &unique, shape: Shape::Text, bytes }.to_string()
}

/// The key that a name stands for. A name with a length stands for a key of this many bytes: a prefix, a
/// zero, and the name.
pub(crate) fn key_bytes(name: &str) -> Vec<u8> {
    let length = name.rsplit_once(':').and_then(|(_, length)| length.parse().ok());
    let prefix_bytes = length.and_then(|length: usize| length.checked_sub(name.len() + 1));
    let Some(prefix_bytes) = prefix_bytes.filter(|bytes| (3..KEY_BYTES_MAX).contains(bytes)) else {
        return name.as_bytes().to_vec();
    };
    // Text for the most part, which journals write shortly.
    let mut key: Vec<u8> = b"prefix/".iter().copied().cycle().take(prefix_bytes).collect();
    key[1] = 0xff;
    key[2] = b'\n';
    key.push(0);
    key.extend_from_slice(name.as_bytes());
    key
}

/// The name of a key. A key that no name stands for is its own name.
pub(crate) fn key_name(key: &Key) -> Key {
    let name = key.as_bytes().rsplit(|byte| *byte == 0).next();
    match name.and_then(|name| str::from_utf8(name).ok()) {
        Some(name) if key_bytes(name) == key.as_bytes() => Key::from(name),
        _ => key.clone(),
    }
}

/// Replaces the keys and values of an entry of a journal by their names, where the checks compare them
/// with a history.
pub(crate) fn name_in(entry: &mut Entry) {
    let name_in_record = |record: &mut Record| match record {
        Record::Prepare { write, .. } => name_in_write(write),
        Record::CommitDecision { key, .. } => *key = key_name(key),
        Record::Heal { key, value, .. } => {
            *key = key_name(key);
            *value = value_name(value);
        }
        _ => {}
    };
    match entry {
        Entry::Start { records, .. } => records.iter_mut().for_each(name_in_record),
        Entry::Effect(Effect::Append(record)) => name_in_record(record),
        Entry::Effect(Effect::Serve { key, .. }) => *key = key_name(key),
        Entry::Effect(Effect::ServeKeys { keys, .. }) => {
            keys.iter_mut().for_each(|key| *key = key_name(key));
        }
        Entry::Effect(Effect::Send { message, .. })
        | Entry::Event { event: Event::Message { message, .. }, .. } => {
            name_in_body(&mut message.body);
        }
        Entry::Event {
            event: Event::Client { request: ClientRequest::Write(write), .. }, ..
        } => {
            name_in_write(write);
        }
        _ => {}
    }
}

/// Replaces the keys and values of a message by their names.
pub(crate) fn name_in_body(body: &mut Body) {
    match body {
        Body::Prepare { write, .. } => name_in_write(write),
        Body::Value { found: Some((_, value)), .. } => *value = value_name(value),
        Body::Snapshot { snapshot: Snapshot::Keys(found), .. } => {
            for (_, value) in found.iter_mut().flatten() {
                *value = value_name(value);
            }
        }
        Body::Snapshot { snapshot: Snapshot::Page(page), .. } => {
            for (key, _, value) in &mut page.entries {
                *key = key_name(key);
                *value = value_name(value);
            }
        }
        _ => {}
    }
}

fn name_in_write(write: &mut Write) {
    write.key = key_name(&write.key);
    write.value = write.value.as_ref().map(value_name);
}

/// A workload whose values have shapes and sizes.
pub(crate) struct ShapedRequests {
    generator: Generator,
    rng: ChaCha8Rng,
    keys: u32,
}

impl ShapedRequests {
    /// `rng` chooses the shapes, and which gets become snapshots of several keys.
    pub(crate) fn new(generator: Generator, rng: ChaCha8Rng, keys: u32) -> Self {
        ShapedRequests { generator, rng, keys }
    }

    /// Mostly short, so that a run has many operations; some span pages of the log, some are as long as a
    /// value may be, and a few are longer and have to be refused.
    fn size(&mut self) -> usize {
        let rng = &mut self.rng;
        match rng.random_range(0..10_000) {
            0..6 => VALUE_BYTES_MAX + rng.random_range(0..=1),
            6..40 => rng.random_range(64 << 10..256 << 10),
            40..400 => rng.random_range(4 << 10..16 << 10),
            _ => rng.random_range(NAME_BYTES_MAX + 1..512),
        }
    }
}

impl RequestSource for ShapedRequests {
    fn next_request(&mut self, process: u64) -> Request {
        let mut request = self.generator.next_request(process);
        if request.f == Function::Get
            && let Some(snapshot) =
                SnapshotValue::instead_of_get(self.keys, numbered_key, &mut self.rng)
        {
            return snapshot.request();
        }
        if let Some(number) = request.key.strip_prefix('k').and_then(|number| number.parse().ok()) {
            request.key = numbered_key(number);
        }
        if request.f == Function::Put
            && let Some(unique) = &request.value
            && self.rng.random_bool(0.3)
        {
            let shape = Shape::ALL[self.rng.random_range(0..Shape::ALL.len())];
            let unique = unique.clone();
            let named = ShapedName { unique: &unique, shape, bytes: self.size() };
            request.value = Some(named.to_string());
        }
        request
    }

    fn observe(&mut self, request: &Request, answer: &Answer) {
        self.generator.observe(request, answer);
    }

    fn pause(&mut self) -> std::time::Duration {
        self.generator.pause()
    }

    fn backoff(&mut self) -> std::time::Duration {
        self.generator.backoff()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn name_of(bytes: Vec<u8>) -> String {
        value_name(&bytes.into()).to_string()
    }

    #[test]
    fn a_value_has_its_name_and_a_changed_one_has_not() {
        for shape in Shape::ALL {
            for bytes in [65, 500, 5000, VALUE_BYTES_MAX, VALUE_BYTES_MAX + 1] {
                let name = ShapedName { unique: "3-12", shape, bytes }.to_string();
                let value = value_bytes(&name);
                assert_eq!(value.len(), bytes, "{name}");
                assert_eq!(name_of(value.clone()), name);
                for at in [0, name.len(), bytes / 2, bytes - 1] {
                    let mut changed = value.clone();
                    changed[at] ^= 1;
                    assert_ne!(name_of(changed), name, "byte {at}");
                }
                assert_ne!(name_of(value[..bytes - 1].to_vec()), name, "one byte less");
            }
        }
    }

    #[test]
    fn a_long_value_without_a_name_is_told_by_its_beginning() {
        let text = name_of([vec![b'x'; 100], vec![7; 1000]].concat());
        assert!(text.starts_with("xxx") && text.contains("(1100 bytes in all, hash "), "{text}");
        assert_eq!(name_of(b"2-1".to_vec()), "2-1");
        // A name that announces much must not be believed.
        let absurd = "1-1:text:99999999999";
        assert_eq!(value_bytes(absurd), absurd.as_bytes());
    }

    #[test]
    fn keys_are_distinct_and_have_their_names() {
        let names: Vec<String> = (0..200).map(numbered_key).collect();
        let keys: HashSet<Vec<u8>> = names.iter().map(|name| key_bytes(name)).collect();
        assert_eq!(keys.len(), names.len());
        assert_eq!(keys.iter().map(Vec::len).max(), Some(KEY_BYTES_MAX));
        assert!(keys.iter().any(|key| str::from_utf8(key).is_err()));
        for name in names {
            assert_eq!(key_name(&key_bytes(&name).into()).to_string(), name);
        }
    }

    proptest! {
        #[test]
        fn bytes_from_outside_are_no_harm(bytes: Vec<u8>) {
            let (key, value) = (Key::from(bytes.clone()), Value::from(bytes));
            prop_assert_eq!(key_name(&key).as_bytes().len() <= key.as_bytes().len(), true);
            value_name(&value);
        }
    }
}
