//! The harness's program: nothing but the call of its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    harness::cli::main()
}
