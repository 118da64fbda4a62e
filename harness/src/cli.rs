//! The command line: what can be typed, what is said about it, and the exit status it ends with.
//! Knows how to call the parts of the harness, nothing of how they work.

mod test;

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use system::{
    cli::{MasterArgs, ReplicaArgs},
    protocol::{CommitMode, Rule},
    store::SyncMode,
};

use self::test::TestArgs;
use crate::{
    blocking::BlockingArgs,
    checker::{
        Validity,
        command::{
            self, CheckArgs, CommandError, ExportArgs, GenerateArgs, ReplayArgs, VerifyArgs,
        },
        linearizability::Limits,
    },
    model::{self, command::ModelArgs},
    report::inspect::{InspectArgs, InspectError, inspect},
    report_twopc,
    rules::{self, RulesArgs},
    runner::{
        follow_signals,
        forced::{self, Forced},
    },
    schedule::{self, Schedule},
    sim::{self, command::SimArgs},
    systems::Break,
    web::{ServeArgs, ServeError, serve},
};

/// How a command ends, as its exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything was judged, and is valid.
    Valid = 0,
    /// Something is invalid.
    Invalid = 1,
    /// Something cannot be judged, or a fault that was asked for never fired.
    Unknown = 2,
    /// What was typed makes no sense.
    BadArguments = 254,
    /// The harness itself could not do its part.
    Failed = 255,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Runs a replicated store, breaks it on purpose while clients use it, and judges what they saw.
#[derive(Debug, Parser)]
#[command(
    name = "harness",
    version,
    args_conflicts_with_subcommands = true,
    long_about = "Runs a replicated store as real processes, kills and pauses them at the worst \
        moments while clients use it, records what the clients saw, and judges the record: is it \
        linearizable, is every transaction atomic and durable, was every client told the truth?\n\n\
        Without a command it makes a test run: `harness --faults master-uncertainty` is \
        `harness test --faults master-uncertainty`.",
    after_long_help = AFTER_HELP
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    test: TestArgs,
}

const AFTER_HELP: &str = "\
Faults:
  none                 the clients alone
  kill-master          SIGKILL of the master at random times, restart on the same data and port
  kill-replica         the same for a replica
  pause-master         SIGSTOP of the master at random times, SIGCONT from a moment to longer than
                       every timeout later
  pause-replica        the same for a replica
  master-uncertainty   the master stops itself inside the window of uncertainty, when replicas have
                       voted yes and not all know the decision; it is then killed or continued
  replica-uncertainty  a replica stops itself around its vote or around the decision; it is then
                       killed or continued
  partition            nodes are cut off from each other, one way or both: one replica, the master,
                       everybody; what is sent meanwhile is lost
  messages             messages are lost, late, doubled, out of order; or held back while their
                       sender or receiver is killed, and given to whoever is there then
  second-master          a second master is started on the store of one that lies stopped: it must be
                       refused
  wipe-replica         a replica is started on an empty directory, also with --bootstrap: it must be
                       refused; then it gets its own directory back
  power-loss           nodes lose what they have not synced: one, all replicas, or everything at once,
                       at random times, at points of their work, and inside of a commit to disk.
                       Needs root and /dev/fuse
  crash-matrix         every point of a node's work and of its disk in turn, and at each a kill, a loss
                       of power and a pause; without root or /dev/fuse no loss of power. See --part
  all                  all of these, and several at a time; all-but-F is all but F

Exit status:
  0    valid
  1    invalid: a check found a violation
  2    unknown: something could not be judged, or a fault that was asked for never fired
  254  bad arguments, or a record that cannot be read
  255  the harness itself failed

A run lies in STORE/<system>-<faults>/<UTC time>/: history.jsonl (what the clients and the nemesis
did, an event a line), test.json (every option, and the command that repeats it), final.json (what
every replica held at the end), results.json (what each check found), report.html (all of it to look
at, and its plots as .svg) and nodes/<name>/ (journal
and log). STORE/latest leads to the last one.

Nodes keep their data in a directory of the run's own under $TMPDIR, which is removed at the end;
should the harness be killed, its nodes die with it, and the next run removes the directory.

Ctrl-C ends a run in order: faults healed, nodes stopped, history checked and kept. A second one
ends it at once.

