//! The program `harness`.

use std::{env, process::ExitCode};

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    // A keeper and a holder enter namespaces, which only a process with one thread can.
    match arguments.next() {
        Some(first) if first == lab::keeper::COMMAND => lab::keeper::main(arguments),
        Some(first) if first == lab::network::holder::COMMAND => {
            lab::network::holder::main(arguments)
        }
        _ => harness::cli::main(),
    }
}
