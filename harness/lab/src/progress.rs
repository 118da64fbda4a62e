//! What a run reports while it is in progress. Does not know how that is shown.

use history::Event;

/// Follows the progress of a run.
pub trait RunProgress: Send + Sync {
    /// A new phase begins.
    fn phase(&self, phase: &str);

    /// An event was recorded.
    fn event(&self, event: &Event);

    /// Called several times per second during long phases.
    fn tick(&self);
}

/// Shows nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoProgress;

impl RunProgress for NoProgress {
    fn phase(&self, _phase: &str) {}

    fn event(&self, _event: &Event) {}

    fn tick(&self) {}
}
