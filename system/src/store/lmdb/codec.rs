//! The row format: keys in the order of the facts, values with a checksum that also covers the key.
//! Records in the WAL have the same form under the frame's checksum. Does not know about LMDB.
//!
//! All numbers are big-endian. The key of a fact is a letter, and a transaction if it is about one.
//! Its value is a CRC-32 and then
//!
//! | key | value |
//! |---|---|
//! | `e` | epoch, number of replicas (1 byte) |
//! | `p` | promised epoch |
//! | `b` | incarnation |
//! | `f` | watermark: epoch, seq |
//! | `m` node (0: the master) | store id |
//! | `c` | empty: the cluster runs in votes mode |
//! | `i` | epoch and seq up to which yes votes are final |
//! | `d` epoch seq | key; empty, in the WAL only: END |
//! | `t` epoch seq | `C`, `A` or `R`: committed, aborted, refused; `D` key: prepared to delete; `P` length of the key (2 bytes), key, value: prepared to put |
//!
//! The key of an entry is the key itself. Its value is the CRC-32, epoch and seq of the version,
//! and the stored value.

use crate::protocol::{Key, Node, Record, StoreId, TxnId, Value, Version, Write};

use super::super::memtable::Slot;

/// The row key of a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FactKey {
    bytes: [u8; 17],
    len: usize,
}

impl FactKey {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn new(letter: u8, rest: &[u8]) -> FactKey {
        let mut bytes = [0; 17];
        bytes[0] = letter;
        bytes[1..=rest.len()].copy_from_slice(rest);
        FactKey { bytes, len: 1 + rest.len() }
    }
}

impl From<Slot> for FactKey {
    fn from(slot: Slot) -> FactKey {
        match slot {
            Slot::Epoch => FactKey::new(b'e', &[]),
            Slot::Promise => FactKey::new(b'p', &[]),
            Slot::Incarnation => FactKey::new(b'b', &[]),
            Slot::Watermark => FactKey::new(b'f', &[]),
            Slot::Member(Node::Master) => FactKey::new(b'm', &[0]),
            Slot::Member(Node::Replica(slot)) => FactKey::new(b'm', &[slot]),
            Slot::Votes => FactKey::new(b'c', &[]),
            Slot::Frozen => FactKey::new(b'i', &[]),
            Slot::CommitDecision(txn) => FactKey::new(b'd', &txn_bytes(txn)),
            Slot::Txn(txn) => FactKey::new(b't', &txn_bytes(txn)),
        }
    }
}

/// Encodes the row value of a fact into `row`.
pub(super) fn encode_fact(key: &[u8], record: &Record, row: &mut Vec<u8>) {
    begin(row);
    encode_record(record, row);
    seal(key, row);
}

/// Decodes the row of a fact; the error says what is wrong with it.
pub(super) fn decode_fact(key: &[u8], row: &[u8]) -> Result<Record, &'static str> {
    decode_record(key, open(key, row)?)
}

/// Appends the value of a record, without its key and without a checksum.
pub(super) fn encode_record(record: &Record, into: &mut Vec<u8>) {
    match record {
        Record::Epoch { epoch, replicas } => {
            into.extend_from_slice(&epoch.to_be_bytes());
            into.push(*replicas);
        }
        Record::Promise { epoch: number }
        | Record::Incarnation { incarnation: number }
        | Record::Member { store: StoreId(number), .. } => {
            into.extend_from_slice(&number.to_be_bytes());
        }
        Record::Votes => {}
        Record::Watermark { watermark: txn } | Record::Frozen { upto: txn } => {
            into.extend_from_slice(&txn_bytes(*txn));
        }
        Record::CommitDecision { key, .. } => into.extend_from_slice(key.as_bytes()),
        Record::End { .. } => {}
        Record::Prepare { write: Write { key, value: Some(value) }, .. } => {
            let key = key.as_bytes();
            let len = u16::try_from(key.len()).expect("the limits bound the length of keys");
            into.push(b'P');
            into.extend_from_slice(&len.to_be_bytes());
            into.extend_from_slice(key);
            into.extend_from_slice(value.as_bytes());
        }
        Record::Prepare { write: Write { key, value: None }, .. } => {
            into.push(b'D');
            into.extend_from_slice(key.as_bytes());
        }
        Record::Commit { .. } => into.push(b'C'),
        Record::Abort { .. } => into.push(b'A'),
        Record::Refused { .. } => into.push(b'R'),
    }
}

