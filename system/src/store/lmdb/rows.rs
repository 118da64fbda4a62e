//! The rows of the store on disk, as bytes: keys in the order of the facts, values with a checksum
//! that covers the key as well. Records lie in the log in the same form, under a checksum of its own.
//! Knows nothing of LMDB.
//!
//! All numbers are big-endian. A fact's key is a letter, and a transaction where there is one; its
//! value is the CRC-32 and then
//!
//! | key | value |
//! |---|---|
//! | `e` | epoch, number of replicas (1 byte) |
//! | `p` | promised epoch |
//! | `b` | incarnation |
//! | `f` | watermark: epoch, seq |
//! | `m` node (0: the master) | store id |
//! | `c` | nothing: the votes decide what is committed |
//! | `i` | epoch and seq up to which yes votes are final |
//! | `d` epoch seq | key; nothing, in the log: the end |
//! | `t` epoch seq | `C`, `A` or `R`: committed, aborted, refused; `D` key: prepared to delete; `P` length of the key (2 bytes), key, value: prepared to put |
//!
//! An entry's key is itself; its value is the CRC-32, epoch and seq of its version, and the value.

use crate::protocol::{Key, Node, Record, StoreId, TxnId, Value, Version, Write};

use super::super::fold::Slot;

/// The key of the row of a fact.
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
            Slot::Decided(txn) => FactKey::new(b'd', &txn_bytes(txn)),
            Slot::Txn(txn) => FactKey::new(b't', &txn_bytes(txn)),
        }
    }
}

/// Writes the value of the row of a fact into `row`.
pub(super) fn encode_fact(key: &[u8], record: &Record, row: &mut Vec<u8>) {
    begin(row);
    encode_record(record, row);
    seal(key, row);
}

/// Reads the row of a fact, or says what is wrong with it.
pub(super) fn decode_fact(key: &[u8], row: &[u8]) -> Result<Record, &'static str> {
    decode_record(key, open(key, row)?)
}

/// Adds what a record says, apart from its key and without a checksum.
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
        Record::Decided { key, .. } => into.extend_from_slice(key.as_bytes()),
        Record::End { .. } => {}
        Record::Prepare { write: Write { key, value: Some(value) }, .. } => {
            let key = key.as_bytes();
            let len = u16::try_from(key.len()).expect("limits keep keys short");
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

/// Reads a record from its key and what it says, or says what is wrong with it.
pub(super) fn decode_record(key: &[u8], body: &[u8]) -> Result<Record, &'static str> {
    let (letter, rest) = key.split_first().ok_or("its key is empty")?;
    let number = || body.try_into().map(u64::from_be_bytes).map_err(|_| "it is no number");
    let txn = || txn_from(rest).ok_or("its key names no transaction");
    Ok(match (letter, rest) {
        (b'e', []) => match body.split_first_chunk() {
            Some((epoch, [replicas])) => {
                Record::Epoch { epoch: u64::from_be_bytes(*epoch), replicas: *replicas }
            }
            _ => return Err("it is no epoch"),
        },
        (b'p', []) => Record::Promise { epoch: number()? },
        (b'b', []) => Record::Incarnation { incarnation: number()? },
        (b'f', []) => {
            Record::Watermark { watermark: txn_from(body).ok_or("it is no transaction")? }
        }
        (b'm', [0]) => Record::Member { node: Node::Master, store: StoreId(number()?) },
        (b'm', [slot]) => Record::Member { node: Node::Replica(*slot), store: StoreId(number()?) },
        (b'c', []) if body.is_empty() => Record::Votes,
        (b'i', []) => Record::Frozen { upto: txn_from(body).ok_or("it is no transaction")? },
        (b'd', _) if body.is_empty() => Record::End { txn: txn()? },
        (b'd', _) => Record::Decided { txn: txn()?, key: Key::from(body) },
        (b't', _) => match body.split_first() {
            Some((b'C', [])) => Record::Commit { txn: txn()? },
            Some((b'A', [])) => Record::Abort { txn: txn()? },
            Some((b'R', [])) => Record::Refused { txn: txn()? },
            Some((letter @ (b'D' | b'P'), body)) => {
                Record::Prepare { txn: txn()?, write: read_write(*letter == b'P', body)? }
            }
            _ => return Err("it says nothing that a transaction could be"),
        },
        _ => return Err("its key is of no kind"),
    })
}

