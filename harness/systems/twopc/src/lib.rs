//! The replicated key/value store of this repository as a system under test.
//!
//! - [`deployment`] sets up a cluster: configuration, directories, the commands that start its nodes.
//!   [`cluster`] runs it and observes transactions without an outcome.
//! - [`certificates`] makes those of a run with TLS.
//! - [`network`] puts relays between the nodes and intercepts messages.
//! - [`faults`] is the list of faults, as data drawn from a seed; [`nemesis`] carries them out.
//!   [`attack`] is what hostile clients do.
//! - [`matrix`] enumerates every crash point and every way to crash there.
//! - [`run`] makes a run, and [`checks`] check its record. [`schedule_replay`] makes a run that follows
//!   a schedule of the model or the simulator.
//! - [`simulation`] judges the runs of the simulator like real ones.
//! - [`commands`] are the commands that all this adds to the command line.
//! - `snapshots` is what clients ask and find when they read several keys at once.
//! - `payload` gives the keys and values of clients their bytes.
//! - [`page`] adds what the journals show to the page of a run.
//!
//! This crate joins the `lab`, which knows no system, with the types of `system`.

pub mod attack;
pub mod certificates;
pub mod checks;
pub mod client;
pub mod cluster;
pub mod commands;
mod crash_point;
pub mod deployment;
pub mod disk;
pub mod faults;
pub mod matrix;
mod mutation;
pub mod nemesis;
pub mod network;
pub mod page;
mod payload;
pub mod run;
pub mod schedule_replay;
mod shortest;
pub mod simulation;
mod snapshots;
mod timings;

use lab::NodeName;
use system::protocol::Node;
pub use system::{
    protocol::{CommitMode, Rule},
    tls::{AVAILABLE as TLS_AVAILABLE, TlsError},
};

pub use self::{crash_point::CrashPoint, mutation::Mutation, timings::Timings};

/// The name by which the lab knows a node.
#[must_use]
pub fn node_name(node: Node) -> NodeName {
    NodeName::new(&node.to_string())
}
