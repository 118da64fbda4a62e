//! The keeper of a node: a small process between the harness and a program under test, which keeps
//! the program and everything that it starts together, also daemons that have left its process
//! group. Nothing of it outlives the harness.
//!
//! Where the kernel allows it (root, or user namespaces), the program runs in a PID namespace of its
//! own: the keeper's child is process 1 there, and when that one dies, the kernel kills every
//! process of the namespace. Elsewhere the keeper is a subreaper: orphans become its children, and it
//! kills its descendants until none is left. It then ends them only if it is not itself killed.
//!
//! # Control protocol
//!
//! On its standard input the keeper reads `signal N`. SIGKILL ends the tree, SIGSTOP and SIGCONT go to
//! every process of it, other signals to the program. When the input ends, the tree is ended. On its
//! standard output it writes `stopped` and `continued` for the program. It exits as the program did.
//! The program's output is written to the keeper's standard error.
//!
//! With `--user UID:GID`, which only root may ask for, the program runs under that account and in none
//! of its other groups.
//!
//! With `--network FILE`, and `--user-namespace FILE` where that belongs to one, the program runs in that network
//! namespace, without any privilege in it.
//!
//! With `--stdio`, the program has the keeper's standard input and output, and nothing is controlled;
//! only the end of the harness, or a SIGKILL of the keeper, ends it.

use std::{
    ffi::OsString,
    fmt, fs,
    io::{self, BufRead as _, Write as _},
    num::ParseIntError,
    os::{
        fd::AsFd as _,
        unix::{
            fs::{MetadataExt as _, PermissionsExt as _},
            process::{CommandExt as _, ExitStatusExt as _},
        },
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio, exit},
    str::FromStr,
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns, unshare},
    sys::{
        prctl,
        resource::{Resource, setrlimit},
        signal::{self, Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, User, getegid, geteuid, getpid},
};

use crate::{network::Namespaces, tree};

/// The command by which a program that links this crate becomes a keeper: see [`main`].
pub const COMMAND: &str = "__node";

/// The option with which the program has the keeper's standard input and output.
const STDIO: &str = "--stdio";

/// The option that names the account of the program.
const USER: &str = "--user";

/// The option that names the network namespace of the program.
const NETWORK: &str = "--network";

/// The option that names the user namespace which has to be entered first.
const USER_NAMESPACE: &str = "--user-namespace";

/// The option of process 1 of a PID namespace.
const INIT: &str = "--init";

/// The option that forbids namespaces.
const SUBREAPER: &str = "--subreaper";

/// Added to the number of a signal to get the exit status of a process that it ended.
const SIGNAL_BASE: i32 = 128;

/// How long a pass over the descendants is followed by the next one.
const PASS_PERIOD: Duration = Duration::from_millis(2);

/// The account of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its number.
    pub uid: u32,
    /// The number of its group.
    pub gid: u32,
}

impl Account {
    /// The account of this name.
    ///
    /// # Errors
    /// There is none, or this process may not become it; in words.
    pub fn named(name: &str) -> Result<Account, String> {
        let found = User::from_name(name).map_err(|error| format!("account '{name}': {error}"))?;
        let user = found.ok_or_else(|| format!("there is no account '{name}'"))?;
        let account = Account { uid: user.uid.as_raw(), gid: user.gid.as_raw() };
        if !geteuid().is_root() && geteuid() != user.uid {
            return Err(format!("only root can start a program as '{name}'"));
        }
        Ok(account)
    }

    /// Gives a directory and everything in it to the account.
    ///
    /// # Errors
    /// The operating system refuses it.
    pub fn own_tree(self, path: &Path) -> io::Result<()> {
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid))?;
        if path.symlink_metadata()?.is_dir() {
            for entry in fs::read_dir(path)? {
                self.own_tree(&entry?.path())?;
            }
        }
        Ok(())
    }

    /// Lets the account pass through a directory of this process to what it owns below.
    ///
    /// # Errors
    /// The operating system refuses it, or a directory above does not let the account pass.
    pub fn reach(self, path: &Path) -> io::Result<()> {
        fs::set_permissions(path, fs::Permissions::from_mode(0o711))?;
        for above in path.ancestors().skip(1) {
            let found = above.metadata()?;
            let bit = match (found.uid() == self.uid, found.gid() == self.gid) {
                (true, _) => 0o100,
                (_, true) => 0o010,
                _ => 0o001,
            };
            if self.uid != 0 && found.mode() & bit == 0 {
                return Err(io::Error::other(format!(
                    "the account {self} may not enter {}: set TMPDIR to a directory that it may",
                    above.display()
                )));
            }
        }
        Ok(())
    }
}

