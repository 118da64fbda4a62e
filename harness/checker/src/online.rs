//! Checks a history for linearizability while it is being recorded. Every prefix of a linearizable
//! history is linearizable, so a violation found early is final.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use history::{Action, Completion, Event, Function, Invocation, Kind, MalformedHistory};

use crate::{Limits, Observations, Spec, Verdict, linearizability::decide};

/// A linearizability check of a growing history. A cheap handle: clones check the same history.
///
/// Pass events from [`Recorder::observe`](history::Recorder::observe), and call
/// [`violation`](OnlineCheck::violation) now and then from another thread. A call takes about 0.1 s for
/// a million operations.
#[derive(Clone, Default)]
pub struct OnlineCheck {
    observations: Arc<Mutex<Observations>>,
}

impl OnlineCheck {
    /// Takes the next event of the history.
    ///
    /// # Errors
    /// The event does not fit those before it.
    pub fn observe(&self, event: &Event) -> Result<(), MalformedHistory> {
        let Action::Client(client) = &event.action else { return Ok(()) };
        let process = client.process;
        let value = client.value.as_deref();
        let mut observations = lock(&self.observations);
        match client.kind {
            Kind::Invoke => {
                let invocation = match (client.f, value) {
                    (Function::Get, _) => Invocation::Get,
                    (Function::Put, Some(value)) => Invocation::Put(value),
                    (Function::Put | Function::Del, _) => Invocation::Del,
                    (f, _) => {
                        let reason = "only get, put and del are checked while they are recorded";
                        return Err(MalformedHistory(format!("{f}: {reason}")));
                    }
                };
                observations.invoke(process, &client.key, invocation)
            }
            Kind::Ok => observations.complete(process, Completion::Ok(value)),
            Kind::Fail => observations.complete(process, Completion::Fail),
            Kind::Info => observations.complete(process, Completion::Info),
        }
    }

    /// The name of a key whose history is not linearizable so far, if there is one.
    #[must_use]
    pub fn violation(&self, limits: &Limits) -> Option<String> {
        let count = lock(&self.observations).keys().len();
        (0..count).find_map(|at| {
            // Only the copy is made under the lock, so that events can arrive while a key is decided.
            let (name, mut packed) = {
                let observations = lock(&self.observations);
                let key = &observations.keys()[at];
                (key.name.to_string(), key.history(Spec::Register))
            };
            matches!(decide(&mut packed, limits, false), Verdict::Invalid(_)).then_some(name)
        })
    }
}

/// A panic while an event is added leaves the events before it intact.
fn lock(observations: &Mutex<Observations>) -> MutexGuard<'_, Observations> {
    observations.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use history::synthetic::{PlantedViolation, SyntheticOptions, generate};

    use super::*;

    #[test]
    fn a_violation_is_found_while_the_history_grows() {
        let options = SyntheticOptions {
            ops: 2000,
            keys: 3,
            concurrency: 5,
            indeterminate: 0.01,
            puts: 40,
            deletes: 10,
            seed: 1,
            violation: Some(PlantedViolation::StaleRead),
        };
        let check = OnlineCheck::default();
        let mut found_at = None;
        generate(&options, |event| {
            check.observe(event).expect("well formed");
            if found_at.is_none() && event.index % 100 == 0 {
                found_at = check.violation(&Limits::default()).map(|key| (key, event.index));
            }
            Ok(())
        })
        .expect("nothing is written");
        let (key, index) = found_at.expect("it was planted");
        assert_eq!(key, "k0");
        assert!((1900..2300).contains(&index), "planted in the middle, found at {index}");
    }
}
