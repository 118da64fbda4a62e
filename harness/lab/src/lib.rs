//! Runs the processes of a system under test and injects faults into them.
//!
//! - [`cluster::Cluster`] starts, pauses, resumes, kills and restarts the processes of a [`System`],
//!   and records unexpected exits. [`supervisor`] and [`process`] are the layers below it.
//! - [`network`] puts the nodes into a network whose packets it delays, loses and cuts.
//! - [`disk`] gives each node a file system that loses unsynced writes when its power fails.
//! - [`clock`] makes the wall clocks of processes wrong.
//! - [`injection`] draws fault injections from a seed: rounds of faults, and a second fault during
//!   the outage or the recovery of the first.
//! - [`workload`] draws client requests from the same seed, and [`worker`] sends them through a
//!   [`client`] and records them.
//! - [`run_directory`], [`address`], [`scratch`] and [`signals`] keep runs apart and clean up after
//!   them.
//!
//! The lab does not know any system by name. Nodes are opaque [`NodeName`]s, and what happens is
//! reported to an [`EventLog`].
//!
//! # Example
//!
//! Any program can be supervised:
//!
//! ```
//! use std::{fs::File, process::Command, time::Duration};
//!
//! use lab::supervisor::Supervisor;
//!
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! let supervisor = Supervisor::start()?;
//! let mut command = Command::new("sh");
//! command.args(["-c", "echo listening 127.0.0.1:7000; read line"]);
//! let process = supervisor.spawn(command, File::options().write(true).open("/dev/null")?).await?;
//! let up = process.wait_until(Duration::from_secs(5), |state| state.listening.is_some()).await;
//! assert!(up.is_some());
//! process.kill().await;
//! # std::io::Result::Ok(())
//! # })?;
//! # std::io::Result::Ok(())
//! ```

pub mod address;
pub mod bag;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod disk;
pub mod duration;
mod events;
pub mod fault;
pub mod injection;
pub mod keeper;
pub mod nemesis;
pub mod network;
mod node;
pub mod process;
pub mod progress;
mod redaction;
pub mod request;
mod run;
pub mod run_directory;
pub mod scratch;
pub mod seeds;
pub mod signals;
pub mod supervisor;
mod system;
mod tree;
pub mod worker;
pub mod workload;
pub mod workloads;

pub use self::{
    events::EventLog,
    node::NodeName,
    run::{CompletedRun, RunError, RunSettings, run},
    system::{ForbiddenStart, MemberChange, StartOptions, System},
};