Examples:
  harness --faults master-uncertainty
  harness --faults kill-master,pause-replica --time-limit 60s --concurrency 20
  harness --faults all --seed 7 --test-count 20
  harness --faults replica-uncertainty --break relock-on-recovery
  harness check histories/latest
  harness inspect --key k3 --from 1.5s --to 2s
  harness serve";

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a test run (the default).
    Test(TestArgs),
    /// Judge recorded runs again.
    Check(CheckArgs),
    /// Verify the certificates that `check --certify` wrote, without the checker.
    Verify(VerifyArgs),
    /// Write a recorded history to standard output, as other tools read it.
    Export(ExportArgs),
    /// Write a synthetic history to standard output, valid or with a planted violation.
    Generate(GenerateArgs),
    /// Run the journals of recorded runs through the nodes' machines again, and compare; or run a
    /// schedule of the model or the simulator again.
    Replay {
        #[command(flatten)]
        args: ReplayArgs,
        /// Force schedules on real processes, step by step, and judge the run.
        #[arg(long)]
        real: bool,
        /// Where runs are kept.
        #[arg(long, value_name = "DIR", default_value = "histories", requires = "real")]
        store: PathBuf,
    },
    /// Explore every schedule of a small cluster: the machines that run, by stateright.
    Model(ModelArgs),
    /// Run the machines of a cluster in virtual time, under weather that a seed draws.
    Sim(SimArgs),
    /// Break every rule of the protocol in turn, and see who notices.
    Rules(RulesArgs),
    /// Show what happened in a recorded run, and what its checks found.
    Inspect(InspectArgs),
    /// Measure how long keys stay locked with the master gone, with the replicas asking each other
    /// and without.
    Blocking(BlockingArgs),
    /// Serve the recorded runs as web pages.
    Serve(ServeArgs),
    /// Run a node: what a test run starts its nodes by.
    #[command(subcommand, hide = true)]
    Node(Role),
}

#[derive(Debug, Subcommand)]
enum Role {
    /// The master.
    Master(UnderTest<MasterArgs>),
    /// A replica.
    Replica(UnderTest<ReplicaArgs>),
}

/// What a node that is built into the harness can be told, beyond what the system's programs can.
#[derive(Debug, Args)]
struct UnderTest<T: Args> {
    #[command(flatten)]
    node: T,
    /// Skip syncs of the store.
    #[arg(long, hide = true, value_name = "store-syncs|store-meta-syncs")]
    without: Vec<Break>,
}

impl<T: Args> UnderTest<T> {
    fn syncs(&self) -> SyncMode {
        let skipped = self.without.iter().find_map(|broken| match broken {
            Break::SyncMode(syncs) => Some(*syncs),
            Break::Rule(_) => None,
        });
        skipped.unwrap_or_default()
    }
}

/// The program: reads the command line, does what it says, and turns what came of it into an exit
/// status.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // If the message cannot be written there is nobody to read it.
            let _ = error.print();
            return if error.use_stderr() { Exit::BadArguments } else { Exit::Valid }.into();
        }
    };
    let done = match cli.command.unwrap_or(Command::Test(cli.test)) {
        Command::Test(args) => test::test(&args),
        Command::Check(args) => judged(command::check(&args, &mut io::stdout().lock())),
        Command::Verify(args) => judged(command::verify(&args, &mut io::stdout().lock())),
        Command::Export(args) => judged(command::export(&args, &mut io::stdout().lock())),
        Command::Generate(args) => judged(command::generate(&args, &mut io::stdout().lock())),
        Command::Replay { args, real: false, .. } => replay(&args),
        Command::Replay { args, real: true, store } => force(&args, &store),
        Command::Model(args) => with_rules(&args.broken, &[args.commit])
            .and_then(|()| explored(model::command::run(&args))),
        Command::Sim(args) => with_rules(&args.broken, &[args.commit])
            .and_then(|()| explored(sim::command::run(&args, &mut io::stdout().lock()))),
        Command::Rules(args) => with_rules(&args.rules, &args.modes())
            .and_then(|()| explored(rules::run(&args, &mut io::stdout().lock()))),
        Command::Inspect(args) => shown(&args),
        Command::Blocking(args) => test::blocked(&args),
        Command::Serve(args) => served(&args),
        Command::Node(Role::Master(args)) => {
            let syncs = args.syncs();
            return args.node.run_with(syncs);
        }
        Command::Node(Role::Replica(args)) => {
            let syncs = args.syncs();
            return args.node.run_with(syncs);
        }
    };
    match done {
        Ok(exit) => exit.into(),
        Err(Problem { exit, error }) => {
            eprintln!("harness: {}", told(&error));
            exit.into()
        }
    }
}

/// An error with what caused it, as far as it has not said that itself.
fn told(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !told.ends_with(&cause) {
            told += if told.is_empty() { "" } else { ": " };
            told += &cause;
        }
    }
    told
}

/// Why a command could not be carried out, and the exit status that says so.
struct Problem {
    exit: Exit,
    error: anyhow::Error,
}

