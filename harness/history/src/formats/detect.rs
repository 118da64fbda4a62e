//! Detects the format of a file from its structure: the first event, or line, that can be told from
//! those of other formats.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read as _, Seek as _},
    path::Path,
};

use serde_json::Value as Json;

use super::{
    BYTE_ORDER_MARK, Format,
    edn::{
        event_fields,
        parser::{DEPTH_MAX, Form, Parser, Position},
    },
    intervals::Field,
    log,
    sessions::{cobra, dbcop, text},
};
use crate::{ReadError, Value};

/// The bytes at the start of a file that are looked at. Logs are searched to their end.
const START_BYTES: u64 = 1 << 16;

/// Detects the format of a file from its content.
///
/// # Errors
/// The file cannot be read, or its format is unknown: the error says what to give instead.
pub fn detect(path: &Path) -> Result<Format, ReadError> {
    let io = |source| ReadError::Io { path: path.to_owned(), source };
    if path.is_dir() && cobra::logs(path).is_some() {
        return Ok(Format::Cobra);
    }
    let mut file = File::open(path).map_err(io)?;
    let mut start = Vec::new();
    file.by_ref().take(START_BYTES).read_to_end(&mut start).map_err(io)?;
    if dbcop::is_dbcop(&start) {
        return Ok(Format::Dbcop);
    }
    if let Some(reason) = not_text(path, &start) {
        return Err(unknown(path, reason));
    }
    if let Some(format) = recognise(&start) {
        return Ok(format);
    }
    if !start.starts_with(b"{") && start.len() as u64 == START_BYTES {
        file.rewind().map_err(io)?;
        let mut rest = BufReader::with_capacity(1 << 18, file);
        let mut line = Vec::new();
        while rest.read_until(b'\n', &mut line).map_err(io)? > 0 {
            if log::logged(line.trim_ascii_end()).is_some() {
                return Ok(Format::JepsenLog);
            }
            line.clear();
        }
    }
    Err(unknown(path, UNKNOWN))
}

const UNKNOWN: &str = "unknown format: expected events as JSON or EDN (process, type, f, value), \
                       operations as JSON or CSV with a header (op, value, start, end), a log of \
                       Jepsen's or a history.txt, or transactions by session as Plume, PolySI, \
                       AWDIT, dbcop or Cobra write them; --format NAME reads it as one of these in any case";

fn unknown(path: &Path, reason: &str) -> ReadError {
    ReadError::Malformed { path: path.to_owned(), line: 1, column: 1, reason: reason.to_owned() }
}

/// Why a file is not a text, and what to give instead.
fn not_text(path: &Path, start: &[u8]) -> Option<&'static str> {
    let has_extension = |name: &str| path.extension().is_some_and(|extension| extension == name);
    if start.starts_with(b"JEPSEN") || has_extension("jepsen") {
        return Some(
            "Jepsen's binary format (.jepsen): give history.edn or history.txt, which Jepsen writes \
             beside it, or their directory",
        );
    }
    if has_extension("fressian") {
        return Some(
            "Jepsen's binary format (.fressian): give history.edn or history.txt, which Jepsen \
             writes beside it, or their directory",
        );
    }
    if start.starts_with(&[0x1f, 0x8b]) {
        return Some("compressed (gzip): decompress it first");
    }
    if start.starts_with(&[0xff, 0xfe]) || start.starts_with(&[0xfe, 0xff]) {
        return Some("UTF-16: convert it to UTF-8 first");
    }
    if has_extension("log") && start.first() == Some(&b'S') && start.contains(&0) {
        return Some("a log of Cobra's: give the directory with the logs of all sessions");
    }
    start.contains(&0).then_some("a binary file: expected a text, or dbcop's history.bincode")
}

/// The format of a text that begins with these bytes, `None` if it is unknown.
#[must_use]
pub fn recognise(start: &[u8]) -> Option<Format> {
    let start = start.strip_prefix(&BYTE_ORDER_MARK).unwrap_or(start);
    if start.is_empty() {
        return Some(Format::Jsonl);
    }
    if start.trim_ascii().is_empty() {
        return Some(Format::Edn);
    }
    json(start).or_else(|| edn(start)).or_else(|| lines(start)).or_else(|| csv(start))
}

/// The format of JSON objects, or of an array of them.
fn json(start: &[u8]) -> Option<Format> {
    let text = start.trim_ascii_start();
    let is_array = text.starts_with(b"[");
    let first = if is_array { text[1..].trim_ascii_start() } else { text };
    if !first.starts_with(b"{") || !first[1..].trim_ascii_start().starts_with(b"\"") {
        return None;
    }
    let mut rest = first;
    let mut found = None;
    loop {
        let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<Json>();
        // The last object may be cut.
        let Some(Ok(Json::Object(fields))) = values.next() else { break };
        rest = &rest[values.byte_offset()..];
        rest = rest.trim_ascii_start();
        rest = rest.strip_prefix(b",").unwrap_or(rest).trim_ascii_start();
        let has = |name: &str| fields.contains_key(name);
        if has("process") && has("type") {
            let is_recorded = has("index") && has("time") && !is_array;
            let is_client = fields["process"] != "nemesis";
            let format = if is_recorded && (!is_client || is_recorded_operation(&fields)) {
                Format::Jsonl
            } else {
                Format::Json
            };
            // The nemesis says little, and a get without a value looks alike in both formats.
            if is_client
                && (format == Format::Json || !fields.get("value").is_none_or(Json::is_null))
            {
                return Some(format);
            }
            found = if is_client { Some(format) } else { found.or(Some(format)) };
            continue;
        }
        let named: Vec<Field> = fields.keys().filter_map(|name| Field::named(name)).collect();
        let is_interval = named.contains(&Field::Op) && named.contains(&Field::Start);
        return if is_interval { Some(Format::Intervals) } else { found };
    }
    // A killed recorder may leave nothing but a torn line.
    let is_torn = !is_array && !start.contains(&b'\n') && (start.len() as u64) < START_BYTES;
    found.or_else(|| is_torn.then_some(Format::Jsonl))
}

