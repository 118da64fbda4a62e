//! The command line of the tester: commands, options and what they print. The crates below it run
//! systems, inject faults, record what clients observe, and check the record.

pub mod cli;
pub mod commands;
