//! One line of a history: Jepsen's fields as types. Does not know about files.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};
use serde_json::Value as Json;

use crate::{Function, NemesisEvent};

/// The latest time that a history may have, in nanoseconds: 146 years. Times are added and subtracted, signed
/// and unsigned, in many places, and none of them overflows below it.
pub const TIME_MAX: u64 = (1 << 62) - 1;

/// Refuses a time that is later than [`TIME_MAX`].
///
/// # Errors
/// It is, in words.
pub(crate) fn check_time(time: u64) -> Result<(), String> {
    if time <= TIME_MAX {
        return Ok(());
    }
    Err(format!(
        "time {time} is later than {TIME_MAX}, the maximum: times are nanoseconds since the history began"
    ))
}

/// An observation and its position in the order of observation.
///
/// In JSON it is one flat object with the fields `index`, `time`, `process`, `type`, `f`, `key`,
/// `value`, `version` and `error`. Empty fields are omitted.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Sequence number in the history, from 0 without gaps.
    pub index: u64,
    /// Time on the monotonic clock since the history began, in nanoseconds. At most [`TIME_MAX`].
    pub time: u64,
    /// What was observed.
    pub action: Action,
}

impl Event {
    /// Whether it is an action of the nemesis.
    #[must_use]
    pub fn is_nemesis(&self) -> bool {
        matches!(self.action, Action::Nemesis(_))
    }
}

/// What was observed.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A client invoked or completed an operation.
    Client(ClientEvent),
    /// The nemesis, which injects faults, did something.
    Nemesis(NemesisEvent),
}

/// An invocation or completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientEvent {
    /// The client process. It has one open operation at a time, and none after an `info`.
    pub process: u64,
    /// Invocation, or how the operation completed.
    pub kind: Kind,
    /// What the operation does.
    pub f: Function,
    /// The key.
    pub key: String,
    /// Put: the value written. Get that is `ok`: the value read, `None` if the key was absent. Of
    /// [functions whose values are JSON](Function::has_json_value): its text, in one form.
    pub value: Option<String>,
    /// If `ok`: the version written or read; of a transaction, those of its steps
    /// ([`Version::of_steps`]).
    pub version: Option<Version>,
    /// If `fail` or `info`: the reason. A known reason begins with an [`ErrorCode`] and a colon.
    pub error: Option<String>,
    /// The node that the client is connected to, where that is recorded.
    pub node: Option<String>,
}

/// Jepsen's `type`: an invocation, or one of the three completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The operation is invoked.
    Invoke,
    /// It took effect.
    Ok,
    /// It certainly had no effect and never will.
    Fail,
    /// The outcome is unknown: it took effect, will take effect later, or never does.
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

/// A version as the system under test reports it: opaque text. [`Version::parse`] gives it a type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(Box<str>);

impl Version {
    /// The version in its text form.
    #[must_use]
    pub fn new(version: impl fmt::Display) -> Self {
        Version(version.to_string().into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The versions that the steps of a transaction wrote or read, in order.
    #[must_use]
    pub fn of_steps(versions: &[Option<u64>]) -> Self {
        // A vector of numbers is always JSON.
        Version::new(serde_json::to_string(versions).unwrap_or_default())
    }

    /// The versions of the steps of a transaction, `None` if it is no such list.
    #[must_use]
    pub fn steps(&self) -> Option<Vec<Option<u64>>> {
        serde_json::from_str(self.as_str()).ok()
    }

    /// The version as a type of the system under test, `None` if the text is not one.
    #[must_use]
    pub fn parse<T: FromStr>(&self) -> Option<T> {
        self.0.parse().ok()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why an operation failed: the first word of an event's `error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorCode {
    /// Another write of the key was in progress.
    Conflict,
    /// Another transaction held the lock of the key.
    Locked,
    /// A node had no room for the value.
    Full,
    /// A node refused for another reason.
    Refused,
    /// A node that is needed was not available. Nothing was attempted.
    Unavailable,
    /// Replies were missing when the timeout expired.
    Timeout,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [ErrorCode; 6] = [
        ErrorCode::Conflict,
        ErrorCode::Locked,
        ErrorCode::Full,
        ErrorCode::Refused,
        ErrorCode::Unavailable,
        ErrorCode::Timeout,
    ];

    /// The word at the start of an `error`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ErrorCode::Conflict => "conflict",
            ErrorCode::Locked => "locked",
            ErrorCode::Full => "full",
            ErrorCode::Refused => "refused",
            ErrorCode::Unavailable => "unavailable",
            ErrorCode::Timeout => "timeout",
        }
    }

    /// The code at the start of an `error`, `None` if it has none.
    #[must_use]
    pub fn of(error: &str) -> Option<ErrorCode> {
        let word = error.split(':').next().unwrap_or(error).trim();
        ErrorCode::ALL.into_iter().find(|code| code.name() == word)
    }
}

/// The `process` field in JSON: a number, or `"nemesis"`.
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

/// The JSON form of an event.
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
    /// `Some(null)` differs from an omitted field: a get of an absent key has `null`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "some")]
    value: Option<Json>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<Version>,
    /// Of the steps of a transaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    versions: Option<Vec<Option<u64>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<String>,
}

