//! The harness: runs a system, injects faults, records what its clients observe, and checks the record.

pub mod blocking;
pub mod cli;
pub mod commands;
pub mod disk;
pub mod generator;
pub mod model;
pub mod nemesis;
pub mod network;
pub mod progress;
pub mod report;
pub mod rules;
pub mod runner;
pub mod schedule;
pub mod sim;
pub mod simulator;
pub mod supervisor;
pub mod systems;
pub mod twopc;
pub mod web;

pub use checker;
pub use history;
