//! Our own histories, read fast: no event is built, little is copied.

use std::{borrow::Cow, fmt, io::BufRead};

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{
    Ask, End, Fault, lines,
    pairs::{Named, Pairs},
};
use crate::history::read::Sequence;

/// What of an event matters to a checker.
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

/// A field that may be this or that.
#[derive(Default)]
enum Field<'a> {
    #[default]
    Missing,
    Nothing,
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
                Ok(Field::Nothing)
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

pub(super) fn stream(input: &mut dyn BufRead, pairs: &mut Pairs<'_>) -> Result<(), Fault> {
    let mut sequence = Sequence::default();
    lines(input, |number, line, whole| {
        // What a kill leaves of the last line is left out.
        if whole { event(number, line, &mut sequence, pairs) } else { Ok(()) }
    })
}

fn event(
    number: usize,
    text: &[u8],
    sequence: &mut Sequence,
    pairs: &mut Pairs<'_>,
) -> Result<(), Fault> {
    // Once for the whole line, not for each of its texts.
    let text = str::from_utf8(text)
        .map_err(|error| Fault::new(number, error.valid_up_to() + 1, "no text in UTF-8"))?;
    let line: Line<'_> = serde_json::from_str(text).map_err(|error| {
        let reason = error.to_string();
        let reason = reason.split(" at line ").next().unwrap_or(&reason);
        Fault::new(number, error.column().max(1), reason)
    })?;
    let wrong = |reason: String| Fault::new(number, 1, reason);
    sequence.next(line.index, line.time).map_err(wrong)?;
    let process = match line.process {
        Field::Number(process) => process,
        Field::Text(name) if name == "nemesis" => return Ok(()),
        _ => return Err(wrong("process: want a number or \"nemesis\"".to_owned())),
    };
    let Field::Text(key) = line.key else {
        return Err(wrong("key: want text".to_owned()));
    };
    let value = match &line.value {
        Field::Missing | Field::Nothing => None,
        Field::Text(text) => Some(&**text),
        Field::Number(_) | Field::Other => {
            return Err(wrong("value: want text or null".to_owned()));
        }
    };
    let f = &*line.f;
    let get = Named { process, f, key: Some(&key), value: None };
    let write = Named { value, ..get };
    let done = match (&*line.kind, f) {
        ("invoke", "get") => pairs.invoke(get, Ask::Get),
        ("invoke", "del") => pairs.invoke(write, Ask::Del),
        ("invoke", "put") => match value {
            Some(value) => pairs.invoke(write, Ask::Put(value)),
            None => return Err(wrong("a put needs a value".to_owned())),
        },
        ("ok", "get") if matches!(line.value, Field::Missing) => {
            return Err(wrong("a get that is ok needs a value: null if nothing".to_owned()));
        }
        ("ok", "get") => pairs.end(get, End::Ok(value)),
        ("ok", "put" | "del") => pairs.end(write, End::Ok(None)),
        ("fail", "get") => pairs.end(get, End::Fail),
        ("fail", "put" | "del") => pairs.end(write, End::Fail),
        ("info", "get") => pairs.end(get, End::Info),
        ("info", "put" | "del") => pairs.end(write, End::Info),
        ("invoke" | "ok" | "fail" | "info", other) => {
            return Err(wrong(format!("'{other}' is no operation: want get, put or del")));
        }
        (other, _) => {
            return Err(wrong(format!("type '{other}': want invoke, ok, fail or info")));
        }
    };
    done.map_err(|nonsense| wrong(nonsense.to_string()))
}
