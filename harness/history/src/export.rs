//! Writes recorded histories in the formats of other tools, Jepsen's `history.edn` and Porcupine's
//! key/value data, one event at a time.

use std::{
    collections::HashSet,
    fmt::{self, Write as _},
    io::{self, Write},
    path::Path,
    str::FromStr,
};

use serde_json::Value as Json;

use super::{Action, ClientEvent, Event, EventReader, Function, Kind, ReadError, Value};

/// The format to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// Jepsen's: one map a line. A value is an `independent` tuple of key and value, and a delete
    /// is a write of nil.
    Edn,
    /// Porcupine's: one map a line with a `:key`. A delete is a put of the empty text, which a get
    /// also returns for an absent key. The format has neither failed operations, which are omitted,
    /// nor unknown outcomes: those operations never complete.
    Porcupine,
}

impl FromStr for ExportFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "edn" => Ok(ExportFormat::Edn),
            "porcupine" => Ok(ExportFormat::Porcupine),
            _ => Err(format!("unknown export format '{text}': expected edn or porcupine")),
        }
    }
}

/// Why a history cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The history cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The format cannot express the history.
    #[error(
        "event {index} puts an empty text, which Porcupine's data cannot distinguish from an absent key"
    )]
    EmptyValue {
        /// The index of the event.
        index: u64,
    },
    /// The format has no such operation.
    #[error("event {index} is {function}, which the format cannot express: {format} has {names}")]
    Function {
        /// The index of the event.
        index: u64,
        /// The function.
        function: Function,
        /// The name of the format.
        format: &'static str,
        /// The functions of the format.
        names: &'static str,
    },
    /// The output cannot be written.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

/// Writes the history in a file to `out`.
///
/// # Errors
/// The history cannot be read, expressed in the format, or written.
pub fn export(path: &Path, format: ExportFormat, out: &mut impl Write) -> Result<(), ExportError> {
    let omitted = match format {
        ExportFormat::Edn => HashSet::new(),
        ExportFormat::Porcupine => without_result(path)?,
    };
    for event in EventReader::open(path)? {
        let Event { index, time, action } = event?;
        match (format, action) {
            (ExportFormat::Edn, Action::Client(event)) => {
                if !event.f.is_on_register() {
                    let (format, names) = ("edn", "get, put, del and cas");
                    return Err(ExportError::Function { index, function: event.f, format, names });
                }
                writeln!(out, "{{:index {index}, :time {time}, {}}}", jepsen(&event))?;
            }
            (ExportFormat::Edn, Action::Nemesis(event)) => writeln!(
                out,
                "{{:index {index}, :time {time}, :process :nemesis, :type :info, :f {}, :value {}}}",
                Keyword(event.f()),
                Edn(&event.value())
            )?,
            (ExportFormat::Porcupine, Action::Client(event)) => {
                if !event.f.is_on_register() || event.f == Function::Cas {
                    let (format, names) = ("porcupine", "get, put and del");
                    return Err(ExportError::Function { index, function: event.f, format, names });
                }
                if event.f == Function::Put && event.value.as_deref() == Some("") {
                    return Err(ExportError::EmptyValue { index });
                }
                let has_form = event.kind == Kind::Invoke || event.kind == Kind::Ok;
                if has_form && !omitted.contains(&index) {
                    writeln!(out, "{}", porcupine(&event))?;
                }
            }
            (ExportFormat::Porcupine, Action::Nemesis(_)) => {}
        }
    }
    Ok(())
}

/// The indices of invocations that Porcupine's format cannot express: those of failed operations,
/// and of gets without a result.
fn without_result(path: &Path) -> Result<HashSet<u64>, ReadError> {
    let mut open = std::collections::HashMap::new();
    let mut omitted = HashSet::new();
    for event in EventReader::open(path)? {
        let Event { index, action, .. } = event?;
        let Action::Client(ClientEvent { process, kind, f, .. }) = action else { continue };
        match kind {
            Kind::Invoke => drop(open.insert(process, (index, f))),
            Kind::Ok => drop(open.remove(&process)),
            Kind::Fail => omitted.extend(open.remove(&process).map(|(index, _)| index)),
            // The operation stays open and never completes.
            Kind::Info => {}
        }
    }
    let gets = open.into_values().filter(|(_, f)| *f == Function::Get);
    omitted.extend(gets.map(|(index, _)| index));
    Ok(omitted)
}

fn jepsen(event: &ClientEvent) -> String {
    let ClientEvent { process, kind, f, key, value, error, .. } = event;
    let name = match f {
        Function::Get => "read",
        Function::Cas => "cas",
        _ => "write",
    };
    let value = match value {
        // It is JSON, as the reader of events and the recorder both saw to.
        Some(pair) if *f == Function::Cas => {
            serde_json::from_str(pair).map_or_else(|_| quoted(pair), |pair| Edn(&pair).to_string())
        }
        value => value.as_deref().map_or_else(|| "nil".to_owned(), quoted),
    };
    let mut text =
        format!(":process {process}, :type :{kind}, :f :{name}, :value [{} {value}]", quoted(key));
    if let Some(error) = error {
        // Writing to a string cannot fail.
        let _ = write!(text, ", :error {}", quoted(error));
    }
    text
}

fn porcupine(event: &ClientEvent) -> String {
    let ClientEvent { process, kind, f, key, value, .. } = event;
    let is_get_invocation = *f == Function::Get && *kind == Kind::Invoke;
    let f = if f.is_write() { "put" } else { "get" };
    let value =
        if is_get_invocation { "nil".to_owned() } else { quoted(value.as_deref().unwrap_or("")) };
    let key = quoted(key);
    format!("{{:process {process}, :type :{kind}, :f :{f}, :key {key}, :value {value}}}")
}

