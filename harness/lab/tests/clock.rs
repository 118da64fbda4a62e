//! Wrong clocks in real programs: linked dynamically, statically, in Python and in Go; with threads that ask all the
//! time, signals, children, and a pause. Each answer is between what the true clocks say before and after it.

use std::{
    ffi::OsStr,
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use history::nemesis::ClockShift;
use lab::{clock, keeper};
use nix::{
    sys::{
        ptrace,
        signal::{Signal, kill},
    },
    time::{ClockId, clock_gettime},
    unistd::Pid,
};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(20);

const HOUR_NS: i128 = 3_600_000_000_000;

/// How much the coarse clocks may be behind: a tick of the kernel.
const TICK_NS: i128 = 20_000_000;

/// Says for each line what every clock shows, in nanoseconds. `busy` starts threads that ask all the time, and a timer
/// whose handler does so too; `fork` has a child answer.
const PROGRAM: &str = r#"
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long at(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void *ask(void *none) {
    struct timeval now;
    for (;;) { at(CLOCK_REALTIME); gettimeofday(&now, 0); time(0); }
    return none;
}

static void ring(int signal) { at(CLOCK_REALTIME); (void)signal; }

static void answer(void) {
    struct timeval now;
    gettimeofday(&now, 0);
    long long of_day = now.tv_sec * 1000000000LL + now.tv_usec * 1000LL;
    time_t stored, said = time(&stored);
    printf("%lld %lld %lld %lld %lld %lld %d\n", at(CLOCK_REALTIME), at(CLOCK_MONOTONIC), at(CLOCK_REALTIME_COARSE),
        at(CLOCK_TAI), of_day, said * 1000000000LL, said == stored);
    fflush(stdout);
}

int main(void) {
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        if (!strcmp(line, "busy\n")) {
            pthread_t thread;
            for (int i = 0; i < 3; i++) pthread_create(&thread, 0, ask, 0);
            signal(SIGALRM, ring);
            struct itimerval often = {{0, 500}, {0, 500}};
            setitimer(ITIMER_REAL, &often, 0);
        }
        if (!strcmp(line, "fork\n")) {
            pid_t child = fork();
            if (!child) { answer(); _exit(0); }
            waitpid(child, 0, 0);
        } else answer();
    }
}
"#;

/// The same of the first two clocks.
const PYTHON: &str = "import sys, time
for line in sys.stdin: print(time.time_ns(), time.monotonic_ns(), flush=True)";

/// Past the capture of the test harness, which would hide it.
fn skipped(why: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "skipped: {why}");
}

fn lab_keeper() -> PathBuf {
    env!("CARGO_BIN_EXE_lab-keeper").into()
}

/// Whether clocks can be changed here; a line says why not.
fn is_possible() -> bool {
    clock::available(&lab_keeper()).map_err(skipped).is_ok()
}

/// The program, compiled. `None`, with a line, where there is no compiler or no static libc.
fn compiled(directory: &Path, arguments: &[&str]) -> Option<PathBuf> {
    let (source, program) = (directory.join("clocks.c"), directory.join("clocks"));
    fs::write(&source, PROGRAM).expect("a temporary directory");
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-pthread"]).args(arguments).arg("-o").arg(&program).arg(&source);
    match compiler.output() {
        Ok(output) if output.status.success() => Some(program),
        Ok(output) => {
            skipped(String::from_utf8_lossy(&output.stderr));
            None
        }
        Err(error) => {
            skipped(format!("cc: {error}"));
            None
        }
    }
}

