//! The basic types: nodes, transactions, keys, values, writes and decisions. Plain data with an
//! order and a hash. Does not know about messages, storage or time.

use std::{fmt, ops::Bound, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A process of the cluster, identified by its role and slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// The process that hosts the coordinator.
    Master,
    /// The process that hosts the participant of this slot, counted from 1.
    Replica(u8),
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Master => f.write_str("master"),
            Node::Replica(slot) => write!(f, "r{slot}"),
        }
    }
}

impl FromStr for Node {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "master" {
            return Ok(Node::Master);
        }
        text.strip_prefix('r')
            .and_then(|slot| slot.parse().ok())
            .filter(|slot| *slot > 0)
            .map(Node::Replica)
            .ok_or_else(|| format!("invalid node '{text}': expected 'master' or 'r1', 'r2', …"))
    }
}

/// A set of replicas, as a bit set. Votes and acknowledgements are collected in it, so duplicates
/// do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Replicas(u64);

impl Replicas {
    /// The maximum number of replicas in a cluster.
    pub const MAX: u8 = 64;

    /// The replicas of slots 1 to `count`, which is at most [`Replicas::MAX`].
    #[must_use]
    pub const fn first(count: u8) -> Self {
        assert!(count <= Self::MAX, "a set holds at most 64 replicas");
        if count == 0 { Replicas(0) } else { Replicas(u64::MAX >> (Self::MAX - count)) }
    }

    /// Adds the replica of a slot.
    pub fn insert(&mut self, slot: u8) {
        self.0 |= Self::bit(slot);
    }

    /// Removes the replica of a slot.
    pub fn remove(&mut self, slot: u8) {
        self.0 &= !Self::bit(slot);
    }

    /// Whether the replica of a slot is in the set.
    #[must_use]
    pub fn contains(self, slot: u8) -> bool {
        self.0 & Self::bit(slot) != 0
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The number of replicas in the set.
    #[must_use]
    pub fn len(self) -> u8 {
        self.0.count_ones() as u8
    }

    /// The replicas of this set that are not in the other.
    #[must_use]
    pub fn without(self, other: Replicas) -> Self {
        Replicas(self.0 & !other.0)
    }

    /// The slots, ascending.
    pub fn slots(self) -> impl Iterator<Item = u8> {
        (1..=Self::MAX).filter(move |slot| self.contains(*slot))
    }

    /// The set after a permutation of the slots.
    #[must_use]
    pub fn renamed(self, to: &impl Fn(u8) -> u8) -> Self {
        let mut renamed = Replicas::default();
        self.slots().for_each(|slot| renamed.insert(to(slot)));
        renamed
    }

    /// The nodes, in the order of the slots.
    #[must_use]
    pub fn nodes(self) -> Vec<Node> {
        self.slots().map(Node::Replica).collect()
    }

    const fn bit(slot: u8) -> u64 {
        assert!(slot >= 1 && slot <= Self::MAX, "slots are 1 to 64");
        1 << (slot - 1)
    }
}

/// A transaction: the epoch of the master that began it, and its sequence number in that epoch.
///
/// Ordered by epoch, then sequence number. The id of the last committed write of a live key is the
/// key's [`Version`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxnId {
    /// The master's epoch. Each start of the master durably increments it.
    pub epoch: u64,
    /// The sequence number in the epoch, from 1.
    pub seq: u64,
}

/// The transaction that last wrote a key.
pub type Version = TxnId;

impl TxnId {
    /// The id `epoch.seq`.
    #[must_use]
    pub const fn new(epoch: u64, seq: u64) -> Self {
        TxnId { epoch, seq }
    }
}

impl fmt::Display for TxnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.seq)
    }
}

impl FromStr for TxnId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split_once('.')
            .and_then(|(epoch, seq)| Some(TxnId::new(epoch.parse().ok()?, seq.parse().ok()?)))
            .ok_or_else(|| {
                format!("invalid transaction id '{text}': expected EPOCH.SEQ, for example 1.44")
            })
    }
}

/// The identity of a store directory, drawn at random when the directory is created.
///
/// It distinguishes a replica that restarted from one that lost its directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(pub u64);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for StoreId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        u64::from_str_radix(text, 16)
            .map(StoreId)
            .map_err(|_| format!("invalid store id '{text}': expected 16 hexadecimal digits"))
    }
}

