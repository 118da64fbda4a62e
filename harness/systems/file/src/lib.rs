//! A system under test that a TOML file describes: which programs its nodes are, how they are started and
//! asked whether they are ready, and which program is its client. Does not know any system by name, and not
//! what is correct.
//!
//! - [`spec`] is the file: its tables as types, and every error with file, line and remedy.
//! - [`Deployment`] is such a system, set up for one run on loopback addresses.
//! - [`exec`] is a client in any language, which speaks JSON lines.
//! - [`http`] is a client that consists of HTTP requests.
//! - [`probe`] asks whether a node is ready, and [`hooks`] runs commands.
//! - [`overhead`] measures what the harness itself costs an operation.
//! - [`trial`] tries a file, and [`scaffold`] writes a file and a client to begin with.

mod answer;
mod deployment;
pub mod exec;
pub mod hooks;
pub mod http;
pub mod overhead;
pub mod probe;
pub mod scaffold;
pub mod spec;
mod template;
pub mod trial;

pub use self::{
    deployment::{Deployment, SetUpError, Task},
    spec::{SpecError, SystemSpec},
};
