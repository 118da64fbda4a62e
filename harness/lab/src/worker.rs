//! A worker: a logical client that sends requests and records invocations and completions. After an
//! indeterminate operation it continues under a new process number, because the old process may
//! still have a request in progress. Does not know about faults.

use std::{io, time::Duration};

use history::{
    Action, ClientEvent, Kind, NemesisEvent, Recorder,
    nemesis::{ClientFailed, OpensFailed},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{
    client::{Answer, Client},
    node::NodeName,
    request::Request,
    workload::RequestSource,
};

/// How long to wait before a failed read is retried.
const RETRY_PERIOD: Duration = Duration::from_millis(50);

/// How long a worker waits for the answer to a request.
#[derive(Clone, Copy, Debug)]
pub struct ClientTimeouts {
    /// For operations with an effect.
    pub write: Duration,
    /// For reads.
    pub get: Duration,
}

/// One worker.
pub struct Worker {
    process: u64,
    concurrency: u64,
    client: Box<dyn Client>,
    is_open: bool,
    /// Opens that have failed, and why the last one did.
    failed_opens: (u64, String),
    recorder: Recorder,
    timeouts: ClientTimeouts,
    misreports: bool,
}

impl Worker {
    /// A worker whose processes are numbered `number`, `number + concurrency` and so on.
    #[must_use]
    pub fn new(
        number: u32,
        concurrency: u32,
        client: Box<dyn Client>,
        recorder: Recorder,
        timeouts: ClientTimeouts,
    ) -> Self {
        Worker {
            process: number.into(),
            concurrency: concurrency.into(),
            client,
            is_open: false,
            failed_opens: (0, String::new()),
            recorder,
            timeouts,
            misreports: false,
        }
    }

    /// Makes the worker record unknown outcomes as failures: a defect of the harness, which the checks
    /// must find.
    #[must_use]
    pub fn misreporting(self) -> Self {
        Worker { misreports: true, ..self }
    }

    /// The number of the worker, from 0.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.process % self.concurrency
    }

    /// The node that the worker's client connects to.
    #[must_use]
    pub fn node(&self) -> Option<&NodeName> {
        self.client.node()
    }

    /// Opens the client's connection, if that is possible, so that a client that takes long to start does
    /// so before the load begins.
    ///
    /// # Errors
    /// The history cannot be written.
    pub async fn prepare(&mut self) -> io::Result<()> {
        self.open().await.map(drop)
    }

    /// Sends the source's requests until the load ends, and returns the worker.
    ///
    /// # Errors
    /// The history cannot be written.
    pub async fn work(
        mut self,
        mut source: impl RequestSource,
        mut load_ended: watch::Receiver<bool>,
    ) -> io::Result<Worker> {
        while !*load_ended.borrow() {
            // A client in this process may answer without ever waiting.
            tokio::task::coop::consume_budget().await;
            let mut is_available = self.open().await?;
            if is_available {
                let request = source.next_request(self.process);
                let answer = self.perform(&request).await?;
                source.observe(&request, &answer);
                is_available = !matches!(answer, Answer::Fail { unavailable: true, .. });
            }
            // The source knows by now what was answered: who got a lock holds it for a while.
            let mut pause = source.pause();
            if !is_available {
                pause = pause.max(source.backoff());
            }
            if !pause.is_zero() {
                // Only the end of the load cuts a pause short.
                let _ = timeout(pause, load_ended.wait_for(|ended| *ended)).await;
            }
        }
        Ok(self)
    }

    /// Sends one request, if a connection can be opened.
    ///
    /// # Errors
    /// The history cannot be written.
    pub async fn send(&mut self, request: &Request) -> io::Result<Option<Answer>> {
        if !self.open().await? {
            return Ok(None);
        }
        self.perform(request).await.map(Some)
    }

    /// Sends a request until it succeeds or the deadline has passed.
    ///
    /// # Errors
    /// The history cannot be written. The inner error is that of the last attempt.
    pub async fn retry(
        &mut self,
        request: &Request,
        deadline: Duration,
    ) -> io::Result<Result<Option<String>, String>> {
        let end = Instant::now() + deadline;
        loop {
            let error = match self.send(request).await? {
                Some(Answer::Ok { value, .. }) => return Ok(Ok(value)),
                Some(Answer::Fail { error, .. } | Answer::Info { error, .. }) => error,
                None => self.failed_opens.1.clone(),
            };
            if Instant::now() >= end {
                return Ok(Err(error));
            }
            sleep(RETRY_PERIOD).await;
        }
    }

    /// Closes the client, and records the opens that failed.
    ///
    /// # Errors
    /// The history cannot be written.
    pub async fn close(mut self) -> io::Result<()> {
        self.client.close().await;
        self.note_misconduct()?;
        let (count, error) = self.failed_opens;
        if count > 0 {
            let node = self.client.node().map(|node| node.as_str().to_owned());
            let failed = OpensFailed { node, count, error };
            self.recorder.record(Action::Nemesis(NemesisEvent::OpensFailed(failed)))?;
        }
        Ok(())
    }

    /// Opens the client's connection unless it is open. A failure is no operation.
    async fn open(&mut self) -> io::Result<bool> {
        if !self.is_open {
            match self.client.open().await {
                Ok(()) => self.is_open = true,
                Err(error) => self.failed_opens = (self.failed_opens.0 + 1, error),
            }
            self.note_misconduct()?;
        }
        Ok(self.is_open)
    }

    fn note_misconduct(&mut self) -> io::Result<()> {
        let Some(why) = self.client.misconduct() else { return Ok(()) };
        let failed = ClientFailed { process: self.process, why };
        self.recorder.record(Action::Nemesis(NemesisEvent::ClientFailed(failed))).map(|_| ())
    }

    /// Performs one request and records its invocation and completion.
    async fn perform(&mut self, request: &Request) -> io::Result<Answer> {
        let ClientTimeouts { write, get } = self.timeouts;
        let Request { f, key, value } = request;
        let mut event = ClientEvent {
            process: self.process,
            kind: Kind::Invoke,
            f: *f,
            key: key.clone(),
            value: value.clone(),
            version: None,
            error: None,
            node: self.client.node().map(|node| node.as_str().to_owned()),
        };
        self.recorder.record(Action::Client(event.clone()))?;
        let deadline = if f.is_write() { write } else { get };
        let mut answer = self.client.perform(request, deadline).await;
        if let Answer::Info { error, .. } = &answer {
            // The connection may still carry the old answer, or be broken.
            self.is_open = false;
            if !f.is_write() || self.misreports {
                // A read has no effect that could occur later, so it has failed.
                answer = Answer::Fail { error: error.clone(), unavailable: false };
            }
        }
        if let Answer::Fail { unavailable: true, .. } = answer {
            self.is_open = false;
        }
        self.note_misconduct()?;
        self.complete(&mut event, &answer);
        self.recorder.record(Action::Client(event))?;
        Ok(answer)
    }

    /// Makes the event of an invocation that of its completion.
    fn complete(&mut self, event: &mut ClientEvent, answer: &Answer) {
        let returned = |value: &Option<String>, written: &Option<String>| {
            if event.f.returns_value() { value.clone() } else { written.clone() }
        };
        match answer {
            Answer::Ok { version, value } => {
                event.kind = Kind::Ok;
                event.version.clone_from(version);
                event.value = returned(value, &event.value);
            }
            Answer::Fail { error, .. } => {
                event.kind = Kind::Fail;
                event.error = Some(error.clone());
            }
            Answer::Info { error, value } => {
                event.kind = Kind::Info;
                event.error = Some(error.clone());
                event.value = returned(value, &event.value);
                self.process += self.concurrency;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::future::BoxFuture;

    use history::{Event, read};

    use super::*;
    use crate::workload::{Generator, Mix};

    const TIMEOUTS: ClientTimeouts =
        ClientTimeouts { write: Duration::from_secs(1), get: Duration::from_secs(1) };

    /// A client whose answers are ok, fail and info in turn.
    struct Alternating(u32);

    impl Client for Alternating {
        fn perform<'a>(&'a mut self, _: &'a Request, _: Duration) -> BoxFuture<'a, Answer> {
            self.0 += 1;
            let error = "because".to_owned();
            Box::pin(std::future::ready(match self.0 % 3 {
                0 => Answer::info(error),
                1 => Answer::Ok { version: None, value: None },
                _ => Answer::Fail { error, unavailable: false },
            }))
        }
    }

    async fn recorded(mix: Mix, count: u32) -> Vec<ClientEvent> {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let path = dir.path().join("history.jsonl");
        let recorder = Recorder::create(&path).expect("a new file");
        let mut worker = Worker::new(2, 5, Box::new(Alternating(0)), recorder.clone(), TIMEOUTS);
        let mut generator = Generator::new(1, 2, 5, mix, 3, 0.0);
        for _ in 0..count {
            let request = generator.next_request(worker.process);
            worker.perform(&request).await.expect("the disk has room");
        }
        recorder.flush().expect("the disk has room");
        let client = |event: Event| match event.action {
            Action::Client(event) => event,
            Action::Nemesis(event) => panic!("{event:?}"),
        };
        read(&path).expect("it was just written").events.into_iter().map(client).collect()
    }

    #[tokio::test]
    async fn a_process_is_retired_after_an_unknown_outcome() {
        let events = recorded(Mix { get: 0, put: 1, del: 1 }, 9).await;
        let completions: Vec<_> =
            events.chunks(2).map(|pair| (pair[1].process, pair[1].kind)).collect();
        let expected = [2, 7, 12]
            .map(|process| [(process, Kind::Ok), (process, Kind::Fail), (process, Kind::Info)]);
        assert_eq!(completions, expected.concat());
        for pair in events.chunks(2) {
            assert_eq!(pair[0].process, pair[1].process);
            assert_eq!(pair[0].value, pair[1].value, "both events of a put have its value");
        }
    }

    #[tokio::test]
    async fn a_get_is_never_indeterminate() {
        let events = recorded(Mix { get: 1, put: 0, del: 0 }, 9).await;
        assert!(events.iter().all(|event| event.kind != Kind::Info && event.process == 2));
        assert_eq!(events.iter().filter(|event| event.kind == Kind::Fail).count(), 6);
    }
}
