//! The thread that spawns every process of a run.
//!
//! A child's parent-death signal (`PR_SET_PDEATHSIG`) is sent when the *thread* that forked it
//! exits, not when the process does. One thread therefore forks all children, and lives as long as
//! the supervisor.

use std::{
    fs::File,
    io,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
};

use nix::{
    sys::{
        signal::{self, Signal},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::Pid,
};
use tokio::sync::oneshot;

use crate::process::Process;

type Job = Box<dyn FnOnce() + Send>;

/// Spawns processes from one thread. Dropping it ends the thread, and with it the children that
/// asked for a parent-death signal.
#[derive(Debug)]
pub struct Supervisor {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Supervisor {
    /// Starts the thread.
    ///
    /// # Errors
    /// The operating system refuses the thread.
    pub fn start() -> io::Result<Self> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let thread = thread::Builder::new().name("supervisor".to_owned()).spawn(move || {
            for job in inbox {
                job();
            }
        })?;
        Ok(Supervisor { jobs: Some(jobs), thread: Some(thread) })
    }

    fn submit(&self, job: Job) -> io::Result<()> {
        let gone = || io::Error::other("the supervisor thread has exited");
        self.jobs.as_ref().ok_or_else(gone)?.send(job).map_err(|_| gone())
    }

    /// Runs a closure on the supervisor thread. Children spawned later inherit what it changes
    /// about the thread, for example its mount namespace.
    ///
    /// # Errors
    /// The thread has exited.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (answer, done) = oneshot::channel();
        self.submit(Box::new(move || {
            // The caller may have been cancelled.
            let _ = answer.send(job());
        }))?;
        done.await.map_err(|_| io::Error::other("the supervisor thread has failed"))
    }

    /// Spawns a process in a process group of its own. Its standard input and output are pipes to
    /// this process; its standard error is written to `log`.
    ///
    /// # Errors
    /// The program cannot be started.
    pub async fn spawn(&self, command: Command, log: File) -> io::Result<Process> {
        self.spawn_as(command, log, false).await
    }

    /// Spawns the [keeper](crate::keeper) of a program: signals are sent to the whole tree.
    ///
    /// # Errors
    /// The keeper cannot be started.
    pub async fn spawn_keeper(&self, command: Command, log: File) -> io::Result<Process> {
        self.spawn_as(command, log, true).await
    }

    async fn spawn_as(
        &self,
        mut command: Command,
        log: File,
        is_keeper: bool,
    ) -> io::Result<Process> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).process_group(0);
        let (answer, spawned) = oneshot::channel::<io::Result<(Child, Pid)>>();
        self.submit(Box::new(move || {
            let child = command.spawn().map(|child| {
                let pid = Pid::from_raw(child.id().cast_signed());
                (child, pid)
            });
            if let Err(Ok((_, pid))) = answer.send(child) {
                // The caller was cancelled: nobody else would end this process.
                let _ = signal::kill(pid, Signal::SIGKILL);
                let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED);
            }
        }))?;
        let failed = |_| io::Error::other("the supervisor thread has failed");
        let (mut child, pid) = spawned.await.map_err(failed)??;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take();
        Process::watch(pid, stdin, stdout, is_keeper)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
