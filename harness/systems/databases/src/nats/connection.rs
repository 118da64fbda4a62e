//! A connection to a NATS server: its text protocol, as far as requests and their replies need it.
//!
//! The client library async-nats is not used, for two reasons. It opens its sockets itself, so its clients could not
//! be hosts of the virtual network. And it connects again by itself, and then sends what was waiting, which is to
//! be the worker's decision here: a connection that broke is reported, and nothing is sent twice.

use std::time::Duration;

use lab::network::Dialer;
use serde_json::{Value as Json, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream},
    net::TcpStream,
    time::timeout,
};

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The most bytes of a message that is taken: more than a server sends.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Why there is no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoReply {
    /// The connection broke, or was not opened.
    Lost(String),
    /// The server says what nobody expects.
    Misunderstood(String),
}

impl From<std::io::Error> for NoReply {
    fn from(error: std::io::Error) -> Self {
        NoReply::Lost(error.to_string())
    }
}

/// A message that was received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    /// Whom to answer.
    pub(super) reply: Option<String>,
    /// A status instead of a payload: 503 if nobody listens to the subject, 404 if there is nothing to deliver.
    pub(super) status: Option<u16>,
    pub(super) payload: Vec<u8>,
}

/// A connection with an inbox of its own for the replies.
pub(super) struct Connection {
    stream: BufStream<TcpStream>,
    inbox: String,
    /// Requests so far. Each has a subject of its own for its replies, so that a late one is not taken for
    /// that to another request.
    requests: u64,
}

impl Connection {
    /// Connects. No other connection of the run has this inbox.
    pub(super) async fn open(
        dialer: &Dialer,
        authority: &str,
        inbox: String,
    ) -> Result<Connection, NoReply> {
        let opened = async {
            let stream = dialer.connect(authority).await?;
            stream.set_nodelay(true)?;
            let mut connection = Connection { stream: BufStream::new(stream), inbox, requests: 0 };
            connection.greet().await?;
            Ok(connection)
        };
        let late = || NoReply::Lost("the connection was not opened in time".to_owned());
        timeout(CONNECT_TIMEOUT, opened).await.map_err(|_| late())?
    }

    async fn greet(&mut self) -> Result<(), NoReply> {
        let greeting = self.line().await?;
        if !greeting.starts_with("INFO ") {
            return Err(unexpected(&greeting));
        }
        let options = json!({
            "verbose": false, "pedantic": false, "lang": "rust", "version": env!("CARGO_PKG_VERSION"),
            "protocol": 1, "headers": true, "no_responders": true,
        });
        let hello = format!("CONNECT {options}\r\nSUB {}.* 1\r\nPING\r\n", self.inbox);
        self.write(&[hello.as_bytes()]).await?;
        loop {
            match self.line().await?.as_str() {
                "PONG" => return Ok(()),
                line => self.notice(line).await?,
            }
        }
    }

    /// Sends a message once. What replies to it, [`reply`](Self::reply) or [`delivery`](Self::delivery) returns.
    pub(super) async fn publish(&mut self, subject: &str, payload: &str) -> Result<(), NoReply> {
        self.requests += 1;
        let head = format!("PUB {subject} {} {}\r\n", self.reply_subject(), payload.len());
        self.write(&[head.as_bytes(), payload.as_bytes(), b"\r\n"]).await
    }

    fn reply_subject(&self) -> String {
        format!("{}.{}", self.inbox, self.requests)
    }

    /// The next reply to what was published last.
    async fn reply(&mut self) -> Result<Message, NoReply> {
        loop {
            let (subject, message) = self.message().await?;
            if subject == self.reply_subject() {
                return Ok(message);
            }
        }
    }

    /// The next message that a consumer delivers, for which it was asked by what was published last; or its status,
    /// if it delivers nothing more. A message keeps its own subject; a status has that of a reply.
    pub(super) async fn delivery(&mut self, consumer: &str) -> Result<Message, NoReply> {
        loop {
            let (subject, message) = self.message().await?;
            let is_of = |reply: &String| {
                reply.starts_with("$JS.ACK.") && reply.split('.').any(|word| word == consumer)
            };
            if subject == self.reply_subject() || message.reply.as_ref().is_some_and(is_of) {
                return Ok(message);
            }
        }
    }

    /// The next message, and its subject.
    async fn message(&mut self) -> Result<(String, Message), NoReply> {
        loop {
            let line = self.line().await?;
            let Some(head) = Head::parse(&line)? else {
                self.notice(&line).await?;
                continue;
            };
            let mut bytes = vec![0; head.total + 2];
            self.stream.read_exact(&mut bytes).await?;
            if !bytes.ends_with(b"\r\n") {
                return Err(unexpected("a message that is longer than it says"));
            }
            bytes.truncate(head.total);
            return Ok((head.subject.clone(), head.message(bytes)?));
        }
    }

