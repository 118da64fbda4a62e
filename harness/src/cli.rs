//! The command line: commands, options, help, and exit statuses. Calls the parts of the harness and
//! does not know how they work.

mod described;
#[cfg(test)]
mod documented;
mod help;
mod options_file;
mod output;
mod record;
mod renamed;
mod replay;
mod shards;
mod soak;
mod subject;
mod test;

use std::{
    env,
    io::{self, IsTerminal as _, StdoutLock, Write},
    path::PathBuf,
    process::ExitCode,
};

use anstream::{AutoStream, ColorChoice};
use campaign::ShardFailure;
use checker::Validity;
use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use report::{
    inspect::InspectError,
    terminal::{Escaped, escape},
};
use twopc::{
    CommitMode, Rule,
    commands::{
        blocking::BlockingArgs,
        model::{self, ModelArgs},
        node::{self, NodeCommand},
        rules::{self, MatrixOutcome, RulesArgs},
        sim::{self, SimArgs, SimOutcome},
    },
};

use self::{
    described::SystemCommand,
    record::RecordArgs,
    shards::{Done, ShardArgs},
    soak::SoakArgs,
    test::TestArgs,
};
use crate::commands::{
    self, CheckArgs, Checked, CommandError, ExportArgs, GenerateArgs, InspectArgs, MergeArgs,
    ReplayArgs, RunsArgs, ServeArgs, ServeFailure, VerifyArgs,
};

/// The exit status of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything was judged and is valid.
    Valid = 0,
    /// A check found a violation.
    Invalid = 1,
    /// A check could not decide, a requested fault was never injected, or a signal ended it.
    Unknown = 2,
    /// This machine failed a shard, which another one may do.
    Elsewhere = 75,
    /// The arguments are invalid, or a record cannot be read.
    BadArguments = 254,
    /// The harness failed.
    Failed = 255,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Runs a replicated system, injects faults while clients use it, and checks the recorded history.
#[derive(Debug, Parser)]
#[command(
    name = "harness",
    version,
    args_conflicts_with_subcommands = true,
    long_about = "Runs a replicated system as real processes, kills and pauses them while clients use \
        it, records what the clients observe, and checks the record. The system is the store of \
        this repository, whose faults also act at chosen points of its protocol and whose journals \
        are checked too, unless --system names another one.\n\n\
        Without a command, harness makes a test run: `harness --faults master-uncertainty` is \
        short for `harness test --faults master-uncertainty`.",
    after_long_help = help::AFTER_HELP
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// When to colour the output: auto is at a terminal, unless NO_COLOR is set.
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t)]
    color: Color,
    #[command(flatten)]
    test: TestArgs,
}

/// When the output has colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

impl From<Color> for ColorChoice {
    fn from(color: Color) -> Self {
        match color {
            Color::Auto => ColorChoice::Auto,
            Color::Always => ColorChoice::Always,
            Color::Never => ColorChoice::Never,
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a test run (the default).
    Test(Box<TestArgs>),
    /// Check recorded runs and histories.
    Check {
        #[command(flatten)]
        args: CheckArgs,
        #[command(flatten)]
        shards: ShardArgs,
    },
    /// Merge the shards of a campaign, and write one page on it.
    #[command(after_long_help = help::AFTER_MERGE_HELP)]
    Merge(MergeArgs),
    /// Verify the certificates that `check --certify` wrote, without the checker.
    Verify(VerifyArgs),
    /// Write a recorded history to standard output in the format of another tool.
    Export(ExportArgs),
    /// Write a synthetic history to standard output, valid or with a planted violation.
    Generate(GenerateArgs),
    /// Replay the journals of recorded runs through the nodes' state machines and compare, or replay
    /// a schedule of the model or the simulator.
    Replay {
        #[command(flatten)]
        args: ReplayArgs,
        /// Force each step of the schedules on real processes, and check the run.
        #[arg(long)]
        real: bool,
        /// Directory for run records.
        #[arg(long, value_name = "DIR", default_value = "histories", requires = "real")]
        store: PathBuf,
    },
    /// Explore every schedule of a small cluster with the model checker stateright.
    Model(ModelArgs),
    /// Simulate a cluster in virtual time, with failures drawn from a seed.
    Sim {
        #[command(flatten)]
        args: SimArgs,
        #[command(flatten)]
        shards: ShardArgs,
    },
    /// Switch off every rule of the protocol in turn, and see which check detects it.
    Rules {
        #[command(flatten)]
        args: RulesArgs,
        #[command(flatten)]
        shards: ShardArgs,
    },
    /// Show the operations, faults and check results of a recorded run.
    Inspect(InspectArgs),
    /// Measure how long keys stay locked while the master is down, with and without inquiries among
    /// the replicas.
    Blocking(BlockingArgs),
    /// Check or write a file that describes a system to test.
    #[command(subcommand)]
    System(SystemCommand),
    /// Test databases in ways that show violations, each beside a twin that is valid, and print a table.
    Record {
        #[command(flatten)]
        args: RecordArgs,
        #[command(flatten)]
        shards: ShardArgs,
    },
    /// Test several systems for a long time, with workloads and faults that are drawn.
    #[command(after_long_help = help::AFTER_SOAK_HELP)]
    Soak(SoakArgs),
    /// List, compare, name and remove recorded runs.
    Runs(RunsArgs),
    /// Serve the recorded runs as web pages.
    Serve(ServeArgs),
    /// Print a script that completes commands and options in a shell.
    Completions {
        /// The shell.
        #[arg(value_name = "SHELL")]
        shell: Shell,
    },
    /// Run a node. A test run starts its nodes with this command.
    #[command(subcommand, hide = true)]
    Node(NodeCommand),
}

/// The program: parses the command line, executes the command, and returns its exit status.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match options_file::expand(env::args_os().collect()) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("harness: {}", escape(&describe(&error)));
            return Exit::BadArguments.into();
        }
    };
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // If the message cannot be written, there is nobody to read it.
            let _ = error.print();
            return if error.use_stderr() { Exit::BadArguments } else { Exit::Valid }.into();
        }
    };
    ColorChoice::from(cli.color).write_global();
    let command = match cli.command.unwrap_or_else(|| Command::Test(Box::new(cli.test))) {
        Command::Node(command) => return node::run(command),
        command => command,
    };
    renamed::warn(env::args().skip(1));
    match execute(command) {
        Ok(exit) => exit.into(),
        Err(Failure { exit, error }) => {
            if let Some(error) = error {
                eprintln!("harness: {}", escape(&describe(&error)));
            }
            exit.into()
        }
    }
}

