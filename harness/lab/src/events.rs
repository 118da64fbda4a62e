//! Where the lab reports what it did to the nodes and what it saw of them.

use std::{fmt, io, sync::Arc};

use serde_json::Value as Json;

type Write = dyn Fn(&str, Json) -> io::Result<()> + Send + Sync;

/// A handle to the history of a run. Clones write to the same history.
#[derive(Clone)]
pub struct EventLog(Arc<Write>);

impl EventLog {
    /// A log that hands each event, its name and its fields, to `write`.
    #[must_use]
    pub fn new(write: impl Fn(&str, Json) -> io::Result<()> + Send + Sync + 'static) -> Self {
        EventLog(Arc::new(write))
    }

    /// Records an event that happened just now.
    ///
    /// # Errors
    /// The history cannot be written.
    pub fn record(&self, event: &str, fields: Json) -> io::Result<()> {
        (self.0)(event, fields)
    }
}

impl fmt::Debug for EventLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventLog")
    }
}
