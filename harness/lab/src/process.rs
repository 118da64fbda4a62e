//! A supervised process: its state as seen from outside, signals, and crash points.
//!
//! Two facts of the operating system shape this module. A process id may be reused once its
//! process was reaped, so reaping and signalling exclude each other. And only `waitid` reports that
//! a process was stopped; its pipes do not.
//!
//! # Control protocol
//!
//! A process that offers crash points speaks a line protocol. On its standard input it reads
//! `arm POINT` and `disarm`. On its standard output it writes `listening ADDRESS`,
//! `reached POINT [NAME=VALUE ...]` (immediately before it stops itself with SIGSTOP), `disarmed`,
//! and `bad REASON` if it cannot arm a point. Other lines are ignored.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    process::{ChildStdin, ChildStdout, ExitStatus},
    sync::{Arc, Mutex, PoisonError},
    thread,
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
use tokio::{sync::watch, time::timeout};

/// What a supervised process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It runs.
    Running,
    /// It was stopped, by itself or by a signal, and does nothing until SIGCONT.
    Stopped,
    /// It has exited and was reaped.
    Exited(ExitStatus),
}

/// A crash point at which a process stopped itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReachedPoint {
    /// The point's name, as it was armed.
    pub point: String,
    /// What else the process reported, as `NAME=VALUE` words.
    pub details: String,
}

impl ReachedPoint {
    /// The value of the detail `name`, if the process reported it.
    #[must_use]
    pub fn detail(&self, name: &str) -> Option<&str> {
        self.details.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }
}

/// The state of a supervised process, as far as it can be observed from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessState {
    /// What it is doing.
    pub activity: Activity,
    /// The address at which it reported to listen.
    pub listening: Option<SocketAddr>,
    /// The crash point that it reported since one was last armed.
    pub reached: Option<ReachedPoint>,
    /// Why it could not arm a point, since one was last armed.
    pub arm_error: Option<String>,
    /// How often it confirmed that it disarmed a point.
    pub disarmed: u64,
    /// The harness asked for its exit.
    pub exit_expected: bool,
    /// The process may exit by itself: something that it needs has failed.
    pub exit_tolerated: bool,
}

impl ProcessState {
    /// Whether the process stopped itself at a crash point and has not been continued.
    #[must_use]
    pub fn is_stopped_at_point(&self) -> bool {
        self.activity == Activity::Stopped && self.reached.is_some()
    }

    /// The exit status, once the process has exited.
    #[must_use]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        match self.activity {
            Activity::Exited(status) => Some(status),
            Activity::Running | Activity::Stopped => None,
        }
    }
}

/// A supervised process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    shared: Arc<Shared>,
    stdin: Mutex<Option<ChildStdin>>,
    /// Whether the process is the [keeper](crate::keeper) of a program, which passes signals on.
    is_keeper: bool,
}

#[derive(Debug)]
struct Shared {
    pid: Pid,
    /// Whether the process was reaped, so that its id may belong to another process. Locked while
    /// signalling and while reaping.
    reaped: Mutex<bool>,
    state: watch::Sender<ProcessState>,
}

impl Process {
    pub(crate) fn watch(
        pid: Pid,
        stdin: Option<ChildStdin>,
        stdout: Option<ChildStdout>,
        is_keeper: bool,
    ) -> io::Result<Process> {
        let state = ProcessState {
            activity: Activity::Running,
            listening: None,
            reached: None,
            arm_error: None,
            disarmed: 0,
            exit_expected: false,
            exit_tolerated: false,
        };
        let shared =
            Arc::new(Shared { pid, reaped: Mutex::new(false), state: watch::Sender::new(state) });
        // From here on dropping the process kills it, even if a thread cannot be started.
        let process = Process { shared: shared.clone(), stdin: Mutex::new(stdin), is_keeper };
        let waiting = shared.clone();
        thread::Builder::new().name(format!("wait {pid}")).spawn(move || waiting.wait())?;
        if let Some(stdout) = stdout {
            thread::Builder::new()
                .name(format!("read {pid}"))
                .spawn(move || shared.read_output(BufReader::new(stdout)))?;
        }
        Ok(process)
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.shared.pid.as_raw()
    }

    /// The current state.
    #[must_use]
    pub fn state(&self) -> ProcessState {
        self.shared.state.borrow().clone()
    }

