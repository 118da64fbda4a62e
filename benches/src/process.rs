//! Child processes that never outlive the benchmark, where they keep their files, and what they
//! cost the machine. Knows nothing of what they do.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{self, Read as _, Seek as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use clap::Parser;
use nix::{
    sys::{
        prctl,
        signal::{Signal, kill},
        stat,
    },
    unistd::{Pid, getppid},
};
use rand::RngExt as _;
use system::cli::{MasterArgs, ReplicaArgs};

/// The word that makes a benchmark's executable be something else: a node, or the guard of another
/// program.
const AS: &str = "as";

#[derive(Parser)]
enum As {
    /// A master of ours.
    Master(MasterArgs),
    /// A replica of ours.
    Replica(ReplicaArgs),
    /// Another program.
    Program {
        /// What to run.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

/// Lets the executable be what it was started as. Every benchmark that starts processes calls this
/// first; nothing comes back when it is the benchmark itself that was meant.
#[must_use]
pub fn run_as() -> Option<ExitCode> {
    let mut arguments = env::args_os();
    let own = arguments.next().unwrap_or_default();
    if arguments.next().as_deref() != Some(OsStr::new(AS)) {
        return None;
    }
    let parent = arguments.next().and_then(|pid| pid.to_str()?.parse().ok());
    // The kernel kills this process when the benchmark ends, however that ends; what it executes
    // inherits that.
    if let Err(error) = prctl::set_pdeathsig(Signal::SIGKILL) {
        eprintln!("cannot be tied to the benchmark: {error}");
        return Some(ExitCode::FAILURE);
    }
    if parent != Some(getppid().as_raw()) {
        return Some(ExitCode::FAILURE);
    }
    Some(match As::parse_from([own].into_iter().chain(arguments)) {
        As::Master(args) => args.run(),
        As::Replica(args) => args.run(),
        As::Program { command } => {
            let error = Command::new(&command[0]).args(&command[1..]).exec();
            eprintln!("cannot run {}: {error}", command[0]);
            ExitCode::FAILURE
        }
    })
}

/// A process of a cluster. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: fs::File,
}

impl Process {
    /// Starts a node of ours out of this executable.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn own(name: &str, log: &Path, arguments: &[String]) -> io::Result<Self> {
        Process::start(name, log, arguments)
    }

    /// Starts another program.
    ///
    /// # Errors
    /// The process cannot be started; that the program is missing is seen only in its log.
    pub fn program(name: &str, log: &Path, command: &[String]) -> io::Result<Self> {
        let words = ["program".to_owned(), "--".to_owned()];
        Process::start(name, log, &[&words[..], command].concat())
    }

    fn start(name: &str, log: &Path, arguments: &[String]) -> io::Result<Self> {
        let log = fs::File::options().create(true).append(true).read(true).open(log)?;
        let mut command = Command::new("/proc/self/exe");
        for (variable, _) in env::vars_os() {
            let text = variable.to_string_lossy();
            // What the user has set for clusters of his own must not reach this one.
            if text.starts_with("TWOPC_") || text.starts_with("ETCD") {
                command.env_remove(variable);
            }
        }
        let child = command
            .arg(AS)
            .arg(std::process::id().to_string())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?)
            .spawn()?;
        Ok(Process { name: name.to_owned(), child, log })
    }

    /// What the process is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Fails, with the end of its log, if the process has ended.
    ///
    /// # Errors
    /// It has ended.
    pub fn check(&mut self) -> io::Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let mut text = String::new();
        self.log.rewind()?;
        self.log.read_to_string(&mut text)?;
        let from = text.len().saturating_sub(2000);
        let end = text.get(from..).unwrap_or(&text);
        Err(io::Error::other(format!("{} has ended ({status}):\n{end}", self.name)))
    }

    /// What the process has cost so far.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage::of(&self.child.id().to_string())
    }

    /// How long the disk that the process's log lies on has had something to do, since the machine
    /// began; none where that is not counted, as in memory.
    #[must_use]
    pub fn disk(&self) -> Option<Duration> {
        let device = self.log.metadata().ok()?.dev();
        let (major, minor) = (stat::major(device), stat::minor(device));
        let all = fs::read_to_string("/proc/diskstats").ok()?;
        all.lines().find_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let own = fields.first()?.parse() == Ok(major) && fields.get(1)?.parse() == Ok(minor);
            // Milliseconds in which anything was under way.
            own.then(|| fields.get(12)?.parse().ok().map(Duration::from_millis))?
        })
    }

    /// How much memory of its own the process has now, in bytes: what is its alone, and what it
    /// maps of its files.
    #[must_use]
    pub fn memory(&self) -> Memory {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(path).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
            kib.unwrap_or(0) << 10
        };
        Memory { anonymous: field("RssAnon"), file: field("RssFile") }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

/// Resident memory, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// The process's own.
    pub anonymous: u64,
    /// Pages of mapped files, which the system can take back.
    pub file: u64,
}

/// What a process has cost the machine since it began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Processor time, in and out of the kernel.
    pub cpu: Duration,
    /// That of the thread that has had most of it.
    pub busiest: Duration,
    /// Bytes that were sent to the disk.
    pub written: u64,
    /// Times that it gave up the processor to wait.
    pub waits: u64,
}

impl Usage {
    /// Of the benchmark's own process.
    #[must_use]
    pub fn own() -> Usage {
        Usage::of("self")
    }

    /// What can be read of a process; nothing of one that has gone.
    fn of(pid: &str) -> Usage {
        let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
        let mut usage = Usage::default();
        for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            // Nanoseconds on a processor come first.
            let stat = read(thread.path().join("schedstat"));
            let cpu = stat.split_whitespace().next().and_then(|ns| ns.parse().ok());
            let cpu = Duration::from_nanos(cpu.unwrap_or(0));
            usage.cpu += cpu;
            usage.busiest = usage.busiest.max(cpu);
            let status = read(thread.path().join("status"));
            let line = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
            usage.waits += line.and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or(0);
        }
        let io = read(format!("/proc/{pid}/io").into());
        let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        usage.written = written.and_then(|n| n.trim().parse().ok()).unwrap_or(0);
        usage
    }

    /// What was added since an earlier look.
    #[must_use]
    pub fn since(self, earlier: Usage) -> Usage {
        Usage {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            busiest: self.busiest.saturating_sub(earlier.busiest),
            written: self.written.saturating_sub(earlier.written),
            waits: self.waits.saturating_sub(earlier.waits),
        }
    }
}

/// A directory on the disk that builds go to, gone when dropped: where the system keeps temporary
/// files may be memory, on which a force costs nothing.
///
/// # Errors
/// It cannot be made.
pub fn scratch() -> io::Result<tempfile::TempDir> {
    // The executable lies in TARGET/release/deps.
    let own = env::current_exe()?;
    let target = own.ancestors().nth(3).unwrap_or_else(|| Path::new("."));
    tempfile::Builder::new().prefix("bench-").tempdir_in(target)
}

/// Addresses on loopback that nobody listens at.
///
/// # Errors
/// None can be had.
pub fn free_addresses(count: usize) -> io::Result<Vec<SocketAddr>> {
    let mut rng = rand::rng();
    let mut part = || rng.random_range(1..=254);
    // An address of this call's own, so that nobody takes the ports before they are used.
    let ip = Ipv4Addr::new(127, part(), part(), part());
    let listeners =
        (0..count).map(|_| TcpListener::bind((ip, 0))).collect::<io::Result<Vec<_>>>()?;
    listeners.iter().map(TcpListener::local_addr).collect()
}
