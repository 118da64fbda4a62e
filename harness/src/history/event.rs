//! One line of a history: Jepsen's fields, as types. Knows nothing of files.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::Value as Json;
use system::protocol::{AbortReason, NoReason, TxnId};

/// Something that was observed, with its place in the order of observation.
///
/// As JSON it is one flat object with the fields `index`, `time`, `process`, `type`, `f`, `key`,
/// `value`, `version` and `error`; those that say nothing are left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its number in the history, from 0, growing.
    pub index: u64,
    /// Nanoseconds of the monotonic clock since the history began.
    pub time: u64,
    /// What was observed.
    pub action: Action,
}

/// What was observed.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A client began or ended an operation.
    Client(ClientEvent),
    /// The nemesis did something.
    Nemesis(NemesisEvent),
}

/// A client began or ended an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientEvent {
    /// Which client; it has one operation at a time, and none after an `info`.
    pub process: u64,
    /// Whether it begins or how it ends.
    pub kind: Kind,
    /// What it does.
    pub f: Function,
    /// The key that it concerns.
    pub key: String,
    /// A put: the value that it writes. A get that is `ok`: what it found, none if nothing.
    pub value: Option<String>,
    /// When `ok`: the version that was written or found.
    pub version: Option<TxnId>,
    /// When `fail` or `info`: why, beginning with an [`ErrorCode`] and a colon.
    pub error: Option<String>,
}

/// Whether an event begins an operation or how it ends one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It begins.
    Invoke,
    /// It happened.
    Ok,
    /// It certainly did not happen, and never will.
    Fail,
    /// It may have happened, may yet happen, or never will.
    Info,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Invoke => "invoke",
            Kind::Ok => "ok",
            Kind::Fail => "fail",
            Kind::Info => "info",
        })
    }
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Function {
    /// Reads a key.
    Get,
    /// Writes a value.
    Put,
    /// Removes a key.
    Del,
}

impl Function {
    /// Whether it changes the key.
    #[must_use]
    pub fn is_write(self) -> bool {
        self != Function::Get
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Function::Get => "get",
            Function::Put => "put",
            Function::Del => "del",
        })
    }
}

/// Something that the nemesis did: `kill`, `pause`, `resume`, `restart`, `heal` and so on.
#[derive(Clone, Debug, PartialEq)]
pub struct NemesisEvent {
    /// What it did.
    pub f: String,
    /// To what: an object with at least `node` where it concerns one, and `at` where it was done
    /// at a crash point; `null` if there is nothing to say.
    pub value: Json,
}

impl NemesisEvent {
    /// A field of the value that is text, such as `node`, `at` or `txn`.
    #[must_use]
    pub fn text(&self, field: &str) -> Option<&str> {
        self.value.get(field).and_then(Json::as_str)
    }
}

/// Why an operation failed, as the first word of an event's `error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorCode {
    /// The master had another write of the key under way.
    Conflict,
    /// A replica had the key locked by another transaction.
    Locked,
    /// A replica voted no for another reason.
    Refused,
    /// A replica was not live, or nobody could answer; nothing was done.
    Unavailable,
    /// Votes were missing when the time was up.
    Timeout,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [ErrorCode; 5] = [
        ErrorCode::Conflict,
        ErrorCode::Locked,
        ErrorCode::Refused,
        ErrorCode::Unavailable,
        ErrorCode::Timeout,
    ];

    /// The word that an `error` begins with.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ErrorCode::Conflict => "conflict",
            ErrorCode::Locked => "locked",
            ErrorCode::Refused => "refused",
            ErrorCode::Unavailable => "unavailable",
            ErrorCode::Timeout => "timeout",
        }
    }

    /// The code that an `error` begins with, none if it is another.
    #[must_use]
    pub fn of(error: &str) -> Option<ErrorCode> {
        let word = error.split(':').next().unwrap_or(error).trim();
        ErrorCode::ALL.into_iter().find(|code| code.name() == word)
    }
}

/// What an event's `error` says of a write that was aborted for this reason.
#[must_use]
pub fn error_of(reason: &AbortReason) -> String {
    let (code, detail) = match reason {
        AbortReason::Conflict { holder } => (ErrorCode::Conflict, format!("{holder} was first")),
        AbortReason::Refused { by, reason: NoReason::Locked { holder } } => {
            (ErrorCode::Locked, format!("{by} holds the key for {holder}"))
        }
        AbortReason::Refused { by, reason: NoReason::Aborted } => {
            (ErrorCode::Refused, format!("{by} has aborted it"))
        }
        AbortReason::Unavailable { missing } => (ErrorCode::Unavailable, list(missing)),
        AbortReason::Timeout { missing } => (ErrorCode::Timeout, list(missing)),
    };
    format!("{}: {detail}", code.name())
}

/// Names, separated by spaces.
fn list(nodes: &[system::protocol::Node]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// The process of an event as it stands in JSON: a number, or `"nemesis"`.
enum Process {
    Client(u64),
    Nemesis,
}

impl Serialize for Process {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Process::Client(number) => serializer.serialize_u64(*number),
            Process::Nemesis => serializer.serialize_str("nemesis"),
        }
    }
}

