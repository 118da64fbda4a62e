//! Wrong wall clocks for programs that know nothing of it: on x86-64 Linux, for processes that this one may
//! trace.
//!
//! Programs do not ask the kernel for the time. They call functions of the vDSO, code that the kernel maps into
//! every process. While all threads of a process are stopped, the beginnings of `clock_gettime`, `gettimeofday`
//! and `time` in its vDSO are overwritten with jumps to a hook, which asks the kernel and adds what the clock
//! is to be ahead. It lies in the same mapping, behind all that the vDSO uses, so static programs and those in
//! Go, which have no libc, are reached as well. Right again means that the beginnings are as they were.
//!
//! The clocks that are wrong are those of real time: `CLOCK_REALTIME`, its coarse form, and `CLOCK_TAI`.
//! Monotonic clocks stay true. What is not reached:
//!
//! - Waits in the kernel until a moment of the real time, such as `pthread_cond_timedwait` without a monotonic
//!   clock: they end by the true clock.
//! - Times that the kernel notes by itself, such as those of files.
//! - A program that asks the kernel by system call, past the vDSO, and one of 32 bits.
//! - A program that a process executes while its clock is wrong: a fork inherits the wrong clock, an exec begins
//!   with the true one.

#[cfg(target_arch = "x86_64")]
mod hook;
#[cfg(target_arch = "x86_64")]
mod patch;
#[cfg(target_arch = "x86_64")]
mod stopped;
#[cfg(target_arch = "x86_64")]
mod vdso;

use std::{
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use history::nemesis::{ClockShift, ShiftedProcess};
use nix::unistd::Pid;

#[cfg(target_arch = "x86_64")]
use self::patch::Patcher;
use crate::{keeper, tree};

/// How long the probe of [`available`] may take to start.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);

/// How often it is looked for.
const PROBE_PERIOD: Duration = Duration::from_millis(5);

/// What came of changing the clocks of some processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClockChange {
    /// Those whose clock was changed.
    pub changed: Vec<ShiftedProcess>,
    /// Those whose clock could not be changed, each with the reason.
    pub refused: Vec<(ShiftedProcess, String)>,
}

/// Why clocks cannot be changed here.
#[derive(Debug, thiserror::Error)]
#[error("wrong clocks need x86-64 Linux, and the permission to trace processes (ptrace): {0}")]
pub struct ClockError(String);

/// Checks that clocks can be changed on this machine, on a program of its own below a
/// [keeper], as nodes are.
///
/// # Errors
/// They cannot, in words.
pub fn available(keeper: &Path) -> Result<(), ClockError> {
    let mut command = Command::new("sleep");
    command.arg("60");
    let mut command = keeper::keep(keeper, &command, false, None, None);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let cannot = |error| ClockError(format!("cannot start {}: {error}", keeper.display()));
    let mut probe = command.spawn().map_err(cannot)?;
    let tried = try_on(Pid::from_raw(probe.id().cast_signed()));
    // The end of its input ends the keeper, and all that it keeps.
    drop(probe.stdin.take());
    let _ = probe.wait();
    tried
}

fn try_on(root: Pid) -> Result<(), ClockError> {
    let end = Instant::now() + PROBE_DEADLINE;
    while tree::programs(root, true).is_empty() {
        if Instant::now() > end {
            return Err(ClockError("a program to try it on did not start".to_owned()));
        }
        thread::sleep(PROBE_PERIOD);
    }
    let shift = ClockShift { jump_ms: 1, drift_ppm: 0 };
    let ClockChange { changed, refused } = change(root, true, Some(shift)).map_err(ClockError)?;
    match (refused.into_iter().next(), changed.is_empty()) {
        (Some((process, why)), _) => Err(ClockError(format!("{}: {why}", process.name))),
        (None, true) => Err(ClockError("the program to try it on has ended".to_owned())),
        (None, false) => Ok(()),
    }
}

/// Makes the clocks of all processes of a tree wrong, or right again. The root is a [keeper], which
/// keeps its own clock, or the first of the processes. None of them is a child of this process, which would take
/// note of its stops. It blocks this thread, for milliseconds a process.
///
/// # Errors
/// Nothing can be changed on this machine, in words.
#[cfg(target_arch = "x86_64")]
pub fn change(
    root: Pid,
    is_keeper: bool,
    shift: Option<ClockShift>,
) -> Result<ClockChange, String> {
    let patcher = Patcher::new(shift)?;
    // What is still traced in the end is let go with the thread.
    let changing = thread::spawn(move || change_with(&patcher, root, is_keeper));
    changing.join().map_err(|_| "the thread that traces panicked".to_owned())
}

#[cfg(target_arch = "x86_64")]
fn change_with(patcher: &Patcher, root: Pid, is_keeper: bool) -> ClockChange {
    let mut change = ClockChange::default();
    let mut seen: Vec<Pid> = Vec::new();
    // A process may have forked before its clock was changed.
    loop {
        let mut new = tree::programs(root, is_keeper);
        new.retain(|pid| !seen.contains(pid));
        if new.is_empty() {
            return change;
        }
        for pid in new {
            seen.push(pid);
            let process = ShiftedProcess { pid: pid.as_raw(), name: tree::name(pid) };
            match patcher.apply(pid) {
                Ok(true) => change.changed.push(process),
                Ok(false) => {}
                Err(why) => change.refused.push((process, why)),
            }
        }
    }
}

/// There is no hook for this machine.
#[cfg(not(target_arch = "x86_64"))]
pub fn change(_: Pid, _: bool, _: Option<ClockShift>) -> Result<ClockChange, String> {
    Err(format!("this machine is {}", std::env::consts::ARCH))
}
