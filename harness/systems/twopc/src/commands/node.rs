//! The command `node`: a node of the store in a process of the harness, so that the main command needs
//! no other program. A test run starts its nodes with it.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use system::{
    cli::{MasterArgs, ReplicaArgs},
    store::SyncMode,
};

use crate::Mutation;

/// The role of a node, with its arguments.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// The master.
    Master(BuiltInNode<MasterArgs>),
    /// A replica.
    Replica(BuiltInNode<ReplicaArgs>),
}

/// The arguments of a node that is built into the harness: those of the system's program, and
/// mutations that the program does not offer.
#[derive(Debug, Args)]
pub struct BuiltInNode<T: Args> {
    #[command(flatten)]
    node: T,
    /// Skip syncs of the store.
    #[arg(long, hide = true, value_name = "store-syncs|store-meta-syncs")]
    without: Vec<Mutation>,
}

impl<T: Args> BuiltInNode<T> {
    fn sync_mode(&self) -> SyncMode {
        let skipped = self.without.iter().find_map(|mutation| match mutation {
            Mutation::SyncMode(mode) => Some(*mode),
            Mutation::Rule(_) => None,
        });
        skipped.unwrap_or_default()
    }
}

/// Runs a node until a signal ends it.
#[must_use]
pub fn run(command: NodeCommand) -> ExitCode {
    match command {
        NodeCommand::Master(args) => {
            let mode = args.sync_mode();
            args.node.run_with(mode)
        }
        NodeCommand::Replica(args) => {
            let mode = args.sync_mode();
            args.node.run_with(mode)
        }
    }
}