/// The identity of a cluster, drawn at random when it begins. Zero means that a node has not learned
/// it yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u64);

impl ClusterId {
    /// Whether the id is not known.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for ClusterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        u64::from_str_radix(text, 16)
            .map(ClusterId)
            .map_err(|_| format!("invalid cluster id '{text}': expected 16 hexadecimal digits"))
    }
}

/// A number drawn at random for one start of a node. It distinguishes two starts that count the same:
/// one of them runs on a copy of the store. Zero means that it is not known, as before nonces existed.
pub type Nonce = u64;

/// What a master has been told about a replica's store: the store had made this much durable.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Seen {
    /// The last start of the replica that the master has heard of.
    pub incarnation: u64,
    /// The nonce of that start.
    pub nonce: Nonce,
    /// The greatest transaction that the replica has voted yes on.
    pub voted: TxnId,
    /// The number of commits that the replica has applied.
    pub commits: u64,
}

/// The position of a record in the sequence that one incarnation of a node appended, from 1.
///
/// Not stored: each incarnation starts again from 1.
pub type Lsn = u64;

/// A client call at the master, numbered by the driver.
pub type CallId = u64;

/// One attempt of the master to read a key at a replica. The answer echoes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReadId {
    /// The master's epoch. Answers to another epoch are dropped.
    pub epoch: u64,
    /// The number of the get in the epoch, from 1.
    pub n: u64,
    /// The number of the attempt, from 0.
    pub attempt: u32,
}

/// A damaged entry that a replica has found and asks its peers for. The answer echoes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HealId {
    /// The incarnation of the replica that has found it.
    pub incarnation: u64,
    /// The number of the detection in the incarnation, from 1.
    pub n: u64,
}

/// A question of the scrub: what a peer holds in a range of keys. The answer echoes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ScrubId {
    /// The incarnation of the replica that asks.
    pub incarnation: u64,
    /// The number of the question in the incarnation, from 1.
    pub n: u64,
}

/// What a replica holds in a range of keys. Entries count whose versions are below a bound, and which a get
/// of their keys finds intact.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RangeSummary {
    /// The last key of the range; none if there is no intact entry left.
    pub upto: Option<Key>,
    /// The version of the last key, if its entry counts.
    pub version: Option<Version>,
    /// The number of entries that count.
    pub rows: u64,
    /// A digest of their keys, versions and checksums.
    pub digest: u64,
}

/// The outcome of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The write takes effect at every replica.
    Commit,
    /// The write takes effect nowhere.
    Abort,
}

/// A byte string with a textual form: the type of keys and values.
///
/// Cheap to clone. In the textual form (journals, histories, command line) printable ASCII except
/// the backslash stands for itself, and every other byte is written `\xNN`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blob(Arc<[u8]>);

/// A key of the store.
pub type Key = Blob;

/// A value of the store.
pub type Value = Blob;

impl Blob {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Blob {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl std::borrow::Borrow<[u8]> for Blob {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for Blob {
    fn from(bytes: &[u8]) -> Self {
        Blob(bytes.into())
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        Blob(bytes.into())
    }
}

impl From<&str> for Blob {
    fn from(text: &str) -> Self {
        Blob(text.as_bytes().into())
    }
}

impl fmt::Display for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        // In pieces, because a value may have a megabyte and journals write every one.
        for bytes in self.0.chunks(64) {
            let mut text = [0; 4 * 64];
            let mut length = 0;
            for &byte in bytes {
                if matches!(byte, b' '..=b'~') && byte != b'\\' {
                    text[length] = byte;
                    length += 1;
                } else {
                    // Byte by byte: a copy of four costs a test build more than everything else in a journal.
                    text[length] = b'\\';
                    text[length + 1] = b'x';
                    text[length + 2] = DIGITS[usize::from(byte >> 4)];
                    text[length + 3] = DIGITS[usize::from(byte & 15)];
                    length += 4;
                }
            }
            f.write_str(str::from_utf8(&text[..length]).expect("it is ASCII"))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl FromStr for Blob {
    type Err = String;

    /// Parses the textual form. Bytes that are not ASCII stand for themselves.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some((&byte, tail)) = rest.split_first() {
            if byte != b'\\' {
                bytes.push(byte);
                rest = tail;
                continue;
            }
            let digits = tail
                .strip_prefix(b"x")
                .and_then(|hex| hex.get(..2))
                .and_then(|hex| std::str::from_utf8(hex).ok())
                .and_then(|hex| u8::from_str_radix(hex, 16).ok());
            let Some(value) = digits else {
                return Err(format!("invalid escape in '{text}': a backslash must begin \\xNN"));
            };
            bytes.push(value);
            rest = &tail[3..];
        }
        Ok(bytes.into())
    }
}

/// The write of a transaction, which always concerns one key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Write {
    /// The key, which is locked until the decision and changed by a commit.
    pub key: Key,
    /// The new value, or none to delete the key.
    pub value: Option<Value>,
}

/// What a client reads as one snapshot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Query {
    /// These keys, at most [`Query::KEYS_MAX`].
    Keys(Vec<Key>),
    /// A page of a range.
    Range(KeyRange),
}

