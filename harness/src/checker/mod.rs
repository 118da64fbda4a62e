//! Judges histories and recorded runs: a check a file, each with a verdict. Reads what was recorded,
//! never a running system.
//!
//! Whether what clients saw of some keys is linearizable takes ten lines in any project's tests:
//!
//! ```
//! use harness::checker::{Ask, End, Keys, Limits, Verdict, check_keys};
//!
//! let mut keys = Keys::default(); // registers; or Keys::new(Spec::Append)
//! keys.invoke(1, "k", Ask::Put("a"))?; // process 1 begins to put a
//! keys.end(1, End::Ok(None))?;
//! keys.invoke(2, "k", Ask::Get)?;
//! keys.end(2, End::Ok(None))?; // and 2 found nothing: the put is lost
//! let verdicts = check_keys(&keys, &Limits::default(), false);
//! assert!(matches!(verdicts[0].verdict, Verdict::Invalid(_)));
//! println!("{}", verdicts[0].explain(&keys).expect("it is invalid"));
//! # assert!(verdicts[0].explain(&keys).unwrap().sentence.contains("'get = nothing'"));
//! # Ok::<(), harness::checker::MalformedHistory>(())
//! ```
//!
//! The events of all clients go in as they happened, the end of an operation that nobody knows as
//! [`End::Info`]; one [`Verdict`] a key comes out, with a certificate or a counterexample. How it is
//! decided is told at [`linearizability`]; histories in files are the business of [`file`](mod@file).

pub mod atomicity;
pub mod certificate;
pub mod command;
pub mod conflicts;
pub mod convergence;
pub mod durability;
pub mod evidence;
pub mod exits;
pub mod faults;
pub mod file;
mod finding;
pub mod linearizability;
pub mod online;
pub mod progress;
pub mod reads;
pub mod replay;
pub mod reply_soundness;
mod run;
mod spill;
pub mod statistics;
mod verdict;

pub use finding::{Citation, Finding, JournalPosition, Reference, ReferenceRecorder};
pub use linearizability::{
    Ask, Counterexample, End, Keys, Limits, MalformedHistory, Spec, Verdict, check_keys,
};
pub use run::{Final, FinalReplica, LoadError, Run, RunDescription, find_journals};
pub use verdict::{CheckResult, Results, Validity};

/// Judges a run by every check.
#[must_use]
pub fn check(run: &Run, limits: &Limits) -> Results {
    let invariant_violations =
        run.remained.iter().filter_map(|remained| remained.invariant_violations.as_deref());
    let invariant_violations = invariant_violations.map(|broken| {
        let mut check_result = CheckResult::new("invariant-monitor");
        broken.iter().for_each(|broken| check_result.violation(broken.clone()));
        check_result
    });
    let recorded = [
        linearizability::check(run, limits),
        atomicity::check(run),
        reads::check(run),
        durability::check(run),
        reply_soundness::check(run),
        conflicts::check(run),
        convergence::check(run),
        exits::check(run),
        faults::check(run),
        statistics::check(run),
    ];
    Results::new(invariant_violations.chain(recorded).collect())
}
