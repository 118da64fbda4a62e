//! The participant.
use super::{Config, Effect, Event, Record, Status};

/// The participant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Participant {
    config: Config,
}

impl Participant {
    /// Starts.
    #[must_use]
    pub fn recover(config: Config, _records: &[Record]) -> (Self, Vec<Effect>) {
        (Participant { config }, Vec::new())
    }

    /// Steps.
    pub fn step(&mut self, _event: Event, _effects: &mut Vec<Effect>) {
        unimplemented!("{:?}", self.config)
    }

    /// Status.
    #[must_use]
    pub fn status(&self) -> Status {
        unimplemented!("{:?}", self.config)
    }
}