impl Problem {
    /// What was typed, or what it names, makes no sense.
    fn arguments(error: impl Into<anyhow::Error>) -> Self {
        Problem { exit: Exit::BadArguments, error: error.into() }
    }

    /// The harness could not do its part.
    fn failed(error: impl Into<anyhow::Error>) -> Self {
        Problem { exit: Exit::Failed, error: error.into() }
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Problem::failed(anyhow::Error::new(error).context("cannot write to standard output"))
    }
}

/// Replays journals, and schedules, which are told from them by their names' `.json`.
fn replay(args: &ReplayArgs) -> Result<Exit, Problem> {
    let is_schedule = |path: &&PathBuf| path.extension().is_some_and(|end| end == "json");
    let (schedules, paths): (Vec<_>, Vec<_>) = args.paths.iter().partition(is_schedule);
    let mut verdict = Validity::Valid;
    let mut out = io::stdout().lock();
    for path in schedules {
        let found = schedule::command::replay(path, &mut out).map_err(Problem::arguments)?;
        verdict = verdict.max(found);
    }
    if paths.is_empty() {
        return Ok(verdict.into());
    }
    let journals = ReplayArgs { paths: paths.into_iter().cloned().collect() };
    judged(command::replay(&journals, &mut out).map(|found| found.max(verdict)))
}

/// Forces schedules on real processes, and judges what came of it.
fn force(args: &ReplayArgs, store: &Path) -> Result<Exit, Problem> {
    let mut verdict = Validity::Valid;
    for path in &args.paths {
        let named = || path.display().to_string();
        let schedule = Schedule::read(path).with_context(named).map_err(Problem::arguments)?;
        let options = forced::options(&schedule, path, store.to_owned());
        let options = options.map_err(anyhow::Error::msg).with_context(named);
        let options = options.map_err(Problem::arguments)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let mut out = io::stdout().lock();
        let (mut not, mut written) = (0, Ok(()));
        let made = runtime.block_on(async {
            let interrupt = follow_signals().map_err(Problem::failed)?;
            let tell = |number: usize, step: &_, became: &Forced| {
                not += u32::from(matches!(became, Forced::Not(_)));
                let line = writeln!(out, "{:>3}. {step}\n       {became}", number + 1);
                written = std::mem::replace(&mut written, Ok(())).and(line);
            };
            forced::run(&schedule, &options, interrupt, tell).await.map_err(Problem::failed)
        })?;
        written?;
        writeln!(out, "{} steps, {not} of them not forced", schedule.steps.len())?;
        let results = command::judge(&made.directory, &Limits::default());
        let (run, results) = results.map_err(Problem::failed)?;
        report_twopc::write(&made.directory, &run, &results).map_err(Problem::failed)?;
        command::say(&results, &made.directory, &mut out)?;
        verdict = verdict.max(results.verdict);
    }
    Ok(verdict.into())
}

/// Nothing that a command names without effect may go unsaid.
fn with_rules(rules: &[Rule], modes: &[CommitMode]) -> Result<(), Problem> {
    Rule::check(rules, modes).map_err(|why| Problem::arguments(anyhow::Error::msg(why)))
}

/// What an exploration found as an exit status.
fn explored(verdict: anyhow::Result<Validity>) -> Result<Exit, Problem> {
    verdict.map(Exit::from).map_err(Problem::failed)
}

/// A verdict as an exit status; a record that cannot be read is a bad argument.
fn judged(verdict: Result<Validity, CommandError>) -> Result<Exit, Problem> {
    match verdict {
        Ok(verdict) => Ok(verdict.into()),
        Err(CommandError::Write(error)) => Err(error.into()),
        Err(error) => Err(Problem::arguments(error)),
    }
}

impl From<Validity> for Exit {
    fn from(verdict: Validity) -> Self {
        match verdict {
            Validity::Valid => Exit::Valid,
            Validity::Invalid => Exit::Invalid,
            Validity::Unknown => Exit::Unknown,
        }
    }
}

/// Shows a recorded run, in colours if there is a terminal.
fn shown(args: &InspectArgs) -> Result<Exit, Problem> {
    match inspect(args, report_twopc::summary, &mut anstream::stdout().lock()) {
        Ok(verdict) => Ok(verdict.into()),
        Err(InspectError::Write(error)) => Err(error.into()),
        Err(error) => Err(Problem::arguments(error)),
    }
}

/// Serves recorded runs until Ctrl-C.
fn served(args: &ServeArgs) -> Result<Exit, Problem> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Problem::failed)?;
    match runtime.block_on(serve(args, report_twopc::check_property)) {
        Ok(()) => Ok(Exit::Valid),
        Err(error @ ServeError::Ended(_)) => Err(Problem::failed(error)),
        Err(error) => Err(Problem::arguments(error)),
    }
}
