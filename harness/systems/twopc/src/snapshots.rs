//! Snapshots of several keys, as clients ask for them and as histories record them: the value of a
//! `snapshot` is an object. `{"read": ["k1", "k2"]}` or `{"range": {"from": "k1", "limit": 3}}` asks;
//! the answer adds `found`, a list of `[key, value, version]`, the `watermark`, and where a page has ended
//! early its `end`. Keys and values are names (`payload`); ranges have the order of the bytes.
//!
//! The checks take a snapshot apart into gets, one for each key that it says something about.

use std::{borrow::Cow, collections::BTreeSet};

use history::{Function, Operation, Outcome, Version};
use lab::{client::Answer, request::Request};
use rand::{RngExt as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use system::{
    client::{Client, KeysOf, RangeOf, ReadError},
    protocol::{Key, KeyRange, Query, Snapshot, TxnId},
};

use crate::payload::{key_bytes, key_name, value_name};

/// A key, its value and its version; neither if it was absent.
type FoundKey = (String, Option<String>, Option<TxnId>);

/// What a snapshot asks for, and what it has found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SnapshotValue {
    /// These keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    read: Option<Vec<String>>,
    /// A page of a range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    range: Option<NamedRange>,
    /// Keys, with their values and versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    found: Option<Vec<FoundKey>>,
    /// The page ends before this key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<String>,
    /// The watermark of the replica that has answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    watermark: Option<TxnId>,
}

/// A range of keys, and the size of its pages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedRange {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    limit: u32,
}

/// The bytes of the key with this name.
fn key(name: &str) -> Key {
    key_bytes(name).into()
}

impl NamedRange {
    fn contains(&self, key: &Key) -> bool {
        let bound = |name: &Option<String>| name.as_deref().map(self::key);
        let NamedRange { prefix, from, after, to, limit } = self;
        let range =
            KeyRange { from: bound(from), after: bound(after), to: bound(to), limit: *limit };
        let has_prefix = |prefix: &String| key.as_bytes().starts_with(prefix.as_bytes());
        range.contains(key) && prefix.as_ref().is_none_or(has_prefix)
    }
}

impl SnapshotValue {
    /// The snapshot that a client asks for instead of a get, if it does: one get in eight reads several keys,
    /// and one in sixteen a page of a range.
    /// The keys are those with the first numbers.
    pub(crate) fn instead_of_get(
        keys: u32,
        name: impl Fn(u32) -> String,
        rng: &mut ChaCha8Rng,
    ) -> Option<Self> {
        let draw = rng.random_range(0..16);
        let any = |rng: &mut ChaCha8Rng| name(rng.random_range(0..keys));
        match draw {
            0 | 1 => {
                let mut all: Vec<u32> = (0..keys.min(64)).collect();
                all.shuffle(rng);
                all.truncate(rng.random_range(2..=6));
                let read = all.into_iter().map(&name).collect();
                Some(SnapshotValue { read: Some(read), ..SnapshotValue::default() })
            }
            2 => {
                let mut range = NamedRange {
                    limit: [1, 4, 1024][rng.random_range(0..3)],
                    ..NamedRange::default()
                };
                match rng.random_range(0..4) {
                    0 => range.prefix = Some("k".to_owned()),
                    1 => range.from = Some(any(rng)),
                    2 => range.to = Some(any(rng)),
                    _ => {}
                }
                range.after = rng.random_bool(0.3).then(|| any(rng));
                Some(SnapshotValue { range: Some(range), ..SnapshotValue::default() })
            }
            _ => None,
        }
    }

    /// The snapshot that a query of the protocol asks for.
    pub(crate) fn asking(query: &Query) -> Self {
        let name = |key: &Key| key_name(key).to_string();
        match query {
            Query::Keys(keys) => SnapshotValue {
                read: Some(keys.iter().map(name).collect()),
                ..SnapshotValue::default()
            },
            Query::Range(KeyRange { from, after, to, limit }) => {
                let [from, after, to] = [from, after, to].map(|key| key.as_ref().map(name));
                let range = NamedRange { prefix: None, from, after, to, limit: *limit };
                SnapshotValue { range: Some(range), ..SnapshotValue::default() }
            }
        }
    }

    /// The query of the protocol that it asks with.
    pub(crate) fn query(&self) -> Query {
        match (&self.read, &self.range) {
            (Some(keys), _) => Query::Keys(keys.iter().map(|name| key(name)).collect()),
            (None, range) => {
                let NamedRange { from, after, to, limit, .. } = range.clone().unwrap_or_default();
                let [from, after, to] = [from, after, to].map(|name| name.as_deref().map(key));
                Query::Range(KeyRange { from, after, to, limit })
            }
        }
    }