    /// Subscribes to changes of the state.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<ProcessState> {
        self.shared.state.subscribe()
    }

    /// Waits until the state satisfies a condition and returns it, or `None` after `deadline`.
    pub async fn wait_until(
        &self,
        deadline: Duration,
        condition: impl FnMut(&ProcessState) -> bool,
    ) -> Option<ProcessState> {
        let mut states = self.subscribe();
        let state = timeout(deadline, states.wait_for(condition)).await.ok()?.ok()?;
        Some(state.clone())
    }

    /// Sends a signal: to every process of a tree that has a [keeper](crate::keeper), if it is SIGKILL,
    /// SIGSTOP or SIGCONT. Returns whether the process still existed.
    pub fn signal(&self, signal: Signal) -> bool {
        if !self.is_keeper {
            return self.shared.signal(signal);
        }
        let passed = self.send_line(&format!("signal {}\n", signal as i32)).is_ok();
        passed && self.state().exit_status().is_none()
    }

    /// Whether a keeper runs the program.
    #[must_use]
    pub fn is_keeper(&self) -> bool {
        self.is_keeper
    }

    /// Sends SIGKILL and waits until the process is reaped.
    pub async fn kill(&self) {
        self.expect_exit();
        self.signal(Signal::SIGKILL);
        let mut states = self.subscribe();
        // `self` owns the sender, so the wait ends only when the process has exited.
        let _ = states.wait_for(|state| state.exit_status().is_some()).await;
    }

    /// Marks the exit of the process as expected.
    pub fn expect_exit(&self) {
        self.shared.state.send_modify(|state| state.exit_expected |= state.exit_status().is_none());
    }

    /// From now on the process may exit by itself, or may not any more.
    pub fn tolerate_exit(&self, is_tolerated: bool) {
        // What has happened already was tolerated or not.
        self.shared.state.send_modify(|state| {
            if state.exit_status().is_none() {
                state.exit_tolerated = is_tolerated;
            }
        });
    }

    /// Arms a crash point: the process stops itself there, once.
    ///
    /// # Errors
    /// The process no longer reads its standard input.
    pub fn arm(&self, point: &str) -> io::Result<()> {
        self.shared.state.send_modify(|state| {
            state.reached = None;
            state.arm_error = None;
        });
        self.send_line(&format!("arm {point}\n"))
    }

    /// Disarms the crash point and waits until it is certain whether the process stopped there
    /// nevertheless. Returns the state then, or `None` if that is not known by the deadline.
    ///
    /// # Errors
    /// The process no longer reads its standard input.
    pub async fn disarm(&self, deadline: Duration) -> io::Result<Option<ProcessState>> {
        let before = self.state().disarmed;
        self.send_line("disarm\n")?;
        // Its lines arrive in order: once it confirms the disarming without having reported the
        // point, it will not reach it. A process that is stopped at the point cannot answer.
        let certain = |state: &ProcessState| {
            let answered = state.disarmed > before && state.reached.is_none();
            answered || state.is_stopped_at_point() || state.exit_status().is_some()
        };
        Ok(self.wait_until(deadline, certain).await)
    }

    fn send_line(&self, line: &str) -> io::Result<()> {
        let mut stdin = self.stdin.lock().unwrap_or_else(PoisonError::into_inner);
        match stdin.as_mut() {
            Some(pipe) => pipe.write_all(line.as_bytes()),
            None => Err(io::Error::from(io::ErrorKind::BrokenPipe)),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.expect_exit();
        self.signal(Signal::SIGKILL);
    }
}

impl Shared {
    fn signal(&self, signal: Signal) -> bool {
        let reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        !*reaped && signal::kill(self.pid, signal).is_ok()
    }

    /// Reports stops and continues until the process exits, then reaps it.
    fn wait(&self) {
        let all = WaitPidFlag::WEXITED | WaitPidFlag::WSTOPPED | WaitPidFlag::WCONTINUED;
        let id = || Id::Pid(self.pid);
        loop {
            // WNOWAIT looks without reaping: until the exit is consumed, the process id stays ours.
            match waitid(id(), all | WaitPidFlag::WNOWAIT) {
                Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => break,
                Ok(WaitStatus::Stopped(..)) => {
                    self.consume(WaitPidFlag::WSTOPPED, Activity::Stopped);
                }
                Ok(WaitStatus::Continued(..)) => {
                    self.consume(WaitPidFlag::WCONTINUED, Activity::Running);
                }
                Ok(_) | Err(Errno::EINTR) => {}
                // Somebody else reaped it; its status is lost.
                Err(_) => return self.exited(ExitStatus::from_raw(0)),
            }
        }
        let mut reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        let status = waitid(id(), WaitPidFlag::WEXITED);
        *reaped = true;
        drop(reaped);
        self.exited(ExitStatus::from_raw(match status {
            Ok(WaitStatus::Exited(_, code)) => (code & 0xff) << 8,
            Ok(WaitStatus::Signaled(_, signal, core)) => {
                signal as i32 | if core { 0x80 } else { 0 }
            }
            _ => 0,
        }));
    }

    /// Consumes a state change of one kind, and publishes it if it was still pending.
    fn consume(&self, kind: WaitPidFlag, activity: Activity) {
        let consumed = waitid(Id::Pid(self.pid), kind | WaitPidFlag::WNOHANG);
        if matches!(consumed, Ok(WaitStatus::Stopped(..) | WaitStatus::Continued(..))) {
            self.state.send_modify(|state| state.activity = activity);
        }
    }

    fn exited(&self, status: ExitStatus) {
        *self.reaped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.state.send_modify(|state| state.activity = Activity::Exited(status));
    }

    /// Takes note of what the keeper says of the program, unless it has exited since.
    fn become_active(&self, activity: Activity) {
        self.state.send_modify(|state| {
            if state.exit_status().is_none() {
                state.activity = activity;
            }
        });
    }

    /// Reads the control protocol from the process; other lines are ignored.
    fn read_output(&self, lines: impl BufRead) {
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
                    let reached =
                        ReachedPoint { point: point.to_owned(), details: details.to_owned() };
                    self.state.send_modify(|state| state.reached = Some(reached));
                }
                "stopped" => self.become_active(Activity::Stopped),
                "continued" => self.become_active(Activity::Running),
                "disarmed" => self.state.send_modify(|state| state.disarmed += 1),
                "error" => {
                    self.state.send_modify(|state| state.arm_error = Some(rest.to_owned()));
                }
                _ => {}
            }
        }
    }
}
