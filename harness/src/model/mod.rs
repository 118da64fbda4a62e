//! The model, and the command that explores it.

pub mod command;

pub use explore::model::*;