/// Standard output. A record may hold anything, and nothing in it may control the terminal.
fn stdout() -> Escaped<AutoStream<StdoutLock<'static>>> {
    Escaped::new(anstream::stdout().lock())
}

/// Standard output for a history, which must arrive as it is, but not at a terminal.
fn data_out() -> Box<dyn Write> {
    match io::stdout().is_terminal() {
        true => Box::new(stdout()),
        false => Box::new(io::stdout().lock()),
    }
}

fn execute(command: Command) -> Result<Exit, Failure> {
    let out = stdout;
    match command {
        Command::Test(args) => test::test(&args),
        Command::Check { args, shards } => check(args, &shards),
        Command::Merge(args) => checked(commands::merge(&args, shards::shard_command, &mut out())),
        Command::Verify(args) => checked(commands::verify(&args, &mut out())),
        Command::Export(args) => checked(commands::export(&args, &mut data_out())),
        Command::Generate(args) => checked(commands::generate(&args, &mut data_out())),
        Command::Replay { args, real: false, .. } => replay::replay(&args),
        Command::Replay { args, real: true, store } => replay::replay_on_processes(&args, &store),
        Command::Model(args) => {
            require_effect(&args.broken, &[args.commit])?;
            explored(model::run(&args))
        }
        Command::Sim { args, shards } => {
            require_effect(&args.broken, &[args.commit])?;
            simulate(args, &shards)
        }
        Command::Rules { args, shards } => {
            let asked = if args.mutations.is_empty() { Vec::new() } else { args.rules() };
            require_effect(&asked, &args.modes())?;
            test_rules(args, &shards)
        }
        Command::Inspect(args) => inspected(&args),
        Command::Blocking(args) => test::blocking_test(&args),
        Command::System(command) => test::system_command(&command),
        Command::Record { args, shards } => test::record(args, &shards),
        Command::Soak(args) => test::soak(&args),
        Command::Runs(args) => checked(commands::runs(&args, &mut out()).map(|()| Validity::Valid)),
        Command::Serve(args) => serve_runs(&args),
        Command::Completions { shell } => {
            // The generator panics if its output cannot be written.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "harness", &mut script);
            data_out().write_all(&script)?;
            Ok(Exit::Valid)
        }
        Command::Node(_) => unreachable!("nodes do not return to the command line"),
    }
}

/// An error with its causes, except those that its text already contains.
fn describe(error: &anyhow::Error) -> String {
    let mut description = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !description.ends_with(&cause) {
            description += if description.is_empty() { "" } else { ": " };
            description += &cause;
        }
    }
    description
}

/// Why a command failed, and the exit status for it.
struct Failure {
    exit: Exit,
    /// `None` if whoever read the output has stopped reading, as `head` does: that is no news.
    error: Option<anyhow::Error>,
}

impl Failure {
    /// The arguments, or what they refer to, are invalid.
    fn arguments(error: impl Into<anyhow::Error>) -> Self {
        Failure { exit: Exit::BadArguments, error: Some(error.into()) }
    }

    /// The harness failed. If that is for want of space for the record, it is the run that is unknown.
    fn harness(error: impl Into<anyhow::Error>) -> Self {
        let error = error.into();
        let kinds = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
        let is_full =
            |kind| matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        match kinds.map(io::Error::kind).any(is_full) {
            true => {
                let why = "unknown: there is no space for the record of the run";
                Failure { exit: Exit::Unknown, error: Some(error.context(why)) }
            }
            false => Failure { exit: Exit::Failed, error: Some(error) },
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Failure { exit: Exit::Failed, error: None };
        }
        Failure::harness(anyhow::Error::new(error).context("cannot write to standard output"))
    }
}