/// A text as an EDN string.
fn quoted(text: &str) -> String {
    Value::Text(text.into()).to_string()
}

/// A name as an EDN keyword.
struct Keyword<'a>(&'a str);

impl fmt::Display for Keyword<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |letter: char| letter.is_ascii_alphanumeric() || "-_.?!*+".contains(letter);
        let name: String =
            self.0.chars().map(|letter| if fits(letter) { letter } else { '-' }).collect();
        write!(f, ":{name}")
    }
}

/// JSON as EDN.
struct Edn<'a>(&'a Json);

impl fmt::Display for Edn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Json::Null => f.write_str("nil"),
            Json::Bool(value) => write!(f, "{value}"),
            Json::Number(number) => write!(f, "{number}"),
            Json::String(text) => f.write_str(&quoted(text)),
            Json::Array(values) => {
                f.write_str("[")?;
                for (at, value) in values.iter().enumerate() {
                    write!(f, "{}{}", if at > 0 { " " } else { "" }, Edn(value))?;
                }
                f.write_str("]")
            }
            Json::Object(fields) => {
                f.write_str("{")?;
                for (at, (name, value)) in fields.iter().enumerate() {
                    let comma = if at > 0 { ", " } else { "" };
                    write!(f, "{comma}{} {}", Keyword(name), Edn(value))?;
                }
                f.write_str("}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;
    use crate::NemesisEvent;

    fn exported(events: &[Event], format: ExportFormat) -> Result<String, ExportError> {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let path = directory.path().join("history.jsonl");
        let line = |event: &Event| serde_json::to_string(event).expect("it serializes") + "\n";
        fs::write(&path, events.iter().map(line).collect::<String>()).expect("the disk has room");
        let mut out = Vec::new();
        export(&path, format, &mut out)?;
        Ok(String::from_utf8(out).expect("texts are UTF-8"))
    }

    fn client(index: u64, process: u64, kind: Kind, f: Function, value: Option<&str>) -> Event {
        let value = value.map(str::to_owned);
        let error = (kind == Kind::Fail).then(|| "timeout: \"r1\"".to_owned());
        let key = "a".to_owned();
        let event = ClientEvent { process, kind, f, key, value, version: None, error, node: None };
        Event { index, time: 10 * index, action: Action::Client(event) }
    }

    #[test]
    fn each_format_is_written_as_its_tool_reads_it() {
        use Function::{Del, Get, Put};
        use Kind::{Fail, Info, Invoke, Ok};
        let nemesis =
            NemesisEvent::Other { f: "kill-all".into(), value: json!({ "n": [1, null] }) };
        let events = [
            client(0, 1, Invoke, Put, Some("x\\\n\u{1}")),
            client(1, 1, Info, Put, Some("x")),
            Event { index: 2, time: 20, action: Action::Nemesis(nemesis) },
            client(3, 2, Invoke, Put, Some("y")),
            client(4, 2, Fail, Put, Some("y")),
            client(5, 2, Invoke, Del, None),
            client(6, 3, Invoke, Get, None),
            client(7, 2, Ok, Del, None),
            client(8, 3, Ok, Get, None),
            client(9, 3, Invoke, Get, None),
            client(10, 3, Info, Get, None),
        ];
        let expected = r#"{:index 0, :time 0, :process 1, :type :invoke, :f :write, :value ["a" "x\\\n\u0001"]}
{:index 1, :time 10, :process 1, :type :info, :f :write, :value ["a" "x"]}
{:index 2, :time 20, :process :nemesis, :type :info, :f :kill-all, :value {:n [1 nil]}}
{:index 3, :time 30, :process 2, :type :invoke, :f :write, :value ["a" "y"]}
{:index 4, :time 40, :process 2, :type :fail, :f :write, :value ["a" "y"], :error "timeout: \"r1\""}
{:index 5, :time 50, :process 2, :type :invoke, :f :write, :value ["a" nil]}
{:index 6, :time 60, :process 3, :type :invoke, :f :read, :value ["a" nil]}
{:index 7, :time 70, :process 2, :type :ok, :f :write, :value ["a" nil]}
{:index 8, :time 80, :process 3, :type :ok, :f :read, :value ["a" nil]}
{:index 9, :time 90, :process 3, :type :invoke, :f :read, :value ["a" nil]}
{:index 10, :time 100, :process 3, :type :info, :f :read, :value ["a" nil]}
"#;
        assert_eq!(exported(&events, ExportFormat::Edn).expect("it can be exported"), expected);
        let expected = r#"{:process 1, :type :invoke, :f :put, :key "a", :value "x\\\n\u0001"}
{:process 2, :type :invoke, :f :put, :key "a", :value ""}
{:process 3, :type :invoke, :f :get, :key "a", :value nil}
{:process 2, :type :ok, :f :put, :key "a", :value ""}
{:process 3, :type :ok, :f :get, :key "a", :value ""}
"#;
        assert_eq!(
            exported(&events, ExportFormat::Porcupine).expect("it can be exported"),
            expected
        );
        let empty = [client(0, 1, Invoke, Put, Some(""))];
        assert!(exported(&empty, ExportFormat::Edn).is_ok());
        assert!(exported(&empty, ExportFormat::Porcupine).is_err());
    }
}
