//! A process all of whose threads are stopped by ptrace, so that its code can be changed.
//!
//! `PTRACE_SEIZE` leaves no trace: it sends no signal, and a process that was stopped by one, as in a pause,
//! stays so afterwards. All calls for a process come from the thread that has stopped it, as ptrace demands.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        ptrace::{self, Options},
        signal::Signal,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// How long a thread may take to stop: it may wait for a disk.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// How often it is asked whether it has.
const STOP_PERIOD: Duration = Duration::from_micros(100);

/// How much of a stack is looked at for what a signal has interrupted.
const STACK_BYTES: usize = 64 << 10;

/// A process that is stopped. Dropping it lets it go on.
pub(super) struct StoppedProcess {
    pid: Pid,
    threads: Vec<StoppedThread>,
}

struct StoppedThread {
    id: Pid,
    /// A signal that was about to be delivered when the thread stopped.
    signal: Option<Signal>,
    /// Whether it has stopped already.
    is_stopped: bool,
}

impl StoppedProcess {
    /// Stops all threads. `None` if the process has ended.
    ///
    /// # Errors
    /// It may not be traced, or does not stop; in words.
    pub(super) fn stop(pid: Pid) -> Result<Option<StoppedProcess>, String> {
        let mut process = StoppedProcess { pid, threads: Vec::new() };
        let end = Instant::now() + STOP_DEADLINE;
        // A thread that has not stopped yet may start another one.
        while process.seize_others()? {
            for at in (0..process.threads.len()).rev() {
                if !process.until_stopped(at, end)? {
                    process.threads.swap_remove(at);
                }
            }
        }
        Ok((!process.threads.is_empty()).then_some(process))
    }

    /// A thread that lives: the first one of a process may have ended before the others.
    pub(super) fn thread(&self) -> Pid {
        self.threads[0].id
    }

    /// Seizes the threads that were not seen before. Returns whether there were any.
    fn seize_others(&mut self) -> Result<bool, String> {
        let mut is_new = false;
        for entry in fs::read_dir(format!("/proc/{}/task", self.pid)).into_iter().flatten() {
            let name = entry.ok().and_then(|entry| entry.file_name().into_string().ok());
            let Some(id) = name.and_then(|name| name.parse().ok()).map(Pid::from_raw) else {
                continue;
            };
            if self.threads.iter().any(|thread| thread.id == id) {
                continue;
            }
            match ptrace::seize(id, Options::empty()) {
                Ok(()) => {}
                Err(_) if has_ended(id) => continue,
                Err(error) => return Err(format!("ptrace: {error}")),
            }
            is_new = true;
            self.threads.push(StoppedThread { id, signal: None, is_stopped: false });
            // It may have ended since, which shows when it is waited for.
            let _ = ptrace::interrupt(id);
        }
        Ok(is_new)
    }

    /// Waits until a thread has stopped. Returns false if it has ended.
    fn until_stopped(&mut self, at: usize, end: Instant) -> Result<bool, String> {
        let thread = &mut self.threads[at];
        while !thread.is_stopped {
            let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD | WaitPidFlag::WNOHANG;
            match waitpid(thread.id, Some(flags)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => {
                    if Instant::now() > end {
                        return Err(format!(
                            "a thread did not stop within {} s; it may wait for a disk",
                            STOP_DEADLINE.as_secs()
                        ));
                    }
                    thread::sleep(STOP_PERIOD);
                }
                Ok(WaitStatus::Stopped(_, signal)) => {
                    (thread.signal, thread.is_stopped) = (Some(signal), true);
                }
                Ok(WaitStatus::PtraceEvent(..)) => thread.is_stopped = true,
                Ok(_) | Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Whether a thread is at one of these addresses, or is to return there from the handler of a signal.
    ///
    /// # Errors
    /// A thread cannot be looked at.
    pub(super) fn is_within(
        &self,
        memory: &File,
        is_inside: impl Fn(u64) -> bool,
    ) -> io::Result<bool> {
        for thread in &self.threads {
            let registers = ptrace::getregs(thread.id)?;
            if is_inside(registers.rip) {
                return Ok(true);
            }
            // The kernel has left the address on the stack.
            let mut stack = vec![0; STACK_BYTES];
            let bytes = memory.read_at(&mut stack, registers.rsp).unwrap_or(0);
            let mut words = stack[..bytes].chunks_exact(8);
            if words.any(|word| is_inside(u64::from_le_bytes(word.try_into().expect("8 bytes")))) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Overwrites its memory, also where it may only be read or executed.
    ///
    /// # Errors
    /// There is none at this address.
    pub(super) fn write(&self, memory: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
        // Words at a time, each read first: what surrounds the bytes stays.
        let (first, end) = (at & !7, at + bytes.len() as u64);
        for word_at in (first..end).step_by(8) {
            let mut word = [0; 8];
            memory.read_exact_at(&mut word, word_at)?;
            for (offset, byte) in (0..).zip(&mut word) {
                let of_new = (word_at + offset).checked_sub(at);
                if let Some(new) = of_new.and_then(|of_new| bytes.get(of_new as usize)) {
                    *byte = *new;
                }
            }
            let address = word_at as usize as ptrace::AddressType;
            ptrace::write(self.thread(), address, i64::from_le_bytes(word))?;
        }
        Ok(())
    }
}

impl Drop for StoppedProcess {
    fn drop(&mut self) {
        // One that has not stopped goes on by itself when the thread that traces it ends.
        for thread in self.threads.iter().filter(|thread| thread.is_stopped) {
            let _ = ptrace::detach(thread.id, thread.signal);
        }
    }
}

/// Whether a process or thread has ended: it is gone, or was not waited for yet.
fn has_ended(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    state.is_none_or(|state| matches!(state, "Z" | "X" | "x"))
}
