//! A worker: a logical client that sends requests and records invocations and completions. After an
//! indeterminate operation it continues under a new process number, because the old process may
//! still have a request in progress. Does not know about faults.

use std::{io, time::Duration};

use history::{Action, ClientEvent, Function, Kind, Recorder};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{
    client::{Answer, Client},
    workload::{ClientRequest, Generator},
};

/// How long to wait before a failed read is retried.
const RETRY_PERIOD: Duration = Duration::from_millis(50);

/// How long a worker waits for the answer to a request.
#[derive(Clone, Copy, Debug)]
pub struct ClientTimeouts {
    /// For puts and dels.
    pub write: Duration,
    /// For gets.
    pub get: Duration,
}

/// One worker.
pub struct Worker {
    process: u64,
    concurrency: u64,
    client: Box<dyn Client>,
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

    /// Sends the generator's requests until the load ends, and returns the worker.
    ///
    /// # Errors
    /// The history cannot be written.
    pub async fn work(
        mut self,
        mut generator: Generator,
        mut load_ended: watch::Receiver<bool>,
    ) -> io::Result<Worker> {
        while !*load_ended.borrow() {
            let request = generator.next(self.process);
            let answer = self.perform(&request).await?;
            let mut pause = generator.pause();
            if let Answer::Fail { unavailable: true, .. } = answer {
                pause = pause.max(generator.backoff());
            }
            if !pause.is_zero() {
                // Only the end of the load cuts a pause short.
                let _ = timeout(pause, load_ended.wait_for(|ended| *ended)).await;
            }
        }
        Ok(self)
    }

    /// Sends one request.
    ///
    /// # Errors
    /// The history cannot be written.
    pub async fn send(&mut self, request: &ClientRequest) -> io::Result<()> {
        self.perform(request).await.map(|_| ())
    }

    /// Reads a key, and retries until the read succeeds or the deadline has passed.
    ///
    /// # Errors
    /// The history cannot be written. The inner error is that of the last read.
    pub async fn read(&mut self, key: &str, deadline: Duration) -> io::Result<Result<(), String>> {
        let end = Instant::now() + deadline;
        let request = ClientRequest::Get { key: key.to_owned() };
        loop {
            match self.perform(&request).await? {
                Answer::Ok { .. } => return Ok(Ok(())),
                Answer::Fail { error, .. } | Answer::Info { error } => {
                    if Instant::now() >= end {
                        return Ok(Err(error));
                    }
                }
            }
            sleep(RETRY_PERIOD).await;
        }
    }

    /// Performs one request and records its invocation and completion.
    async fn perform(&mut self, request: &ClientRequest) -> io::Result<Answer> {
        let ClientTimeouts { write, get } = self.timeouts;
        let (f, key, written, deadline) = match request {
            ClientRequest::Get { key } => (Function::Get, key, None, get),
            ClientRequest::Put { key, value } => (Function::Put, key, Some(value), write),
            ClientRequest::Del { key } => (Function::Del, key, None, write),
        };
        let mut event = ClientEvent {
            process: self.process,
            kind: Kind::Invoke,
            f,
            key: key.clone(),
            value: written.cloned(),
            version: None,
            error: None,
        };
        self.recorder.record(Action::Client(event.clone()))?;
        let mut answer = self.client.perform(request, deadline).await;
        if let Answer::Info { error } = &answer
            && (f == Function::Get || self.misreports)
        {
            // A get has no effect that could occur later, so it has failed.
            answer = Answer::Fail { error: error.clone(), unavailable: false };
        }
        match &answer {
            Answer::Ok { version, value } => {
                event.kind = Kind::Ok;
                event.version.clone_from(version);
                if f == Function::Get {
                    event.value.clone_from(value);
                }
            }
            Answer::Fail { error, .. } => {
                event.kind = Kind::Fail;
                event.error = Some(error.clone());
            }
            Answer::Info { error } => {
                event.kind = Kind::Info;
                event.error = Some(error.clone());
                self.process += self.concurrency;
            }
        }
        self.recorder.record(Action::Client(event))?;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use futures::future::BoxFuture;

    use history::{Event, read};

    use super::*;
    use crate::workload::Mix;

    const TIMEOUTS: ClientTimeouts =
        ClientTimeouts { write: Duration::from_secs(1), get: Duration::from_secs(1) };

    /// A client whose answers are ok, fail and info in turn.
    struct Alternating(u32);

    impl Client for Alternating {
        fn perform<'a>(&'a mut self, _: &'a ClientRequest, _: Duration) -> BoxFuture<'a, Answer> {
            self.0 += 1;
            let error = "because".to_owned();
            Box::pin(std::future::ready(match self.0 % 3 {
                0 => Answer::Info { error },
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
            let request = generator.next(worker.process);
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
