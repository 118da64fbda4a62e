//! EDN as Jepsen and Porcupine write it: Jepsen's `history.edn`, with or without `independent`
//! tuples, and Porcupine's key/value data. Extra keys are ignored. Only one operation is in memory
//! at a time, and what was read ahead of it.

use std::{fmt::Write as _, io::BufRead};

use super::{
    Ask, End, Fault,
    pairs::{Named, Pairs},
};

/// A value of EDN, borrowed from the text where it can be.
#[derive(Clone, Debug, PartialEq)]
enum Value<'a> {
    Nil,
    /// A number, symbol, character or boolean, as written.
    Atom(&'a str),
    Keyword(&'a str),
    Text(String),
    /// A vector, list or set.
    Many(Vec<Value<'a>>),
    Map(Vec<(Value<'a>, Value<'a>)>),
}

impl<'a> Value<'a> {
    fn field(&self, name: &str) -> Option<&Value<'a>> {
        let Value::Map(entries) = self else { return None };
        entries.iter().find(|(key, _)| *key == Value::Keyword(name)).map(|(_, value)| value)
    }

    /// The value as text, equal exactly if the values are.
    fn written(&self) -> String {
        match self {
            Value::Nil => "nil".to_owned(),
            Value::Atom(text) => (*text).to_owned(),
            Value::Keyword(name) => format!(":{name}"),
            Value::Text(text) => format!("{text:?}"),
            Value::Many(values) => {
                let mut written = "[".to_owned();
                for value in values {
                    // Writing to a string cannot fail.
                    let _ = write!(written, "{} ", value.written());
                }
                written + "]"
            }
            Value::Map(entries) => {
                let mut written = "{".to_owned();
                for (key, value) in entries {
                    let _ = write!(written, "{} {} ", key.written(), value.written());
                }
                written + "}"
            }
        }
    }
}

/// How deep values may lie in each other.
const DEPTH_MAX: usize = 64;

/// A place in a file, both from 1.
#[derive(Clone, Copy)]
struct Place {
    line: usize,
    column: usize,
}

impl Place {
    /// The place behind some text that begins here.
    fn behind(self, text: &[u8]) -> Place {
        match text.iter().rposition(|byte| *byte == b'\n') {
            None => Place { column: self.column + text.len(), ..self },
            Some(last) => Place {
                line: self.line + text[..=last].iter().filter(|byte| **byte == b'\n').count(),
                column: text.len() - last,
            },
        }
    }

    fn fault(self, reason: impl Into<String>) -> Fault {
        Fault::new(self.line, self.column, reason)
    }
}

/// The part of a file that is in memory.
struct Window<'i> {
    input: &'i mut dyn BufRead,
    text: Vec<u8>,
    /// What lies before this was read.
    at: usize,
    /// Where that is in the file.
    place: Place,
    /// The file ends where the text does.
    whole: bool,
}

impl Window<'_> {
    /// Makes the window longer, by as much as it has, or finds that there is no more.
    fn more(&mut self) -> Result<(), Fault> {
        self.text.drain(..self.at);
        self.at = 0;
        let wanted = 2 * self.text.len() + 1;
        while self.text.len() < wanted && !self.whole {
            let ahead = self.input.fill_buf().map_err(Fault::Io)?;
            let count = ahead.len();
            self.text.extend_from_slice(ahead);
            self.input.consume(count);
            self.whole = count == 0;
        }
        Ok(())
    }

    /// So many bytes were read.
    fn pass(&mut self, count: usize) {
        let end = self.at + count;
        self.place = self.place.behind(&self.text[self.at..end]);
        self.at = end;
    }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    /// Where the text begins in the file.
    place: Place,
    /// What was read might have been another thing if there had been more text.
    ended: bool,
}

impl<'a> Reader<'a> {
    fn fault(&self, at: usize, reason: impl Into<String>) -> Fault {
        self.place.behind(&self.text[..at.min(self.text.len())]).fault(reason)
    }

    fn peek(&mut self) -> Option<u8> {
        let next = self.text.get(self.at).copied();
        self.ended |= next.is_none();
        next
    }

    fn skip_space(&mut self) {
        while let Some(byte) = self.peek() {
            match byte {
                b';' => {
                    while self.peek().is_some_and(|byte| byte != b'\n') {
                        self.at += 1;
                    }
                }
                b',' => self.at += 1,
                byte if byte.is_ascii_whitespace() => self.at += 1,
                _ => return,
            }
        }
    }