/// Whether an event of a client is one that we record: of a key, and with texts as values. Without any
/// key, an operation on one is taken for one of ours too, whose reader misses the key: it may be there
/// under another name, and mixing up keys would make a wrong verdict.
fn is_recorded_operation(fields: &serde_json::Map<String, Json>) -> bool {
    let f = fields.get("f").and_then(Json::as_str).unwrap_or_default();
    let is_text = |value: &Json| value.is_string() || value.is_null();
    let has_texts = match fields.get("value") {
        Some(Json::Array(values)) if f == "cas" => values.iter().all(is_text),
        Some(value) => is_text(value) || fields["type"] == "fail" || fields["type"] == "info",
        None => true,
    };
    if f == "snapshot" {
        return fields.get("value").is_none_or(Json::is_object);
    }
    if f == "txn" {
        return fields.get("value").is_none_or(is_recorded_transaction);
    }
    let is_known = matches!(f, "get" | "put" | "del" | "cas" | "append");
    match fields.get("key") {
        Some(key) => key.is_string() && is_known && has_texts,
        None => matches!(f, "get" | "put" | "del"),
    }
}

/// Whether a value is that of a transaction that we record: keys and values are texts.
fn is_recorded_transaction(value: &Json) -> bool {
    let is_text = |value: &Json| match value {
        Json::Array(elements) => elements.iter().all(Json::is_string),
        other => other.is_string() || other.is_null(),
    };
    match value {
        Json::Null => true,
        Json::Array(steps) => steps.iter().all(|step| match step.as_array().map(Vec::as_slice) {
            Some([f, key, value]) => f.is_string() && key.is_string() && is_text(value),
            _ => false,
        }),
        _ => false,
    }
}

/// The format of EDN maps: Porcupine's data if the first event of a client has a `:key`.
fn edn(start: &[u8]) -> Option<Format> {
    let mut parser = Parser::new(start, Position { line: 1, column: 1 });
    let mut found = None;
    let mut depth = 0;
    loop {
        parser.skip_space();
        match parser.peek() {
            Some(b'[' | b'(') if depth < DEPTH_MAX => {
                depth += 1;
                parser.at += 1;
                continue;
            }
            Some(b']' | b')') if depth > 0 => {
                parser.at += 1;
                found = found.or(Some(Format::Edn));
                continue;
            }
            _ => {}
        }
        let entries = match parser.form() {
            Ok(Some(Form::Map(entries))) => entries,
            // A discarded value.
            Ok(None) if parser.at < start.len() => continue,
            // The first map may be cut.
            Err(_) if found.is_none() && looks_like_map(start) => return Some(Format::Edn),
            _ => return found,
        };
        if !entries.iter().any(|(name, _)| matches!(name, Value::Keyword(_))) {
            return found;
        }
        let Ok(fields) = event_fields(entries) else { return Some(Format::Edn) };
        found = Some(Format::Edn);
        if fields.process.as_ref().and_then(Value::name) == Some("nemesis") {
            continue;
        }
        let f = fields.f.as_ref().and_then(Value::name).unwrap_or_default();
        let is_porcupine =
            matches!(fields.key, Some(Value::Text(_))) && matches!(f, "get" | "put" | "append");
        return Some(if is_porcupine { Format::Porcupine } else { Format::Edn });
    }
}

/// Whether a text begins like a map with keywords, perhaps in a vector or with a tag.
fn looks_like_map(start: &[u8]) -> bool {
    let text = String::from_utf8_lossy(start);
    let text = text.trim_start_matches(|c: char| c.is_ascii_whitespace() || "[(,".contains(c));
    let map = match text.strip_prefix('#') {
        Some(tagged) => tagged.find('{').map_or("", |at| &tagged[at..]),
        None => text,
    };
    map.strip_prefix('{').is_some_and(|fields| fields.trim_start().starts_with(':'))
}

/// The format of lines with operations: a log, or a `history.txt`.
fn lines(start: &[u8]) -> Option<Format> {
    let mut lines = start.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    let first = lines.clone().find(|line| !line.is_empty())?;
    if lines.any(|line| log::logged(line).is_some()) {
        return Some(Format::JepsenLog);
    }
    if text::is_plume(first) {
        return Some(Format::Plume);
    }
    if text::is_awdit(first) {
        return Some(Format::Awdit);
    }
    let is_operation = str::from_utf8(first).is_ok_and(log::is_operation);
    is_operation.then_some(Format::JepsenText)
}

/// Comma-separated values with a header that names operation and start.
fn csv(start: &[u8]) -> Option<Format> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(start);
    let header = reader.headers().ok()?;
    let named: Vec<Field> = header.iter().filter_map(Field::named).collect();
    (named.contains(&Field::Op) && named.contains(&Field::Start)).then_some(Format::Csv)
}
