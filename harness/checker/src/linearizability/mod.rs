//! Linearizability: whether every operation can have taken effect at one moment between its
//! invocation and its return.
//!
//! Keys are decided separately and in parallel, since linearizability is local. There are three
//! tiers:
//!
//! - tier 1, [`zones`], for keys whose puts write distinct values: O(n log n);
//! - tier 2, [`frontier`], for all others: exponential in the number of concurrent operations in the
//!   worst case, bounded by [`Limits`]. Three ways to follow its configurations take turns: one is
//!   exact, one finds orders, one finds that there is none (`portfolio`);
//! - tier 0, [`search()`], a plain search that serves any [`SequentialSpec`]. It is the oracle that the
//!   other tiers are tested against.
//!
//! A valid verdict can come with a certificate, an order of the operations that [`verify`] checks
//! independently. An invalid one comes with a small [`Counterexample`]. The items of this module that
//! the crate root does not re-export are internals, public for benchmarks and tests.

mod counterexample;
mod deadline;
mod decide;
mod explain;
pub mod frontier;
mod keys;
mod observations;
mod operations;
pub mod order;
pub mod packed;
mod portfolio;
mod search;
mod sequential;
pub mod verify;
pub mod zones;

use std::{
    panic,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

pub use counterexample::{Counterexample, Reason, StartState};
pub use decide::{Certificate, LimitExceeded, Verdict, decide, timed_steps, verify_order};
pub use explain::{Explanation, ShownOperation, explain, timeline};
pub use frontier::Limits;
pub use keys::check_keys;
pub(crate) use keys::check_keys_with;
pub use observations::{Encoding, Observations, ObservedKey, PackedHistory, Spec};
pub use operations::{NonLinearizableKey, check, non_linearizable_keys};
pub use search::{ExceededLimit, ObservedCall, SearchLimits, SearchResult, ShortestPrefix, search};
pub use sequential::{Register, RegisterOp, RegisterRet, SequentialSpec};

/// The name of the check.
pub const NAME: &str = "linearizability";

/// The verdict on one key.
#[derive(Clone, Debug)]
pub struct KeyVerdict {
    /// The position of the key in [`Observations::keys`].
    pub key: usize,
    /// The verdict.
    pub verdict: Verdict,
    /// By position in the key's history: the number of the operation in the whole history.
    pub numbers: Vec<u32>,
}

impl KeyVerdict {
    /// Why the key is not linearizable, `None` if it is or if that is unknown.
    #[must_use]
    pub fn explain(&self, observations: &Observations) -> Option<Explanation> {
        let Verdict::Invalid(counterexample) = &self.verdict else { return None };
        let key = &observations.keys()[self.key];
        let shown = |position: u32| ShownOperation::of(key, self.numbers[position as usize]);
        Some(explain(key, counterexample, shown))
    }
}

/// Calls `work` with `0..count` on a number of threads. The results are in the order of the numbers.
pub(crate) fn in_parallel<T: Send>(
    workers: usize,
    count: usize,
    work: impl Fn(usize) -> T + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                return done;
            }
            done.push((at, work(at)));
        }
    };
    let mut done: Vec<(usize, T)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|why| panic::resume_unwind(why)))
            .collect()
    });
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}
