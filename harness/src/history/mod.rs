//! What happened in a run, as its clients and its nemesis saw it: events, the recorder that writes
//! them as they happen, the reader, and the pairing of events into operations. Knows nothing of
//! the system under test beyond keys, values and versions as text, and nothing of verdicts.

mod event;
pub mod export;
pub mod formats;
mod operation;
mod read;
mod recorder;
pub mod synthetic;

pub use event::{Action, ClientEvent, ErrorCode, Event, Function, Kind, NemesisEvent, error_of};
pub use operation::{Operation, Outcome, PairError, pair};
pub use read::{Events, ReadError, Whole, read};
pub use recorder::{Recorder, monotonic_ns};