    /// The answer, with what was found.
    pub(crate) fn answered(mut self, snapshot: &Snapshot, watermark: TxnId) -> Self {
        let name = |key: &Key| key_name(key).to_string();
        self.found = match snapshot {
            Snapshot::Keys(found) => {
                let keys = self.read.iter().flatten().cloned();
                let found = found.iter().map(|found| match found {
                    Some((version, value)) => (Some(value_name(value).to_string()), Some(*version)),
                    None => (None, None),
                });
                Some(keys.zip(found).map(|(key, (value, version))| (key, value, version)).collect())
            }
            Snapshot::Page(page) => {
                self.end = page.end.as_ref().map(name);
                let entry = |(key, version, value): &(Key, TxnId, _)| {
                    (name(key), Some(value_name(value).to_string()), Some(*version))
                };
                Some(page.entries.iter().map(entry).collect())
            }
            Snapshot::TooLarge => None,
        };
        self.watermark = Some(watermark);
        self
    }

    /// The request of a client.
    pub(crate) fn request(&self) -> Request {
        Request::with(Function::Snapshot, self.key(), self.text())
    }

    /// What a history shows as the key.
    pub(crate) fn key(&self) -> String {
        match (&self.read, &self.range) {
            (Some(keys), _) => keys.join(","),
            (None, Some(NamedRange { prefix: Some(prefix), .. })) => format!("{prefix}.."),
            (None, Some(NamedRange { from, to, .. })) => {
                let name = |name: &Option<String>| name.clone().unwrap_or_default();
                format!("{}..{}", name(from), name(to))
            }
            (None, None) => String::new(),
        }
    }

    /// Its JSON.
    pub(crate) fn text(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers have a JSON form")
    }

    /// The value of an operation; `None` if it has another form.
    fn of(operation: &Operation) -> Option<Self> {
        serde_json::from_str(operation.value.as_deref()?).ok()
    }

    /// What it says about keys: of each, the value and version, or that it was absent. `keys` are those of the
    /// run, any of which a range may have shown to be absent.
    fn shown<'a>(
        &'a self,
        keys: &'a BTreeSet<&str>,
    ) -> impl Iterator<Item = (&'a str, Option<&'a str>, Option<TxnId>)> {
        let found = self.found.iter().flatten();
        let shown: BTreeSet<&str> = found.clone().map(|(key, ..)| key.as_str()).collect();
        let end = self.end.as_deref().map(key);
        let is_covered = move |name: &&&str| {
            let key = key(name);
            let range = self.range.as_ref().filter(|_| self.found.is_some());
            range.is_some_and(|range| range.contains(&key))
                && end.as_ref().is_none_or(|end| key < *end)
                && !shown.contains(**name)
        };
        found
            .map(|(key, value, version)| (key.as_str(), value.as_deref(), *version))
            .chain(keys.iter().filter(is_covered).map(|key| (*key, None, None)))
    }
}

/// Answers a client's request for a snapshot.
///
/// # Errors
/// There is none, and it had no effect.
pub(crate) async fn perform(client: &Client, asked: &str) -> Result<Answer, ReadError> {
    let malformed =
        |error: serde_json::Error| ReadError::Failed(format!("not a snapshot: {error}"));
    let asked: SnapshotValue = serde_json::from_str(asked).map_err(malformed)?;
    let (snapshot, watermark) = match (&asked.read, &asked.range) {
        (Some(keys), _) => {
            let answer = client.read(keys.iter().map(|name| key(name))).await?;
            (Snapshot::Keys(answer.found), answer.watermark)
        }
        (None, range) => {
            let NamedRange { prefix, from, after, to, limit } = range.clone().unwrap_or_default();
            let bound = |name: Option<String>| name.as_deref().map(key);
            let keys = match prefix {
                Some(prefix) => KeysOf::Prefix(prefix.as_str().into()),
                None => KeysOf::Bounds { from: bound(from), to: bound(to) },
            };
            let page = client.page(&RangeOf { keys, page_entries: limit }, bound(after)).await?;
            let system::client::PageRead { entries, end, watermark } = page;
            (Snapshot::Page(system::protocol::Page { entries, end }), watermark)
        }
    };
    let value = asked.answered(&snapshot, watermark).text();
    Ok(Answer::Ok { version: None, value: Some(value) })
}

