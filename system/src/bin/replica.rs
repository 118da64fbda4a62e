//! The program `replica`: its command line, and nothing else.

use std::process::ExitCode;

use clap::Parser;
use system::cli::ReplicaArgs;

/// A replica of a replicated key/value store: keeps every entry, and serves the master.
#[derive(Parser)]
#[command(version)]
struct Program {
    #[command(flatten)]
    args: ReplicaArgs,
}

fn main() -> ExitCode {
    Program::parse().args.run()
}
