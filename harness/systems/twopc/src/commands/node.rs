//! The command `node`: a node of the store in a process of the harness, so that the main command needs
//! no other program. A test run starts its nodes with it.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use system::{
    cli::{MasterArgs, ReplicaArgs},
    hooks::StoreDefects,
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
    /// Skip syncs of the store, break one of its rules, or have it make a mistake.
    #[arg(long, hide = true, value_name = "store-syncs|store-meta-syncs|RULE|MISTAKE")]
    without: Vec<Mutation>,
}

impl<T: Args> BuiltInNode<T> {
    fn defects(&self) -> StoreDefects {
        let mut defects = StoreDefects::default();
        for mutation in &self.without {
            match mutation {
                Mutation::SyncMode(mode) => defects.sync_mode = *mode,
                Mutation::StoreRule(rule) => defects.rules = defects.rules.without(*rule),
                Mutation::StoreMistake(mistake) => {
                    defects.rules = defects.rules.with(*mistake);
                }
                Mutation::Rule(_) | Mutation::Mistake(_) => {}
            }
        }
        defects
    }
}

/// Runs a node until a signal ends it.
#[must_use]
pub fn run(command: NodeCommand) -> ExitCode {
    match command {
        NodeCommand::Master(args) => {
            let defects = args.defects();
            args.node.run_with(defects)
        }
        NodeCommand::Replica(args) => {
            let defects = args.defects();
            args.node.run_with(defects)
        }
    }
}