impl FromStr for Account {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        let (uid, gid) = text.split_once(':').unwrap_or((text, text));
        Ok(Account { uid: uid.parse()?, gid: gid.parse()? })
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

/// The command that runs a program under a keeper. `program` is a program that calls [`main`] for
/// [`COMMAND`], such as `harness`. Without an account, the program has that of the harness, and without
/// namespaces its network.
#[must_use]
pub fn keep(
    program: &Path,
    command: &Command,
    stdio: bool,
    account: Option<Account>,
    namespaces: Option<&Namespaces>,
) -> Command {
    let mut kept = Command::new(program);
    kept.arg(COMMAND);
    if stdio {
        kept.arg(STDIO);
    }
    if let Some(Namespaces { user, network }) = namespaces {
        kept.arg(NETWORK).arg(network);
        if let Some(user) = user {
            kept.arg(USER_NAMESPACE).arg(user);
        }
    }
    if let Some(account) = account {
        kept.arg(USER).arg(account.to_string());
    }
    kept.arg("--").arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => kept.env(name, value),
            None => kept.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        kept.current_dir(directory);
    }
    kept
}

/// What the keeper is asked to run.
struct Task {
    stdio: bool,
    init: bool,
    subreaper: bool,
    account: Option<Account>,
    namespaces: Option<Namespaces>,
    program: OsString,
    arguments: Vec<OsString>,
}

impl Task {
    fn parse(mut arguments: impl Iterator<Item = OsString>) -> Option<Task> {
        let (mut stdio, mut init, mut subreaper) = (false, false, false);
        let mut account = None;
        let (mut network, mut user) = (None, None);
        loop {
            match arguments.next()?.to_str()? {
                STDIO => stdio = true,
                INIT => init = true,
                SUBREAPER => subreaper = true,
                USER => account = Some(arguments.next()?.to_str()?.parse().ok()?),
                NETWORK => network = Some(PathBuf::from(arguments.next()?)),
                USER_NAMESPACE => user = Some(PathBuf::from(arguments.next()?)),
                "--" => break,
                _ => return None,
            }
        }
        let namespaces = network.map(|network| Namespaces { user, network });
        let program = arguments.next()?;
        let arguments = arguments.collect();
        Some(Task { stdio, init, subreaper, account, namespaces, program, arguments })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        if let Some(Account { uid, gid }) = self.account
            && geteuid().as_raw() != uid
        {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn cannot_start(&self, error: &io::Error) -> ExitCode {
        eprintln!("harness: cannot start {}: {error}", self.program.display());
        ExitCode::from(127)
    }
}

/// The keeper. Call it before the process has started a thread, with the arguments that follow
/// [`COMMAND`].
#[must_use]
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(task) = Task::parse(arguments) else {
        eprintln!(
            "harness: usage: {COMMAND} [{STDIO}] [{SUBREAPER}] [{USER} UID:GID] [{NETWORK} FILE \
             [{USER_NAMESPACE} FILE]] -- PROGRAM [ARGUMENT...]"
        );
        return ExitCode::from(254);
    };
    // The harness may be gone already; then the end of the input ends everything.
    if !task.subreaper {
        let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    }
    if task.init {
        return tend(&task, &Namespace);
    }
    if let Some(namespaces) = &task.namespaces
        && let Err(why) = enter(namespaces)
    {
        // Elsewhere it would not be under test.
        eprintln!("harness: cannot start {}: {why}", task.program.display());
        return ExitCode::from(127);
    }
    if !task.subreaper && enter_pid_namespace().is_ok() {
        return hold_init(&task);
    }
    if task.stdio {
        // The parent-death signal survives the exec.
        return task.cannot_start(&task.command().exec());
    }
    let _ = prctl::set_pdeathsig(None);
    let _ = prctl::set_child_subreaper(true);
    tend(&task, &Descendants)
}

/// Enters the network of a host.
fn enter(Namespaces { user, network }: &Namespaces) -> Result<(), String> {
    let open =
        |path: &Path| fs::File::open(path).map_err(|error| format!("its network is gone: {error}"));
    // Both before the first is entered: in it, this process may not look at the harness any more.
    let (user, network) = (user.as_deref().map(open).transpose()?, open(network)?);
    if let Some(user) = user {
        setns(user, CloneFlags::CLONE_NEWUSER)
            .map_err(|error| format!("its user namespace: {error}"))?;
    }
    setns(network, CloneFlags::CLONE_NEWNET).map_err(|error| format!("its network: {error}"))
}

/// Puts the children of this process into a new PID namespace.
fn enter_pid_namespace() -> nix::Result<()> {
    if unshare(CloneFlags::CLONE_NEWPID).is_ok() {
        return Ok(());
    }
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID)?;
    // The own ids are mapped to themselves: nobody is root in there.
    let map = |file: &str, text: String| {
        fs::write(format!("/proc/self/{file}"), text).map_err(|_| Errno::EPERM)
    };
    map("setgroups", "deny".to_owned())?;
    map("uid_map", format!("{uid} {uid} 1"))?;
    map("gid_map", format!("{gid} {gid} 1"))
}

