//! Requests and answers as a client in another language writes them: JSON. What an answer must look like
//! depends on the function; anything else is the client's mistake.

use history::{Function, Version};
use lab::{client::Answer, request::Request};
use serde_json::{Map, Value as Json, json};

/// The name of a function in the protocol.
pub(crate) fn protocol_name(function: Function) -> &'static str {
    match function {
        Function::Get => "read",
        Function::Put => "write",
        other => other.name(),
    }
}

/// The fields of a request: `f`, `key` and `value`.
pub(crate) fn request_fields(request: &Request) -> Map<String, Json> {
    let value = match &request.value {
        None => Json::Null,
        Some(text) if request.f.has_json_value() => cas_numbers(request.f, text),
        Some(text) => scalar(text),
    };
    let fields =
        [("f", json!(protocol_name(request.f))), ("key", json!(request.key)), ("value", value)];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A register's value as clients see it: a number if it is one.
fn scalar(text: &str) -> Json {
    text.parse::<i64>().map_or_else(|_| json!(text), Json::from)
}

fn cas_numbers(function: Function, text: &str) -> Json {
    let value: Json = serde_json::from_str(text).unwrap_or(Json::Null);
    match (function, value) {
        (Function::Cas, Json::Array(pair)) => {
            pair.iter().map(|one| one.as_str().map_or(Json::Null, scalar)).collect()
        }
        (_, value) => value,
    }
}

/// The answer of a client to a request, from its JSON.
///
/// # Errors
/// The answer is malformed, in words: nothing is known about the request, and the client is not to be
/// trusted.
pub(crate) fn answer(request: &Request, answer: &Json) -> Result<Answer, String> {
    let shown = || {
        let text = answer.to_string();
        text.chars().take(200).collect::<String>()
    };
    let text = |name: &str| answer.get(name).and_then(Json::as_str).map(str::to_owned);
    let error = || {
        let (class, text) = (text("error"), text("text"));
        match (class, text) {
            (Some(class), Some(text)) => format!("{class}: {text}"),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => "the client gives no reason".to_owned(),
        }
    };
    match answer.get("type").and_then(Json::as_str) {
        Some("ok") => {
            let value = returned(request.f, answer.get("value")).map_err(|expected| {
                format!(
                    "an ok {} needs {expected} as its value: {}",
                    protocol_name(request.f),
                    shown()
                )
            })?;
            if !answers(request, value.as_deref()) {
                return Err(format!("these are not the steps of the transaction: {}", shown()));
            }
            let version = version(request, answer).map_err(|why| format!("{why}: {}", shown()))?;
            Ok(Answer::Ok { version, value })
        }
        Some("fail") => {
            let unavailable = text("error").is_some_and(|class| class == "unavailable");
            Ok(Answer::Fail { error: error(), unavailable })
        }
        Some("info") => {
            let value = answer.get("value").filter(|value| !value.is_null());
            let value = value.and_then(|value| returned(request.f, Some(value)).ok().flatten());
            Ok(Answer::Info { error: error(), value })
        }
        _ => Err(format!("the type of an answer is ok, fail or info: {}", shown())),
    }
}

/// The version that an operation wrote or read; of a transaction, those of its steps.
fn version(request: &Request, answer: &Json) -> Result<Option<Version>, &'static str> {
    let is_empty = |name: &str| answer.get(name).is_none_or(Json::is_null);
    if request.f == Function::Txn && !is_empty("versions") {
        let versions: Option<Vec<Option<u64>>> =
            serde_json::from_value(answer["versions"].clone()).ok();
        let steps = answer["value"].as_array().map_or(0, Vec::len);
        let versions = versions.filter(|versions| versions.len() == steps);
        let versions = versions.ok_or(
            "versions are a list of whole numbers, one for each step, null where there is none",
        )?;
        return Ok(Some(Version::of_steps(&versions)));
    }
    match answer.get("version") {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(version)) => Ok(Some(Version::new(version))),
        Some(version @ Json::Number(_)) => Ok(Some(Version::new(version))),
        Some(_) => Err("a version is a number or a text"),
    }
}

/// Whether a value is a step of a transaction that was executed.
fn is_step(step: &Json) -> bool {
    let Some([f, key, value]) = step.as_array().map(Vec::as_slice) else { return false };
    let is_scalar = |value: &Json| value.is_string() || value.is_number();
    let is_value = match (f.as_str(), value) {
        (Some("r"), Json::Array(all)) => all.iter().all(is_scalar),
        (Some("r"), Json::Null) => true,
        (Some("r" | "w" | "append"), value) => is_scalar(value),
        _ => false,
    };
    is_value && is_scalar(key)
}

/// Whether the steps of an answer are those of the request, apart from what was read.
fn answers(request: &Request, value: Option<&str>) -> bool {
    let steps = |text: Option<&str>| {
        let steps: Option<Vec<(Json, Json, Json)>> =
            text.and_then(|text| serde_json::from_str(text).ok());
        steps.map(|mut steps| {
            steps.iter_mut().filter(|step| step.0 == "r").for_each(|step| step.2 = Json::Null);
            steps
        })
    };
    request.f != Function::Txn || steps(value) == steps(request.value.as_deref())
}