/// A program under a keeper, which is asked and answers.
struct Kept {
    keeper: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Kept {
    fn start(program: impl AsRef<OsStr>, arguments: &[&str]) -> Kept {
        let mut command = Command::new(program);
        command.args(arguments);
        let mut command = keeper::keep(&lab_keeper(), &command, true, None, None);
        let mut keeper =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the keeper");
        let input = keeper.stdin.take().expect("a pipe");
        let output = BufReader::new(keeper.stdout.take().expect("a pipe"));
        Kept { keeper, input, output }
    }

    fn root(&self) -> Pid {
        Pid::from_raw(self.keeper.id().cast_signed())
    }

    fn ask(&mut self, line: &str) -> Vec<i128> {
        writeln!(self.input, "{line}").expect("it reads");
        let mut answer = String::new();
        self.output.read_line(&mut answer).expect("it answers");
        let numbers = answer.split_whitespace().map(|number| number.parse().expect("a number"));
        numbers.collect()
    }

    /// Changes the clock of every process, of which there are some. Returns when at the earliest and at the latest.
    fn change(&self, shift: Option<ClockShift>) -> (i128, i128) {
        let before = now(ClockId::CLOCK_REALTIME);
        let change = clock::change(self.root(), true, shift).expect("it is possible here");
        assert_eq!(change.refused, []);
        assert!(!change.changed.is_empty());
        (before, now(ClockId::CLOCK_REALTIME))
    }

    /// Asks, and checks every clock of the answer: the wrong ones are ahead by at least `least` and at most `most`, given
    /// the true time.
    fn check(&mut self, line: &str, least: impl Fn(i128) -> i128, most: impl Fn(i128) -> i128) {
        let clocks = [ClockId::CLOCK_REALTIME, ClockId::CLOCK_MONOTONIC, ClockId::CLOCK_TAI];
        let before = clocks.map(now);
        let said = self.ask(line);
        let after = clocks.map(now);
        let is_within = |name: &str, said: i128, which: usize, early: i128| {
            let (from, to) = (before[which], after[which]);
            let (from, to) = match which {
                1 => (from, to),
                _ => (from + least(from).min(least(to)) - early, to + most(to).max(most(from))),
            };
            assert!((from..=to).contains(&said), "{name}: {said} is not in {from}..={to}");
        };
        is_within("real", said[0], 0, 0);
        is_within("monotonic", said[1], 1, 0);
        if let [coarse, tai, of_day, seconds, stored] = said[2..] {
            is_within("coarse", coarse, 0, TICK_NS);
            is_within("tai", tai, 2, 0);
            is_within("gettimeofday", of_day, 0, 1_000);
            is_within("time", seconds, 0, 1_000_000_000 + TICK_NS);
            assert_eq!(stored, 1, "time returns what it stores");
        }
    }

    fn is_ahead_by(&mut self, line: &str, ahead: i128) {
        self.check(line, |_| ahead, |_| ahead);
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

fn now(clock: ClockId) -> i128 {
    let now = clock_gettime(clock).expect("this kernel has it");
    i128::from(now.tv_sec()) * 1_000_000_000 + i128::from(now.tv_nsec())
}

fn jump(jump_ms: i64) -> Option<ClockShift> {
    Some(ClockShift { jump_ms, drift_ppm: 0 })
}

/// Jumps, drift, a fork, and the true clock again.
fn all_shifts(kept: &mut Kept, forks: bool) {
    kept.is_ahead_by("", 0);
    kept.change(jump(3_600_000));
    kept.is_ahead_by("", HOUR_NS);
    if forks {
        kept.is_ahead_by("fork", HOUR_NS);
    }
    kept.change(jump(-12 * 3_600_000 - 1));
    kept.is_ahead_by("", -12 * HOUR_NS - 1_000_000);
    kept.change(None);
    kept.is_ahead_by("", 0);
    for ppm in [-900_000, 250_000] {
        let (from, to) = kept.change(Some(ClockShift { jump_ms: 0, drift_ppm: ppm }));
        let ahead = |anchor: i128, time: i128| (time - anchor) * i128::from(ppm) / 1_000_000;
        // The rate is rounded to a 2^32th.
        let slack = |time: i128| (time - from) / 1_000_000_000 + 1_000;
        // When it began is known as well as the change was quick: after this time a true clock would be seen.
        let changing = Duration::from_nanos(u64::try_from(to - from).expect("it is soon"));
        let end = Instant::now() + Duration::from_millis(300) + 2 * changing;
        while Instant::now() < end {
            kept.check(
                "",
                |time| ahead(from, time).min(ahead(to, time)) - slack(time),
                |time| ahead(from, time).max(ahead(to, time)) + slack(time),
            );
        }
        kept.change(None);
        kept.is_ahead_by("", 0);
    }
}

#[test]
fn a_program_with_a_libc_has_the_wrong_time_and_the_right_one_again() {
    let directory = TempDir::new().expect("a temporary directory");
    if !is_possible() {
        return;
    }
    if let Some(program) = compiled(directory.path(), &[]) {
        all_shifts(&mut Kept::start(program, &[]), true);
    }
}

#[test]
fn a_static_program_does_too() {
    let directory = TempDir::new().expect("a temporary directory");
    if !is_possible() {
        return;
    }
    if let Some(program) = compiled(directory.path(), &["-static"]) {
        all_shifts(&mut Kept::start(program, &[]), true);
    }
}

#[test]
fn python_does_too() {
    if !is_possible() {
        return;
    }
    if Command::new("python3").arg("--version").output().is_err() {
        return skipped("python3 is not installed");
    }
    all_shifts(&mut Kept::start("python3", &["-c", PYTHON]), false);
}

#[test]
fn threads_that_ask_all_the_time_go_on_through_a_hundred_changes() {
    let directory = TempDir::new().expect("a temporary directory");
    if !is_possible() {
        return;
    }
    let Some(program) = compiled(directory.path(), &[]) else { return };
    let mut kept = Kept::start(program, &[]);
    kept.ask("busy");
    for hours in 1..=50 {
        kept.change(jump(hours * 3_600_000));
        kept.is_ahead_by("", i128::from(hours) * HOUR_NS);
        kept.change(None);
        kept.is_ahead_by("", 0);
    }
}

#[test]
fn a_program_that_is_paused_stays_so() {
    let directory = TempDir::new().expect("a temporary directory");
    if !is_possible() {
        return;
    }
    let Some(program) = compiled(directory.path(), &[]) else { return };
    let mut kept = Kept::start(program, &[]);
    kept.is_ahead_by("", 0);
    let change = clock::change(kept.root(), true, jump(1_000)).expect("it is possible here");
    let [process] = &change.changed[..] else { panic!("{change:?}") };
    assert_eq!(process.name, "clocks");
    let pid = Pid::from_raw(process.pid);
    kill(pid, Signal::SIGSTOP).expect("it runs");
    until(|| state(pid) == "T");
    kept.change(jump(3_600_000));
    assert_eq!(state(pid), "T");
    kill(pid, Signal::SIGCONT).expect("it is stopped");
    kept.is_ahead_by("", HOUR_NS);
}

#[test]
fn a_process_that_another_one_traces_is_refused_and_goes_on() {
    let directory = TempDir::new().expect("a temporary directory");
    if !is_possible() {
        return;
    }
    let Some(program) = compiled(directory.path(), &[]) else { return };
    let mut kept = Kept::start(program, &[]);
    kept.is_ahead_by("", 0);
    let change = clock::change(kept.root(), true, None).expect("it is possible here");
    let pid = Pid::from_raw(change.changed[0].pid);
    // By this thread, and the change is another one's.
    ptrace::seize(pid, ptrace::Options::empty()).expect("nobody else traces it");
    let change = clock::change(kept.root(), true, jump(3_600_000)).expect("it is possible here");
    let [(process, why)] = &change.refused[..] else { panic!("{change:?}") };
    assert_eq!((&*process.name, change.changed.len()), ("clocks", 0));
    assert!(why.starts_with("ptrace: "), "{why}");
    kept.is_ahead_by("", 0);
}

#[test]
fn a_process_that_has_ended_is_left_alone() {
    if !is_possible() {
        return;
    }
    // It was not waited for: there is nothing to change, and nothing to refuse.
    let mut ended = Command::new("true").spawn().expect("it is everywhere");
    let pid = Pid::from_raw(ended.id().cast_signed());
    until(|| state(pid) == "Z");
    let change = clock::change(pid, false, jump(1)).expect("it is possible here");
    assert_eq!((change.changed, change.refused), (Vec::new(), Vec::new()));
    ended.wait().expect("it has ended");
}

#[test]
fn a_program_in_go_writes_the_wrong_time_into_its_log() {
    if !is_possible() {
        return;
    }
    if Command::new("etcd").arg("--version").output().is_err() {
        return skipped("etcd, a program in Go, is not installed");
    }
    let directory = TempDir::new().expect("a temporary directory");
    let log = directory.path().join("log");
    let mut command = Command::new("etcd");
    command.args(["--data-dir".as_ref(), directory.path().join("data").as_os_str()]);
    for (option, url) in [
        ("--listen-client-urls", "http://127.0.0.1:0"),
        ("--advertise-client-urls", "http://127.0.0.1:1"),
        ("--listen-peer-urls", "http://127.0.0.1:0"),
        ("--initial-advertise-peer-urls", "http://127.0.0.1:1"),
        ("--initial-cluster", "default=http://127.0.0.1:1"),
    ] {
        command.args([option, url]);
    }
    let mut command = keeper::keep(&lab_keeper(), &command, true, None, None);
    let output = fs::File::create(&log).expect("a temporary directory");
    command.stdin(Stdio::null()).stdout(output.try_clone().expect("a file")).stderr(output);
    let mut keeper = command.spawn().expect("the keeper");
    let root = Pid::from_raw(keeper.id().cast_signed());
    let has = |text: &str| fs::read_to_string(&log).is_ok_and(|log| log.contains(text));
    until(|| has("became leader"));
    let before = fs::read_to_string(&log).expect("it is there");
    let change = clock::change(root, true, jump(-1000 * 86_400_000)).expect("it is possible here");
    let [process] = &change.changed[..] else { panic!("{change:?}") };
    kill(Pid::from_raw(process.pid), Signal::SIGTERM).expect("it runs");
    until(|| has("terminated signal"));
    let _ = keeper.kill();
    let _ = keeper.wait();
    let log = fs::read_to_string(&log).expect("it is there");
    let year = |text: &str| {
        let mut numbers = text.split(|letter: char| !letter.is_ascii_digit());
        numbers.find(|number| number.len() == 4).map(str::to_owned)
    };
    let line = log.lines().find(|line| line.contains("terminated signal"));
    let (then, now) = (year(line.expect("it was waited for")), year(&before));
    assert!(then.is_some() && then < now, "{line:?} after {before}");
}

fn state(pid: Pid) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit(')').next().unwrap_or_default();
    rest.split_whitespace().next().unwrap_or_default().to_owned()
}

fn until(condition: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "it did not happen in time");
        thread::sleep(Duration::from_millis(2));
    }
}
