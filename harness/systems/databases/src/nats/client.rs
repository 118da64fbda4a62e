//! What clients of JetStream do. A set and a log are the messages of a subject; a queue is a consumer of it that
//! all clients share, and whose messages leave the stream once they are acknowledged.
//!
//! Everything is read by consumers, as applications do. A consumer reads the replica of its own node, which may be
//! behind. So the leader of the stream is asked first which message is the last: a read has come as far or has failed,
//! and only what the leader says is empty is empty.

use std::{collections::BTreeSet, mem, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use history::{Function, Version};
use lab::{
    NodeName,
    client::{Answer, Client},
    network::Dialer,
    request::Request,
};
use serde_json::{Value as Json, json};
use tokio::time::timeout;

use super::{
    STREAM,
    connection::{Connection, Message, NoReply},
    subject,
};
use crate::site::Site;

/// The most records that a consumer of a log takes at once.
const POLL_MAX: u64 = 1000;

/// After how long the server forgets a consumer that was made for a read, if it was not deleted.
const READER_LIFETIME: Duration = Duration::from_secs(5);

/// How long the messages that a read waits for may take to be delivered.
const DELIVERY_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a message that was delivered may stay unacknowledged before it is delivered again.
const ACKNOWLEDGE_WITHIN: Duration = Duration::from_secs(2);

/// The code of an answer that there is no such stream.
pub(super) const NO_STREAM: u64 = 10_059;

/// The code of an answer that there is no such message.
const NO_MESSAGE: u64 = 10_037;

/// What is known of a request that was not answered as usual.
type Unanswered = Answer;

/// A client of one node.
pub(super) struct NatsClient {
    site: Arc<Site>,
    node: NodeName,
    dialer: Dialer,
    worker: u32,
    connections: u64,
    connection: Option<Connection>,
    /// The queues whose consumer is there, as far as this connection knows.
    consumers: BTreeSet<String>,
    delivered: Delivered,
    misconduct: Option<String>,
}

/// What was delivered to the operation that is not over.
enum Delivered {
    Unknown,
    /// It is a dequeue, and certainly takes nothing out of any queue.
    Nothing,
    /// It is a dequeue that has received this, and may have acknowledged it.
    Element(String),
}

/// What was read of a subject: sequence numbers and elements.
type Records = Vec<(u64, Json)>;

/// What JetStream says to a request.
enum Said {
    Done(Json),
    /// It refuses, with this code.
    Refused(u64, String),
}

impl NatsClient {
    pub(super) fn new(site: Arc<Site>, worker: u32) -> NatsClient {
        let node = site.names[worker as usize % site.names.len()].clone();
        let dialer = Dialer::of_client(site.network.as_ref(), worker);
        NatsClient {
            site,
            node,
            dialer,
            worker,
            connections: 0,
            connection: None,
            consumers: BTreeSet::new(),
            delivered: Delivered::Unknown,
            misconduct: None,
        }
    }

    async fn connect(&mut self) -> Result<(), NoReply> {
        self.connection = None;
        self.consumers.clear();
        self.connections += 1;
        let inbox = format!("_INBOX.{}-{}", self.worker, self.connections);
        let authority = self.site.of(&self.node).authority();
        self.connection = Some(Connection::open(&self.dialer, &authority, inbox).await?);
        Ok(())
    }

    async fn request(&mut self, request: &Request) -> Result<Answer, Unanswered> {
        let Request { f, key, value } = request;
        let value = value.as_deref().unwrap_or_default();
        match f {
            Function::Add | Function::Enqueue => self.publish(key, value).await.map(|_| ok(None)),
            Function::Append => {
                let sequence = self.publish(key, value).await?;
                Ok(Answer::Ok { version: Some(Version::new(sequence)), value: None })
            }
            Function::Read => {
                let records = self.records(key, 0, u64::MAX).await?;
                let elements: Vec<Json> = records.into_iter().map(|(_, element)| element).collect();
                Ok(ok(Some(json!(elements).to_string())))
            }
            Function::Poll => match value.parse() {
                Ok(from) => {
                    let records = self.records(key, from, POLL_MAX).await?;
                    Ok(ok(Some(json!(records).to_string())))
                }
                Err(_) => Ok(self.misunderstood(&format!("{value} is no offset"))),
            },
            Function::Dequeue => self.dequeue(key).await,
            other => Ok(self.misunderstood(&format!("{other} is not known"))),
        }
    }

    /// Publishes an element. Returns its sequence number in the stream.
    async fn publish(&mut self, key: &str, element: &str) -> Result<u64, Unanswered> {
        let message = self.connection()?.request(&subject(key), element).await;
        let message = self.received(message)?;
        if message.status == Some(503) {
            // Nobody has received it: the stream has no leader that listens.
            let error = "unavailable: nobody listens to the subject".to_owned();
            return Err(Answer::Fail { error, unavailable: true });
        }
        match self.said(&message.payload)? {
            Said::Done(acknowledged) => match acknowledged.get("seq").and_then(Json::as_u64) {
                Some(sequence) => Ok(sequence),
                None => Err(self.misunderstood("it acknowledges without a sequence number")),
            },
            // It may have been proposed to the replicas already.
            Said::Refused(_, why) => Err(Answer::info(format!("refused: {why}"))),
        }
    }

    /// The messages of a key from a sequence number on, at most so many of them.
    async fn records(&mut self, key: &str, from: u64, most: u64) -> Result<Records, Unanswered> {
        let Some(last) = self.last(key).await?.filter(|last| *last >= from) else {
            return Ok(Vec::new());
        };
        let config = json!({
            "deliver_policy": "by_start_sequence", "opt_start_seq": from.max(1), "ack_policy": "none",
            "filter_subject": subject(key), "replay_policy": "instant", "mem_storage": true,
            "num_replicas": 1, "inactive_threshold": nanoseconds(READER_LIFETIME),
        });
        let argument = json!({ "stream_name": STREAM, "config": config });
        let made = match self.ask(&format!("CONSUMER.CREATE.{STREAM}"), &argument).await? {
            Said::Done(made) => made,
            Said::Refused(_, why) => return Err(Answer::info(format!("refused: {why}"))),
        };
        let (name, pending) = (made.get("name"), made.get("num_pending").and_then(Json::as_u64));
        let (Some(name), Some(pending)) = (name.and_then(Json::as_str), pending) else {
            return Err(
                self.misunderstood("a new consumer has no name or does not say what it has")
            );
        };
        let records = self.take(name, pending.min(most)).await?;
        let deleted = self.connection()?;
        let deleted =
            deleted.publish(&format!("$JS.API.CONSUMER.DELETE.{STREAM}.{name}"), "").await;
        self.received(deleted)?;
        match records.last() {
            Some((end, _)) if *end >= last || records.len() as u64 == most => Ok(records),
            end => {
                let end = end.map_or(0, |(end, _)| *end);
                Err(Answer::info(format!("behind: read as far as {end}, and the last is {last}")))
            }
        }
    }

    /// The sequence number of the last message of a key, as the leader of the stream says.
    async fn last(&mut self, key: &str) -> Result<Option<u64>, Unanswered> {
        let argument = json!({ "last_by_subj": subject(key) });
        match self.ask(&format!("STREAM.MSG.GET.{STREAM}"), &argument).await? {
            Said::Done(found) => match found.pointer("/message/seq").and_then(Json::as_u64) {
                Some(sequence) => Ok(Some(sequence)),
                None => Err(self.misunderstood("a message without its sequence number")),
            },
            // A stream that is lost is lost with all that was in it.
            Said::Refused(NO_MESSAGE | NO_STREAM, _) => Ok(None),
            Said::Refused(_, why) => Err(Answer::info(format!("refused: {why}"))),
        }
    }

    /// Takes so many messages that a consumer has.
    async fn take(&mut self, consumer: &str, count: u64) -> Result<Records, Unanswered> {
        let argument = json!({ "batch": count, "expires": nanoseconds(DELIVERY_TIMEOUT) });
        let asked = self.pull(consumer, &argument).await;
        self.received(asked)?;
        let mut records = Vec::new();
        while (records.len() as u64) < count {
            let message = self.connection()?.delivery(consumer).await;
            let message = self.received(message)?;
            if let Some(status) = message.status {
                let of = format!("{} of {count} messages", records.len());
                return Err(Answer::info(format!("incomplete: status {status} after {of}")));
            }
            let sequence = message.reply.as_deref().and_then(sequence);
            let Some(sequence) = sequence else {
                return Err(self.misunderstood("a message without its sequence number"));
            };
            records.push((sequence, element(&message)));
        }
        Ok(records)
    }

    async fn pull(&mut self, consumer: &str, argument: &Json) -> Result<(), NoReply> {
        let argument = argument.to_string();
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{consumer}");
        match &mut self.connection {
            Some(connection) => connection.publish(&subject, &argument).await,
            None => Err(NoReply::Lost("there is no connection".to_owned())),
        }
    }

    /// Takes an element out of a queue. It is taken when its acknowledgement was acknowledged.
    async fn dequeue(&mut self, queue: &str) -> Result<Answer, Unanswered> {
        self.delivered = Delivered::Nothing;
        if !self.has_consumer(queue).await? {
            // The stream is lost, and with it what was in the queue.
            return Ok(ok(None));
        }
        self.delivered = Delivered::Unknown;
        let asked = self.pull(queue, &json!({ "batch": 1, "no_wait": true })).await;
        self.received(asked)?;
        let message = self.connection()?.delivery(queue).await;
        let message = self.received(message)?;
        if message.status.is_some() {
            self.delivered = Delivered::Nothing;
            return self.nothing_to_deliver(queue).await;
        }
        let element = element(&message).to_string();
        let Some(acknowledge_to) = message.reply else {
            return Err(self.misunderstood("a message that cannot be acknowledged"));
        };
        self.delivered = Delivered::Element(element.clone());
        let acknowledged = self.connection()?.request(&acknowledge_to, "+ACK").await;
        match self.received(acknowledged)?.status {
            None => Ok(ok(Some(element))),
            // It will be delivered again, unless the acknowledgement is on its way.
            Some(status) => Err(Answer::info(format!("unacknowledged: status {status}"))),
        }
    }

    /// What is known of the operation if its outcome is not.
    fn unknown(&mut self, error: String) -> Answer {
        match mem::replace(&mut self.delivered, Delivered::Unknown) {
            Delivered::Unknown => Answer::info(error),
            Delivered::Nothing => Answer::Fail { error, unavailable: true },
            Delivered::Element(element) => Answer::Info { error, value: Some(element) },
        }
    }

    /// Whether the consumer of a queue is there. It is made by whoever needs it first, and all clients make the same.
    async fn has_consumer(&mut self, queue: &str) -> Result<bool, Unanswered> {
        if self.consumers.contains(queue) {
            return Ok(true);
        }
        let config = json!({
            "durable_name": queue, "deliver_policy": "all", "ack_policy": "explicit",
            "ack_wait": nanoseconds(ACKNOWLEDGE_WITHIN), "max_deliver": -1,
            "filter_subject": subject(queue), "replay_policy": "instant",
        });
        let argument = json!({ "stream_name": STREAM, "config": config });
        let operation = format!("CONSUMER.DURABLE.CREATE.{STREAM}.{queue}");
        match self.ask(&operation, &argument).await? {
            Said::Done(_) => {
                self.consumers.insert(queue.to_owned());
                Ok(true)
            }
            Said::Refused(NO_STREAM, _) => Ok(false),
            Said::Refused(_, why) => {
                Err(Answer::Fail { error: format!("no consumer: {why}"), unavailable: true })
            }
        }
    }

    /// What a dequeue says to which nothing was delivered. The queue is empty if no message of it is left in the stream:
    /// one that was delivered to others and not acknowledged is delivered again, and the consumer may be behind.
    async fn nothing_to_deliver(&mut self, queue: &str) -> Result<Answer, Unanswered> {
        Ok(match self.last(queue).await? {
            None => ok(None),
            Some(last) => {
                let error = format!("undelivered: message {last} is in the stream");
                Answer::Fail { error, unavailable: false }
            }
        })
    }

    /// Asks JetStream. If nobody answers for it, this had no effect that matters: consumers come and go.
    async fn ask(&mut self, operation: &str, argument: &Json) -> Result<Said, Unanswered> {
        let answer = self.connection()?.ask(operation, argument).await;
        match self.received(answer)? {
            Some(answer) => Ok(said(answer)),
            None => {
                let error = "unavailable: JetStream does not listen".to_owned();
                Err(Answer::Fail { error, unavailable: true })
            }
        }
    }

    fn connection(&mut self) -> Result<&mut Connection, Unanswered> {
        self.connection.as_mut().ok_or_else(|| {
            let error = "unavailable: there is no connection".to_owned();
            Answer::Fail { error, unavailable: true }
        })
    }

    fn received<T>(&mut self, received: Result<T, NoReply>) -> Result<T, Unanswered> {
        received.map_err(|error| match error {
            NoReply::Lost(why) => Answer::info(format!("lost: {why}")),
            NoReply::Misunderstood(why) => self.misunderstood(&why),
        })
    }

    fn said(&mut self, payload: &[u8]) -> Result<Said, Unanswered> {
        let parsed = serde_json::from_slice(payload);
        parsed.map(said).map_err(|error| self.misunderstood(&format!("no JSON ({error})")))
    }

    /// An answer that nobody expects: the client is not to be believed.
    fn misunderstood(&mut self, why: &str) -> Answer {
        let why = format!("an answer of {}: {why}", self.node);
        self.misconduct = Some(why.clone());
        Answer::info(why)
    }
}

fn ok(value: Option<String>) -> Answer {
    Answer::Ok { version: None, value }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn said(answer: Json) -> Said {
    let Some(error) = answer.get("error") else { return Said::Done(answer) };
    let code = error.get("err_code").and_then(Json::as_u64).unwrap_or(0);
    let text = error.get("description").and_then(Json::as_str).unwrap_or_default();
    Said::Refused(code, format!("{text} ({code})"))
}

/// The element of a message. One that is no JSON was not written by any client, as the checks will say.
fn element(message: &Message) -> Json {
    let text = String::from_utf8_lossy(&message.payload);
    serde_json::from_str(&text).unwrap_or_else(|_| Json::String(text.into_owned()))
}

/// The sequence number of a message in its stream, by the subject of its acknowledgement:
/// `$JS.ACK.STREAM.CONSUMER.DELIVERED.SEQUENCE.`... with the domain and the account after `ACK` in a longer form.
fn sequence(reply: &str) -> Option<u64> {
    let words: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
    let at = if words.len() > 7 { 5 } else { 3 };
    words.get(at)?.parse().ok()
}

impl Client for NatsClient {
    fn open(&mut self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            self.connect().await.map_err(|error| match error {
                NoReply::Lost(why) => why,
                NoReply::Misunderstood(why) => {
                    self.misunderstood(&why);
                    why
                }
            })
        })
    }

    fn perform<'a>(
        &'a mut self,
        request: &'a Request,
        deadline: Duration,
    ) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            self.delivered = Delivered::Unknown;
            match timeout(deadline, self.request(request)).await {
                Ok(Err(Answer::Info { error, .. })) => self.unknown(error),
                Ok(Ok(answer) | Err(answer)) => answer,
                Err(_) => self.unknown("timeout: no answer in time".to_owned()),
            }
        })
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        self.connection = None;
        Box::pin(std::future::ready(()))
    }

    fn node(&self) -> Option<&NodeName> {
        Some(&self.node)
    }

    fn misconduct(&mut self) -> Option<String> {
        self.misconduct.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_number_is_found_in_both_forms() {
        assert_eq!(sequence("$JS.ACK.TESTED.c1.1.42.7.1700000000.3"), Some(42));
        assert_eq!(sequence("$JS.ACK.d.ACCOUNT.TESTED.c1.1.42.7.1700000000.3.x"), Some(42));
        assert_eq!(sequence("$JS.ACK.TESTED.c1"), None);
        assert_eq!(sequence("_INBOX.1"), None);
    }

    #[test]
    fn what_is_no_number_is_an_element_that_nobody_wrote() {
        let element =
            |payload: &[u8]| element(&Message { payload: payload.into(), ..Message::default() });
        assert_eq!(element(b"17"), json!(17));
        assert_eq!(element(b"\xb7"), json!("\u{fffd}"));
    }
}