/// Decodes a record from its key and value; the error says what is wrong.
pub(super) fn decode_record(key: &[u8], body: &[u8]) -> Result<Record, &'static str> {
    let (letter, rest) = key.split_first().ok_or("empty row key")?;
    let number = || body.try_into().map(u64::from_be_bytes).map_err(|_| "not a number");
    let txn = || txn_from(rest).ok_or("no transaction in the row key");
    Ok(match (letter, rest) {
        (b'e', []) => match body.split_first_chunk() {
            Some((epoch, [replicas])) => {
                Record::Epoch { epoch: u64::from_be_bytes(*epoch), replicas: *replicas }
            }
            _ => return Err("not an epoch"),
        },
        (b'p', []) => Record::Promise { epoch: number()? },
        (b'b', []) => Record::Incarnation { incarnation: number()? },
        (b'f', []) => Record::Watermark { watermark: txn_from(body).ok_or("not a transaction")? },
        (b'm', [0]) => Record::Member { node: Node::Master, store: StoreId(number()?) },
        (b'm', [slot]) => Record::Member { node: Node::Replica(*slot), store: StoreId(number()?) },
        (b'c', []) if body.is_empty() => Record::Votes,
        (b'i', []) => Record::Frozen { upto: txn_from(body).ok_or("not a transaction")? },
        (b'd', _) if body.is_empty() => Record::End { txn: txn()? },
        (b'd', _) => Record::CommitDecision { txn: txn()?, key: Key::from(body) },
        (b't', _) => match body.split_first() {
            Some((b'C', [])) => Record::Commit { txn: txn()? },
            Some((b'A', [])) => Record::Abort { txn: txn()? },
            Some((b'R', [])) => Record::Refused { txn: txn()? },
            Some((letter @ (b'D' | b'P'), body)) => {
                Record::Prepare { txn: txn()?, write: read_write(*letter == b'P', body)? }
            }
            _ => return Err("not a transaction state"),
        },
        _ => return Err("unknown row key"),
    })
}

fn read_write(puts: bool, body: &[u8]) -> Result<Write, &'static str> {
    if !puts {
        return Ok(Write { key: Key::from(body), value: None });
    }
    let (len, body) = body.split_first_chunk().ok_or("truncated")?;
    let len = u16::from_be_bytes(*len).into();
    let (key, value) = body.split_at_checked(len).ok_or("truncated")?;
    Ok(Write { key: Key::from(key), value: Some(Value::from(value)) })
}

/// The name of a fact's row in error messages.
pub(super) fn name_of_fact(key: &[u8]) -> String {
    match key.split_first() {
        Some((letter @ (b'd' | b't'), txn)) if txn.len() == 16 => {
            let txn = txn_from(txn).unwrap_or_default();
            format!("{} {txn}", char::from(*letter))
        }
        _ => key.escape_ascii().to_string(),
    }
}

/// Encodes the row value of an entry into `row`.
pub(super) fn encode_entry(key: &Key, version: Version, value: &Value, row: &mut Vec<u8>) {
    begin(row);
    row.extend_from_slice(&txn_bytes(version));
    row.extend_from_slice(value.as_bytes());
    seal(key.as_bytes(), row);
}

/// Decodes the row of an entry; the error says what is wrong with it.
pub(super) fn decode_entry(key: &[u8], row: &[u8]) -> Result<(Version, Value), &'static str> {
    let body = open(key, row)?;
    let (version, value) = body.split_at_checked(16).ok_or("truncated")?;
    Ok((txn_from(version).ok_or("no version")?, Value::from(value)))
}

