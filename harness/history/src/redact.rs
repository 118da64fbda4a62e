//! Replaces the keys and values of a run by keyed digests, before anybody looks at what is kept. Equal ones stay
//! equal and different ones different, so the checks find what they would have found.
//!
//! The key of the digests is drawn for each run and never written. What is replaced: keys and values of
//! operations, and the same words in logs and messages of errors. What stays: numbers that are counted with
//! (amounts, balances, counts, offsets), and what a log has in another form, such as base64.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher as _, RandomState},
};

use serde_json::{Map, Value as Json};

use crate::{Action, ClientEvent, Event, Function, NemesisEvent, nemesis::ForbiddenStart};

/// How many bits a digest has: as many as every reader of JSON keeps of a number.
const DIGEST_BITS: u32 = 48;

/// Replaces words by digests. The same word gets the same digest for as long as this lives.
#[derive(Debug, Default)]
pub struct Redactor {
    hashing: RandomState,
    digests: HashMap<String, String>,
    taken: HashSet<u64>,
}

impl Redactor {
    /// A redactor with a key of its own.
    #[must_use]
    pub fn new() -> Self {
        Redactor::default()
    }

    /// The digest of a word. That of a number is a number.
    fn digest(&mut self, word: &str) -> String {
        if let Some(digest) = self.digests.get(word) {
            return digest.clone();
        }
        let mut number = self.hashing.hash_one(word) >> (u64::BITS - DIGEST_BITS);
        // Two words must not become one.
        while !self.taken.insert(number) {
            number = (number + 1) % (1 << DIGEST_BITS);
        }
        let digest = match word.parse::<i64>() {
            Ok(_) => number.to_string(),
            Err(_) => format!("x{number:012x}"),
        };
        self.digests.insert(word.to_owned(), digest.clone());
        digest
    }

    /// Replaces the keys and values of an event. Call [`redact_messages`](Self::redact_messages) once
    /// all words are known.
    pub fn redact(&mut self, event: &mut Event) {
        let Action::Client(client) = &mut event.action else { return };
        let value = client.value.take().map(|text| self.value(client, &text));
        client.value = value;
        client.key = self.digest(&client.key);
    }

    fn value(&mut self, client: &ClientEvent, text: &str) -> String {
        // What is counted with has to stay a number.
        let is_counted = matches!(client.f, Function::Inc)
            || client.f == Function::Read && text.parse::<i64>().is_ok()
            || client.f == Function::Poll && text.parse::<i64>().is_ok();
        if is_counted {
            return text.to_owned();
        }
        match serde_json::from_str::<Json>(text) {
            Ok(Json::Null) => text.to_owned(),
            Ok(json @ (Json::Array(_) | Json::Object(_))) => {
                let redacted = match client.f {
                    Function::Txn | Function::Poll => self.steps(json),
                    _ => self.json(json),
                };
                redacted.to_string()
            }
            _ => self.digest(text),
        }
    }

    /// The words of a value. Numbers in an object are amounts or balances.
    fn json(&mut self, json: Json) -> Json {
        match json {
            Json::Array(items) => items.into_iter().map(|item| self.json(item)).collect(),
            Json::Object(fields) => {
                let mut redacted = Map::new();
                for (name, value) in fields {
                    // A transfer names its fields; a balance has the name of its account.
                    let name = match value {
                        Json::Number(_) if name != "amount" => self.digest(&name),
                        _ => name,
                    };
                    let value = match value {
                        number @ Json::Number(_) => number,
                        other => self.json(other),
                    };
                    redacted.insert(name, value);
                }
                Json::Object(redacted)
            }
            Json::String(text) => Json::String(self.digest(&text)),
            Json::Number(number) => {
                let digest = self.digest(&number.to_string());
                serde_json::from_str(&digest).unwrap_or(Json::String(digest))
            }
            other => other,
        }
    }

    /// Steps of a transaction, or elements of a log: the function, or the offset, of each stays.
    fn steps(&mut self, json: Json) -> Json {
        let Json::Array(steps) = json else { return self.json(json) };
        steps
            .into_iter()
            .map(|step| match step {
                Json::Array(mut parts) if !parts.is_empty() => {
                    let function = parts.remove(0);
                    let rest = parts.into_iter().map(|part| self.json(part));
                    [function].into_iter().chain(rest).collect()
                }
                other => self.json(other),
            })
            .collect()
    }

    /// Replaces the messages of an event.
    pub fn redact_messages(&self, event: &mut Event) {
        match &mut event.action {
            Action::Client(client) => {
                if let Some(error) = &mut client.error {
                    *error = self.redact_text(error);
                }
            }
            Action::Nemesis(nemesis) => {
                messages(nemesis, |message| *message = self.redact_text(message));
            }
        }
    }

    /// Replaces every word of a text that is a key or a value. A word consists of letters and digits.
    #[must_use]
    pub fn redact_text(&self, text: &str) -> String {
        let mut redacted = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(letter) = rest.chars().next() {
            let end = rest.find(|letter: char| !letter.is_alphanumeric()).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end.max(letter.len_utf8()));
            redacted.push_str(self.digests.get(word).map_or(word, String::as_str));
            rest = after;
        }
        redacted
    }
}