    /// The next value; none at the end of the text.
    fn value(&mut self, depth: usize) -> Result<Option<Value<'a>>, Fault> {
        self.skip_space();
        let start = self.at;
        let Some(byte) = self.peek() else { return Ok(None) };
        if depth > DEPTH_MAX {
            return Err(self.fault(start, "values lie too deep in each other"));
        }
        match byte {
            b'"' => self.string().map(Some),
            b'[' | b'(' => {
                self.at += 1;
                let close = if byte == b'[' { b']' } else { b')' };
                Ok(Some(Value::Many(self.until(close, start, depth)?)))
            }
            b'{' => {
                self.at += 1;
                self.map(start, depth).map(Some)
            }
            b'#' => {
                self.at += 1;
                match self.peek() {
                    Some(b'{') => {
                        self.at += 1;
                        Ok(Some(Value::Many(self.until(b'}', start, depth)?)))
                    }
                    Some(b'_') => {
                        self.at += 1;
                        self.some(start, depth)?;
                        self.value(depth + 1)
                    }
                    // A tag says what its value is; what matters is the value.
                    _ => {
                        self.token();
                        self.some(start, depth).map(Some)
                    }
                }
            }
            b']' | b')' | b'}' => {
                Err(self.fault(start, format!("'{}' closes nothing", char::from(byte))))
            }
            _ => {
                let token = self.token();
                let token = std::str::from_utf8(token)
                    .map_err(|_| self.fault(start, "no text in UTF-8"))?;
                Ok(Some(match token.strip_prefix(':') {
                    Some(name) => Value::Keyword(name),
                    None if token == "nil" => Value::Nil,
                    None => Value::Atom(token),
                }))
            }
        }
    }

    fn some(&mut self, start: usize, depth: usize) -> Result<Value<'a>, Fault> {
        match self.value(depth + 1)? {
            Some(value) => Ok(value),
            None => Err(self.fault(start, "the text ends where a value should be")),
        }
    }

    fn until(&mut self, close: u8, start: usize, depth: usize) -> Result<Vec<Value<'a>>, Fault> {
        let mut values = Vec::new();
        loop {
            self.skip_space();
            match self.peek() {
                None => return Err(self.fault(start, "not closed")),
                Some(byte) if byte == close => {
                    self.at += 1;
                    return Ok(values);
                }
                Some(_) => values.push(self.some(start, depth)?),
            }
        }
    }

    fn map(&mut self, start: usize, depth: usize) -> Result<Value<'a>, Fault> {
        let values = self.until(b'}', start, depth)?;
        if values.len() % 2 == 1 {
            return Err(self.fault(start, "a map with a key that has no value"));
        }
        let mut entries = Vec::with_capacity(values.len() / 2);
        let mut values = values.into_iter();
        while let (Some(key), Some(value)) = (values.next(), values.next()) {
            entries.push((key, value));
        }
        Ok(Value::Map(entries))
    }

    fn token(&mut self) -> &'a [u8] {
        let start = self.at;
        self.at += 1;
        while let Some(byte) = self.peek() {
            if byte.is_ascii_whitespace() || b",;\"[](){}".contains(&byte) {
                break;
            }
            self.at += 1;
        }
        &self.text[start..self.at.min(self.text.len())]
    }

    fn string(&mut self) -> Result<Value<'a>, Fault> {
        let start = self.at;
        self.at += 1;
        let mut bytes = Vec::new();
        loop {
            let Some(byte) = self.peek() else { return Err(self.fault(start, "not closed")) };
            self.at += 1;
            match byte {
                b'"' => break,
                b'\\' => {
                    let escaped = self.peek();
                    self.at += 1;
                    match escaped {
                        Some(b'n') => bytes.push(b'\n'),
                        Some(b't') => bytes.push(b'\t'),
                        Some(b'r') => bytes.push(b'\r'),
                        Some(same @ (b'"' | b'\\')) => bytes.push(same),
                        Some(b'u') => {
                            let digits = self.text.get(self.at..self.at + 4);
                            self.ended |= digits.is_none();
                            let letter = digits
                                .and_then(|digits| std::str::from_utf8(digits).ok())
                                .and_then(|digits| u32::from_str_radix(digits, 16).ok())
                                .and_then(char::from_u32);
                            let Some(letter) = letter else {
                                return Err(self.fault(self.at - 2, "\\u needs four digits"));
                            };
                            self.at += 4;
                            bytes.extend(letter.encode_utf8(&mut [0; 4]).as_bytes());
                        }
                        _ => return Err(self.fault(self.at - 2, "no such escape")),
                    }
                }
                byte => bytes.push(byte),
            }
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Value::Text(text)),
            Err(_) => Err(self.fault(start, "no text in UTF-8")),
        }
    }
}

/// What lies between operations, or one of them.
enum Item<'a> {
    End,
    Open(u8),
    Close,
    Value(Value<'a>),
    Discarded,
}

