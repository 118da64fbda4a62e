//! Our histories in the words of other tools: Jepsen's `history.edn` and Porcupine's key/value data.
//! An event at a time; knows nothing of who reads them.

use std::{
    collections::HashSet,
    fmt::{self, Write as _},
    io::{self, Write},
    path::Path,
    str::FromStr,
};

use serde_json::Value as Json;

use super::{Action, ClientEvent, Event, Events, Function, Kind, NemesisEvent, ReadError};

/// What a history can be written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Jepsen's: a map a line, each value an `independent` tuple of key and value, a delete a write
    /// of nil.
    Edn,
    /// Porcupine's: a map a line, with a `:key`, a delete a put of the empty text, which is also what
    /// a get finds where nothing is. It has no words for operations that failed, which are left out,
    /// nor for unknown ends, so that those operations never return.
    Porcupine,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "edn" => Ok(Target::Edn),
            "porcupine" => Ok(Target::Porcupine),
            _ => Err(format!("'{text}' is no format to write: want edn or porcupine")),
        }
    }
}

/// Why a history cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The other tool has no words for it.
    #[error("event {index} puts an empty text, which Porcupine's data cannot tell from nothing")]
    EmptyText {
        /// The event.
        index: u64,
    },
    /// It cannot be written.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

/// Writes a history in the words of another tool.
///
/// # Errors
/// It cannot be read, said or written.
pub fn export(path: &Path, target: Target, out: &mut impl Write) -> Result<(), ExportError> {
    let silent = match target {
        Target::Edn => HashSet::new(),
        Target::Porcupine => silent(path)?,
    };
    for event in Events::open(path)? {
        let Event { index, time, action } = event?;
        match (target, action) {
            (Target::Edn, Action::Client(event)) => {
                writeln!(out, "{{:index {index}, :time {time}, {}}}", jepsen(&event))?;
            }
            (Target::Edn, Action::Nemesis(NemesisEvent { f, value })) => writeln!(
                out,
                "{{:index {index}, :time {time}, :process :nemesis, :type :info, :f {}, :value {}}}",
                Keyword(&f),
                Edn(&value)
            )?,
            (Target::Porcupine, Action::Client(event)) => {
                if event.f == Function::Put && event.value.as_deref() == Some("") {
                    return Err(ExportError::EmptyText { index });
                }
                let said = event.kind == Kind::Invoke || event.kind == Kind::Ok;
                if said && !silent.contains(&index) {
                    writeln!(out, "{}", porcupine(&event))?;
                }
            }
            (Target::Porcupine, Action::Nemesis(_)) => {}
        }
    }
    Ok(())
}

/// The indices of the invocations that came to nothing: of operations that failed, and of gets
/// without an answer.
fn silent(path: &Path) -> Result<HashSet<u64>, ReadError> {
    let mut begun = std::collections::HashMap::new();
    let mut silent = HashSet::new();
    for event in Events::open(path)? {
        let Event { index, action, .. } = event?;
        let Action::Client(ClientEvent { process, kind, f, .. }) = action else { continue };
        match kind {
            Kind::Invoke => drop(begun.insert(process, (index, f))),
            Kind::Ok => drop(begun.remove(&process)),
            Kind::Fail => silent.extend(begun.remove(&process).map(|(index, _)| index)),
            // It stays begun, and never returns.
            Kind::Info => {}
        }
    }
    let gets = begun.into_values().filter(|(_, f)| *f == Function::Get);
    silent.extend(gets.map(|(index, _)| index));
    Ok(silent)
}

fn jepsen(event: &ClientEvent) -> String {
    let ClientEvent { process, kind, f, key, value, error, .. } = event;
    let f = if f.is_write() { "write" } else { "read" };
    let value = value.as_deref().map_or_else(|| "nil".to_owned(), quoted);
    let mut text =
        format!(":process {process}, :type :{kind}, :f :{f}, :value [{} {value}]", quoted(key));
    if let Some(error) = error {
        // Writing to a string cannot fail.
        let _ = write!(text, ", :error {}", quoted(error));
    }
    text
}

fn porcupine(event: &ClientEvent) -> String {
    let ClientEvent { process, kind, f, key, value, .. } = event;
    let asks = *f == Function::Get && *kind == Kind::Invoke;
    let f = if f.is_write() { "put" } else { "get" };
    let value = if asks { "nil".to_owned() } else { quoted(value.as_deref().unwrap_or("")) };
    let key = quoted(key);
    format!("{{:process {process}, :type :{kind}, :f :{f}, :key {key}, :value {value}}}")
}

