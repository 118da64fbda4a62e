//! The commands that this system adds to the command line, with their arguments: exploring its protocol
//! ([`model`], [`sim`], [`rules`], [`schedule`]), measuring it ([`blocking`]), its nodes ([`node`]), its
//! journals. The command line of the harness offers them and knows nothing else of them.

pub mod blocking;
mod journal;
pub mod model;
pub mod node;
pub mod rules;
mod run_progress;
pub mod schedule;
pub mod sim;

pub use self::{
    journal::print_journal,
    run_progress::{Progress, run_with_progress},
};
