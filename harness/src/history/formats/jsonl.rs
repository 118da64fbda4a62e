//! Our own histories, read fast: no event is built, nothing is copied that need not be.

use std::{borrow::Cow, fmt, io::BufRead};

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{Ask, End, Fault, Sink, lines};

/// What of an event matters to a checker.
#[derive(Deserialize)]
struct Line<'a> {
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

pub(super) fn stream(input: &mut dyn BufRead, sink: &mut dyn Sink) -> Result<(), Fault> {
    lines(input, |number, line, whole| {
        // What a kill leaves of the last line is left out.
        if whole { event(number, line, sink) } else { Ok(()) }
    })
}

fn event(number: usize, text: &[u8], sink: &mut dyn Sink) -> Result<(), Fault> {
    let line: Line<'_> = serde_json::from_slice(text).map_err(|error| {
        let reason = error.to_string();
        let reason = reason.split(" at line ").next().unwrap_or(&reason);
        Fault::new(number, error.column().max(1), reason)
    })?;
    let wrong = |reason: String| Fault::new(number, 1, reason);
    let process = match line.process {
        Field::Number(process) => process,
        Field::Text(name) if name == "nemesis" => return Ok(()),
        _ => return Err(wrong("process: want a number or \"nemesis\"".to_owned())),
    };
    let Field::Text(key) = line.key else {
        return Err(wrong("key: want text".to_owned()));
    };
    let value = match &line.value {
        Field::Nothing => None,
        Field::Text(text) => Some(&**text),
        Field::Number(_) | Field::Other => {
            return Err(wrong("value: want text or null".to_owned()));
        }
    };
    let done = match (&*line.kind, &*line.f) {
        ("invoke", "get") => sink.invoke(process, &key, Ask::Get),
        ("invoke", "del") => sink.invoke(process, &key, Ask::Del),
        ("invoke", "put") => match value {
            Some(value) => sink.invoke(process, &key, Ask::Put(value)),
            None => return Err(wrong("a put needs a value".to_owned())),
        },
        ("ok", "get") => sink.end(process, End::Ok(value)),
        ("ok", "put" | "del") => sink.end(process, End::Ok(None)),
        ("fail", "get" | "put" | "del") => sink.end(process, End::Fail),
        ("info", "get" | "put" | "del") => sink.end(process, End::Info),
        ("invoke" | "ok" | "fail" | "info", other) => {
            return Err(wrong(format!("'{other}' is no operation: want get, put or del")));
        }
        (other, _) => {
            return Err(wrong(format!("type '{other}': want invoke, ok, fail or info")));
        }
    };
    done.map_err(|nonsense| wrong(nonsense.to_string()))
}