/// Rejects rules that have no effect in the chosen commit modes.
fn require_effect(rules: &[Rule], modes: &[CommitMode]) -> Result<(), Failure> {
    Rule::check(rules, modes).map_err(|why| Failure::arguments(anyhow::Error::msg(why)))
}

/// Simulates the seeds, or those of a shard.
fn simulate(mut args: SimArgs, shards: &ShardArgs) -> Result<Exit, Failure> {
    shards.run("seeds", &[], |part| {
        if let Some(part) = part {
            args.seeds = args.seeds.shard(part.shard);
            args.first.clone_from(&part.first);
            args.store.clone_from(&part.store);
        }
        let planned = args.seeds.to - args.seeds.from + args.first.len() as u64;
        let outcome = sim::run(&args, &mut stdout()).map_err(Failure::harness)?;
        let SimOutcome { verdict, seeds, bad } = outcome;
        let failures = bad.into_iter().map(|bad| ShardFailure {
            signature: bad.checks.join(", "),
            verdict: bad.verdict,
            seed: Some(bad.seed),
            command: bad.command,
            directory: bad.directory,
            why: bad.why,
        });
        Ok(Done {
            exit: verdict.into(),
            interrupted: false,
            count: seeds,
            planned,
            failures: failures.collect(),
        })
    })
}

/// Tests the rows of the kill matrix, or those of a shard.
fn test_rules(mut args: RulesArgs, shards: &ShardArgs) -> Result<Exit, Failure> {
    shards.run("rows", &[], |part| {
        if let Some(part) = part {
            args.shard = part.shard;
            args.store.clone_from(&part.store);
        }
        let outcome = rules::run(&args, &mut stdout()).map_err(Failure::harness)?;
        let MatrixOutcome { verdict, rows, left, bad, interrupted, .. } = outcome;
        let failures = bad.into_iter().map(|bad| ShardFailure {
            signature: bad.name,
            verdict: bad.verdict,
            seed: None,
            command: bad.command,
            directory: None,
            why: bad.why,
        });
        let failures = failures.collect();
        // A row in which it was interrupted says nothing, whatever its runs had shown by then.
        let least = if interrupted { Validity::Unknown } else { Validity::Valid };
        let exit = verdict.max(least).into();
        Ok(Done { exit, interrupted, count: rows - left, planned: rows, failures })
    })
}

/// Checks the histories, or a shard of each.
fn check(mut args: CheckArgs, shards: &ShardArgs) -> Result<Exit, Failure> {
    let inputs = args.paths.clone();
    shards.run("operations", &inputs, |part| {
        args.shard = part.map(|part| part.shard);
        let all = commands::check(&args, &mut stdout());
        let failures = all.as_ref().map_or_else(|_| Vec::new(), |all| all.failures.clone());
        let failures = failures.into_iter().map(|failure| ShardFailure {
            signature: campaign::signature_of(&failure.why),
            verdict: failure.verdict,
            seed: None,
            // The whole history: a shard of it would be found in its campaign, and not be checked again.
            command: shards::own_command(),
            directory: None,
            why: failure.why,
        });
        let failures = failures.collect();
        let count = all.as_ref().map_or(0, |all| all.operations);
        let exit = checked_all(all)?;
        Ok(Done { exit, interrupted: false, count, planned: count, failures })
    })
}

/// The exit status of an exploration.
fn explored(verdict: anyhow::Result<Validity>) -> Result<Exit, Failure> {
    verdict.map(Exit::from).map_err(Failure::harness)
}

/// The exit status of a check. A record that cannot be read is a bad argument.
fn checked(verdict: Result<Validity, CommandError>) -> Result<Exit, Failure> {
    match verdict {
        Ok(verdict) => Ok(verdict.into()),
        Err(CommandError::Write(error)) => Err(error.into()),
        Err(error) => Err(Failure::arguments(error)),
    }
}

/// The exit status of a check of several histories. A violation outranks a file that cannot be read,
/// and that an unknown verdict.
fn checked_all(checked: Result<Checked, CommandError>) -> Result<Exit, Failure> {
    match checked {
        Ok(all) if all.unreadable > 0 && all.worst() != Validity::Invalid => Ok(Exit::BadArguments),
        other => self::checked(other.map(|all| all.worst())),
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

/// Shows a recorded run, in colour on a terminal.
fn inspected(args: &InspectArgs) -> Result<Exit, Failure> {
    match commands::inspect(args, &mut anstream::stdout().lock()) {
        Ok(verdict) => Ok(verdict.into()),
        Err(InspectError::Write(error)) => Err(error.into()),
        Err(error) => Err(Failure::arguments(error)),
    }
}

/// Serves recorded runs until a signal ends the server.
fn serve_runs(args: &ServeArgs) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::harness)?;
    match runtime.block_on(commands::serve(args)) {
        Ok(()) => Ok(Exit::Valid),
        Err(ServeFailure::Server(error)) => Err(Failure::harness(error)),
        Err(ServeFailure::Argument(error)) => Err(Failure::arguments(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_well_formed() {
        Cli::command().debug_assert();
    }
}