/// A snapshot that a client was answered.
pub(crate) struct SnapshotRead<'a> {
    pub(crate) operation: &'a Operation,
    /// A get of each key that the snapshot says something about.
    pub(crate) gets: Vec<Operation>,
}

/// The snapshots of a run.
pub(crate) fn reads(operations: &[Operation]) -> Vec<SnapshotRead<'_>> {
    let of_keys = operations.iter().filter(|operation| operation.f.is_on_register());
    let keys: BTreeSet<&str> = of_keys.map(|operation| operation.key.as_str()).collect();
    let is_read = |operation: &&Operation| {
        operation.f == Function::Snapshot && operation.outcome == Outcome::Ok
    };
    let read = |operation| {
        let value = SnapshotValue::of(operation)?;
        let get = |(key, value, version): (&str, Option<&str>, Option<TxnId>)| Operation {
            f: Function::Get,
            key: key.to_owned(),
            value: value.map(str::to_owned),
            version: version.map(Version::new),
            ..operation.clone()
        };
        let gets = value.shown(&keys).map(get).collect();
        Some(SnapshotRead { operation, gets })
    };
    operations.iter().filter(is_read).filter_map(read).collect()
}

/// How far the process numbers of the gets that stand for a snapshot are from that of its client. They are open
/// at one time, and a process has one open operation.
const PROCESSES_APART: u64 = 1_000_000;

/// The operations on single keys, in the order of their invocations: a snapshot is a get of each of its keys.
pub(crate) fn on_registers(operations: &[Operation]) -> Cow<'_, [Operation]> {
    let reads = reads(operations);
    if reads.is_empty() {
        return Cow::Borrowed(operations);
    }
    let as_processes = |read: SnapshotRead<'_>| {
        (1..).zip(read.gets).map(|(number, get)| {
            let process = get.process + number * PROCESSES_APART;
            Operation { process, ..get }
        })
    };
    let gets = reads.into_iter().flat_map(as_processes);
    let of_keys = operations.iter().filter(|operation| operation.f.is_on_register()).cloned();
    let mut all: Vec<Operation> = of_keys.chain(gets).collect();
    all.sort_by_key(|operation| operation.invoked_index);
    Cow::Owned(all)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;
    use crate::payload::numbered_key;

    fn operation(value: &SnapshotValue) -> Operation {
        Operation {
            process: 1,
            f: Function::Snapshot,
            key: value.key(),
            value: Some(value.text()),
            outcome: Outcome::Ok,
            version: None,
            error: None,
            node: None,
            invoked_index: 7,
            invoked: 10,
            returned: Some(20),
            returned_index: Some(8),
        }
    }

    #[test]
    fn what_is_asked_keeps_its_form() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut forms = BTreeSet::new();
        for _ in 0..500 {
            let Some(asked) = SnapshotValue::instead_of_get(16, numbered_key, &mut rng) else {
                continue;
            };
            let read = SnapshotValue::of(&operation(&asked)).expect("its own form");
            assert_eq!(read, asked);
            forms.insert(asked.read.is_some());
            if asked.range.as_ref().is_none_or(|range| range.prefix.is_none()) {
                assert_eq!(SnapshotValue::asking(&asked.query()), asked);
            }
        }
        assert_eq!(forms.len(), 2);
    }

    /// A page says of every key of the run that it covers whether it was there.
    #[test]
    fn a_page_shows_absent_keys_up_to_its_end() {
        let put = |key: &str| Operation {
            f: Function::Put,
            key: key.to_owned(),
            ..operation(&SnapshotValue::default())
        };
        let range = NamedRange { from: Some("k1".to_owned()), limit: 9, ..NamedRange::default() };
        let mut value = SnapshotValue { range: Some(range), ..SnapshotValue::default() };
        value.found = Some(vec![("k2".to_owned(), Some("1-1".to_owned()), Some(TxnId::new(1, 4)))]);
        value.end = Some("k5".to_owned());
        let operations: Vec<_> = ["k0", "k1", "k2", "k3", "k5"]
            .map(put)
            .into_iter()
            .chain([operation(&value)])
            .collect();
        let [read] = &reads(&operations)[..] else { panic!("one snapshot") };
        let shown: Vec<_> =
            read.gets.iter().map(|get| (get.key.as_str(), get.value.as_deref())).collect();
        assert_eq!(shown, [("k2", Some("1-1")), ("k1", None), ("k3", None)]);
        assert!(read.gets.iter().all(|get| get.invoked == 10 && get.returned == Some(20)));
    }
}
