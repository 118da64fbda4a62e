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

/// Many small allocations, made in one thread and freed in another: the system's own is slower.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Program::parse().args.run()
}
