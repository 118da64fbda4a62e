//! Events of Jepsen's shape as JSON: one array, or one object after the other. Numbers are compared
//! exactly, whatever their size.

use std::{
    borrow::Cow,
    fmt,
    io::{self, BufRead, Read as _},
};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    FormatError,
    edn::parser::DEPTH_MAX,
    events::{EventFields, EventTranslator, is_no_key},
    pairing::PairingSink,
};
use crate::value::{DecimalNumber, NumberKind, Value};

pub(super) fn stream(
    input: &mut dyn BufRead,
    pairs: &mut PairingSink<'_>,
) -> Result<(), FormatError> {
    let mut events = EventTranslator::new(pairs);
    objects(input, &mut |object| {
        let mut fields = EventFields::default();
        for (name, value) in object {
            let Some(field) = fields.named(&name) else {
                is_no_key(&name)?;
                continue;
            };
            if field.replace(self::value(value)?).is_some() {
                return Err(format!("an event with two fields {name}"));
            }
        }
        events.take(&fields)
    })?;
    events.finish()
}

/// The fields of an object, not parsed yet.
pub(super) type Object<'t> = Vec<(Cow<'t, str>, &'t RawValue)>;

/// Takes an object.
type EachObject<'e> = &'e mut dyn FnMut(Object<'_>) -> Result<(), String>;

/// Calls `each` with the objects of an array, or with one object after the other.
pub(super) fn objects(input: &mut dyn BufRead, each: EachObject<'_>) -> Result<(), FormatError> {
    let start = blanks(input)?;
    let is_array = input.fill_buf().map_err(FormatError::Io)?.first() == Some(&b'[');
    // The blanks count for positions in errors.
    let mut deserializer = serde_json::Deserializer::from_reader(start.chain(input));
    if is_array {
        deserializer.deserialize_seq(Objects { each }).map_err(malformed)?;
        return deserializer.end().map_err(malformed);
    }
    loop {
        match deserializer.end() {
            Ok(()) => return Ok(()),
            Err(error) if error.is_io() => return Err(malformed(error)),
            Err(_) => {}
        }
        ObjectSeed { each: &mut *each }.deserialize(&mut deserializer).map_err(malformed)?;
    }
}

/// Takes the blanks at the start of an input.
fn blanks(input: &mut dyn BufRead) -> Result<io::Cursor<Vec<u8>>, FormatError> {
    let mut taken = Vec::new();
    loop {
        let ahead = input.fill_buf().map_err(FormatError::Io)?;
        let count = ahead.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let is_end = count < ahead.len() || ahead.is_empty();
        taken.extend_from_slice(&ahead[..count]);
        input.consume(count);
        if is_end {
            return Ok(io::Cursor::new(taken));
        }
    }
}

fn malformed(error: serde_json::Error) -> FormatError {
    if error.is_io() {
        return FormatError::Io(io::Error::from(error));
    }
    let reason = error.to_string();
    // serde_json appends its own position.
    let reason = reason.rsplit_once(" at line ").map_or(&*reason, |(reason, _)| reason);
    FormatError::new(error.line().max(1), error.column().max(1), reason)
}

/// The elements of an array.
struct Objects<'e> {
    each: EachObject<'e>,
}

impl<'de> Visitor<'de> for Objects<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while elements.next_element_seed(ObjectSeed { each: &mut *self.each })?.is_some() {}
        Ok(())
    }
}

/// An object, which is passed on while it is parsed, so that an error has its position.
struct ObjectSeed<'e> {
    each: EachObject<'e>,
}

impl<'de> DeserializeSeed<'de> for ObjectSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ObjectSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut fields: Vec<(String, Box<RawValue>)> = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        let object = fields.iter().map(|(name, value)| (Cow::Borrowed(&**name), &**value));
        (self.each)(object.collect()).map_err(A::Error::custom)
    }
}

/// The fields of an object in a text.
struct Fields<'t>(Object<'t>);

impl<'de: 't, 't> Deserialize<'de> for Fields<'t> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyFields;
        impl<'de> Visitor<'de> for AnyFields {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some((name, value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    fields.push((name.0, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(AnyFields)
    }
}

/// A string, without a copy if it has no escapes.
#[derive(Deserialize)]
struct Name<'t>(#[serde(borrow)] Cow<'t, str>);

/// Parses one value.
///
/// # Errors
/// The text is not one JSON value.
pub(super) fn parse(text: &str) -> Result<Value<'_>, String> {
    let raw: &RawValue = serde_json::from_str(text)
        .map_err(|_| format!("'{text}': expected one JSON value, such as 0 or \"a\""))?;
    value(raw)
}

/// The value that a JSON text stands for.
///
/// # Errors
/// The text is not JSON, or an object has a field twice.
pub(super) fn value(raw: &RawValue) -> Result<Value<'_>, String> {
    nested(raw, 0)
}

fn nested(raw: &RawValue, depth: usize) -> Result<Value<'_>, String> {
    let text = raw.get();
    if depth > DEPTH_MAX {
        return Err("values are nested too deeply".to_owned());
    }
    let value = |raw| nested(raw, depth + 1);
    let parsed = |error: serde_json::Error| error.to_string();
    Ok(match text.as_bytes().first() {
        Some(b'n') => Value::Nil,
        Some(b't') => Value::Bool(true),
        Some(b'f') => Value::Bool(false),
        Some(b'"') => Value::Text(serde_json::from_str::<Name<'_>>(text).map_err(parsed)?.0),
        Some(b'[') => {
            let elements: Vec<&RawValue> = serde_json::from_str(text).map_err(parsed)?;
            Value::List(elements.into_iter().map(value).collect::<Result<_, _>>()?)
        }
        Some(b'{') => {
            let Fields(fields) = serde_json::from_str(text).map_err(parsed)?;
            let entries = fields
                .into_iter()
                .map(|(name, field)| Ok::<_, String>((Value::Text(name), value(field)?)));
            Value::map(entries.collect::<Result<_, _>>()?)?
        }
        _ => number(text).ok_or_else(|| format!("{text} is not a number that can be compared"))?,
    })
}

/// A number: an integer if it has the value of one, however it is written.
fn number(text: &str) -> Option<Value<'_>> {
    if text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') {
        return Some(Value::integer(text));
    }
    let decimal = DecimalNumber::parse(text)?;
    let kind = if decimal.is_integer() { NumberKind::Integer } else { NumberKind::Float };
    Some(Value::Number(kind, decimal.to_string().into()))
}