/// Reads a history: maps one after the other, or vectors of maps.
pub(super) fn stream(
    input: &mut dyn BufRead,
    porcupine: bool,
    pairs: &mut Pairs<'_>,
) -> Result<(), Fault> {
    let mut events = Events { pairs, tuples: None, index: None };
    let place = Place { line: 1, column: 1 };
    let mut window = Window { input, text: Vec::new(), at: 0, place, whole: false };
    // A vector around it all is no value of its own here: its maps are read one at a time.
    let mut open: Vec<(u8, Place)> = Vec::new();
    loop {
        let text = &window.text[window.at..];
        let mut reader = Reader { text, at: 0, place: window.place, ended: false };
        reader.skip_space();
        let start = reader.at;
        let read = item(&mut reader, open.last().map(|(close, _)| *close), open.len());
        if reader.ended && !window.whole {
            window.more()?;
            continue;
        }
        let here = || window.place.behind(&text[..start]);
        match read? {
            Item::End => {
                return open.last().map_or(Ok(()), |(_, opened)| Err(opened.fault("not closed")));
            }
            Item::Open(close) => open.push((close, here())),
            Item::Close => drop(open.pop()),
            Item::Value(value) => {
                events.take(&value, porcupine).map_err(|reason| here().fault(reason))?;
            }
            Item::Discarded => {}
        }
        let count = reader.at;
        window.pass(count);
    }
}

fn item<'a>(reader: &mut Reader<'a>, close: Option<u8>, depth: usize) -> Result<Item<'a>, Fault> {
    match reader.peek() {
        None => Ok(Item::End),
        Some(byte @ (b'[' | b'(')) if depth < DEPTH_MAX => {
            reader.at += 1;
            Ok(Item::Open(if byte == b'[' { b']' } else { b')' }))
        }
        Some(byte) if Some(byte) == close => {
            reader.at += 1;
            Ok(Item::Close)
        }
        Some(_) => Ok(reader.value(0)?.map_or(Item::Discarded, Item::Value)),
    }
}

/// The events of a history, as they come.
struct Events<'p, 's> {
    pairs: &'p mut Pairs<'s>,
    /// Whether operations have `independent` tuples, which name their keys; none before the first.
    tuples: Option<bool>,
    /// The last index that was said. The times of older Jepsens' events are not always in order,
    /// and a part of a history keeps the indices of the whole.
    index: Option<u64>,
}

impl Events<'_, '_> {
    fn take(&mut self, map: &Value<'_>, porcupine: bool) -> Result<(), String> {
        if !matches!(map, Value::Map(_)) {
            return Err("want a map: an operation".to_owned());
        }
        let field =
            |name: &str| map.field(name).ok_or_else(|| format!("an operation without :{name}"));
        if let Some(index) = map.field("index") {
            self.follows(index)?;
        }
        let process = match field("process")? {
            Value::Atom(number) => match number.parse::<u64>() {
                Ok(process) => process,
                Err(_) => return Err(format!("'{number}' is no process")),
            },
            // The nemesis, by whatever name.
            Value::Keyword(_) => return Ok(()),
            other => return Err(format!("'{}' is no process", other.written())),
        };
        let (Value::Keyword(kind), Value::Keyword(f)) = (field("type")?, field("f")?) else {
            return Err(":type and :f must be keywords".to_owned());
        };
        let event = Told { process, kind, f, value: map.field("value") };
        if porcupine {
            return self.text(map, event);
        }
        if map.field("key").is_some() {
            let reason = "an operation with a :key: Jepsen's are named in the value, [key value]; \
                          --format porcupine reads such";
            return Err(reason.to_owned());
        }
        self.register(event)
    }

    fn follows(&mut self, index: &Value<'_>) -> Result<(), String> {
        let Value::Atom(text) = index else {
            return Err(format!(":index {}: want a number", index.written()));
        };
        let index = text.parse().map_err(|_| format!(":index {text}: want a number"))?;
        match self.index {
            Some(last) if index <= last => Err(format!(":index {index} after :index {last}")),
            _ => {
                self.index = Some(index);
                Ok(())
            }
        }
    }

