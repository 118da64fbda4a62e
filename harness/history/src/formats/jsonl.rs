//! Recorded histories (`history.jsonl`), read fast: events are not built and little is copied.

use std::{borrow::Cow, fmt, io::BufRead};

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{
    FormatError, lines,
    pairing::{OperationLabel, PairingSink},
};
use crate::{Completion, Invocation, read::EventOrder};

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
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Field::Other)
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
    lines(input, |number, line, complete| {
        // A killed recorder leaves a torn last line. It is ignored.
        if complete { event(number, line, &mut order, pairs) } else { Ok(()) }
    })
}

fn event(
    number: usize,
    text: &[u8],
    order: &mut EventOrder,
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
        Field::Number(process) => process,
        Field::Text(name) if name == "nemesis" => return Ok(()),
        _ => return Err(malformed("process: expected a number or \"nemesis\"".to_owned())),
    };
    let Field::Text(key) = line.key else {
        return Err(malformed("key: expected text".to_owned()));
    };
    let value = match &line.value {
        Field::Missing | Field::Null => None,
        Field::Text(text) => Some(&**text),
        Field::Number(_) | Field::Other => {
            return Err(malformed("value: expected text or null".to_owned()));
        }
    };
    let f = &*line.f;
    let get = OperationLabel { process, f, key: Some(&key), value: None };
    let write = OperationLabel { value, ..get };
    let paired = match (&*line.kind, f) {
        ("invoke", "get") => pairs.invoke(get, Invocation::Get),
        ("invoke", "del") => pairs.invoke(write, Invocation::Del),
        ("invoke", "put") => match value {
            Some(value) => pairs.invoke(write, Invocation::Put(value)),
            None => return Err(malformed("a put needs a value".to_owned())),
        },
        ("ok", "get") if matches!(line.value, Field::Missing) => {
            return Err(malformed(
                "an ok get needs a value: null if the key was absent".to_owned(),
            ));
        }
        ("ok", "get") => pairs.complete(get, Completion::Ok(value)),
        ("ok", "put" | "del") => pairs.complete(write, Completion::Ok(None)),
        ("fail", "get") => pairs.complete(get, Completion::Fail),
        ("fail", "put" | "del") => pairs.complete(write, Completion::Fail),
        ("info", "get") => pairs.complete(get, Completion::Info),
        ("info", "put" | "del") => pairs.complete(write, Completion::Info),
        ("invoke" | "ok" | "fail" | "info", other) => {
            return Err(malformed(format!(
                "unknown operation '{other}': expected get, put or del"
            )));
        }
        (other, _) => {
            return Err(malformed(format!(
                "unknown type '{other}': expected invoke, ok, fail or info"
            )));
        }
    };
    paired.map_err(|error| malformed(error.to_string()))
}
