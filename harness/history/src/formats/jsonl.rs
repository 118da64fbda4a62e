//! Recorded histories (`history.jsonl`), read fast: events are not built and little is copied. Values
//! are texts, and compared as they are.

use std::{borrow::Cow, fmt, io::BufRead};

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    FormatError,
    events::{self, NAMED_PROCESSES, Processes},
    json, lines,
    pairing::{OperationLabel, PairingSink},
};
use crate::{
    Completion, Invocation,
    read::{EventOrder, is_cut},
};

/// The fields of an event that a sink takes.
#[derive(Deserialize)]
struct Line<'a> {
    index: u64,
    time: u64,
    #[serde(borrow)]
    process: Field<'a>,
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    f: Cow<'a, str>,
    #[serde(borrow, default)]
    key: Field<'a>,
    #[serde(borrow, default)]
    value: Field<'a>,
}

/// A field whose type varies.
#[derive(Default)]
enum Field<'a> {
    #[default]
    Missing,
    Null,
    Number(u64),
    Text(Cow<'a, str>),
    /// The value of a cas: the expected text and the new one. `null` stands for an absent key.
    Pair([Option<Cow<'a, str>>; 2]),
    Other,
}

impl<'de: 'a, 'a> Deserialize<'de> for Field<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Field<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }

            fn visit_unit<E>(self) -> Result<Field<'de>, E> {
                Ok(Field::Null)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Field<'de>, E> {
                Ok(Field::Other)
            }

            fn visit_u64<E>(self, number: u64) -> Result<Field<'de>, E> {
                Ok(Field::Number(number))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Field<'de>, E> {
                Ok(Field::Other)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Field<'de>, E> {
                Ok(Field::Other)
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Field<'de>, E> {
                Ok(Field::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Field<'de>, E> {
                Ok(Field::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Field<'de>, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Field::Other)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Field<'de>, A::Error> {
                let mut pair = [None, None];
                let mut count = 0;
                while let Some(element) = seq.next_element::<Field<'de>>()? {
                    match (element, pair.get_mut(count)) {
                        (Field::Text(text), Some(place)) => *place = Some(text),
                        (Field::Null, Some(_)) => {}
                        _ => count = pair.len(),
                    }
                    count += 1;
                }
                Ok(if count == pair.len() { Field::Pair(pair) } else { Field::Other })
            }
        }
        deserializer.deserialize_any(Any)
    }
}

pub(super) fn stream(
    input: &mut dyn BufRead,
    pairs: &mut PairingSink<'_>,
) -> Result<(), FormatError> {
    let mut order = EventOrder::default();
    let mut processes = Processes::default();
    lines(input, |number, line, complete| {
        // A killed recorder leaves a torn last line. It is ignored.
        if !complete && is_cut(line) {
            return Ok(());
        }
        event(number, line, &mut order, &mut processes, pairs)
    })
}

fn event(
    number: usize,
    text: &[u8],
    order: &mut EventOrder,
    processes: &mut Processes,
    pairs: &mut PairingSink<'_>,
) -> Result<(), FormatError> {
    // Validates UTF-8 once for the line instead of once for each string in it.
    let text = str::from_utf8(text)
        .map_err(|error| FormatError::new(number, error.valid_up_to() + 1, "not UTF-8"))?;
    let line: Line<'_> = serde_json::from_str(text).map_err(|error| {
        let reason = error.to_string();
        let reason = reason.split(" at line ").next().unwrap_or(&reason);
        FormatError::new(number, error.column().max(1), reason)
    })?;
    let malformed = |reason: String| FormatError::new(number, 1, reason);
    order.next(line.index, line.time).map_err(malformed)?;
    let process = match line.process {
        Field::Number(process) if process < NAMED_PROCESSES => process,
        Field::Text(name) if name == "nemesis" => return Ok(()),
        Field::Text(name) => processes.named(&name, pairs),
        _ => return Err(malformed("process: expected a number or a name".to_owned())),
    };
    if line.f == "snapshot" {
        // What it says about keys, the system under test knows.
        return Ok(());
    }
    if line.f == "txn" {
        return transaction(process, &line.kind, text, pairs).map_err(malformed);
    }
    let Field::Text(key) = line.key else {
        let reason = "key: expected text; operations on one register are called read and write";
        return Err(malformed(reason.to_owned()));
    };
    let event = ClientEvent { process, kind: &line.kind, f: &line.f, key: &key };
    pass_on(event, &line.value, pairs).map_err(malformed)
}

