//! Joins the protocol and the store: how the protocol's records are applied and encoded. Nodes keep
//! them on disk in this form; the model and the simulator keep them in memory.
//!
//! All numbers are big-endian. The row key of a record is a letter, and a transaction if it is about
//! one. Its row value is
//!
//! | key | value |
//! |---|---|
//! | `e` | epoch, number of replicas (1 byte) |
//! | `p` | promised epoch |
//! | `b` | incarnation |
//! | `f` | watermark: epoch, seq |
//! | `m` node (0: the master) | store id |
//! | `c` | empty: the cluster runs in votes mode |
//! | `u` | cluster id |
//! | `n` epoch | nonce of the master's start |
//! | `o` | number of commits; at a replica, if it is not 0, the number of decisions that it knows of |
//! | `s` slot | what the replica's store held: incarnation, nonce, epoch and seq of the last vote, number of commits |
//! | `i` | epoch and seq up to which yes votes are final |
//! | `d` epoch seq | key; empty, in the WAL only: END |
//! | `h` epoch seq | in the WAL only: `P`, length of the key (2 bytes), key, value: the entry of the key was damaged, and is this write again |
//! | `t` epoch seq | `C`, `A` or `R`: committed, aborted, refused; `D` key: prepared to delete; `P` length of the key (2 bytes), key, value: prepared to put |

use protocol::{
    ClusterId, Facts, Key, Node, Page, RangeSummary, Record, Seen, StoreId, TxnId, Value, Write,
};
pub use store::PageSize;
use store::{RowError, RowKey, Schema, decode_write, encode_write};

/// A node's store in memory.
pub type Memory = store::Memory<NodeSchema>;
/// The state after a sequence of records.
pub type State = store::State<NodeSchema>;

/// The schema of a node's store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeSchema;

impl Schema for NodeSchema {
    type Record = Record;
    type Facts = Facts;
    type Key = Key;
    type Value = Value;
    type Version = TxnId;

    fn apply(facts: &mut Facts, record: &Record) -> Option<store::Write<Self>> {
        let (version, Write { key, value }) = facts.apply(record)?;
        let heals = matches!(record, Record::Heal { .. });
        Some(store::Write { key, version, value, heals })
    }

