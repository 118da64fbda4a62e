//! Watches a run while it goes on, for linearizability: every prefix of a good history is good, so
//! what is bad now stays bad. Knows events as they are recorded, nothing of who records them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::linearizability::{Ask, End, Keys, Limits, MalformedHistory, Spec, Verdict, decide};
use crate::history::{Action, Event, Function, Kind};

/// A checker that is fed while a run goes on. A cheap handle; clones watch the same run.
///
/// Feed it from [`Recorder::observe`](crate::history::Recorder::observe), and ask it now and then
/// from another thread: an answer costs about a tenth of a second for a million operations.
#[derive(Clone, Default)]
pub struct Watch {
    keys: Arc<Mutex<Keys>>,
}

impl Watch {
    /// Takes in an event.
    ///
    /// # Errors
    /// It does not fit those before it.
    pub fn feed(&self, event: &Event) -> Result<(), MalformedHistory> {
        let Action::Client(client) = &event.action else { return Ok(()) };
        let process = client.process;
        let value = client.value.as_deref();
        let mut keys = lock(&self.keys);
        match client.kind {
            Kind::Invoke => {
                let ask = match (client.f, value) {
                    (Function::Get, _) => Ask::Get,
                    (Function::Put, Some(value)) => Ask::Put(value),
                    (Function::Put | Function::Del, _) => Ask::Del,
                };
                keys.invoke(process, &client.key, ask)
            }
            Kind::Ok => keys.end(process, End::Ok(value)),
            Kind::Fail => keys.end(process, End::Fail),
            Kind::Info => keys.end(process, End::Info),
        }
    }

    /// The name of a key whose history is already beyond repair, if there is one.
    #[must_use]
    pub fn broken(&self, limits: &Limits) -> Option<String> {
        let count = lock(&self.keys).keys().len();
        (0..count).find_map(|at| {
            // The events go on while a key is decided; only its copy is made under the lock.
            let (name, mut packed) = {
                let keys = lock(&self.keys);
                let key = &keys.keys()[at];
                (key.name.to_string(), key.history(Spec::Register))
            };
            matches!(decide(&mut packed, limits, false), Verdict::Invalid(_)).then_some(name)
        })
    }
}

/// Whoever panicked while it fed an event has left whole events.
fn lock(keys: &Mutex<Keys>) -> MutexGuard<'_, Keys> {
    keys.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::synthetic::{Plant, SyntheticOptions, generate};

    #[test]
    fn a_violation_is_seen_while_the_run_goes_on() {
        let options = SyntheticOptions {
            ops: 2000,
            keys: 3,
            concurrency: 5,
            indeterminate: 0.01,
            puts: 40,
            deletes: 10,
            seed: 1,
            plant: Some(Plant::StaleRead),
        };
        let watch = Watch::default();
        let mut seen_at = None;
        generate(&options, |event| {
            watch.feed(event).expect("well formed");
            if seen_at.is_none() && event.index % 100 == 0 {
                seen_at = watch.broken(&Limits::default()).map(|key| (key, event.index));
            }
            Ok(())
        })
        .expect("nothing is written");
        let (key, index) = seen_at.expect("it was planted");
        assert_eq!(key, "k0");
        assert!((1900..2300).contains(&index), "planted in the middle, seen at {index}");
    }
}