/// Starts process 1 of the namespace, waits for its end, and exits as it did.
fn hold_init(task: &Task) -> ExitCode {
    let mut command = Command::new("/proc/self/exe");
    command.arg(COMMAND).arg(INIT);
    if task.stdio {
        command.arg(STDIO);
    }
    if let Some(account) = task.account {
        command.arg(USER).arg(account.to_string());
    }
    command.arg("--").arg(&task.program).args(&task.arguments);
    match command.status() {
        Ok(status) => {
            let code = status.code().or_else(|| status.signal().map(|n| SIGNAL_BASE + n));
            leave_as(code.unwrap_or(255))
        }
        Err(error) => task.cannot_start(&error),
    }
}

/// Exits, or is killed by a signal, as the exit status says.
fn leave_as(code: i32) -> ExitCode {
    if let Ok(signal) = Signal::try_from(code - SIGNAL_BASE) {
        // The program has left its core file, if it leaves any.
        let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
        let _ = kill(getpid(), signal);
    }
    exit(code)
}

/// How the processes of a tree are reached.
trait Tree: Sync {
    /// Sends a signal to every process of the tree.
    fn signal_all(&self, signal: Signal);

    /// Ends every process of the tree, and this one with the given status.
    fn end(&self, code: i32) -> !;
}

/// A PID namespace of which this is process 1.
struct Namespace;

impl Tree for Namespace {
    fn signal_all(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(-1), signal);
    }

    fn end(&self, code: i32) -> ! {
        // The kernel kills the others, and lets the parent know when they are gone.
        exit(code)
    }
}

/// The descendants of this process, which is a subreaper.
struct Descendants;

impl Tree for Descendants {
    fn signal_all(&self, signal: Signal) {
        let mut signalled = Vec::new();
        // A process may have forked before the signal reached it.
        loop {
            let new: Vec<Pid> = tree::descendants(getpid())
                .into_iter()
                .filter(|pid| !signalled.contains(pid))
                .collect();
            if new.is_empty() {
                return;
            }
            for pid in &new {
                let _ = kill(*pid, signal);
            }
            signalled.extend(new);
        }
    }

    fn end(&self, code: i32) -> ! {
        loop {
            for pid in tree::descendants(getpid()) {
                let _ = kill(pid, Signal::SIGKILL);
            }
            while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                if status == WaitStatus::StillAlive {
                    break;
                }
            }
            if waitpid(None, Some(WaitPidFlag::WNOHANG)) == Err(Errno::ECHILD) {
                let _ = leave_as(code);
            }
            thread::sleep(PASS_PERIOD);
        }
    }
}

/// Runs the program, obeys the harness, and reaps, until the program ends.
fn tend(task: &Task, tree: &'static dyn Tree) -> ExitCode {
    let mut command = task.command();
    if !task.stdio {
        let log = || io::stderr().as_fd().try_clone_to_owned();
        let (Ok(out), Ok(err)) = (log(), log()) else { return ExitCode::from(255) };
        command.stdin(Stdio::null()).stdout(out).stderr(err);
    }
    let child = match command.spawn() {
        Ok(child) => Pid::from_raw(child.id().cast_signed()),
        Err(error) => {
            let _ = task.cannot_start(&error);
            tree.end(127);
        }
    };
    if !task.stdio {
        thread::spawn(move || obey(child, tree));
    }
    loop {
        let flags = WaitPidFlag::WUNTRACED | WaitPidFlag::WCONTINUED;
        match waitpid(None, Some(flags)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => tree.end(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                tree.end(SIGNAL_BASE + signal as i32);
            }
            Ok(WaitStatus::Stopped(pid, _)) if pid == child => report("stopped", task),
            Ok(WaitStatus::Continued(pid)) if pid == child => report("continued", task),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => tree.end(255),
        }
    }
}

fn report(what: &str, task: &Task) {
    if !task.stdio {
        let mut out = io::stdout().lock();
        // Whoever does not read this any more is about to end this process.
        let _ = writeln!(out, "{what}").and_then(|()| out.flush());
    }
}

/// Obeys the lines of the harness until they end.
fn obey(child: Pid, tree: &'static dyn Tree) {
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let number = line.strip_prefix("signal ").and_then(|number| number.parse::<i32>().ok());
        let Some(signal) = number.and_then(|number| Signal::try_from(number).ok()) else {
            eprintln!("harness: keeper: not understood: {line}");
            continue;
        };
        match signal {
            Signal::SIGKILL => break,
            Signal::SIGSTOP | Signal::SIGCONT => tree.signal_all(signal),
            other => {
                // A program that is stopped would not see it.
                tree.signal_all(Signal::SIGCONT);
                let _ = signal::kill(child, other);
            }
        }
    }
    tree.end(SIGNAL_BASE + Signal::SIGKILL as i32)
}