    fn check(facts: &Facts, record: &Record) -> Result<(), &'static str> {
        match record {
            Record::Commit { txn } => match facts.of_txn(*txn) {
                Some(Record::Prepare { .. } | Record::Commit { .. }) => Ok(()),
                _ => Err("a transaction is committed but was not prepared"),
            },
            _ => Ok(()),
        }
    }

    fn growth(record: &Record) -> Option<usize> {
        match record {
            Record::Prepare { write: Write { key, value: Some(value) }, .. }
            | Record::Heal { key, value, .. } => {
                Some(key.as_bytes().len() + value.as_bytes().len())
            }
            _ => None,
        }
    }

    fn check_fact(record: &Record) -> Result<(), &'static str> {
        // Only the WAL holds these.
        match record {
            Record::Heal { .. } => Err("a record that takes effect at once is no fact"),
            _ => Ok(()),
        }
    }

    fn restore(facts: &mut Facts, record: Record) {
        facts.restore(record);
    }

    fn records(facts: &Facts) -> impl Iterator<Item = &Record> {
        facts.records()
    }

    fn row_key(record: &Record) -> RowKey {
        match record {
            Record::Epoch { .. } => RowKey::new(b'e', &[]),
            Record::Promise { .. } => RowKey::new(b'p', &[]),
            Record::Incarnation { .. } => RowKey::new(b'b', &[]),
            Record::Watermark { .. } => RowKey::new(b'f', &[]),
            Record::Member { node: Node::Master, .. } => RowKey::new(b'm', &[0]),
            Record::Member { node: Node::Replica(slot), .. } => RowKey::new(b'm', &[*slot]),
            Record::Votes => RowKey::new(b'c', &[]),
            Record::Cluster { .. } => RowKey::new(b'u', &[]),
            Record::Start { epoch, .. } => RowKey::new(b'n', &epoch.to_be_bytes()),
            Record::Commits { .. } => RowKey::new(b'o', &[]),
            Record::Seen { slot, .. } => RowKey::new(b's', &[*slot]),
            Record::Frozen { .. } => RowKey::new(b'i', &[]),
            Record::CommitDecision { txn, .. } | Record::End { txn } => {
                RowKey::new(b'd', &Self::version_to_bytes(*txn))
            }
            Record::Prepare { txn, .. }
            | Record::Commit { txn }
            | Record::Abort { txn }
            | Record::Refused { txn } => RowKey::new(b't', &Self::version_to_bytes(*txn)),
            Record::Heal { version, .. } => RowKey::new(b'h', &Self::version_to_bytes(*version)),
        }
    }

    fn encode(record: &Record, into: &mut Vec<u8>) {
        match record {
            Record::Epoch { epoch, replicas } => {
                into.extend_from_slice(&epoch.to_be_bytes());
                into.push(*replicas);
            }
            Record::Promise { epoch: number }
            | Record::Incarnation { incarnation: number }
            | Record::Cluster { id: ClusterId(number) }
            | Record::Start { nonce: number, .. }
            | Record::Member { store: StoreId(number), .. } => {
                into.extend_from_slice(&number.to_be_bytes());
            }
            Record::Commits { count, decisions } => {
                into.extend_from_slice(&count.to_be_bytes());
                if *decisions > 0 {
                    into.extend_from_slice(&decisions.to_be_bytes());
                }
            }
            Record::Seen { seen: Seen { incarnation, nonce, voted, commits }, .. } => {
                for number in [incarnation, nonce, &voted.epoch, &voted.seq, commits] {
                    into.extend_from_slice(&number.to_be_bytes());
                }
            }
            Record::Votes | Record::End { .. } => {}
            Record::Watermark { watermark: txn } | Record::Frozen { upto: txn } => {
                into.extend_from_slice(&Self::version_to_bytes(*txn));
            }
            Record::CommitDecision { key, .. } => into.extend_from_slice(key.as_bytes()),
            Record::Prepare { write: Write { key, value }, .. } => {
                encode_write(key.as_bytes(), value.as_ref().map(Value::as_bytes), into);
            }
            Record::Commit { .. } => into.push(b'C'),
            Record::Abort { .. } => into.push(b'A'),
            Record::Refused { .. } => into.push(b'R'),
            Record::Heal { key, value, .. } => {
                encode_write(key.as_bytes(), Some(value.as_bytes()), into);
            }
        }
    }

    fn decode(row_key: &[u8], value: &[u8]) -> Result<Record, RowError> {
        let (letter, rest) = row_key.split_first().ok_or("empty row key")?;
        let number = || value.try_into().map(u64::from_be_bytes).map_err(|_| "not a number");
        let upto = || txn_from(value).ok_or("not a transaction");
        let txn = || txn_from(rest).ok_or("no transaction in the row key");
        Ok(match (letter, rest) {
            (b'e', []) => match value.split_first_chunk() {
                Some((epoch, [replicas])) => {
                    Record::Epoch { epoch: u64::from_be_bytes(*epoch), replicas: *replicas }
                }
                _ => return Err("not an epoch".into()),
            },
            (b'p', []) => Record::Promise { epoch: number()? },
            (b'b', []) => Record::Incarnation { incarnation: number()? },
            (b'f', []) => Record::Watermark { watermark: upto()? },
            (b'm', [0]) => Record::Member { node: Node::Master, store: StoreId(number()?) },
            (b'm', [slot]) => {
                Record::Member { node: Node::Replica(*slot), store: StoreId(number()?) }
            }
            (b'c', []) if value.is_empty() => Record::Votes,
            (b'u', []) => Record::Cluster { id: ClusterId(number()?) },
            (b'n', epoch) => {
                let epoch = epoch.try_into().map_err(|_| "no epoch in the row key")?;
                Record::Start { epoch: u64::from_be_bytes(epoch), nonce: number()? }
            }
            (b'o', []) => match value.split_last_chunk() {
                Some((count, decisions)) if count.len() == 8 => Record::Commits {
                    count: count.try_into().map(u64::from_be_bytes).map_err(|_| "not a number")?,
                    decisions: u64::from_be_bytes(*decisions),
                },
                _ => Record::Commits { count: number()?, decisions: 0 },
            },
            (b's', [slot]) => Record::Seen { slot: *slot, seen: seen_from(value)? },
            (b'i', []) => Record::Frozen { upto: upto()? },
            (b'd', _) if value.is_empty() => Record::End { txn: txn()? },
            (b'd', _) => Record::CommitDecision { txn: txn()?, key: Key::from(value) },
            (b't', _) => match value {
                b"C" => Record::Commit { txn: txn()? },
                b"A" => Record::Abort { txn: txn()? },
                b"R" => Record::Refused { txn: txn()? },
                _ => {
                    let (key, value) = decode_write(value)?;
                    let write = Write { key: Key::from(key), value: value.map(Value::from) };
                    Record::Prepare { txn: txn()?, write }
                }
            },
            (b'h', _) => match decode_write(value)? {
                (key, Some(value)) => {
                    Record::Heal { key: key.into(), version: txn()?, value: value.into() }
                }
                (_, None) => return Err("a copy of a damaged entry without a value".into()),
            },
            _ => return Err("unknown row key".into()),
        })
    }

    fn describe(row_key: &[u8]) -> String {
        match row_key.split_first() {
            Some((letter @ (b'd' | b't'), txn)) if txn.len() == 16 => {
                let txn = txn_from(txn).unwrap_or_default();
                format!("{} {txn}", char::from(*letter))
            }
            _ => row_key.escape_ascii().to_string(),
        }
    }

    fn version_to_bytes(txn: TxnId) -> [u8; 16] {
        (u128::from(txn.epoch) << 64 | u128::from(txn.seq)).to_be_bytes()
    }

    fn version_from_bytes(bytes: [u8; 16]) -> Option<TxnId> {
        let number = u128::from_be_bytes(bytes);
        Some(TxnId::new((number >> 64) as u64, number as u64))
    }
}