impl<'de> Deserialize<'de> for Process {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Process;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a process number or \"nemesis\"")
            }

            fn visit_u64<E>(self, number: u64) -> Result<Process, E> {
                Ok(Process::Client(number))
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Process, E> {
                if name == "nemesis" {
                    Ok(Process::Nemesis)
                } else {
                    Err(E::invalid_value(serde::de::Unexpected::Str(name), &self))
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// An event as it stands in JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    index: u64,
    time: u64,
    process: Process,
    #[serde(rename = "type")]
    kind: Kind,
    f: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// The outer option says whether the field is there: a get that found nothing has a `null`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    value: Option<Json>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<TxnId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// A field that is there, though it may be `null`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Json>, D::Error> {
    Json::deserialize(deserializer).map(Some)
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (index, time) = (self.index, self.time);
        match &self.action {
            Action::Client(event) => {
                let found = event.f == Function::Get && event.kind == Kind::Ok;
                let value = match &event.value {
                    Some(value) => Some(Json::String(value.clone())),
                    None => found.then_some(Json::Null),
                };
                Line {
                    index,
                    time,
                    process: Process::Client(event.process),
                    kind: event.kind,
                    f: event.f.to_string(),
                    key: Some(event.key.clone()),
                    value,
                    version: event.version,
                    error: event.error.clone(),
                }
            }
            Action::Nemesis(event) => Line {
                index,
                time,
                process: Process::Nemesis,
                kind: Kind::Info,
                f: event.f.clone(),
                key: None,
                value: (!event.value.is_null()).then(|| event.value.clone()),
                version: None,
                error: None,
            },
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let line = Line::deserialize(deserializer)?;
        let action = match line.process {
            Process::Nemesis => {
                Action::Nemesis(NemesisEvent { f: line.f, value: line.value.unwrap_or(Json::Null) })
            }
            Process::Client(process) => {
                let f = match line.f.as_str() {
                    "get" => Function::Get,
                    "put" => Function::Put,
                    "del" => Function::Del,
                    other => {
                        return Err(D::Error::custom(format!(
                            "'{other}' is no operation: want get, put or del"
                        )));
                    }
                };
                let key = line.key.ok_or_else(|| D::Error::missing_field("key"))?;
                if f == Function::Get && line.kind == Kind::Ok && line.value.is_none() {
                    return Err(D::Error::custom(
                        "a get that is ok needs a value: null if nothing",
                    ));
                }
                let value = match line.value {
                    None | Some(Json::Null) => None,
                    Some(Json::String(value)) => Some(value),
                    Some(other) => {
                        return Err(D::Error::custom(format!("value {other}: want text or null")));
                    }
                };
                if f == Function::Put && line.kind == Kind::Invoke && value.is_none() {
                    return Err(D::Error::custom("a put needs a value"));
                }
                Action::Client(ClientEvent {
                    process,
                    kind: line.kind,
                    f,
                    key,
                    value,
                    version: line.version,
                    error: line.error,
                })
            }
        };
        Ok(Event { index: line.index, time: line.time, action })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(text: &str) {
        let event: Event = serde_json::from_str(text).expect(text);
        assert_eq!(serde_json::to_string(&event).expect("it came from JSON"), text);
    }

    #[test]
    fn lines_are_as_described() {
        round_trip(
            r#"{"index":0,"time":1203945,"process":3,"type":"invoke","f":"put","key":"k7","value":"3-12"}"#,
        );
        round_trip(
            r#"{"index":1,"time":1903311,"process":3,"type":"ok","f":"put","key":"k7","value":"3-12","version":"1.44"}"#,
        );
        round_trip(
            r#"{"index":2,"time":1909002,"process":"nemesis","type":"info","f":"kill","value":{"at":"master:after-persist:commit","node":"master"}}"#,
        );
        round_trip(
            r#"{"index":3,"time":4,"process":1,"type":"ok","f":"get","key":"a","value":null}"#,
        );
        round_trip(
            r#"{"index":3,"time":4,"process":1,"type":"fail","f":"del","key":"a","error":"conflict: 1.3 was first"}"#,
        );
        round_trip(r#"{"index":3,"time":4,"process":"nemesis","type":"info","f":"heal"}"#);
    }

    #[test]
    fn nonsense_is_refused() {
        for (text, reason) in [
            (r#"{"index":0,"time":1,"process":1,"type":"ok","f":"cas","key":"a"}"#, "no operation"),
            (r#"{"index":0,"time":1,"process":1,"type":"ok","f":"get"}"#, "missing field `key`"),
            (r#"{"index":0,"time":1,"process":"x","type":"ok","f":"get","key":"a"}"#, "nemesis"),
            (r#"{"index":0,"time":1,"process":1,"type":"invoke","f":"put","key":"a"}"#, "a value"),
            (r#"{"index":0,"time":1,"process":1,"type":"ok","f":"get","key":"a"}"#, "a value"),
            (
                r#"{"index":0,"time":1,"process":1,"type":"ok","f":"get","key":"a","value":3}"#,
                "want text",
            ),
        ] {
            let error = serde_json::from_str::<Event>(text).expect_err(text).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn error_codes_begin_the_error() {
        let error = error_of(&AbortReason::Conflict { holder: TxnId::new(1, 3) });
        assert_eq!(error, "conflict: 1.3 was first");
        assert_eq!(ErrorCode::of(&error), Some(ErrorCode::Conflict));
        assert_eq!(ErrorCode::of("timeout"), Some(ErrorCode::Timeout));
        assert_eq!(ErrorCode::of("connection reset"), None);
    }
}
