//! A client in any language: a child process that reads requests and writes answers, one JSON object a
//! line. Its standard error is a log in the run directory.
//!
//! ```text
//! > {"hello":1,"protocol":1,"workload":"register","claim":"linearizable","options":{},"seed":7}
//! < {"hello":1,"ops":["read","write"]}
//! > {"id":1,"do":"open","node":{"name":"n2","ip":"127.3.4.5","ports":{"client":7101}}}
//! < {"id":1,"type":"ok"}
//! > {"id":2,"do":"invoke","f":"write","key":"k3","value":5,"timeout_ms":1000}
//! < {"id":2,"type":"ok"}   or   {"id":2,"type":"fail"|"info","error":"conflict","text":"..."}
//! ```
//!
//! `do` is also `setup` (once, before any open of the run) and `close`. A client answers every request
//! once, in order, within `timeout_ms`. `fail` means that the operation certainly had no effect; what is
//! not certain is `info`. The class `unavailable` has the connection opened anew.
//!
//! A client that breaks these rules is a broken adapter, and nothing that it says can be relied on: see
//! [`Client::misconduct`].

use std::{
    collections::VecDeque,
    io,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::future::BoxFuture;
use history::Function;
use lab::{
    NodeName,
    client::{Answer, Client},
    request::Request,
    supervisor::Supervisor,
};
use serde_json::{Map, Value as Json, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{ChildStdin, ChildStdout},
    time::{Instant, timeout_at},
};

use crate::answer::{answer, protocol_name, request_fields};

/// The version of the protocol.
const PROTOCOL: u64 = 1;

/// The longest line that a client may write, in bytes.
const LINE_BYTES_MAX: usize = 16 << 20;

/// How long a new child has to say hello.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);

/// How long a connection may take to open.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a client may take to prepare the system.
const SETUP_TIMEOUT: Duration = Duration::from_secs(60);

/// How much longer than its own timeout a child may take.
const GRACE: Duration = Duration::from_millis(250);

/// How long a late answer is waited for before the child is killed.
const LATE_DEADLINE: Duration = Duration::from_secs(2);

/// What all clients of a run have in common.
pub(crate) struct Shared {
    /// Starts children, from a thread that lives as long as the run.
    pub(crate) supervisor: Supervisor,
    /// The file for the children's standard error, once the run has a directory.
    pub(crate) log: Arc<OnceLock<PathBuf>>,
    /// The command of a worker's child, with where its standard error goes.
    pub(crate) command: Box<dyn Fn(u32) -> io::Result<Command> + Send + Sync>,
    /// The first line.
    pub(crate) hello: Json,
    /// What a client must be able to do.
    pub(crate) functions: Vec<Function>,
}

/// A client that is a child process.
pub(crate) struct ExecClient {
    shared: Arc<Shared>,
    worker: u32,
    node: NodeName,
    /// The node as children are told of it.
    address: Json,
    child: Option<Line>,
    next_id: u64,
    /// The request whose answer is late, and when it was found to be.
    late: VecDeque<u64>,
    misconduct: Option<String>,
}

/// A child and its pipes. Dropping it kills it.
struct Line {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// The beginning of a line that was not complete yet.
    partial: Vec<u8>,
}

impl Drop for Line {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Why an answer was not read.
enum Failure {
    /// It did not come in time.
    Late,
    /// The child has ended.
    Died,
    /// The child breaks the protocol.
    Broken(String),
}

impl Line {
    async fn write(&mut self, message: &Json) -> Result<(), Failure> {
        let mut line = message.to_string();
        line.push('\n');
        self.stdin.write_all(line.as_bytes()).await.map_err(|_| Failure::Died)
    }

    /// Reads a line. May be cancelled: what was read is kept.
    async fn read(&mut self, deadline: Instant) -> Result<Json, Failure> {
        loop {
            let filled = timeout_at(deadline, self.stdout.fill_buf()).await;
            let buffer = filled.map_err(|_| Failure::Late)?.map_err(|_| Failure::Died)?;
            if buffer.is_empty() {
                return Err(Failure::Died);
            }
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(buffer.len(), |end| end + 1);
            self.partial.extend_from_slice(&buffer[..taken]);
            self.stdout.consume(taken);
            if self.partial.len() > LINE_BYTES_MAX {
                return Err(Failure::Broken(format!(
                    "a line is longer than {LINE_BYTES_MAX} bytes"
                )));
            }
            if end.is_some() {
                let line = std::mem::take(&mut self.partial);
                return serde_json::from_slice(&line).map_err(|_| {
                    let text: String =
                        String::from_utf8_lossy(&line).trim_end().chars().take(120).collect();
                    Failure::Broken(format!("a line is not JSON: {text}"))
                });
            }
        }
    }
}

impl ExecClient {
    pub(crate) fn new(shared: Arc<Shared>, worker: u32, node: NodeName, address: Json) -> Self {
        ExecClient {
            shared,
            worker,
            node,
            address,
            child: None,
            next_id: 1,
            late: VecDeque::new(),
            misconduct: None,
        }
    }

    /// Lets the client prepare the system.
    pub(crate) async fn set_up(&mut self) -> Result<(), String> {
        self.start().await?;
        let fields = [("do", json!("setup")), ("node", self.address.clone())];
        let answer = self.ask(fields, SETUP_TIMEOUT).await;
        let closed = answer.and_then(|answer| is_ok(&answer));
        self.child = None;
        match self.misconduct.take() {
            Some(why) => Err(why),
            None => closed,
        }
    }

    /// Starts a child unless there is one.
    async fn start(&mut self) -> Result<(), String> {
        if self.child.is_some() {
            return Ok(());
        }
        self.late.clear();
        let mut line =
            self.spawn().await.map_err(|error| format!("cannot start the client: {error}"))?;
        let hello = async {
            line.write(&self.shared.hello).await?;
            line.read(Instant::now() + HELLO_DEADLINE).await
        };
        let hello = match hello.await {
            Ok(hello) => hello,
            Err(Failure::Late) => {
                return Err(format!("no hello of the client within {HELLO_DEADLINE:?}"));
            }
            Err(Failure::Died) => return Err("the client ended before its hello".to_owned()),
            Err(Failure::Broken(why)) => return Err(self.broken(why)),
        };
        self.check_hello(&hello).map_err(|why| self.broken(why))?;
        self.child = Some(line);
        Ok(())
    }

    fn check_hello(&self, hello: &Json) -> Result<(), String> {
        if hello.get("hello").and_then(Json::as_u64) != Some(PROTOCOL) {
            return Err(format!(
                "the first line must be {{\"hello\":{PROTOCOL},\"ops\":[...]}}: {hello}"
            ));
        }
        let ops = hello.get("ops").and_then(Json::as_array);
        let ops: Vec<&str> = ops.into_iter().flatten().filter_map(Json::as_str).collect();
        let missing: Vec<&str> = self
            .shared
            .functions
            .iter()
            .map(|function| protocol_name(*function))
            .filter(|name| !ops.contains(name))
            .collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(format!(
                "the workload needs the operations {}, which the client does not offer (\"ops\" in its hello)",
                missing.join(", ")
            )),
        }
    }

    async fn spawn(&self) -> io::Result<Line> {
        let mut command = (self.shared.command)(self.worker)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = self.shared.supervisor.run(move || command.spawn()).await??;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let missing = || io::Error::other("a pipe is missing");
        let stdin = ChildStdin::from_std(stdin.ok_or_else(missing)?)?;
        let stdout = ChildStdout::from_std(stdout.ok_or_else(missing)?)?;
        Ok(Line {
            child,
            stdin,
            stdout: BufReader::with_capacity(1 << 16, stdout),
            partial: Vec::new(),
        })
    }

    /// Takes note that the client breaks the rules, and ends it.
    fn broken(&mut self, why: String) -> String {
        self.child = None;
        let why = format!("the client at {} is broken: {why}", self.node);
        self.misconduct.get_or_insert_with(|| why.clone());
        why
    }

    /// Sends a request and waits for its answer. In between only answers that came too late may arrive.
    async fn ask<const N: usize>(
        &mut self,
        fields: [(&str, Json); N],
        timeout: Duration,
    ) -> Result<Json, String> {
        let id = self.next_id;
        self.next_id += 1;
        let mut message: Map<String, Json> =
            fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        message.insert("id".to_owned(), json!(id));
        message.insert("timeout_ms".to_owned(), json!(timeout.as_millis() as u64));
        let Some(line) = &mut self.child else { return Err("the client has ended".to_owned()) };
        let deadline = Instant::now() + timeout + GRACE;
        let answered = async {
            line.write(&Json::Object(message)).await?;
            loop {
                let answer = line.read(deadline).await?;
                match answer.get("id").and_then(Json::as_u64) {
                    Some(answered) if answered == id => return Ok(answer),
                    Some(answered) if self.late.front() == Some(&answered) => {
                        self.late.pop_front();
                    }
                    Some(other) if other < id => {
                        return Err(Failure::Broken(format!("it answers request {other} twice")));
                    }
                    Some(other) => {
                        return Err(Failure::Broken(format!(
                            "it answers request {other}, which nobody has sent"
                        )));
                    }
                    None => return Err(Failure::Broken(format!("an answer has no id: {answer}"))),
                }
            }
        };
        match answered.await {
            Ok(answer) => Ok(answer),
            Err(Failure::Late) => {
                self.late.push_back(id);
                Err("timeout: the client did not answer in time".to_owned())
            }
            Err(Failure::Died) => {
                self.child = None;
                Err("the client has ended".to_owned())
            }
            Err(Failure::Broken(why)) => Err(self.broken(why)),
        }
    }

    /// Waits for answers that are late, so that the next request is not behind them, and ends a child that
    /// does not give them.
    async fn settle(&mut self) {
        let deadline = Instant::now() + LATE_DEADLINE;
        while let Some(late) = self.late.front().copied() {
            let Some(line) = &mut self.child else { break };
            match line.read(deadline).await {
                Ok(answer) if answer.get("id").and_then(Json::as_u64) == Some(late) => {
                    self.late.pop_front();
                }
                Ok(answer) => {
                    let _ = self.broken(format!("it answers what nobody has asked: {answer}"));
                }
                Err(Failure::Late | Failure::Died) => self.child = None,
                Err(Failure::Broken(why)) => drop(self.broken(why)),
            }
        }
        self.late.clear();
    }
}

/// Whether an answer to `open` or `setup` says that it is done.
fn is_ok(answer: &Json) -> Result<(), String> {
    if answer.get("type").and_then(Json::as_str) == Some("ok") {
        return Ok(());
    }
    let text = |name: &str| answer.get(name).and_then(Json::as_str);
    Err(text("text").or(text("error")).map_or_else(|| answer.to_string(), str::to_owned))
}

impl Client for ExecClient {
    fn open(&mut self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            self.settle().await;
            self.start().await?;
            let fields = [("do", json!("open")), ("node", self.address.clone())];
            let answer = self.ask(fields, OPEN_TIMEOUT).await?;
            is_ok(&answer)
        })
    }

    fn perform<'a>(
        &'a mut self,
        request: &'a Request,
        deadline: Duration,
    ) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            let mut fields = request_fields(request);
            let mut field = |name: &'static str| (name, fields.remove(name).unwrap_or(Json::Null));
            let fields = [("do", json!("invoke")), field("f"), field("key"), field("value")];
            match self.ask(fields, deadline).await {
                Ok(json) => {
                    answer(request, &json).unwrap_or_else(|why| Answer::info(self.broken(why)))
                }
                Err(why) => Answer::info(why),
            }
        })
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if self.child.is_some() && self.late.is_empty() {
                let _ = self.ask([("do", json!("close"))], OPEN_TIMEOUT).await;
            }
            self.child = None;
        })
    }

    fn node(&self) -> Option<&NodeName> {
        Some(&self.node)
    }

    fn misconduct(&mut self) -> Option<String> {
        self.misconduct.take()
    }
}