/// A text as EDN writes it.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for letter in text.chars() {
        match letter {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            other if other.is_control() => {
                // Writing to a string cannot fail.
                let _ = write!(quoted, "\\u{:04x}", u32::from(other));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// A name as a keyword.
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
    use crate::{
        checker::{
            Validity,
            file::{Reading, check_file},
        },
        history::{
            formats::{Format, detect},
            synthetic::{Plant, SyntheticOptions, generate},
        },
    };

    fn exported(events: &[Event], target: Target) -> Result<String, ExportError> {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let path = directory.path().join("history.jsonl");
        let line = |event: &Event| serde_json::to_string(event).expect("it can be written") + "\n";
        fs::write(&path, events.iter().map(line).collect::<String>()).expect("the disk has room");
        let mut out = Vec::new();
        export(&path, target, &mut out)?;
        Ok(String::from_utf8(out).expect("texts are UTF-8"))
    }

    fn client(index: u64, process: u64, kind: Kind, f: Function, value: Option<&str>) -> Event {
        let value = value.map(str::to_owned);
        let error = (kind == Kind::Fail).then(|| "timeout: \"r1\"".to_owned());
        let key = "a".to_owned();
        let event = ClientEvent { process, kind, f, key, value, version: None, error };
        Event { index, time: 10 * index, action: Action::Client(event) }
    }

    #[test]
    fn each_tool_has_its_words() {
        use Function::{Del, Get, Put};
        use Kind::{Fail, Info, Invoke, Ok};
        let nemesis =
            NemesisEvent { f: "kill".into(), value: json!({ "node": "r1", "n": [1, null] }) };
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
{:index 2, :time 20, :process :nemesis, :type :info, :f :kill, :value {:n [1 nil], :node "r1"}}
{:index 3, :time 30, :process 2, :type :invoke, :f :write, :value ["a" "y"]}
{:index 4, :time 40, :process 2, :type :fail, :f :write, :value ["a" "y"], :error "timeout: \"r1\""}
{:index 5, :time 50, :process 2, :type :invoke, :f :write, :value ["a" nil]}
{:index 6, :time 60, :process 3, :type :invoke, :f :read, :value ["a" nil]}
{:index 7, :time 70, :process 2, :type :ok, :f :write, :value ["a" nil]}
{:index 8, :time 80, :process 3, :type :ok, :f :read, :value ["a" nil]}
{:index 9, :time 90, :process 3, :type :invoke, :f :read, :value ["a" nil]}
{:index 10, :time 100, :process 3, :type :info, :f :read, :value ["a" nil]}
"#;
        assert_eq!(exported(&events, Target::Edn).expect("it has words"), expected);
        let expected = r#"{:process 1, :type :invoke, :f :put, :key "a", :value "x\\\n\u0001"}
{:process 2, :type :invoke, :f :put, :key "a", :value ""}
{:process 3, :type :invoke, :f :get, :key "a", :value nil}
{:process 2, :type :ok, :f :put, :key "a", :value ""}
{:process 3, :type :ok, :f :get, :key "a", :value ""}
"#;
        assert_eq!(exported(&events, Target::Porcupine).expect("it has words"), expected);
        let empty = [client(0, 1, Invoke, Put, Some(""))];
        assert!(exported(&empty, Target::Edn).is_ok());
        assert!(exported(&empty, Target::Porcupine).is_err());
    }

    #[test]
    fn what_is_exported_is_judged_alike() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        for plant in Plant::ALL.into_iter().map(Some).chain([None]) {
            let options = SyntheticOptions {
                ops: 2000,
                keys: 3,
                concurrency: 6,
                indeterminate: 0.02,
                puts: 40,
                deletes: 15,
                seed: 5,
                plant,
            };
            let mut events = Vec::new();
            generate(&options, |event| {
                events.push(event.clone());
                io::Result::Ok(())
            })
            .expect("nothing is written");
            let expected = if plant.is_some() { Validity::Invalid } else { Validity::Valid };
            for (target, format) in
                [(Target::Edn, Format::Edn), (Target::Porcupine, Format::Porcupine)]
            {
                let text = exported(&events, target).expect("it has words");
                let path = directory.path().join("exported");
                fs::write(&path, text).expect("the disk has room");
                assert_eq!(detect(&path).expect("it is known"), format);
                let report = check_file(&path, &Reading::default()).expect("well formed");
                assert_eq!((report.verdict, report.keys), (expected, 3), "{plant:?} {target:?}");
            }
        }
    }
}