/// Calls `each` with every text of an event that a node or a client has written.
fn messages(event: &mut NemesisEvent, mut each: impl FnMut(&mut String)) {
    let message = match event {
        NemesisEvent::Injected(_, injected) => of_start(&mut injected.start),
        NemesisEvent::Missed(missed) => {
            each(&mut missed.why);
            of_start(&mut missed.injected.start)
        }
        NemesisEvent::DiskRestored(restored) => {
            restored.exit.as_mut().map(|exit| &mut exit.last_log_line)
        }
        NemesisEvent::Died(died) => Some(&mut died.log),
        NemesisEvent::ClientFailed(failed) => Some(&mut failed.why),
        NemesisEvent::OpensFailed(failed) => Some(&mut failed.error),
        NemesisEvent::DumpFailed(failed) => Some(&mut failed.error),
        NemesisEvent::Healed(healed) => healed.failed.as_mut(),
        NemesisEvent::Compared(compared) => compared.failed.as_mut(),
        _ => None,
    };
    if let Some(message) = message {
        each(message);
    }
}

/// The last line of a node that a start has ended.
fn of_start(start: &mut ForbiddenStart) -> Option<&mut String> {
    match start {
        ForbiddenStart::Refused(exit) | ForbiddenStart::Exited(exit) => {
            Some(&mut exit.last_log_line)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Kind,
        nemesis::{Died, Exit, Injected, InjectionKind},
    };

    fn event(f: Function, key: &str, value: &str) -> Event {
        let client = ClientEvent {
            process: 0,
            kind: Kind::Ok,
            f,
            key: key.to_owned(),
            value: Some(value.to_owned()),
            version: None,
            error: Some("k1 is not 12".to_owned()),
            node: None,
        };
        Event { index: 0, time: 0, action: Action::Client(client) }
    }

    fn redacted(redactor: &mut Redactor, f: Function, key: &str, value: &str) -> (String, String) {
        let mut event = event(f, key, value);
        redactor.redact(&mut event);
        let Action::Client(client) = event.action else { panic!("it was one of a client") };
        (client.key, client.value.expect("it has one"))
    }

    #[test]
    fn equal_words_stay_equal_and_nothing_of_them_is_left() {
        let mut redactor = Redactor::new();
        let (key, put) = redacted(&mut redactor, Function::Put, "k1", "12");
        assert_eq!(redacted(&mut redactor, Function::Get, "k1", "12"), (key.clone(), put.clone()));
        assert!(key.starts_with('x') && put.parse::<u64>().is_ok(), "{key} {put}");
        assert_ne!(put, "12");
        let (_, cas) = redacted(&mut redactor, Function::Cas, "k1", r#"["12",null]"#);
        assert_eq!(cas, format!(r#"["{put}",null]"#));
        let (_, set) = redacted(&mut redactor, Function::Read, "k2", "[12,13]");
        assert!(set.starts_with(&format!("[{put},")) && !set.contains("13]"), "{set}");
        let steps = r#"[["append","k1",12],["r","k1",[12]]]"#;
        let (_, txn) = redacted(&mut redactor, Function::Txn, "k1", steps);
        assert_eq!(txn, format!(r#"[["append","{key}",{put}],["r","{key}",[{put}]]]"#));
        let all: HashSet<String> = (0..1000).map(|n| redactor.digest(&n.to_string())).collect();
        assert_eq!(all.len(), 1000, "different words stay different");
        let other = redacted(&mut Redactor::new(), Function::Put, "k1", "12");
        assert_ne!(other, (key, put), "each run has a key of its own");
    }

    #[test]
    fn what_is_counted_with_stays() {
        let mut redactor = Redactor::new();
        assert_eq!(redacted(&mut redactor, Function::Inc, "c1", "-3").1, "-3");
        assert_eq!(redacted(&mut redactor, Function::Read, "c1", "7").1, "7");
        let (_, read) = redacted(&mut redactor, Function::Read, "bank", r#"{"a1":100}"#);
        assert!(read.ends_with(":100}") && !read.contains("\"a1\""), "{read}");
        let transfer = r#"{"amount":5,"from":"a1","to":"a2"}"#;
        let (_, transfer) = redacted(&mut redactor, Function::Transfer, "bank", transfer);
        assert!(transfer.starts_with(r#"{"amount":5,"from":"x"#), "{transfer}");
        let (_, polled) = redacted(&mut redactor, Function::Poll, "l1", "[[4,12]]");
        assert!(polled.starts_with("[[4,") && polled != "[[4,12]]", "{polled}");
    }

    #[test]
    fn words_of_messages_and_logs_are_replaced() {
        let mut redactor = Redactor::new();
        let mut put = event(Function::Put, "k1", "12");
        redactor.redact(&mut put);
        redactor.redact_messages(&mut put);
        let Action::Client(client) = &put.action else { panic!("it was one of a client") };
        let error = client.error.as_deref().expect("it had one");
        let value = client.value.as_deref().expect("it had one");
        assert_eq!(error, format!("{} is not {value}", client.key));
        let log = redactor.redact_text("SET k1=12; k12 at 127.0.0.1: größe\n");
        assert_eq!(log, format!("SET {}={value}; k12 at 127.0.0.1: größe\n", client.key));
        let died = Died { node: "n1".to_owned(), status: String::new(), log: "k1".to_owned() };
        let mut died =
            Event { index: 1, time: 1, action: Action::Nemesis(NemesisEvent::Died(died)) };
        redactor.redact_messages(&mut died);
        let Action::Nemesis(NemesisEvent::Died(died)) = died.action else { panic!("it was one") };
        assert_eq!(died.log, client.key);
        let exit = Exit { status: String::new(), last_log_line: "k1".to_owned() };
        let start = ForbiddenStart::Refused(exit);
        let injected = Box::new(Injected { start, ..Injected::default() });
        let refused = NemesisEvent::Injected(InjectionKind::BitFlip, injected);
        let mut refused = Event { index: 2, time: 2, action: Action::Nemesis(refused) };
        redactor.redact_messages(&mut refused);
        assert!(!serde_json::to_string(&refused).expect("JSON").contains("k1"), "{refused:?}");
    }
}
