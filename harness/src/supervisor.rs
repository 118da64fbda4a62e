//! Starts processes, sees them stop and end, signals them, and outlives none of them. Knows nothing
//! of clusters, faults or histories; any program can be supervised.
//!
//! Three facts of the system shape it. The parent-death signal that a node asks for follows the
//! *thread* that forked it, so one thread forks them all and lives as long as the supervisor. A
//! process id may belong to somebody else once its process was reaped, so reaping and signalling
//! exclude each other. And a stopped process is seen by waitid alone, never by its pipes.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
    net::SocketAddr,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        signal::{self, Signal},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

/// What a supervised process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It runs.
    Running,
    /// It was stopped, by itself or by a signal, and does nothing until it is continued.
    Stopped,
    /// It has ended and was reaped.
    Ended(ExitStatus),
}

/// A crash point at which a process stopped itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// The point's name, as it was armed.
    pub point: String,
    /// What else the process said of it, as `name=value` words.
    pub details: String,
}

impl Reached {
    /// The value of the detail `name`, if the process gave it.
    #[must_use]
    pub fn detail(&self, name: &str) -> Option<&str> {
        self.details.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }
}

/// All that is known of a supervised process from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// What it is doing.
    pub activity: Activity,
    /// Where it said that it listens.
    pub listening: Option<SocketAddr>,
    /// The crash point that it said it reached, since one was last armed.
    pub reached: Option<Reached>,
    /// Why it said that it cannot arm a point, since one was last armed.
    pub refused: Option<String>,
    /// How often it said that it has taken a point back.
    pub disarmed: u64,
    /// Its end was asked for.
    pub end_expected: bool,
}

impl State {
    /// Whether the process stopped itself at a crash point and lies there.
    #[must_use]
    pub fn lies_at_point(&self) -> bool {
        self.activity == Activity::Stopped && self.reached.is_some()
    }

    /// How the process ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<ExitStatus> {
        match self.activity {
            Activity::Ended(status) => Some(status),
            Activity::Running | Activity::Stopped => None,
        }
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// The thread that forks.
#[derive(Debug)]
pub struct Supervisor {
    requests: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Supervisor {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start() -> io::Result<Self> {
        let (requests, inbox) = mpsc::channel::<Job>();
        let thread = thread::Builder::new().name("supervisor".to_owned()).spawn(move || {
            for job in inbox {
                job();
            }
        })?;
        Ok(Supervisor { requests: Some(requests), thread: Some(thread) })
    }

    fn give(&self, job: Job) -> io::Result<()> {
        let gone = || io::Error::other("the supervising thread has ended");
        self.requests.as_ref().ok_or_else(gone)?.send(job).map_err(|_| gone())
    }

    /// Does something in the thread that forks: what it changes of itself, its mount namespace for
    /// one, is inherited by every process that is started later.
    ///
    /// # Errors
    /// The thread has ended.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (answer, done) = oneshot::channel();
        self.give(Box::new(move || {
            // If nobody waits any more, nobody wants to know.
            let _ = answer.send(job());
        }))?;
        done.await.map_err(|_| io::Error::other("the supervising thread has failed"))
    }

    /// Starts a process in a process group of its own, its standard input and output joined to
    /// this process by pipes and its standard error written to `log`.
    ///
    /// # Errors
    /// The program cannot be started.
    pub async fn spawn(&self, mut command: Command, log: File) -> io::Result<Process> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).process_group(0);
        let (answer, spawned) = oneshot::channel::<io::Result<(Child, Pid)>>();
        self.give(Box::new(move || {
            let child = command.spawn().map(|child| {
                let pid = Pid::from_raw(child.id().cast_signed());
                (child, pid)
            });
            if let Err(Ok((_, pid))) = answer.send(child) {
                // Nobody waits for it any more: it must not stay.
                let _ = signal::kill(pid, Signal::SIGKILL);
                let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED);
            }
        }))?;
        let failed = |_| io::Error::other("the supervising thread has failed");
        let (mut child, pid) = spawned.await.map_err(failed)??;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take();
        Process::watch(pid, stdin, stdout)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A supervised process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    shared: Arc<Shared>,
    stdin: Mutex<Option<ChildStdin>>,
}

#[derive(Debug)]
struct Shared {
    pid: Pid,
    /// Whether the process id is ours no longer. Held while signalling and while reaping.
    reaped: Mutex<bool>,
    state: watch::Sender<State>,
}

impl Process {
    fn watch(
        pid: Pid,
        stdin: Option<ChildStdin>,
        stdout: Option<ChildStdout>,
    ) -> io::Result<Process> {
        let state = State {
            activity: Activity::Running,
            listening: None,
            reached: None,
            refused: None,
            disarmed: 0,
            end_expected: false,
        };
        let shared =
            Arc::new(Shared { pid, reaped: Mutex::new(false), state: watch::Sender::new(state) });
        // From here on dropping the process kills it, also when a thread cannot be had.
        let process = Process { shared: shared.clone(), stdin: Mutex::new(stdin) };
        let waiting = shared.clone();
        thread::Builder::new().name(format!("wait {pid}")).spawn(move || waiting.wait())?;
        if let Some(stdout) = stdout {
            thread::Builder::new()
                .name(format!("read {pid}"))
                .spawn(move || shared.listen(BufReader::new(stdout)))?;
        }
        Ok(process)
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.shared.pid.as_raw()
    }

    /// What is known of it now.
    #[must_use]
    pub fn state(&self) -> State {
        self.shared.state.borrow().clone()
    }

