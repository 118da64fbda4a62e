//! Histories of concurrent clients: what each client invoked, how each operation completed, and what
//! the fault injector did meanwhile.
//!
//! - [`Recorder`] writes events as they happen, one JSON object a line (`history.jsonl`); [`read()`]
//!   and [`EventReader`] read them back, and [`pair`] joins invocations and completions into
//!   [`Operation`]s.
//! - [`formats`] streams a file in any known format (this one, Jepsen's EDN, `history.txt` and logs,
//!   Porcupine's data, operations with start and end as JSON or CSV) into a [`Sink`], and [`Value`]
//!   is what their values are. Transactions are passed on as lists of [`MicroOp`]s.
//! - [`export`] writes a history for Jepsen or Porcupine; [`synthetic`] generates histories.
//!
//! ```
//! use history::{Completion, Invocation, MalformedHistory, Sink, formats};
//!
//! /// Counts the operations that had an effect or may have had one.
//! #[derive(Default)]
//! struct Count(u64);
//!
//! impl Sink for Count {
//!     fn invoke(&mut self, _: u64, _: &str, _: Invocation<'_>) -> Result<(), MalformedHistory> {
//!         self.0 += 1;
//!         Ok(())
//!     }
//!     fn complete(&mut self, _: u64, completion: Completion<'_>) -> Result<(), MalformedHistory> {
//!         self.0 -= u64::from(completion == Completion::Fail);
//!         Ok(())
//!     }
//! }
//!
//! let edn = "{:type :invoke, :f :write, :value 3, :process 0}\n\
//!            {:type :ok, :f :write, :value 3, :process 0}\n";
//! let mut count = Count::default();
//! let format = formats::recognise(edn.as_bytes()).expect("it is EDN");
//! formats::stream_from(&mut edn.as_bytes(), format, &mut count, "example.edn".as_ref())?;
//! assert_eq!(count.0, 1);
//! # Ok::<(), history::ReadError>(())
//! ```
//!
//! The fields of a recorded event and the formats that are read are described in the crate's
//! `README.md`. Does not know what a correct history is, nor which system was tested.

mod description;
mod event;
pub mod export;
pub mod formats;
mod function;
pub mod nemesis;
mod number;
mod observation;
mod operation;
mod read;
mod recorder;
mod redact;
mod shard;
pub mod synthetic;
mod value;

pub use description::{FailedRun, RunDescription};
pub use event::{Action, ClientEvent, ErrorCode, Event, Kind, TIME_MAX, Version};
pub use function::Function;
pub use nemesis::NemesisEvent;
pub use number::Number;
pub use observation::{
    Completion, Invocation, MalformedHistory, MicroFunction, MicroOp, ObjectEvent, Sink,
};
pub use operation::{Operation, Outcome, PairError, pair};
pub use read::{EventReader, ReadError, RecordedHistory, read};
pub use recorder::{Recorder, monotonic_ns};
pub use redact::Redactor;
pub use shard::Shard;
pub use value::{NumberKind, Value, shown};
