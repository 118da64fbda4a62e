//! The program `master`: its command line, and nothing else.

use std::process::ExitCode;

use clap::Parser;
use system::cli::MasterArgs;

/// The master of a replicated key/value store: commits each write at every replica, or at none.
#[derive(Parser)]
#[command(version)]
struct Program {
    #[command(flatten)]
    args: MasterArgs,
}

/// Many small allocations, made in one thread and freed in another: the system's own is slower.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Program::parse().args.run()
}