    /// Sends a request once, and returns the first reply.
    pub(super) async fn request(
        &mut self,
        subject: &str,
        payload: &str,
    ) -> Result<Message, NoReply> {
        self.publish(subject, payload).await?;
        self.reply().await
    }

    /// Sends a request to JetStream once, and returns the reply. `None`: nobody listens there.
    pub(super) async fn ask(
        &mut self,
        operation: &str,
        argument: &Json,
    ) -> Result<Option<Json>, NoReply> {
        let argument = if argument.is_null() { String::new() } else { argument.to_string() };
        let message = self.request(&format!("$JS.API.{operation}"), &argument).await?;
        if message.status == Some(503) {
            return Ok(None);
        }
        let parsed = serde_json::from_slice(&message.payload);
        parsed.map(Some).map_err(|error| unexpected(&format!("no JSON ({error})")))
    }

    /// Takes note of a line that is no message.
    async fn notice(&mut self, line: &str) -> Result<(), NoReply> {
        let word = line.split(' ').next().unwrap_or_default();
        match word.to_ascii_uppercase().as_str() {
            "PING" => self.write(&[b"PONG\r\n"]).await,
            // Servers tell of each other.
            "INFO" | "PONG" | "+OK" => Ok(()),
            // After most errors the server closes the connection.
            "-ERR" => Err(NoReply::Lost(format!("the server says {}", line[word.len()..].trim()))),
            _ => Err(unexpected(line)),
        }
    }

    async fn line(&mut self) -> Result<String, NoReply> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).await?;
        match line.strip_suffix(b"\r\n") {
            Some(line) => Ok(String::from_utf8_lossy(line).trim_end().to_owned()),
            None => Err(NoReply::Lost("the server has closed the connection".to_owned())),
        }
    }

    async fn write(&mut self, parts: &[&[u8]]) -> Result<(), NoReply> {
        for part in parts {
            self.stream.write_all(part).await?;
        }
        Ok(self.stream.flush().await?)
    }
}

fn unexpected(what: &str) -> NoReply {
    let shown: String = what.chars().take(120).collect();
    NoReply::Misunderstood(format!("unexpected: {shown}"))
}

/// The line before a message.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    subject: String,
    reply: Option<String>,
    /// How many of its bytes are headers.
    headers: usize,
    /// How many bytes it has.
    total: usize,
}

