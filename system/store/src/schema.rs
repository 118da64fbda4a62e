//! The contract between the store and the application whose records it keeps.

use std::{
    fmt::{Debug, Display},
    hash::Hash,
};

/// How an application's records change the stored state, and how they are encoded.
///
/// The store keeps the state that a sequence of records leaves, in two parts. The *facts* are the
/// records that no later record has made obsolete; opening the store returns them. The *entries* are
/// key/value data with versions; reads see them. The application decides what a record does to
/// either. It hands that in as a type parameter, so that the calls are static.
///
/// The supertraits are those of the generic containers that derive them; implement this for a unit
/// struct.
pub trait Schema: Clone + Debug + Default + Eq + Hash + Send + Sync + 'static {
    /// A record.
    type Record: Clone + Debug + Eq + Hash + Send + Sync + 'static;
    /// The facts after a sequence of records. Small: a checkpoint clones and compares all of them.
    type Facts: Clone + Debug + Default + Eq + Hash + Send + Sync + 'static;
    /// A key of the entries.
    type Key: Bytes + Ord;
    /// A value of the entries.
    type Value: Bytes;
    /// The version of an entry. The version of a live key only increases.
    type Version: Copy + Debug + Display + Ord + Hash + Send + Sync + 'static;

    /// Applies a record to the facts. Returns the write that takes effect, if there is one.
    ///
    /// # Panics
    /// May panic on a record that cannot follow the earlier ones.
    fn apply(facts: &mut Self::Facts, record: &Self::Record) -> Option<Write<Self>>;

    /// Checks that a record which was read back can follow the earlier ones.
    ///
    /// # Errors
    /// It cannot: [`apply`](Schema::apply) would panic. The reason.
    fn check(_facts: &Self::Facts, _record: &Self::Record) -> Result<(), &'static str> {
        Ok(())
    }

    /// Checks that a record which was read back from the tables is a fact.
    ///
    /// # Errors
    /// It is none: no checkpoint has written it. The reason.
    fn check_fact(_record: &Self::Record) -> Result<(), &'static str> {
        Ok(())
    }

    /// The bytes of key and value that a record brings, if it is the first to name a write that stores a
    /// value. Room for it is reserved until the tables contain it.
    fn growth(record: &Self::Record) -> Option<usize>;

    /// Adds a fact that was read back. Restoring all [`records`](Schema::records) of some facts gives
    /// equal facts.
    fn restore(facts: &mut Self::Facts, record: Self::Record);

    /// The facts as records, in a canonical order.
    fn records(facts: &Self::Facts) -> impl Iterator<Item = &Self::Record>;

    /// The key of the record's row on disk. At most one fact has a given row key, and none starts
    /// with a zero byte.
    fn row_key(record: &Self::Record) -> RowKey;

    /// Appends the value of the record's row, without its row key.
    fn encode(record: &Self::Record, into: &mut Vec<u8>);

    /// Decodes a record from its row.
    ///
    /// # Errors
    /// No record of this schema has this row.
    fn decode(row_key: &[u8], value: &[u8]) -> Result<Self::Record, RowError>;

    /// The name of a record's row in error messages.
    #[must_use]
    fn describe(row_key: &[u8]) -> String {
        row_key.escape_ascii().to_string()
    }

    /// Encodes a version.
    fn version_to_bytes(version: Self::Version) -> [u8; 16];

    /// Decodes a version; none if no version has these bytes.
    fn version_from_bytes(bytes: [u8; 16]) -> Option<Self::Version>;
}

/// A row cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowError {
    /// The row is invalid, for this reason.
    Invalid(&'static str),
    /// The row belongs to another schema.
    Foreign,
}

impl From<&'static str> for RowError {
    fn from(reason: &'static str) -> Self {
        RowError::Invalid(reason)
    }
}

/// A write of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write<S: Schema> {
    /// The key.
    pub key: S::Key,
    /// The version of the write.
    pub version: S::Version,
    /// The new value, or none to delete the key.
    pub value: Option<S::Value>,
    /// It repeats a write whose entry was damaged: the entry may have this version already.
    pub heals: bool,
}

impl<S: Schema> Write<S> {
    /// Whether the write may follow one of this version, which a live key has.
    pub(crate) fn may_follow(&self, current: S::Version) -> bool {
        may_follow(self.version, self.heals, current)
    }
}

/// Whether a write may follow one of another version, which a live key has. Only a write that heals may have
/// the same one.
pub(crate) fn may_follow<V: Ord>(version: V, heals: bool, current: V) -> bool {
    version > current || (heals && version == current)
}

/// The version and the value of a live key.
pub type Versioned<S> = (<S as Schema>::Version, <S as Schema>::Value);

/// A byte string that is cheap to clone. Implemented for every type that qualifies.
pub trait Bytes:
    AsRef<[u8]> + for<'a> From<&'a [u8]> + Clone + Debug + Eq + Hash + Send + Sync + 'static
{
}

impl<T> Bytes for T where
    T: AsRef<[u8]> + for<'a> From<&'a [u8]> + Clone + Debug + Eq + Hash + Send + Sync + 'static
{
}

/// The key of a record's row: at most [`RowKey::BYTES_MAX`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowKey {
    bytes: [u8; RowKey::BYTES_MAX],
    len: u8,
}

impl RowKey {
    /// The maximum length: a letter and a version.
    pub const BYTES_MAX: usize = 17;

    /// A letter, and further bytes.
    ///
    /// # Panics
    /// If `rest` has more than 16 bytes.
    #[must_use]
    pub fn new(letter: u8, rest: &[u8]) -> RowKey {
        let mut bytes = [0; RowKey::BYTES_MAX];
        bytes[0] = letter;
        bytes[1..=rest.len()].copy_from_slice(rest);
        RowKey { bytes, len: 1 + rest.len() as u8 }
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Appends a write without its version: `P`, the length of the key (2 bytes), the key and the value;
/// or `D` and the key for a delete. Schemas whose records hold writes share this encoding.
///
/// # Panics
/// If the key is longer than 65535 bytes, which the store's limits exclude.
pub fn encode_write(key: &[u8], value: Option<&[u8]>, into: &mut Vec<u8>) {
    match value {
        Some(value) => {
            let len = u16::try_from(key.len()).expect("the limits bound the length of keys");
            into.push(b'P');
            into.extend_from_slice(&len.to_be_bytes());
            into.extend_from_slice(key);
            into.extend_from_slice(value);
        }
        None => {
            into.push(b'D');
            into.extend_from_slice(key);
        }
    }
}

/// Decodes the key and the value of a write.
///
/// # Errors
/// The bytes are not an encoded write.
pub fn decode_write(bytes: &[u8]) -> Result<(&[u8], Option<&[u8]>), &'static str> {
    match bytes.split_first() {
        Some((b'D', key)) => Ok((key, None)),
        Some((b'P', rest)) => {
            let (len, rest) = rest.split_first_chunk().ok_or("truncated")?;
            let len = u16::from_be_bytes(*len).into();
            let (key, value) = rest.split_at_checked(len).ok_or("truncated")?;
            Ok((key, Some(value)))
        }
        _ => Err("not a write"),
    }
}
