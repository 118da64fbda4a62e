//! Judges recorded runs: a check a file, each with a verdict. Reads what was recorded, never a
//! running system.

mod run;

pub use run::{Final, FinalReplica, Journal, LoadError, Run, Setup, load_journals};