impl Head {
    /// `None`: it is the line of something else.
    fn parse(line: &str) -> Result<Option<Head>, NoReply> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let (subject, reply, headers, total) = match words[..] {
            ["MSG", subject, _, total] => (subject, None, "0", total),
            ["MSG", subject, _, reply, total] => (subject, Some(reply), "0", total),
            ["HMSG", subject, _, headers, total] => (subject, None, headers, total),
            ["HMSG", subject, _, reply, headers, total] => (subject, Some(reply), headers, total),
            ["MSG" | "HMSG", ..] => return Err(unexpected(line)),
            _ => return Ok(None),
        };
        let size = |word: &str| word.parse().ok().filter(|bytes| *bytes <= MESSAGE_BYTES_MAX);
        match (size(headers), size(total)) {
            (Some(headers), Some(total)) if headers <= total => {
                let (subject, reply) = (subject.to_owned(), reply.map(str::to_owned));
                Ok(Some(Head { subject, reply, headers, total }))
            }
            _ => Err(unexpected(line)),
        }
    }

    fn message(self, mut bytes: Vec<u8>) -> Result<Message, NoReply> {
        let payload = bytes.split_off(self.headers);
        let headers = String::from_utf8_lossy(&bytes);
        // `NATS/1.0 404 No Messages`. Without a number there are only other headers.
        let status = match headers.lines().next().and_then(|line| line.split(' ').nth(1)) {
            Some(number) => Some(number.parse().map_err(|_| unexpected(&headers))?),
            None => None,
        };
        Ok(Message { reply: self.reply, status, payload })
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn the_line_before_a_message_is_read() {
        let parsed =
            |line| Head::parse(line).map(|head| head.map(|head| (head.headers, head.total)));
        assert_eq!(parsed("MSG a.b 1 5"), Ok(Some((0, 5))));
        assert_eq!(parsed("MSG a.b 1 c.d 5"), Ok(Some((0, 5))));
        assert_eq!(parsed("HMSG a.b 1 16 16"), Ok(Some((16, 16))));
        assert_eq!(parsed("HMSG a.b 1 c.d 12 17"), Ok(Some((12, 17))));
        assert_eq!(parsed("PING"), Ok(None));
        for wrong in ["MSG a.b 1", "HMSG a.b 1 17 16", "MSG a.b 1 -5", "MSG a.b 1 99999999999"] {
            assert!(matches!(Head::parse(wrong), Err(NoReply::Misunderstood(_))), "{wrong}");
        }
    }

    /// What a client takes for the reply to a question, if a server says this.
    async fn reply_of(said: &'static [u8]) -> Result<Message, NoReply> {
        asked(said).await?.reply().await
    }

    /// A client that has asked a question, of a server that says this.
    async fn asked(said: &'static [u8]) -> Result<Connection, NoReply> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let authority = listener.local_addr().expect("it is bound").to_string();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("it connects");
            let mut received = Vec::new();
            stream.write_all(b"INFO {}\r\n").await.expect("it listens");
            while !received.ends_with(b"PING\r\n") {
                stream.read_buf(&mut received).await.expect("it greets");
            }
            stream.write_all(b"PONG\r\n").await.expect("it listens");
            while !received.ends_with(b"question\r\n") {
                stream.read_buf(&mut received).await.expect("it asks");
            }
            stream.write_all(said).await.expect("it listens");
        });
        let mut connection =
            Connection::open(&Dialer::default(), &authority, "_INBOX.1".to_owned()).await?;
        connection.publish("a.b", "question").await?;
        server.await.expect("no panic");
        Ok(connection)
    }

    #[tokio::test]
    async fn a_reply_is_found_among_other_lines() {
        let message = |reply: Option<&str>, status, payload: &str| {
            Ok(Message { reply: reply.map(str::to_owned), status, payload: payload.into() })
        };
        let found = reply_of(
            b"PING\r\nINFO {}\r\nMSG _INBOX.1.0 1 3\r\nold\r\nMSG _INBOX.1.1 1 4\r\nreal\r\n",
        );
        assert_eq!(found.await, message(None, None, "real"));
        let status = b"HMSG _INBOX.1.1 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n";
        assert_eq!(reply_of(status).await, message(None, Some(503), ""));
        let headers = b"HMSG _INBOX.1.1 1 a.c 19 21\r\nNATS/1.0\r\nA: bc\r\n\r\n17\r\n";
        assert_eq!(reply_of(headers).await, message(Some("a.c"), None, "17"));
        // A line break may be in the payload.
        let lines = b"MSG _INBOX.1.1 1 a.c 4\r\na\r\nb\r\n";
        assert_eq!(reply_of(lines).await, message(Some("a.c"), None, "a\r\nb"));
    }

    #[tokio::test]
    async fn what_a_consumer_delivers_is_no_reply_to_a_request() {
        let said = b"MSG t.s1 1 $JS.ACK.S.other.1.5.1.7.2 1\r\n5\r\nMSG t.s1 1 $JS.ACK.S.mine.1.6.1.7.2 1\r\n6\r\n\
                     HMSG _INBOX.1.1 1 28 28\r\nNATS/1.0 404 No Messages\r\n\r\n\r\n";
        let mut connection = asked(said).await.expect("it greets");
        let delivered = connection.delivery("mine").await.expect("it is there");
        assert_eq!(delivered.payload, b"6");
        assert_eq!(delivered.reply.as_deref(), Some("$JS.ACK.S.mine.1.6.1.7.2"));
        assert_eq!(connection.delivery("mine").await.map(|end| end.status), Ok(Some(404)));
        assert_eq!(reply_of(said).await.map(|end| end.status), Ok(Some(404)));
    }

    #[tokio::test]
    async fn a_broken_connection_is_lost_and_nonsense_is_misunderstood() {
        let lost = |reply| matches!(reply, Err(NoReply::Lost(_)));
        assert!(lost(reply_of(b"").await));
        assert!(lost(reply_of(b"MSG _INBOX.1.1 1 9\r\nhalf").await));
        assert!(lost(reply_of(b"-ERR 'Stale Connection'\r\n").await));
        let misunderstood = |reply| matches!(reply, Err(NoReply::Misunderstood(_)));
        assert!(misunderstood(reply_of(b"HELLO\r\n").await));
        assert!(misunderstood(reply_of(b"MSG _INBOX.1.1 1 2\r\nlong\r\n").await));
        assert!(misunderstood(
            reply_of(b"HMSG _INBOX.1.1 1 16 16\r\nNATS/1.0 5x3\r\n\r\n\r\n").await
        ));
    }
}
