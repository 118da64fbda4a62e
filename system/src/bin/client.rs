//! The program `client`: its command line, and nothing else.

use std::process::ExitCode;

use clap::Parser;
use system::cli::ClientArgs;

/// A client of a replicated key/value store: put, del and get, one at a time or many at once.
#[derive(Parser)]
#[command(version)]
struct Program {
    #[command(flatten)]
    args: ClientArgs,
}

fn main() -> ExitCode {
    Program::parse().args.run()
}
