//! A logical client: asks, records, and takes a new process number whenever it cannot know what
//! became of what it asked. Knows nothing of faults.

use std::{io, time::Duration};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    generator::{ClientRequest, Generator},
    history::{Action, ClientEvent, Function, Kind, Recorder},
    systems::{Answer, Client},
};

/// How long a client waits for the answer to a write: longer than the vote timeout, so that an
/// abort for missing votes is learnt as such.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_millis(1_500);

/// How long a client waits for the answer to a get.
pub(super) const GET_TIMEOUT: Duration = Duration::from_millis(1_000);

/// One worker.
pub(super) struct Worker {
    process: u64,
    concurrency: u64,
    client: Box<dyn Client>,
    recorder: Recorder,
    lies: bool,
}

impl Worker {
    pub(super) fn new(
        number: u32,
        concurrency: u32,
        client: Box<dyn Client>,
        recorder: Recorder,
    ) -> Self {
        Worker {
            process: number.into(),
            concurrency: concurrency.into(),
            client,
            recorder,
            lies: false,
        }
    }

    /// A worker that takes an unknown outcome for a failure: the mistake that a tester must not
    /// make, and that its checks must find.
    pub(super) fn lying(self) -> Self {
        Worker { lies: true, ..self }
    }

    /// Asks what the generator says until the load ends, and gives the worker back.
    pub(super) async fn work(
        mut self,
        mut generator: Generator,
        mut ending: watch::Receiver<bool>,
    ) -> io::Result<Worker> {
        while !*ending.borrow() {
            let operation = generator.next(self.process);
            let answer = self.perform(&operation).await?;
            let mut pause = generator.pause();
            if let Answer::Fail { nobody: true, .. } = answer {
                pause = pause.max(generator.backoff());
            }
            if !pause.is_zero() {
                // That the load ends is the only thing that cuts a pause short.
                let _ = timeout(pause, ending.wait_for(|ending| *ending)).await;
            }
        }
        Ok(self)
    }

    /// Asks once.
    ///
    /// # Errors
    /// The history cannot be written.
    pub(super) async fn ask(&mut self, operation: &ClientRequest) -> io::Result<()> {
        self.perform(operation).await.map(|_| ())
    }

    /// Reads a key until somebody answers.
    ///
    /// # Errors
    /// The history cannot be written. Within it, an error in words: nobody answered in time.
    pub(super) async fn read(
        &mut self,
        key: &str,
        deadline: Duration,
    ) -> io::Result<Result<(), String>> {
        let give_up = tokio::time::Instant::now() + deadline;
        let operation = ClientRequest::Get { key: key.to_owned() };
        loop {
            match self.perform(&operation).await? {
                Answer::Ok { .. } => return Ok(Ok(())),
                Answer::Fail { error, .. } | Answer::Info { error } => {
                    if tokio::time::Instant::now() >= give_up {
                        return Ok(Err(error));
                    }
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Performs one operation and records it.
    async fn perform(&mut self, operation: &ClientRequest) -> io::Result<Answer> {
        let (f, key, written, deadline) = match operation {
            ClientRequest::Get { key } => (Function::Get, key, None, GET_TIMEOUT),
            ClientRequest::Put { key, value } => (Function::Put, key, Some(value), WRITE_TIMEOUT),
            ClientRequest::Del { key } => (Function::Del, key, None, WRITE_TIMEOUT),
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
        let mut answer = self.client.perform(operation, deadline).await;
        if let Answer::Info { error } = &answer
            && (f == Function::Get || self.lies)
        {
            // A get has no effect that could come late: it did not happen.
            answer = Answer::Fail { error: error.clone(), nobody: false };
        }
        match &answer {
            Answer::Ok { version, value } => {
                event.kind = Kind::Ok;
                event.version = version.map(history::Version::new);
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

    use super::*;
    use crate::{
        generator::Mix,
        history::{Event, read},
    };

    /// Answers in turn ok, fail, info.
    struct Fickle(u32);

    impl Client for Fickle {
        fn perform<'a>(&'a mut self, _: &'a ClientRequest, _: Duration) -> BoxFuture<'a, Answer> {
            self.0 += 1;
            let error = "because".to_owned();
            Box::pin(std::future::ready(match self.0 % 3 {
                0 => Answer::Info { error },
                1 => Answer::Ok { version: None, value: None },
                _ => Answer::Fail { error, nobody: false },
            }))
        }
    }

    async fn recorded(mix: Mix, count: u32) -> Vec<ClientEvent> {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let path = dir.path().join("history.jsonl");
        let recorder = Recorder::create(&path).expect("a new file");
        let mut worker = Worker::new(2, 5, Box::new(Fickle(0)), recorder.clone());
        let mut generator = Generator::new(1, 2, 5, mix, 3, 0.0);
        for _ in 0..count {
            let operation = generator.next(worker.process);
            worker.perform(&operation).await.expect("the disk has room");
        }
        recorder.flush().expect("the disk has room");
        let client = |event: Event| match event.action {
            Action::Client(event) => event,
            Action::Nemesis(event) => panic!("{event:?}"),
        };
        read(&path).expect("it was just written").events.into_iter().map(client).collect()
    }

    #[tokio::test]
    async fn a_process_that_cannot_know_is_retired() {
        let events = recorded(Mix { get: 0, put: 1, del: 1 }, 9).await;
        let ends: Vec<_> = events.chunks(2).map(|pair| (pair[1].process, pair[1].kind)).collect();
        let expected = [2, 7, 12]
            .map(|process| [(process, Kind::Ok), (process, Kind::Fail), (process, Kind::Info)]);
        assert_eq!(ends, expected.concat());
        for pair in events.chunks(2) {
            assert_eq!(pair[0].process, pair[1].process);
            assert_eq!(pair[0].value, pair[1].value, "a put says twice what it writes");
        }
    }

    #[tokio::test]
    async fn a_get_is_never_indeterminate() {
        let events = recorded(Mix { get: 1, put: 0, del: 0 }, 9).await;
        assert!(events.iter().all(|event| event.kind != Kind::Info && event.process == 2));
        assert_eq!(events.iter().filter(|event| event.kind == Kind::Fail).count(), 6);
    }
}