    /// Follows what is known of it.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<State> {
        self.shared.state.subscribe()
    }

    /// Waits until the state is as wanted; the state then, or none when it is not so by the
    /// deadline.
    pub async fn wait_until(
        &self,
        deadline: Duration,
        wanted: impl FnMut(&State) -> bool,
    ) -> Option<State> {
        let mut follow = self.follow();
        let state = timeout(deadline, follow.wait_for(wanted)).await.ok()?.ok()?;
        Some(state.clone())
    }

    /// Sends a signal; says whether the process was still there to get it.
    pub fn signal(&self, signal: Signal) -> bool {
        self.shared.signal(signal)
    }

    /// Ends the process at once, as a power switch would, and waits until it is gone.
    pub async fn kill(&self) {
        self.expect_end();
        self.signal(Signal::SIGKILL);
        let mut follow = self.follow();
        // The sender lives in `self`, so the only way out of the wait is the end of the process.
        let _ = follow.wait_for(|state| state.ended().is_some()).await;
    }

    /// From now on the end of the process is no surprise.
    pub fn expect_end(&self) {
        self.shared.state.send_modify(|state| state.end_expected |= state.ended().is_none());
    }

    /// Arms a crash point: the process will stop itself there, once.
    ///
    /// # Errors
    /// The process reads its standard input no longer.
    pub fn arm(&self, point: &str) -> io::Result<()> {
        self.shared.state.send_modify(|state| {
            state.reached = None;
            state.refused = None;
        });
        self.say(&format!("arm {point}\n"))
    }

    /// Takes an armed crash point back, and waits until it is certain whether the process stops
    /// there nevertheless; then it lies there. The state then, or none when it is not certain by
    /// the deadline.
    ///
    /// # Errors
    /// The process reads its standard input no longer.
    pub async fn disarm(&self, deadline: Duration) -> io::Result<Option<State>> {
        let before = self.state().disarmed;
        self.say("disarm\n")?;
        // What it says comes in order: once it has taken the point back without having said that
        // it was reached, it never will be. A process that lies at the point cannot answer.
        let certain = |state: &State| {
            let answered = state.disarmed > before && state.reached.is_none();
            answered || state.lies_at_point() || state.ended().is_some()
        };
        Ok(self.wait_until(deadline, certain).await)
    }

    fn say(&self, line: &str) -> io::Result<()> {
        let mut stdin = self.stdin.lock().unwrap_or_else(PoisonError::into_inner);
        match stdin.as_mut() {
            Some(pipe) => pipe.write_all(line.as_bytes()),
            None => Err(io::Error::from(io::ErrorKind::BrokenPipe)),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.expect_end();
        self.signal(Signal::SIGKILL);
    }
}

impl Shared {
    fn signal(&self, signal: Signal) -> bool {
        let reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        !*reaped && signal::kill(self.pid, signal).is_ok()
    }

    /// Follows the process until it has ended, and reaps it.
    fn wait(&self) {
        let all = WaitPidFlag::WEXITED | WaitPidFlag::WSTOPPED | WaitPidFlag::WCONTINUED;
        let id = || Id::Pid(self.pid);
        loop {
            // Look without taking: until the exit is taken, the process id stays ours.
            match waitid(id(), all | WaitPidFlag::WNOWAIT) {
                Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => break,
                Ok(WaitStatus::Stopped(..)) => self.take(WaitPidFlag::WSTOPPED, Activity::Stopped),
                Ok(WaitStatus::Continued(..)) => {
                    self.take(WaitPidFlag::WCONTINUED, Activity::Running);
                }
                Ok(_) | Err(Errno::EINTR) => {}
                // Somebody else reaped it; all that can be said is that it is gone.
                Err(_) => return self.end(ExitStatus::from_raw(0)),
            }
        }
        let mut reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        let status = waitid(id(), WaitPidFlag::WEXITED);
        *reaped = true;
        drop(reaped);
        self.end(ExitStatus::from_raw(match status {
            Ok(WaitStatus::Exited(_, code)) => (code & 0xff) << 8,
            Ok(WaitStatus::Signaled(_, signal, core)) => {
                signal as i32 | if core { 0x80 } else { 0 }
            }
            _ => 0,
        }));
    }

    /// Takes a change of one kind, and reports it if it was still there to be taken.
    fn take(&self, kind: WaitPidFlag, activity: Activity) {
        let taken = waitid(Id::Pid(self.pid), kind | WaitPidFlag::WNOHANG);
        if matches!(taken, Ok(WaitStatus::Stopped(..) | WaitStatus::Continued(..))) {
            self.state.send_modify(|state| state.activity = activity);
        }
    }

    fn end(&self, status: ExitStatus) {
        *self.reaped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.state.send_modify(|state| state.activity = Activity::Ended(status));
    }

    /// Reads what the process says of itself; lines that mean nothing here are passed over.
    fn listen(&self, lines: impl BufRead) {
        for line in lines.lines().map_while(Result::ok) {
            let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match word {
                "listening" => {
                    if let Ok(address) = rest.trim().parse() {
                        self.state.send_modify(|state| state.listening = Some(address));
                    }
                }
                "hit" => {
                    let (point, details) = rest.split_once(' ').unwrap_or((rest, ""));
                    let reached = Reached { point: point.to_owned(), details: details.to_owned() };
                    self.state.send_modify(|state| state.reached = Some(reached));
                }
                "disarmed" => self.state.send_modify(|state| state.disarmed += 1),
                "error" => {
                    self.state.send_modify(|state| state.refused = Some(rest.to_owned()));
                }
                _ => {}
            }
        }
    }
}
