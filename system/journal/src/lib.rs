//! A node's journal: every event that its machine processed and every effect that followed, so that
//! a run can be checked and replayed afterwards. Does not know what the machine does with them.
//!
//! [`Writer`] appends entries, [`Lines`] reads their text and [`read`] the entries. The file is
//! compressed in frames, one for each batch of entries; system/DESIGN.md describes it byte by byte.

mod frame;
mod reader;
mod writer;

use serde::{Deserialize, Serialize};

use protocol::{Config, Effect, Event, Record};

pub use self::{
    reader::{Lines, read},
    writer::Writer,
};

/// An entry of a journal. An event is followed by its effects, in order.
///
/// Its text is one line of JSON. Lines are numbered from 1; what refers to a journal names a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// The machine was recovered from these records; the resulting effects follow.
    Start {
        /// Nanoseconds of the system's monotonic clock, which all processes of a machine share.
        t: u64,
        /// The configuration of the machine.
        config: Config,
        /// The records in its store.
        records: Vec<Record>,
        /// Whether the results of reads are recorded, as events. Earlier versions answered reads
        /// without telling the machine.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        read_results: bool,
    },
    /// The machine processed an event.
    Event {
        /// Nanoseconds of the system's monotonic clock, taken before the effects are performed.
        t: u64,
        /// The event.
        event: Event,
    },
    /// An effect of the entry before.
    Effect(Effect),
}