/// What an operation returned, in the form of a history.
fn returned(function: Function, value: Option<&Json>) -> Result<Option<String>, &'static str> {
    if !function.returns_value() {
        return Ok(None);
    }
    let is_scalar = |value: &Json| value.is_string() || value.is_number() || value.is_null();
    let is_integer = |value: &Json| value.is_i64() || value.is_u64();
    match function {
        Function::Get => match value {
            Some(Json::Null) => Ok(None),
            Some(Json::String(text)) => Ok(Some(text.clone())),
            Some(Json::Number(number)) => Ok(Some(number.to_string())),
            _ => Err("a number, a text or null"),
        },
        Function::Txn => match value {
            Some(Json::Array(steps)) if steps.iter().all(is_step) => {
                Ok(value.map(ToString::to_string))
            }
            _ => Err("the steps that it was asked for, with what its reads returned,"),
        },
        Function::Dequeue => match value {
            Some(Json::Null) => Ok(None),
            Some(value) if is_scalar(value) => Ok(Some(value.to_string())),
            _ => Err("the element, or null if the queue is empty,"),
        },
        Function::Drain => match value {
            Some(Json::Array(all)) if all.iter().all(is_scalar) => {
                Ok(value.map(ToString::to_string))
            }
            _ => Err("a list of elements"),
        },
        Function::Poll => {
            let is_record = |record: &Json| {
                record
                    .as_array()
                    .is_some_and(|pair| pair.len() == 2 && pair[0].is_u64() && is_scalar(&pair[1]))
            };
            match value {
                Some(Json::Array(all)) if all.iter().all(is_record) => {
                    Ok(value.map(ToString::to_string))
                }
                _ => Err("a list of [offset, element]"),
            }
        }
        // A set, a counter or a bank.
        _ => match value {
            Some(Json::Array(all)) if all.iter().all(is_scalar) => {
                Ok(value.map(ToString::to_string))
            }
            Some(Json::Object(all)) if all.values().all(is_integer) => {
                Ok(value.map(ToString::to_string))
            }
            Some(number) if is_integer(number) => Ok(value.map(ToString::to_string)),
            _ => Err("a list of elements, an integer, or an object of balances"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_numbers_where_values_are_numbers() {
        let put = Request::with(Function::Put, "k1", 7);
        assert_eq!(
            Json::Object(request_fields(&put)),
            json!({ "f": "write", "key": "k1", "value": 7 })
        );
        let cas = Request::with(Function::Cas, "k1", json!(["7", null]));
        assert_eq!(request_fields(&cas)["value"], json!([7, null]));
        let get = Request::new(Function::Get, "k1");
        assert_eq!(
            Json::Object(request_fields(&get)),
            json!({ "f": "read", "key": "k1", "value": null })
        );
    }

    #[test]
    fn answers_are_read_strictly() {
        let get = Request::new(Function::Get, "k");
        let poll = Request::with(Function::Poll, "l", 0);
        let txn = Request::with(Function::Txn, "txn", json!([["r", "x", null]]));
        assert_eq!(
            answer(&txn, &json!({ "type": "ok", "value": [["r", "x", [1]]] })),
            Ok(Answer::Ok { version: None, value: Some(r#"[["r","x",[1]]]"#.to_owned()) })
        );
        let told = json!({ "type": "ok", "value": [["r", "x", 1]], "versions": [7] });
        assert_eq!(
            answer(&txn, &told),
            Ok(Answer::Ok {
                version: Some(Version::of_steps(&[Some(7)])),
                value: Some(r#"[["r","x",1]]"#.to_owned())
            })
        );
        let ok = |value: &str| Ok(Answer::Ok { version: None, value: Some(value.to_owned()) });
        assert_eq!(answer(&get, &json!({ "type": "ok", "value": 7 })), ok("7"));
        assert_eq!(answer(&get, &json!({ "type": "ok", "value": "7" })), ok("7"));
        assert_eq!(answer(&poll, &json!({ "type": "ok", "value": [[0, 5]] })), ok("[[0,5]]"));
        let info = Answer::info("reset: by peer");
        let text = json!({ "type": "info", "error": "reset", "text": "by peer" });
        assert_eq!(answer(&get, &text), Ok(info));
        for (request, text, part) in [
            (&get, json!({ "type": "ok" }), "an ok read needs a number, a text or null"),
            (&get, json!({ "type": "ok", "value": [1] }), "an ok read needs"),
            (&poll, json!({ "type": "ok", "value": [5] }), "a list of [offset, element]"),
            (&get, json!({ "type": "okay", "value": 1 }), "ok, fail or info"),
            (&get, json!({ "value": 1 }), "ok, fail or info"),
            (
                &txn,
                json!({ "type": "ok", "value": [["r", "x"]] }),
                "the steps that it was asked for",
            ),
            (&txn, json!({ "type": "ok", "value": [["r", "y", [1]]] }), "these are not the steps"),
            (&get, json!({ "type": "ok", "value": 1, "version": [] }), "a version is"),
            (
                &txn,
                json!({ "type": "ok", "value": [["r", "x", 1]], "versions": [7, 8] }),
                "one for each step",
            ),
        ] {
            let error = answer(request, &text).expect_err(part);
            assert!(error.contains(part), "{error}");
        }
    }
}