/// Keeps a field that is present but `null` as `Some(null)`.
fn some<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Json>, D::Error> {
    Json::deserialize(deserializer).map(Some)
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (index, time) = (self.index, self.time);
        match &self.action {
            Action::Client(event) => {
                let is_result = event.f.returns_value() && event.kind == Kind::Ok;
                let value = match &event.value {
                    Some(text) if event.f.has_json_value() => {
                        Some(serde_json::from_str(text).map_err(S::Error::custom)?)
                    }
                    Some(value) => Some(Json::String(value.clone())),
                    None => is_result.then_some(Json::Null),
                };
                let versions = match (event.f, &event.version) {
                    (Function::Txn, Some(version)) => version.steps(),
                    _ => None,
                };
                Line {
                    index,
                    time,
                    process: Process::Client(event.process),
                    kind: event.kind,
                    f: event.f.to_string(),
                    key: Some(event.key.clone()),
                    value,
                    version: event.version.clone().filter(|_| versions.is_none()),
                    versions,
                    error: event.error.clone(),
                    node: event.node.clone(),
                }
            }
            Action::Nemesis(event) => Line {
                index,
                time,
                process: Process::Nemesis,
                kind: Kind::Info,
                f: event.f().to_owned(),
                key: None,
                value: Some(event.value()).filter(|value| !value.is_null()),
                version: None,
                versions: None,
                error: None,
                node: None,
            },
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let line = Line::deserialize(deserializer)?;
        check_time(line.time).map_err(D::Error::custom)?;
        let action = match line.process {
            Process::Nemesis => {
                let value = line.value.unwrap_or(Json::Null);
                Action::Nemesis(NemesisEvent::new(&line.f, value).map_err(D::Error::custom)?)
            }
            Process::Client(process) => {
                let f: Function = line.f.parse().map_err(D::Error::custom)?;
                let key = line.key.ok_or_else(|| D::Error::missing_field("key"))?;
                let value = value_of(f, line.kind, line.value).map_err(D::Error::custom)?;
                let version = match line.versions {
                    None => line.version,
                    Some(versions) if f == Function::Txn => Some(Version::of_steps(&versions)),
                    Some(_) => return Err(D::Error::custom(format!("a {f} has one version"))),
                };
                Action::Client(ClientEvent {
                    process,
                    kind: line.kind,
                    f,
                    key,
                    value,
                    version,
                    error: line.error,
                    node: line.node,
                })
            }
        };
        Ok(Event { index: line.index, time: line.time, action })
    }
}

/// The value of an event in the form of [`ClientEvent::value`].
fn value_of(f: Function, kind: Kind, value: Option<Json>) -> Result<Option<String>, String> {
    if f.returns_value() && kind == Kind::Ok && value.is_none() {
        return Err(match f {
            Function::Get => "an ok get needs a value: null if the key was absent".to_owned(),
            _ => format!("an ok {f} needs a value"),
        });
    }
    let value = match value {
        None | Some(Json::Null) => None,
        Some(value) if f.has_json_value() => Some(value.to_string()),
        Some(Json::String(value)) => Some(value),
        Some(other) => return Err(format!("value {other}: expected text or null")),
    };
    if f.needs_value() && kind == Kind::Invoke && value.is_none() {
        return Err(format!("a {f} needs a value"));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(text: &str) {
        let event: Event = serde_json::from_str(text).expect(text);
        assert_eq!(serde_json::to_string(&event).expect("it came from JSON"), text);
    }

    #[test]
    fn lines_round_trip() {
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
    fn values_that_are_json_round_trip() {
        for text in [
            r#"{"index":0,"time":1,"process":3,"type":"invoke","f":"cas","key":"k","value":["1",null],"node":"n2"}"#,
            r#"{"index":0,"time":1,"process":3,"type":"ok","f":"read","key":"s","value":[1,2,3]}"#,
            r#"{"index":0,"time":1,"process":3,"type":"ok","f":"dequeue","key":"q","value":null}"#,
            r#"{"index":0,"time":1,"process":3,"type":"ok","f":"append","key":"l","value":7,"version":"12"}"#,
            r#"{"index":0,"time":1,"process":3,"type":"invoke","f":"lock","key":"m"}"#,
            r#"{"index":0,"time":1,"process":3,"type":"ok","f":"txn","key":"t","value":[["r","x",null],["w","x",1]],"versions":[null,9]}"#,
        ] {
            round_trip(text);
        }
    }

    #[test]
    fn malformed_lines_are_rejected() {
        for (text, reason) in [
            (
                r#"{"index":0,"time":1,"process":1,"type":"ok","f":"leap","key":"a"}"#,
                "unknown operation 'leap'",
            ),
            (r#"{"index":0,"time":1,"process":1,"type":"ok","f":"get"}"#, "missing field `key`"),
            (r#"{"index":0,"time":1,"process":"x","type":"ok","f":"get","key":"a"}"#, "nemesis"),
            (r#"{"index":0,"time":1,"process":1,"type":"invoke","f":"put","key":"a"}"#, "a value"),
            (r#"{"index":0,"time":1,"process":1,"type":"ok","f":"get","key":"a"}"#, "a value"),
            (
                r#"{"index":0,"time":1,"process":1,"type":"ok","f":"get","key":"a","value":3}"#,
                "expected text",
            ),
            (
                r#"{"index":0,"time":1,"process":1,"type":"ok","f":"put","key":"a","value":"3","versions":[1]}"#,
                "a put has one version",
            ),
        ] {
            let error = serde_json::from_str::<Event>(text).expect_err(text).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn error_codes_begin_the_error() {
        assert_eq!(ErrorCode::of("conflict: 1.3 was first"), Some(ErrorCode::Conflict));
        assert_eq!(ErrorCode::of("timeout"), Some(ErrorCode::Timeout));
        assert_eq!(ErrorCode::of("connection reset"), None);
    }
}