fn read_write(puts: bool, body: &[u8]) -> Result<Write, &'static str> {
    if !puts {
        return Ok(Write { key: Key::from(body), value: None });
    }
    let (len, body) = body.split_first_chunk().ok_or("it is cut off")?;
    let len = u16::from_be_bytes(*len).into();
    let (key, value) = body.split_at_checked(len).ok_or("it is cut off")?;
    Ok(Write { key: Key::from(key), value: Some(Value::from(value)) })
}

/// Names the row of a fact in a message for people.
pub(super) fn name_of_fact(key: &[u8]) -> String {
    match key.split_first() {
        Some((letter @ (b'd' | b't'), txn)) if txn.len() == 16 => {
            let txn = txn_from(txn).unwrap_or_default();
            format!("{} {txn}", char::from(*letter))
        }
        _ => key.escape_ascii().to_string(),
    }
}

/// Writes the value of the row of an entry into `row`.
pub(super) fn encode_entry(key: &Key, version: Version, value: &Value, row: &mut Vec<u8>) {
    begin(row);
    row.extend_from_slice(&txn_bytes(version));
    row.extend_from_slice(value.as_bytes());
    seal(key.as_bytes(), row);
}

/// Reads the row of an entry, or says what is wrong with it.
pub(super) fn decode_entry(key: &[u8], row: &[u8]) -> Result<(Version, Value), &'static str> {
    let body = open(key, row)?;
    let (version, value) = body.split_at_checked(16).ok_or("it is cut off")?;
    Ok((txn_from(version).ok_or("it has no version")?, Value::from(value)))
}

/// The version in the row of an entry, without a look at the rest.
pub(super) fn version_of_entry(row: &[u8]) -> Option<Version> {
    txn_from(row.get(4..20)?)
}

/// Writes the value of the row that says how far the log is applied into `row`.
pub(super) fn encode_applied(key: &[u8], generation: u64, row: &mut Vec<u8>) {
    begin(row);
    row.extend_from_slice(&generation.to_be_bytes());
    seal(key, row);
}

/// Reads the row that says how far the log is applied, or says what is wrong with it.
pub(super) fn decode_applied(key: &[u8], row: &[u8]) -> Result<u64, &'static str> {
    open(key, row)?.try_into().map(u64::from_be_bytes).map_err(|_| "it is no number")
}

/// Leaves room for the checksum.
fn begin(row: &mut Vec<u8>) {
    row.clear();
    row.extend_from_slice(&[0; 4]);
}

/// Puts the checksum in its place.
fn seal(key: &[u8], row: &mut [u8]) {
    let sum = checksum(key, &row[4..]);
    row[..4].copy_from_slice(&sum.to_be_bytes());
}

/// What follows the checksum, if that is right.
fn open<'a>(key: &[u8], row: &'a [u8]) -> Result<&'a [u8], &'static str> {
    let (sum, body) = row.split_first_chunk().ok_or("it is cut off")?;
    if checksum(key, body) == u32::from_be_bytes(*sum) {
        Ok(body)
    } else {
        Err("its checksum is wrong")
    }
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
    fn every_fact_is_read_as_it_was_written_and_no_bit_of_its_row_may_change() {
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
            Record::Decided { txn, key: "key".into() },
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
    fn an_entry_is_read_as_it_was_written_and_no_bit_of_its_row_may_change() {
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
    fn the_rows_of_transactions_are_in_the_order_of_the_transactions() {
        let key = |epoch, seq| FactKey::from(Slot::Txn(TxnId::new(epoch, seq))).bytes;
        assert!(key(0, u64::MAX) < key(1, 0));
        assert!(key(1, 255) < key(1, 256));
        assert_eq!(name_of_fact(&key(1, 44)), "t 1.44");
        assert_eq!(name_of_fact(b"e"), "e");
    }
}