/// The version in the row of an entry, without a check of the rest.
pub(super) fn version_of_entry(row: &[u8]) -> Option<Version> {
    txn_from(row.get(4..20)?)
}

/// Encodes the row with the WAL generation into `row`.
pub(super) fn encode_generation(key: &[u8], generation: u64, row: &mut Vec<u8>) {
    begin(row);
    row.extend_from_slice(&generation.to_be_bytes());
    seal(key, row);
}

/// Decodes the row with the WAL generation; the error says what is wrong with it.
pub(super) fn decode_generation(key: &[u8], row: &[u8]) -> Result<u64, &'static str> {
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

fn txn_bytes(txn: TxnId) -> [u8; 16] {
    (u128::from(txn.epoch) << 64 | u128::from(txn.seq)).to_be_bytes()
}

fn txn_from(bytes: &[u8]) -> Option<TxnId> {
    let number = u128::from_be_bytes(bytes.try_into().ok()?);
    Some(TxnId::new((number >> 64) as u64, number as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(key: &str, value: Option<&str>) -> Write {
        Write { key: key.into(), value: value.map(Value::from) }
    }

    #[test]
    fn facts_round_trip_and_every_flipped_bit_is_detected() {
        let txn = TxnId::new(3, u64::MAX);
        let records = [
            Record::Epoch { epoch: 1 << 40, replicas: 3 },
            Record::Promise { epoch: 2 },
            Record::Incarnation { incarnation: u64::MAX },
            Record::Watermark { watermark: txn },
            Record::Member { node: Node::Master, store: StoreId(1) },
            Record::Member { node: Node::Replica(255), store: StoreId(u64::MAX) },
            Record::Votes,
            Record::Frozen { upto: txn },
            Record::CommitDecision { txn, key: "key".into() },
            Record::End { txn },
            Record::Prepare { txn, write: write("key", Some("value")) },
            Record::Prepare { txn, write: write("key", Some("")) },
            Record::Prepare { txn, write: write("key", None) },
            Record::Commit { txn },
            Record::Abort { txn },
            Record::Refused { txn },
        ];
        let rows: Vec<_> = records
            .into_iter()
            .map(|record| {
                let (key, mut row) = (FactKey::from(Slot::of(&record)), Vec::new());
                encode_fact(key.as_bytes(), &record, &mut row);
                (key, row, record)
            })
            .collect();
        for (key, row, fact) in rows {
            assert_eq!(decode_fact(key.as_bytes(), &row), Ok(fact));

            let mut both = [key.as_bytes(), &row].concat();
            for bit in 0..both.len() * 8 {
                both[bit / 8] ^= 1 << (bit % 8);
                let (key, row) = both.split_at(key.as_bytes().len());
                assert!(decode_fact(key, row).is_err(), "bit {bit} of {both:?}");
                both[bit / 8] ^= 1 << (bit % 8);
            }
            for len in 0..row.len() {
                assert!(decode_fact(key.as_bytes(), &row[..len]).is_err());
            }
        }
    }

    #[test]
    fn entries_round_trip_and_every_flipped_bit_is_detected() {
        let (key, version, value) = (Key::from("key"), TxnId::new(1, 44), Value::from("value"));
        let mut row = Vec::new();
        encode_entry(&key, version, &value, &mut row);
        assert_eq!(decode_entry(key.as_bytes(), &row), Ok((version, value)));
        assert_eq!(version_of_entry(&row), Some(version));
        assert!(decode_entry(b"kez", &row).is_err());
        for bit in 0..row.len() * 8 {
            row[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_entry(key.as_bytes(), &row).is_err(), "bit {bit}");
            row[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn rows_of_transactions_sort_like_transactions() {
        let key = |epoch, seq| FactKey::from(Slot::Txn(TxnId::new(epoch, seq))).bytes;
        assert!(key(0, u64::MAX) < key(1, 0));
        assert!(key(1, 255) < key(1, 256));
        assert_eq!(name_of_fact(&key(1, 44)), "t 1.44");
        assert_eq!(name_of_fact(b"e"), "e");
    }
}
