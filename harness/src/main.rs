//! The program `harness`.

use std::{env, process::ExitCode};

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    // A keeper enters namespaces, which only a process with one thread can.
    if arguments.next().is_some_and(|first| first == lab::keeper::COMMAND) {
        return lab::keeper::main(arguments);
    }
    harness::cli::main()
}