    /// An operation of Jepsen's, on one register or on those that tuples name.
    fn register(&mut self, event: Told<'_, '_>) -> Result<(), String> {
        let Told { process, kind, f, value: told } = event;
        let (key, value) = tuple(f, told.unwrap_or(&Value::Nil));
        if kind == "invoke" && key.is_some() != *self.tuples.get_or_insert(key.is_some()) {
            return Err(format!(
                ":{f} with the value {}: some operations of this history name a key, [key value], \
                 and some do not",
                told.unwrap_or(&Value::Nil).written()
            ));
        }
        let key = key.unwrap_or_else(|| "register".to_owned());
        let text = value.written();
        let reads = matches!(f, "read" | "get");
        let named = Named { process, f, key: Some(&key), value: (!reads).then_some(&text) };
        // What did not go well may have a keyword or nothing in place of key and value.
        let silent = matches!(told, None | Some(Value::Nil | Value::Keyword(_)));
        let ended = if silent { Named { key: None, value: None, ..named } } else { named };
        let done = match (kind, f) {
            ("invoke" | "ok", "write" | "put" | "read" | "get") if told.is_none() => {
                return Err(format!(":{kind} :{f} without a :value"));
            }
            ("invoke", "read" | "get") => self.pairs.invoke(named, Ask::Get),
            ("invoke", "write" | "put") => match value {
                Value::Nil => self.pairs.invoke(named, Ask::Del),
                _ => self.pairs.invoke(named, Ask::Put(&text)),
            },
            ("invoke", "del" | "delete") => self.pairs.invoke(named, Ask::Del),
            ("invoke", "cas") => match value {
                Value::Many(pair) if pair.len() == 2 => {
                    let [from, to] = [&pair[0], &pair[1]]
                        .map(|value| (*value != Value::Nil).then(|| value.written()));
                    self.pairs.invoke(named, Ask::Cas(from.as_deref(), to.as_deref()))
                }
                _ => return Err("a cas needs [old new]".to_owned()),
            },
            ("ok", "read" | "get") => match value {
                Value::Nil => self.pairs.end(named, End::Ok(None)),
                _ => self.pairs.end(named, End::Ok(Some(&text))),
            },
            ("ok", "write" | "put" | "del" | "delete" | "cas") => {
                self.pairs.end(named, End::Ok(None))
            }
            ("fail", "read" | "get" | "write" | "put" | "del" | "delete" | "cas") => {
                self.pairs.end(ended, End::Fail)
            }
            ("info", "read" | "get" | "write" | "put" | "del" | "delete" | "cas") => {
                self.pairs.end(ended, End::Info)
            }
            ("invoke" | "ok" | "fail" | "info", other) => {
                return Err(format!(":{other} is no operation: want read, write or cas"));
            }
            (other, _) => return Err(format!(":type :{other}: want invoke, ok, fail or info")),
        };
        done.map_err(|nonsense| nonsense.to_string())
    }

    /// An operation of Porcupine's key/value data.
    fn text(&mut self, map: &Value<'_>, event: Told<'_, '_>) -> Result<(), String> {
        let Told { process, kind, f, value } = event;
        let text = match value {
            None if matches!((kind, f), ("invoke", "put" | "append") | ("ok", "get")) => {
                return Err(format!(":{kind} :{f} without a :value"));
            }
            None | Some(Value::Nil) => "",
            Some(Value::Text(text)) => text,
            Some(other) => return Err(format!(":value {}: want text or nil", other.written())),
        };
        let Some(Value::Text(key)) = map.field("key") else {
            return Err("an operation without a :key that is text".to_owned());
        };
        let get = Named { process, f, key: Some(key), value: None };
        let told = kind == "invoke" || matches!(value, Some(Value::Text(_)));
        let write = Named { value: told.then_some(text), ..get };
        let done = match (kind, f) {
            ("invoke", "get") => self.pairs.invoke(get, Ask::Get),
            ("invoke", "put") => self.pairs.invoke(write, Ask::Put(text)),
            ("invoke", "append") => self.pairs.invoke(write, Ask::Append(text)),
            ("ok", "get") => self.pairs.end(get, End::Ok(Some(text))),
            ("ok", "put" | "append") => self.pairs.end(write, End::Ok(None)),
            ("fail", "get") => self.pairs.end(get, End::Fail),
            ("fail", "put" | "append") => self.pairs.end(write, End::Fail),
            ("info", "get") => self.pairs.end(get, End::Info),
            ("info", "put" | "append") => self.pairs.end(write, End::Info),
            ("invoke" | "ok" | "fail" | "info", other) => {
                return Err(format!(":{other} is no operation: want get, put or append"));
            }
            (other, _) => return Err(format!(":type :{other}: want invoke, ok, fail or info")),
        };
        done.map_err(|nonsense| nonsense.to_string())
    }
}

/// What every operation's event tells.
#[derive(Clone, Copy)]
struct Told<'v, 'a> {
    process: u64,
    kind: &'a str,
    f: &'a str,
    /// None: there is no such field.
    value: Option<&'v Value<'a>>,
}

/// The key and the value of an operation: those of an `independent` tuple, or no key.
fn tuple<'v, 'a>(f: &str, value: &'v Value<'a>) -> (Option<String>, &'v Value<'a>) {
    match value {
        Value::Many(pair)
            if pair.len() == 2 && (f != "cas" || matches!(pair[1], Value::Many(_))) =>
        {
            (Some(pair[0].written()), &pair[1])
        }
        _ => (None, value),
    }
}
