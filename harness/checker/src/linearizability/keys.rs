//! Decides all keys of a history. Linearizability is local, so each is decided by itself; what they share
//! is the verdict on the history: one key that is not linearizable decides it.

use std::{
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::{
    KeyVerdict, LimitExceeded, Limits, Observations, Verdict, counterexample,
    decide::{Outcome, explain_outcome, search},
    in_parallel, verify_order,
};

/// Steps that each key may take before those that are undecided get more, and the factor by which they
/// do. Most keys are decided at once, so a key that is not linearizable is found before others take
/// long. Steps that are taken again are few compared with those that follow.
const FIRST_STEPS: u64 = 1 << 20;
const GROWTH: u64 = 8;

/// Decides every key, on all cores, the short ones first. With `certify`, valid verdicts come with
/// certificates that the independent verifier has accepted. Once a key is not linearizable, others that
/// would take long remain unknown.
///
/// # Panics
/// If the verifier rejects a certificate, which is a bug of this crate.
#[must_use]
pub fn check_keys(observations: &Observations, limits: &Limits, certify: bool) -> Vec<KeyVerdict> {
    check_keys_with(observations, limits, certify, &|| {})
}

/// Like [`check_keys`], and calls `key_decided` after each key.
pub(crate) fn check_keys_with(
    observations: &Observations,
    limits: &Limits,
    certify: bool,
    key_decided: &(dyn Fn() + Sync),
) -> Vec<KeyVerdict> {
    let keys = Keys { observations, limits, certify, key_decided };
    let mut undecided: Vec<Decided> = (0..observations.keys().len()).map(Decided::new).collect();
    undecided.sort_by_key(|key| observations.keys()[key.key].len());
    let mut decided: Vec<Decided> = Vec::new();
    let mut steps = FIRST_STEPS;
    while !undecided.is_empty() {
        if decided.iter().any(|key| key.outcome.is_invalid()) {
            for key in &mut undecided {
                key.outcome = Outcome::Unknown(LimitExceeded::Steps(steps / GROWTH));
            }
            decided.append(&mut undecided);
            break;
        }
        undecided = keys.round(undecided, steps, &mut decided);
        steps = steps.saturating_mul(GROWTH);
    }
    keys.explained(decided)
}

/// A key, and what is known of it.
struct Decided {
    /// Its position in [`Observations::keys`].
    key: usize,
    outcome: Outcome,
    /// The numbers of its operations: see [`KeyVerdict`].
    numbers: Vec<u32>,
    /// Time spent on it.
    spent: Duration,
}

impl Decided {
    fn new(key: usize) -> Self {
        let outcome = Outcome::Unknown(LimitExceeded::Steps(0));
        Decided { key, outcome, numbers: Vec::new(), spent: Duration::ZERO }
    }

    fn needs_steps(&self) -> bool {
        matches!(self.outcome, Outcome::Unknown(LimitExceeded::Steps(_)))
    }
}

/// All keys, and how to decide them.
struct Keys<'a> {
    observations: &'a Observations,
    limits: &'a Limits,
    certify: bool,
    key_decided: &'a (dyn Fn() + Sync),
}

impl Keys<'_> {
    /// Searches each of these keys for a number of steps. Returns those that need more.
    fn round(&self, keys: Vec<Decided>, steps: u64, decided: &mut Vec<Decided>) -> Vec<Decided> {
        let workers = workers(keys.len());
        // Keys that are decided at the same time share the memory limit.
        let share = self.limits.configurations / workers.max(1);
        let mut keys = in_parallel(workers, keys.len(), |at| {
            let key = self.search(&keys[at], share, steps);
            if !key.needs_steps() {
                (self.key_decided)();
            }
            key
        });
        // A key whose share was too small is tried again with all the memory.
        for key in keys.iter_mut().filter(|_| workers > 1) {
            if matches!(key.outcome, Outcome::Unknown(LimitExceeded::Configurations(_))) {
                *key = self.search(key, self.limits.configurations, u64::MAX);
            }
        }
        let (undecided, mut others) = keys.into_iter().partition(Decided::needs_steps);
        decided.append(&mut others);
        undecided
    }

    fn search(&self, before: &Decided, configurations: usize, steps: u64) -> Decided {
        let start = Instant::now();
        let key = &self.observations.keys()[before.key];
        let mut packed = key.history(self.observations.spec());
        let time = self.limits.time.saturating_sub(before.spent);
        let limits = Limits { configurations, time };
        let mut outcome = search(&mut packed, &limits, steps, self.certify);
        if let Outcome::Unknown(LimitExceeded::Time(limit)) = &mut outcome {
            *limit = self.limits.time;
        }
        if let Outcome::Valid(Some(order)) = &outcome
            && let Err(rejection) = verify_order(&packed, order)
        {
            panic!("the certificate of key {} is wrong: {rejection}", key.name);
        }
        let spent = before.spent + start.elapsed();
        Decided { key: before.key, outcome, numbers: packed.numbers, spent }
    }

    /// The verdicts in the order of the keys. Counterexamples come last, so that they delay no verdict,
    /// and share a number of steps.
    fn explained(&self, mut decided: Vec<Decided>) -> Vec<KeyVerdict> {
        decided.sort_unstable_by_key(|key| key.key);
        let broken = decided.iter().filter(|key| matches!(key.outcome, Outcome::Break(_))).count();
        let steps = counterexample::STEPS_MAX / (broken as u64).max(1);
        let keys: Vec<_> = decided.into_iter().map(|key| Mutex::new(Some(key))).collect();
        in_parallel(workers(keys.len()), keys.len(), |at| {
            let taken = keys[at].lock().unwrap_or_else(PoisonError::into_inner).take();
            let Decided { key, outcome, numbers, .. } = taken.expect("each is taken once");
            let verdict = match outcome {
                Outcome::Valid(order) => Verdict::Valid(order),
                Outcome::Unknown(limit) => Verdict::Unknown(limit),
                Outcome::Violation(_) | Outcome::Break(_) => {
                    let key = &self.observations.keys()[key];
                    let mut packed = key.history(self.observations.spec());
                    explain_outcome(&mut packed, outcome, self.limits, steps)
                }
            };
            KeyVerdict { key, verdict, numbers }
        })
    }
}

fn workers(keys: usize) -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(keys)
}
