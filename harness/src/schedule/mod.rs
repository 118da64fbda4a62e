//! Schedules, and the command that replays them.

pub mod command;

pub use explore::schedule::*;
