//! Decides whether a history of concurrent clients is linearizable.
//!
//! ```
//! use checker::{Completion, Invocation, Limits, Observations, check_keys};
//!
//! let mut history = Observations::default(); // keys are registers
//! history.invoke(1, "k", Invocation::Put("a"))?; // process 1 puts a
//! history.complete(1, Completion::Ok(None))?;
//! history.invoke(2, "k", Invocation::Get)?;
//! history.complete(2, Completion::Ok(None))?; // process 2 finds nothing: the put is lost
//! for verdict in check_keys(&history, &Limits::default(), false) {
//!     if let Some(explanation) = verdict.explain(&history) {
//!         println!("{explanation}"); // k is not linearizable: ...
//!     }
//! }
//! # let explanation = check_keys(&history, &Limits::default(), false)[0].explain(&history);
//! # let explanation = explanation.expect("it is not linearizable");
//! # assert!(explanation.to_string().starts_with("k is not linearizable: "), "{explanation}");
//! # assert!(explanation.sentence.contains("'get = nothing'"), "{explanation}");
//! # Ok::<(), checker::MalformedHistory>(())
//! ```
//!
//! Pass the events of all clients in the order in which they were observed. Record an invocation
//! before its request is sent and a completion after the reply has arrived. An operation whose outcome
//! is unknown completes with [`Completion::Info`], or not at all. Each key gets a [`Verdict`]: valid,
//! with a certificate on request; invalid, with a small counterexample; or unknown, if deciding takes
//! more than [`Limits`] allow. Verdicts are exact: there are no false positives and no false negatives.
//!
//! - [`linearizability`] decides keys; its documentation describes the algorithms.
//! - [`transactions`] decides which isolation levels a history of transactions satisfies.
//! - [`file`](mod@file) checks histories in files, and partitions those that do not fit in memory.
//! - [`certificate`] writes certificates and verifies them independently.
//! - [`online`] checks a history while it is being recorded.
//! - [`Cause`] is what an invalid verdict comes from.
//! - [`statistics`] counts operations and measures latencies and availability.
//!
//! Does not know how a history was recorded, nor which system was tested.

mod cause;
pub mod certificate;
pub mod file;
mod finding;
mod initial;
pub mod levels;
pub mod linearizability;
mod named_operations;
pub mod online;
mod partition;
pub mod progress;
mod reading;
pub mod statistics;
pub mod transactions;
mod verdict;
pub mod workloads;

pub use cause::{Cause, Impact, ViolationId};
pub use finding::{Citation, Finding, JournalLine, Reference, ReferenceRecorder};
pub use history::{Completion, Invocation, MalformedHistory};
pub use linearizability::{
    Counterexample, Explanation, KeyVerdict, Limits, Observations, Spec, Verdict, check_keys,
};
pub use verdict::{CheckResult, Results, Validity};
