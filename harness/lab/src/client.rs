//! Clients of the system under test.

use std::time::Duration;

use futures::future::BoxFuture;
use history::Version;

use crate::workload::ClientRequest;

/// A client of the system under test, with a connection of its own.
pub trait Client: Send {
    /// Performs a request. Returns what is known about it when the answer arrives or the deadline
    /// has passed.
    fn perform<'a>(
        &'a mut self,
        request: &'a ClientRequest,
        deadline: Duration,
    ) -> BoxFuture<'a, Answer>;
}

/// What a client knows about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The request took effect.
    Ok {
        /// The version that was written or read.
        version: Option<Version>,
        /// The value that a get returned.
        value: Option<String>,
    },
    /// The request had no effect and never will.
    Fail {
        /// Why.
        error: String,
        /// Whether the system was unavailable, so that an immediate retry would fail too.
        unavailable: bool,
    },
    /// The request may have taken effect, may yet take effect, or may never.
    Info {
        /// Why nothing more is known.
        error: String,
    },
}
