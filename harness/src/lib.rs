//! The harness: runs a system, breaks it on purpose, records what its clients saw, and judges it.

pub mod blocking;
pub mod checker;
pub mod cli;
pub mod disk;
pub mod generator;
pub mod history;
pub mod model;
pub mod nemesis;
pub mod network;
pub mod progress;
pub mod report;
pub mod report_twopc;
pub mod rules;
pub mod runner;
pub mod schedule;
pub mod sim;
pub mod simulator;
pub mod supervisor;
pub mod systems;

pub use report::serve as web;