impl Query {
    /// The most keys that one snapshot may list.
    pub const KEYS_MAX: usize = 128;
    /// The most entries of a page.
    pub const PAGE_ENTRIES_MAX: u32 = 1024;
}

/// A range of keys, and the size of its pages.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyRange {
    /// It begins with this key. Without one, with the first key.
    pub from: Option<Key>,
    /// It has only keys greater than this one: the last key of the page before.
    pub after: Option<Key>,
    /// It ends before this key. Without one, with the last key.
    pub to: Option<Key>,
    /// How many entries a page has at most: 1 to [`Query::PAGE_ENTRIES_MAX`].
    pub limit: u32,
}

impl KeyRange {
    /// Whether a key lies in the range.
    #[must_use]
    pub fn contains(&self, key: &Key) -> bool {
        self.from.as_ref().is_none_or(|from| key >= from)
            && self.after.as_ref().is_none_or(|after| key > after)
            && self.to.as_ref().is_none_or(|to| key < to)
    }

    /// Where it begins: at the later of its two beginnings.
    #[must_use]
    pub fn start(&self) -> Bound<&Key> {
        match (&self.from, &self.after) {
            (Some(from), Some(after)) if from > after => Bound::Included(from),
            (_, Some(after)) => Bound::Excluded(after),
            (Some(from), None) => Bound::Included(from),
            (None, None) => Bound::Unbounded,
        }
    }
}

/// A page of a range: its entries at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Page {
    /// The live keys, ascending, with their versions and values.
    pub entries: Vec<(Key, Version, Value)>,
    /// The page ends before this key: the range has more entries, or what the key holds is not decided.
    /// None if the page reaches the end of the range.
    pub end: Option<Key>,
}

/// What was read as one snapshot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Snapshot {
    /// Of each listed key, in their order: version and value, or none if it is absent.
    Keys(Vec<Option<(Version, Value)>>),
    /// A page of the range.
    Page(Page),
    /// The values of the listed keys are too long for one answer.
    TooLarge,
}

impl Snapshot {
    /// The versions in it.
    pub fn versions(&self) -> impl Iterator<Item = Version> {
        let (found, entries) = match self {
            Snapshot::Keys(found) => (found.as_slice(), [].as_slice()),
            Snapshot::Page(page) => ([].as_slice(), page.entries.as_slice()),
            Snapshot::TooLarge => ([].as_slice(), [].as_slice()),
        };
        let found = found.iter().flatten().map(|(version, _)| *version);
        found.chain(entries.iter().map(|(_, version, _)| *version))
    }

    /// Whether it has the form of an answer to this query.
    #[must_use]
    pub fn answers(&self, query: &Query) -> bool {
        match (self, query) {
            (Snapshot::Keys(found), Query::Keys(keys)) => found.len() == keys.len(),
            (Snapshot::TooLarge, Query::Keys(_)) => true,
            (Snapshot::Page(page), Query::Range(range)) => {
                let ascends = page.entries.windows(2).all(|pair| pair[0].0 < pair[1].0);
                let below = |(key, ..): &(Key, Version, Value)| {
                    range.contains(key) && page.end.as_ref().is_none_or(|end| key < end)
                };
                // A page that ends early has begun, or its reader would never come further.
                let begins = page.end.is_none() || !page.entries.is_empty();
                ascends && begins && page.entries.iter().all(below)
            }
            _ => false,
        }
    }
}

/// Serialises types by their textual form (`Display` and `FromStr`).
macro_rules! serde_as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }
    )*};
}

serde_as_text!(Node, TxnId, StoreId, ClusterId, Blob);
