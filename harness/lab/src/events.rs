//! Where the lab reports what it did to the nodes and what it saw of them.

use std::{fmt, io, sync::Arc};

use history::NemesisEvent;

type Write = dyn Fn(NemesisEvent) -> io::Result<()> + Send + Sync;

/// A handle to the history of a run. Clones write to the same history.
#[derive(Clone)]
pub struct EventLog(Arc<Write>);

impl EventLog {
    /// A log that hands each event to `write`.
    #[must_use]
    pub fn new(write: impl Fn(NemesisEvent) -> io::Result<()> + Send + Sync + 'static) -> Self {
        EventLog(Arc::new(write))
    }

    /// Records an event that happened just now.
    ///
    /// # Errors
    /// The history cannot be written.
    pub fn record(&self, event: NemesisEvent) -> io::Result<()> {
        (self.0)(event)
    }
}

impl fmt::Debug for EventLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventLog")
    }
}
