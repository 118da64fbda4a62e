//! The keeper of nodes and the holder of networks, and nothing else: for tests, and for programs that use the
//! lab as a library and are not their own keeper.

use std::{env, process::ExitCode};

use lab::{keeper, network::holder};

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    match arguments.next() {
        Some(command) if command == keeper::COMMAND => keeper::main(arguments),
        Some(command) if command == holder::COMMAND => holder::main(arguments),
        _ => {
            eprintln!(
                "lab-keeper: usage: {} or {}, which the lab calls",
                keeper::COMMAND,
                holder::COMMAND
            );
            ExitCode::from(254)
        }
    }
}
