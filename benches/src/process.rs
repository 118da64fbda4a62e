//! Child processes that never outlive the benchmark, their scratch directories, and their resource
//! usage.

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

/// The first argument with which a benchmark's executable runs as something else: as a node, or as the
/// guard of another program.
const RUN_AS: &str = "as";

#[derive(Parser)]
enum RunAs {
    /// A master of this store.
    Master(MasterArgs),
    /// A replica of this store.
    Replica(ReplicaArgs),
    /// Another program.
    Program {
        /// The command line.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

/// Runs the executable as a node or a guard if it was started as one, and returns its exit code; `None`
/// if it was started as the benchmark. Every benchmark that starts processes calls this first.
#[must_use]
pub fn run_as() -> Option<ExitCode> {
    let mut arguments = env::args_os();
    let own = arguments.next().unwrap_or_default();
    if arguments.next().as_deref() != Some(OsStr::new(RUN_AS)) {
        return None;
    }
    let parent = arguments.next().and_then(|pid| pid.to_str()?.parse().ok());
    // The kernel kills this process when the benchmark ends, even if that is killed. A program that
    // it executes inherits the setting.
    if let Err(error) = prctl::set_pdeathsig(Signal::SIGKILL) {
        eprintln!("cannot request to be killed with the benchmark: {error}");
        return Some(ExitCode::FAILURE);
    }
    if parent != Some(getppid().as_raw()) {
        return Some(ExitCode::FAILURE);
    }
    Some(match RunAs::parse_from([own].into_iter().chain(arguments)) {
        RunAs::Master(args) => args.run(),
        RunAs::Replica(args) => args.run(),
        RunAs::Program { command } => {
            let error = Command::new(&command[0]).args(&command[1..]).exec();
            eprintln!("cannot run {}: {error}", command[0]);
            ExitCode::FAILURE
        }
    })
}

/// A process of a cluster. It is killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: fs::File,
}

impl Process {
    /// Starts a node of this store from this executable.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn own(name: &str, log: &Path, arguments: &[String]) -> io::Result<Self> {
        Process::start(name, log, arguments)
    }

    /// Starts another program.
    ///
    /// # Errors
    /// The process cannot be started. If the program is missing, only the log says so.
    pub fn program(name: &str, log: &Path, command: &[String]) -> io::Result<Self> {
        let words = ["program".to_owned(), "--".to_owned()];
        Process::start(name, log, &[&words[..], command].concat())
    }

    fn start(name: &str, log: &Path, arguments: &[String]) -> io::Result<Self> {
        let log = fs::File::options().create(true).append(true).read(true).open(log)?;
        let mut command = Command::new("/proc/self/exe");
        for (variable, _) in env::vars_os() {
            let text = variable.to_string_lossy();
            // The user's settings for other clusters must not reach this one.
            if text.starts_with("TWOPC_") || text.starts_with("ETCD") {
                command.env_remove(variable);
            }
        }
        let child = command
            .arg(RUN_AS)
            .arg(std::process::id().to_string())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?)
            .spawn()?;
        Ok(Process { name: name.to_owned(), child, log })
    }

    /// The name of the process.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Fails if the process has ended, with the end of its log.
    ///
    /// # Errors
    /// The process has ended.
    pub fn check(&mut self) -> io::Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let mut text = String::new();
        self.log.rewind()?;
        self.log.read_to_string(&mut text)?;
        let from = text.len().saturating_sub(2000);
        let end = text.get(from..).unwrap_or(&text);
        Err(io::Error::other(format!("{} has ended ({status}):\n{end}", self.name)))
    }

    /// The resource usage of the process so far.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage::of(&self.child.id().to_string())
    }

    /// How long the disk that holds the process's log has been busy since the machine booted; `None` if
    /// the kernel does not count that, as for tmpfs.
    #[must_use]
    pub fn disk(&self) -> Option<Duration> {
        let device = self.log.metadata().ok()?.dev();
        let (major, minor) = (stat::major(device), stat::minor(device));
        let all = fs::read_to_string("/proc/diskstats").ok()?;
        all.lines().find_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let own = fields.first()?.parse() == Ok(major) && fields.get(1)?.parse() == Ok(minor);
            // Milliseconds in which any request was in progress.
            own.then(|| fields.get(12)?.parse().ok().map(Duration::from_millis))?
        })
    }

    /// The resident memory of the process.
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
            // The process may have ended already.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

/// Resident memory, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Anonymous memory.
    pub anonymous: u64,
    /// Pages of mapped files, which the kernel can reclaim.
    pub file: u64,
}

/// The resource usage of a process since it started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Processor time, user and system.
    pub cpu: Duration,
    /// The processor time of the busiest thread.
    pub busiest: Duration,
    /// Bytes written to the disk.
    pub written: u64,
    /// Voluntary context switches.
    pub waits: u64,
}

impl Usage {
    /// The usage of the benchmark's own process.
    #[must_use]
    pub fn own() -> Usage {
        Usage::of("self")
    }

    /// The usage of a process; zero if it has ended.
    fn of(pid: &str) -> Usage {
        let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
        let mut usage = Usage::default();
        for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            // The first field is the time on a processor, in nanoseconds.
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

    /// The difference to an earlier usage.
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

/// A directory on the disk of the build directory, removed when dropped. The usual temporary directory
/// may be in memory, where a sync costs nothing.
///
/// # Errors
/// The directory cannot be created.
pub fn scratch() -> io::Result<tempfile::TempDir> {
    // The executable is in TARGET/release/deps.
    let own = env::current_exe()?;
    let target = own.ancestors().nth(3).unwrap_or_else(|| Path::new("."));
    tempfile::Builder::new().prefix("bench-").tempdir_in(target)
}

/// Free loopback addresses.
///
/// # Errors
/// No address is available.
pub fn free_addresses(count: usize) -> io::Result<Vec<SocketAddr>> {
    let mut rng = rand::rng();
    let mut part = || rng.random_range(1..=254);
    // A random loopback IP for this call, so that nobody takes the ports before they are used.
    let ip = Ipv4Addr::new(127, part(), part(), part());
    let listeners =
        (0..count).map(|_| TcpListener::bind((ip, 0))).collect::<io::Result<Vec<_>>>()?;
    listeners.iter().map(TcpListener::local_addr).collect()
}
