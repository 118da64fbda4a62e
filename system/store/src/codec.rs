//! The row format: every row value starts with a checksum, which also covers the row key. Records in
//! the WAL are encoded in the same way, under the frame's checksum instead.
//!
//! | row | key | value |
//! |---|---|---|
//! | fact | as the schema says | CRC-32, the record's value as the schema says |
//! | entry | the key | CRC-32, version (16 bytes), value |
//!
//! All numbers are big-endian. Does not know about LMDB.

use crate::{
    RowError, Schema, Versioned,
    wal::{Anchor, Salt},
};

/// Encodes the row value of a fact into `row`.
pub(crate) fn encode_fact<S: Schema>(key: &[u8], record: &S::Record, row: &mut Vec<u8>) {
    begin(row);
    S::encode(record, row);
    seal(key, row);
}

/// Decodes the row of a fact.
pub(crate) fn decode_fact<S: Schema>(key: &[u8], row: &[u8]) -> Result<S::Record, RowError> {
    S::decode(key, open(key, row)?)
}

/// Encodes the row value of an entry into `row`.
pub(crate) fn encode_entry<S: Schema>(
    key: &S::Key,
    version: S::Version,
    value: &S::Value,
    row: &mut Vec<u8>,
) {
    begin(row);
    row.extend_from_slice(&S::version_to_bytes(version));
    row.extend_from_slice(value.as_ref());
    seal(key.as_ref(), row);
}

/// Decodes the row of an entry; the error says what is wrong with it.
pub(crate) fn decode_entry<S: Schema>(
    key: &[u8],
    row: &[u8],
) -> Result<Versioned<S>, &'static str> {
    let body = open(key, row)?;
    let (version, value) = body.split_first_chunk().ok_or("truncated")?;
    let version = S::version_from_bytes(*version).ok_or("invalid version")?;
    Ok((version, S::Value::from(value)))
}

/// The bytes of an entry's row before the value: checksum and version.
pub(crate) const ENTRY_HEAD_BYTES: usize = 4 + 16;

/// The version in the row of an entry; none if the row is damaged. Nothing is known of what a damaged row
/// held, so a write of its key is not checked against it.
pub(crate) fn version_of_entry<S: Schema>(key: &[u8], row: &[u8]) -> Option<S::Version> {
    S::version_from_bytes(*open(key, row).ok()?.first_chunk()?)
}

/// Whether a row that is damaged under its key is the entry of another key, of which bits have flipped.
pub(crate) fn was_entry_of<S: Schema>(key: &[u8], rotten: &[u8], row: &[u8]) -> bool {
    /// More bits than this are no rot. Also spares most rows their checksums.
    const BITS_MAX: u32 = 8;
    let bits = |(one, other): (&u8, &u8)| (one ^ other).count_ones();
    key.len() == rotten.len()
        && (1..=BITS_MAX).contains(&key.iter().zip(rotten).map(bits).sum())
        && version_of_entry::<S>(rotten, row).is_none()
        && version_of_entry::<S>(key, row).is_some()
}

/// The key of an entry that is damaged under the key of its row, if one bit of that has flipped. A checksum tells
/// apart all errors of one bit.
pub(crate) fn key_before_rot<S: Schema>(rotten: &[u8], row: &[u8]) -> Option<Vec<u8>> {
    let (sum, body) = row.split_first_chunk()?;
    let sum = u32::from_be_bytes(*sum);
    // The rest of the row, which may be long, is read once for all keys.
    let mut rest = crc32fast::Hasher::new();
    rest.update(body);
    let mut key = rotten.to_vec();
    for bit in 0..8 * key.len() {
        key[bit / 8] ^= 1 << (bit % 8);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&key);
        hasher.combine(&rest);
        if hasher.finalize() == sum && version_of_entry::<S>(&key, row).is_some() {
            return Some(key);
        }
        key[bit / 8] ^= 1 << (bit % 8);
    }
    None
}

/// Encodes the row with the anchor of the WAL into `row`.
pub(crate) fn encode_anchor(key: &[u8], anchor: &Anchor, row: &mut Vec<u8>) {
    begin(row);
    row.extend_from_slice(&anchor.applied.to_be_bytes());
    row.extend_from_slice(&anchor.chain.to_be_bytes());
    for salt in anchor.salts {
        row.extend_from_slice(&salt.0.to_be_bytes());
    }
    seal(key, row);
}

