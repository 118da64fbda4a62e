//! The steps of a transaction as a request names them.

use lab::request::Request;
use serde_json::{Value as Json, json};

/// A step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Reads a list or a register.
    Read(String),
    /// Appends to a list.
    Append(String, i64),
    /// Writes a register.
    Write(String, i64),
}

impl Step {
    pub(crate) fn key(&self) -> &str {
        match self {
            Step::Read(key) | Step::Append(key, _) | Step::Write(key, _) => key,
        }
    }
}

/// The steps of a request, and whether they are on lists. `None` if it has another form.
pub(crate) fn parse(request: &Request) -> Option<Vec<Step>> {
    let steps: Vec<(String, String, Option<i64>)> =
        serde_json::from_str(request.value.as_deref()?).ok()?;
    let step = |(f, key, value): (String, String, Option<i64>)| match (f.as_str(), value) {
        ("r", None) => Some(Step::Read(key)),
        ("append", Some(element)) => Some(Step::Append(key, element)),
        ("w", Some(value)) => Some(Step::Write(key, value)),
        _ => None,
    };
    steps.into_iter().map(step).collect()
}

/// What was read: a list as its elements separated by commas, or one value of a register. Both are stored as
/// such texts, so a list of one element looks like a register.
pub(crate) type Stored = Option<String>;

/// The value of an answer: the steps with what each read found. `on_lists` says what reads return.
pub(crate) fn answer(steps: &[Step], reads: Vec<Stored>, on_lists: bool) -> Result<String, String> {
    let mut reads = reads.into_iter();
    let answered = steps.iter().map(|step| {
        Ok(match step {
            Step::Append(key, element) => json!(["append", key, element]),
            Step::Write(key, value) => json!(["w", key, value]),
            Step::Read(key) => json!(["r", key, read(reads.next().flatten(), on_lists)?]),
        })
    });
    answered.collect::<Result<Vec<Json>, String>>().map(|steps| json!(steps).to_string())
}

fn read(stored: Stored, on_lists: bool) -> Result<Json, String> {
    let number = |text: &str| text.parse::<i64>().map_err(|_| format!("'{text}' is no number"));
    Ok(match (stored, on_lists) {
        (None, true) => json!([]),
        (None, false) => Json::Null,
        (Some(text), true) => {
            json!(text.split(',').map(number).collect::<Result<Vec<i64>, String>>()?)
        }
        (Some(text), false) => json!(number(&text)?),
    })
}

/// What a key holds after a step that writes.
#[cfg(feature = "etcd")]
pub(crate) fn after(step: &Step, before: &Stored) -> Stored {
    match (step, before) {
        (Step::Read(_), before) => before.clone(),
        (Step::Write(_, value), _) => Some(value.to_string()),
        (Step::Append(_, element), None) => Some(element.to_string()),
        (Step::Append(_, element), Some(before)) => Some(format!("{before},{element}")),
    }
}