/// The value of a transaction, which is parsed only where there is one.
#[derive(Deserialize)]
struct TransactionLine<'a> {
    #[serde(borrow, default)]
    value: Option<&'a RawValue>,
    #[serde(default)]
    versions: Option<Vec<Option<u64>>>,
}

fn transaction(
    process: u64,
    kind: &str,
    text: &str,
    pairs: &mut PairingSink<'_>,
) -> Result<(), String> {
    let TransactionLine { value, versions } =
        serde_json::from_str(text).map_err(|error| format!("value and versions: {error}"))?;
    let value = value.map(json::value).transpose()?;
    events::transaction(process, kind, value.as_ref(), versions.as_deref(), pairs)
}

/// The fields of a client's event, besides the value.
#[derive(Clone, Copy)]
struct ClientEvent<'l> {
    process: u64,
    kind: &'l str,
    f: &'l str,
    key: &'l str,
}

fn pass_on(
    event: ClientEvent<'_>,
    field: &Field<'_>,
    pairs: &mut PairingSink<'_>,
) -> Result<(), String> {
    let ClientEvent { process, kind, f, key } = event;
    let get = OperationLabel { process, f, key: Some(key), value: None };
    // What fail and info say of the value is nothing that was observed.
    let ended = match kind {
        "fail" => Some(Completion::Fail),
        "info" => Some(Completion::Info),
        _ => None,
    };
    if let (Some(completion), "get" | "put" | "del" | "cas" | "append") = (ended, f) {
        return pairs.complete(get, completion).map_err(|error| error.to_string());
    }
    if f == "cas" {
        return cas(get, kind, field, pairs);
    }
    let value = match field {
        Field::Missing | Field::Null => None,
        Field::Text(text) => Some(&**text),
        Field::Number(_) | Field::Pair(_) | Field::Other => {
            return Err("value: expected text or null; --format json reads other values".to_owned());
        }
    };
    let write = OperationLabel { value, ..get };
    let paired = match (kind, f) {
        ("invoke", "get") => pairs.invoke(get, Invocation::Get),
        ("invoke", "del") => pairs.invoke(write, Invocation::Del),
        ("invoke", "put" | "append") => match value {
            Some(value) if f == "put" => pairs.invoke(write, Invocation::Put(value)),
            Some(value) => pairs.invoke(write, Invocation::Append(value)),
            None => return Err(format!("{f} needs a value")),
        },
        ("ok", "get") if matches!(field, Field::Missing) => {
            return Err("an ok get needs a value: null if the key was absent".to_owned());
        }
        ("ok", "get") => pairs.complete(get, Completion::Ok(value)),
        ("ok", "put" | "del" | "append") => pairs.complete(write, Completion::Ok(None)),
        ("invoke" | "ok" | "fail" | "info", other) => {
            return Err(format!(
                "unknown operation '{other}': expected get, put, del, cas, append or txn"
            ));
        }
        (other, _) => {
            return Err(format!("unknown type '{other}': expected invoke, ok, fail or info"));
        }
    };
    paired.map_err(|error| error.to_string())
}

/// A cas with the value `[old, new]`. Its completion may omit it.
fn cas(
    label: OperationLabel<'_>,
    kind: &str,
    field: &Field<'_>,
    pairs: &mut PairingSink<'_>,
) -> Result<(), String> {
    let pair = match field {
        Field::Pair([from, to]) => Some((from.as_deref(), to.as_deref())),
        Field::Missing | Field::Null if kind == "ok" => None,
        _ => return Err("a cas needs [old, new], texts or null, as its value".to_owned()),
    };
    // Texts are compared, so the pair is written as one.
    let written = pair.map(|pair| format!("{pair:?}"));
    let label = OperationLabel { value: written.as_deref(), ..label };
    let paired = match (kind, pair) {
        ("invoke", Some((from, to))) => pairs.invoke(label, Invocation::Cas(from, to)),
        ("ok", _) => pairs.complete(label, Completion::Ok(None)),
        _ => return Err(format!("unknown type '{kind}': expected invoke, ok, fail or info")),
    };
    paired.map_err(|error| error.to_string())
}