/// Decodes the row with the anchor of the WAL; the error says what is wrong with it.
pub(crate) fn decode_anchor(key: &[u8], row: &[u8]) -> Result<Anchor, &'static str> {
    const LENGTH: &str = "wrong length";
    let (applied, rest) = open(key, row)?.split_first_chunk().ok_or(LENGTH)?;
    let (chain, rest) = rest.split_first_chunk().ok_or(LENGTH)?;
    let (first, rest) = rest.split_first_chunk().ok_or(LENGTH)?;
    let second = rest.try_into().map_err(|_| LENGTH)?;
    let salts = [*first, second].map(|salt| Salt(u64::from_be_bytes(salt)));
    let (applied, chain) = (u64::from_be_bytes(*applied), u32::from_be_bytes(*chain));
    Ok(Anchor { applied, chain, salts })
}

/// Decodes the row that had the place of the anchor in format 4: the WAL generation alone.
pub(crate) fn decode_generation(key: &[u8], row: &[u8]) -> Result<u64, &'static str> {
    open(key, row)?.try_into().map(u64::from_be_bytes).map_err(|_| "not a number")
}

/// Starts a row with space for its checksum.
fn begin(row: &mut Vec<u8>) {
    row.clear();
    row.extend_from_slice(&[0; 4]);
}

/// Fills in the checksum.
fn seal(key: &[u8], row: &mut [u8]) {
    let sum = checksum(key, &row[4..]);
    row[..4].copy_from_slice(&sum.to_be_bytes());
}

/// The bytes after the checksum, if the checksum matches.
fn open<'a>(key: &[u8], row: &'a [u8]) -> Result<&'a [u8], &'static str> {
    let (sum, body) = row.split_first_chunk().ok_or("truncated")?;
    if checksum(key, body) == u32::from_be_bytes(*sum) { Ok(body) } else { Err("wrong checksum") }
}

fn checksum(key: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        database::{DatabaseRecord, DatabaseSchema},
        schema::RowKey,
    };

    type Key = <DatabaseSchema as Schema>::Key;

    #[test]
    fn facts_round_trip_and_every_flipped_bit_is_detected() {
        let write = |key: &[u8], value: Option<&[u8]>| DatabaseRecord::Staged {
            version: u64::MAX,
            key: key.into(),
            value: value.map(Into::into),
        };
        for record in [
            DatabaseRecord::Next { version: 7 },
            write(b"key", Some(b"value")),
            write(b"key", Some(b"")),
            write(b"key", None),
            DatabaseRecord::Applied { version: u64::MAX },
        ] {
            let (key, mut row): (RowKey, _) = (DatabaseSchema::row_key(&record), Vec::new());
            encode_fact::<DatabaseSchema>(key.as_bytes(), &record, &mut row);
            let decode = decode_fact::<DatabaseSchema>;
            assert_eq!(decode(key.as_bytes(), &row), Ok(record));

            let mut both = [key.as_bytes(), &row].concat();
            for bit in 0..both.len() * 8 {
                both[bit / 8] ^= 1 << (bit % 8);
                let (key, row) = both.split_at(key.as_bytes().len());
                assert!(decode(key, row).is_err(), "bit {bit} of {both:?}");
                both[bit / 8] ^= 1 << (bit % 8);
            }
            for len in 0..row.len() {
                assert!(decode(key.as_bytes(), &row[..len]).is_err());
            }
        }
    }

    #[test]
    fn entries_round_trip_and_every_flipped_bit_is_detected() {
        let (key, version, value) = (Key::from(&b"key"[..]), 44, Key::from(&b"value"[..]));
        let mut row = Vec::new();
        encode_entry::<DatabaseSchema>(&key, version, &value, &mut row);
        let decode = decode_entry::<DatabaseSchema>;
        assert_eq!(decode(&key, &row), Ok((version, value)));
        assert_eq!(version_of_entry::<DatabaseSchema>(b"key", &row), Some(version));
        assert_eq!(version_of_entry::<DatabaseSchema>(b"kez", &row), None);
        assert!(decode(b"kez", &row).is_err());
        assert!(was_entry_of::<DatabaseSchema>(b"key", b"ke{", &row));
        assert!(!was_entry_of::<DatabaseSchema>(b"key", b"key", &row), "it is intact");
        assert!(!was_entry_of::<DatabaseSchema>(b"kez", b"key", &row), "it is another one");
        assert_eq!(key_before_rot::<DatabaseSchema>(b"kez", &row), None, "two bits");
        assert_eq!(key_before_rot::<DatabaseSchema>(b"kex", &row), Some(b"key".to_vec()));
        for bit in 0..row.len() * 8 {
            row[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key_before_rot::<DatabaseSchema>(b"key", &row), None, "bit {bit}");
            assert!(decode(&key, &row).is_err(), "bit {bit}");
            row[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
