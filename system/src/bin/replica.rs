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

/// Many small allocations, made in one thread and freed in another: the system's own is slower.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Program::parse().args.run()
}