fn seen_from(value: &[u8]) -> Result<Seen, RowError> {
    let numbers: Vec<_> = value.chunks(8).filter_map(|chunk| chunk.try_into().ok()).collect();
    let [incarnation, nonce, epoch, seq, commits] = numbers[..] else {
        return Err("not what a store held".into());
    };
    let [incarnation, nonce, epoch, seq, commits] =
        [incarnation, nonce, epoch, seq, commits].map(u64::from_be_bytes);
    Ok(Seen { incarnation, nonce, voted: TxnId::new(epoch, seq), commits })
}

fn txn_from(bytes: &[u8]) -> Option<TxnId> {
    NodeSchema::version_from_bytes(bytes.try_into().ok()?)
}

/// A summary of a range in the protocol's terms.
#[must_use]
pub fn range_summary(rows: store::RangeRows<NodeSchema>) -> RangeSummary {
    let store::RangeRows { upto, version, rows, digest } = rows;
    RangeSummary { upto, version, rows, digest }
}

/// A page of entries in the protocol's terms.
#[must_use]
pub fn page(page: store::EntryPage<NodeSchema>) -> Page {
    let store::EntryPage { entries, end } = page;
    Page { entries, end }
}

/// The store id in the protocol's terms.
#[must_use]
pub fn store_id(id: store::StoreId) -> StoreId {
    StoreId(id.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(key: &str, value: Option<&str>) -> Write {
        Write { key: key.into(), value: value.map(Value::from) }
    }

    #[test]
    fn records_round_trip() {
        let txn = TxnId::new(3, u64::MAX);
        for record in [
            Record::Epoch { epoch: 1 << 40, replicas: 3 },
            Record::Promise { epoch: 2 },
            Record::Incarnation { incarnation: u64::MAX },
            Record::Watermark { watermark: txn },
            Record::Member { node: Node::Master, store: StoreId(1) },
            Record::Member { node: Node::Replica(255), store: StoreId(u64::MAX) },
            Record::Votes,
            Record::Cluster { id: ClusterId(u64::MAX) },
            Record::Start { epoch: 1 << 40, nonce: 7 },
            Record::Commits { count: 1 << 40, decisions: 0 },
            Record::Commits { count: 3, decisions: 1 << 41 },
            Record::Seen {
                slot: 64,
                seen: Seen { incarnation: 1, nonce: u64::MAX, voted: txn, commits: 9 },
            },
            Record::Frozen { upto: txn },
            Record::CommitDecision { txn, key: "key".into() },
            Record::End { txn },
            Record::Prepare { txn, write: write("key", Some("value")) },
            Record::Prepare { txn, write: write("key", Some("")) },
            Record::Prepare { txn, write: write("key", None) },
            Record::Commit { txn },
            Record::Abort { txn },
            Record::Refused { txn },
            Record::Heal { key: "key".into(), version: txn, value: "value".into() },
        ] {
            let (key, mut value) = (NodeSchema::row_key(&record), Vec::new());
            NodeSchema::encode(&record, &mut value);
            assert_eq!(NodeSchema::decode(key.as_bytes(), &value), Ok(record));
        }
    }

    #[test]
    fn the_format_on_disk_is_fixed() {
        let txn = TxnId::new(1, 2);
        let id = [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2];
        let with_id = |letter: &[u8]| [letter, &id].concat();
        let seven = [0, 0, 0, 0, 0, 0, 0, 7];
        for (record, key, value) in [
            (Record::Epoch { epoch: 7, replicas: 3 }, b"e".to_vec(), [&seven[..], &[3]].concat()),
            (Record::Promise { epoch: 7 }, b"p".to_vec(), seven.to_vec()),
            (Record::Incarnation { incarnation: 7 }, b"b".to_vec(), seven.to_vec()),
            (Record::Watermark { watermark: txn }, b"f".to_vec(), id.to_vec()),
            (
                Record::Member { node: Node::Replica(2), store: StoreId(7) },
                vec![b'm', 2],
                seven.to_vec(),
            ),
            (Record::Votes, b"c".to_vec(), Vec::new()),
            (Record::Cluster { id: ClusterId(7) }, b"u".to_vec(), seven.to_vec()),
            (Record::Start { epoch: 7, nonce: 7 }, [b"n", &seven[..]].concat(), seven.to_vec()),
            (Record::Commits { count: 7, decisions: 0 }, b"o".to_vec(), seven.to_vec()),
            (
                Record::Seen {
                    slot: 2,
                    seen: Seen { incarnation: 7, nonce: 7, voted: txn, commits: 7 },
                },
                vec![b's', 2],
                [&seven[..], &seven, &id, &seven].concat(),
            ),
            (Record::Frozen { upto: txn }, b"i".to_vec(), id.to_vec()),
            (Record::CommitDecision { txn, key: "k".into() }, with_id(b"d"), b"k".to_vec()),
            (Record::End { txn }, with_id(b"d"), Vec::new()),
            (
                Record::Prepare { txn, write: write("k", Some("v")) },
                with_id(b"t"),
                b"P\0\x01kv".to_vec(),
            ),
            (Record::Prepare { txn, write: write("k", None) }, with_id(b"t"), b"Dk".to_vec()),
            (Record::Commit { txn }, with_id(b"t"), b"C".to_vec()),
            (Record::Abort { txn }, with_id(b"t"), b"A".to_vec()),
            (Record::Refused { txn }, with_id(b"t"), b"R".to_vec()),
            (
                Record::Heal { key: "k".into(), version: txn, value: "v".into() },
                with_id(b"h"),
                b"P\0\x01kv".to_vec(),
            ),
        ] {
            let mut encoded = Vec::new();
            NodeSchema::encode(&record, &mut encoded);
            assert_eq!((NodeSchema::row_key(&record).as_bytes(), encoded), (&key[..], value));
        }
    }

    #[test]
    fn rows_of_transactions_sort_like_transactions() {
        let key = |epoch, seq| NodeSchema::row_key(&Record::Commit { txn: TxnId::new(epoch, seq) });
        assert!(key(0, u64::MAX).as_bytes() < key(1, 0).as_bytes());
        assert!(key(1, 255).as_bytes() < key(1, 256).as_bytes());
        assert_eq!(NodeSchema::describe(key(1, 44).as_bytes()), "t 1.44");
        assert_eq!(NodeSchema::describe(b"e"), "e");
    }
}
