//! Clients of the system under test.

use std::{future::ready, time::Duration};

use futures::future::BoxFuture;
use history::Version;

use crate::{node::NodeName, request::Request};

/// A client of the system under test, with a connection of its own. It performs one request at a
/// time.
pub trait Client: Send {
    /// Opens the connection. Called before the first request, and again after each one whose outcome
    /// is unknown.
    fn open(&mut self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(ready(Ok(())))
    }

    /// Performs a request. Returns what is known about it when the answer arrives or the deadline
    /// has passed.
    fn perform<'a>(&'a mut self, request: &'a Request, deadline: Duration)
    -> BoxFuture<'a, Answer>;

    /// Closes the connection, at the end of the run.
    fn close(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(ready(()))
    }

    /// The node that the client connects to. `None` if it chooses by itself.
    fn node(&self) -> Option<&NodeName> {
        None
    }

    /// What the client itself has done wrong since this was last asked, such as an answer to a
    /// question that nobody asked. A run with such a client proves nothing.
    fn misconduct(&mut self) -> Option<String> {
        None
    }
}

/// What a client knows about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The request took effect.
    Ok {
        /// The version that was written or read.
        version: Option<Version>,
        /// The value that was returned: a text, or JSON if the function's values are JSON.
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
        /// What was delivered before the outcome became unknown.
        value: Option<String>,
    },
}

impl Answer {
    /// An unknown outcome.
    #[must_use]
    pub fn info(error: impl Into<String>) -> Self {
        Answer::Info { error: error.into(), value: None }
    }
}
