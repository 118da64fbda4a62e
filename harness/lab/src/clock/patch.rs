//! Replaces the functions of the vDSO of a process, or puts them back.

use std::{
    io,
    ops::Range,
    os::unix::fs::FileExt as _,
    thread,
    time::{Duration, Instant, SystemTime},
};

use history::nemesis::ClockShift;
use nix::unistd::Pid;

use super::{
    hook::{self, HookData},
    stopped::StoppedProcess,
    vdso::{self, JUMP_BYTES, Vdso},
};

/// How long a process may have a thread where its code is to be changed.
const BUSY_DEADLINE: Duration = Duration::from_secs(5);

/// How soon it is tried again.
const BUSY_PERIOD: Duration = Duration::from_millis(1);

/// Two to the power of 32, and a million: the units of rates.
const RATE_UNIT: i128 = 1 << 32;
const PPM: i128 = 1_000_000;

/// What is to be done to processes.
pub(super) struct Patcher {
    vdso: Vdso,
    /// `None`: the clock is to be right.
    data: Option<HookData>,
}

impl Patcher {
    /// # Errors
    /// The vDSO of this machine is not understood; in words.
    pub(super) fn new(shift: Option<ClockShift>) -> Result<Patcher, String> {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        let data = shift.map(|ClockShift { jump_ms, drift_ppm }| HookData {
            jump_ns: jump_ms.saturating_mul(1_000_000),
            anchor_ns: i64::try_from(now).unwrap_or(i64::MAX),
            rate: i64::try_from(i128::from(drift_ppm) * RATE_UNIT / PPM).unwrap_or(i64::MAX),
        });
        Ok(Patcher { vdso: Vdso::own()?, data })
    }

    /// Changes the clock of a process. Returns false if the process has ended. The thread that calls this must end
    /// soon after an error, which may leave it tracing.
    ///
    /// # Errors
    /// The process may not be traced, does not stop, or has another vDSO; in words.
    pub(super) fn apply(&self, pid: Pid) -> Result<bool, String> {
        let end = Instant::now() + BUSY_DEADLINE;
        loop {
            let Some(process) = StoppedProcess::stop(pid)? else { return Ok(false) };
            match self.change(&process)? {
                true => return Ok(true),
                false if Instant::now() > end => {
                    return Err("it is always where its code would be changed".to_owned());
                }
                false => {
                    drop(process);
                    thread::sleep(BUSY_PERIOD);
                }
            }
        }
    }

    /// Changes the clock of a process that is stopped. Returns false if it is where its code is changed.
    fn change(&self, process: &StoppedProcess) -> Result<bool, String> {
        let unreadable = |error: io::Error| format!("its memory: {error}");
        let memory = vdso::memory(process.thread()).map_err(unreadable)?;
        // It may have executed another program until it stopped.
        let range = vdso::mapping(process.thread()).map_err(unreadable)?;
        let Some(Range { start, end }) = range else {
            return Err("it has no vDSO, as if it was started without".to_owned());
        };
        let mut image = vec![0; usize::try_from(end - start).unwrap_or(0)];
        memory.read_exact_at(&mut image, start).map_err(unreadable)?;
        if !self.is_known(&image) {
            return Err("it has another vDSO than this program, as those of 32 bits do".to_owned());
        }
        let writes = self.writes();
        if writes.iter().all(|(at, bytes)| image[*at..].starts_with(bytes)) {
            // It was inherited.
            return Ok(true);
        }
        let is_inside = |address: u64| {
            let offset = address.checked_sub(start).and_then(|offset| offset.try_into().ok());
            offset.is_some_and(|offset| self.is_in_use(offset))
        };
        if process.is_within(&memory, is_inside).map_err(unreadable)? {
            return Ok(false);
        }
        for (at, bytes) in &writes {
            process.write(&memory, start + *at as u64, bytes).map_err(unreadable)?;
        }
        Ok(true)
    }

    /// Whether the vDSO of a process is the one of this machine, changed by this module or not.
    fn is_known(&self, image: &[u8]) -> bool {
        let mut entries = self.vdso.entries.iter();
        image.len() == self.vdso.size
            && image.starts_with(&self.vdso.header)
            && entries.all(|entry| {
                let found = &image[entry.offset..entry.offset + JUMP_BYTES];
                found == entry.original || found == entry.jump
            })
    }

    /// What is written: where, from the start of the vDSO, and which bytes.
    fn writes(&self) -> Vec<(usize, Vec<u8>)> {
        let is_wrong = self.data.is_some();
        let hook = self.data.map(|data| (self.vdso.hook, hook::bytes(data)));
        let entries = self.vdso.entries.iter().map(|entry| {
            (entry.offset, if is_wrong { entry.jump } else { entry.original }.to_vec())
        });
        hook.into_iter().chain(entries).collect()
    }

    /// Whether a thread at this place of the vDSO would go on in the middle of what is written. At the first byte of
    /// a function it has not begun yet. A jump has no middle, so functions can be put back at any time, and who is in
    /// the hook then leaves it.
    fn is_in_use(&self, offset: usize) -> bool {
        let hook = self.vdso.hook..self.vdso.hook + hook::BYTES;
        let mut entries = self.vdso.entries.iter();
        self.data.is_some()
            && (hook.contains(&offset)
                || entries
                    .any(|entry| (entry.offset + 1..entry.offset + JUMP_BYTES).contains(&offset)))
    }
}
