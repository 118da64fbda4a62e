//! Synthetic histories: concurrent clients use one simulated register per key, with random
//! linearization points. They are linearizable by construction, except for one violation that can
//! be planted. The same options give the same history.

use std::{fmt, io, str::FromStr};

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::{Action, ClientEvent, Event, Function, Kind};

pub mod cas;
pub mod transactions;

/// The kinds of violation that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PlantedViolation {
    /// A get returns a value that was overwritten before the get was invoked.
    StaleRead,
    /// A put completes with ok and is never seen: the previous value stays.
    LostWrite,
    /// A get returns the value of a failed put.
    AbortedRead,
    /// A value reappears after its delete has completed.
    ResurrectedDelete,
    /// A put takes effect a second time, after another write was seen.
    DoubleEffect,
    /// A get returns a value whose put is invoked later.
    FutureRead,
}

impl PlantedViolation {
    /// Every kind.
    pub const ALL: [PlantedViolation; 6] = [
        PlantedViolation::StaleRead,
        PlantedViolation::LostWrite,
        PlantedViolation::AbortedRead,
        PlantedViolation::ResurrectedDelete,
        PlantedViolation::DoubleEffect,
        PlantedViolation::FutureRead,
    ];

    /// The name, as typed after `--violate`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            PlantedViolation::StaleRead => "stale-read",
            PlantedViolation::LostWrite => "lost-write",
            PlantedViolation::AbortedRead => "aborted-read",
            PlantedViolation::ResurrectedDelete => "resurrected-delete",
            PlantedViolation::DoubleEffect => "double-effect",
            PlantedViolation::FutureRead => "future-read",
        }
    }
}

impl fmt::Display for PlantedViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PlantedViolation {
    type Err = String;

    /// Takes a name in any case.
    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.to_lowercase();
        PlantedViolation::ALL.into_iter().find(|violation| violation.name() == name).ok_or_else(
            || {
                let names: Vec<_> =
                    PlantedViolation::ALL.iter().map(|violation| violation.name()).collect();
                format!("unknown violation '{text}': expected one of {}", names.join(", "))
            },
        )
    }
}

/// Parameters of a synthetic history.
#[derive(Clone, Debug, PartialEq)]
pub struct SyntheticOptions {
    /// Number of operations.
    pub ops: u64,
    /// Number of keys.
    pub keys: u32,
    /// Open operations at a time.
    pub concurrency: u32,
    /// Share of writes whose outcome is unknown, from 0 to 1.
    pub indeterminate: f64,
    /// Puts in percent of the operations. What puts and deletes leave are gets.
    pub puts: u32,
    /// Deletes in percent of the operations.
    pub deletes: u32,
    /// Seed of all random choices.
    pub seed: u64,
    /// Violation to plant in the middle of the history.
    pub violation: Option<PlantedViolation>,
}

/// An operation without a completion so far.
struct OpenOperation {
    process: u64,
    key: usize,
    f: Function,
    value: Option<String>,
    took_effect: bool,
}

/// Generates a history and passes each event to `out`.
///
/// # Errors
/// What `out` returns.
pub fn generate(
    options: &SyntheticOptions,
    mut out: impl FnMut(&Event) -> io::Result<()>,
) -> io::Result<()> {
    let mut rng = SmallRng::seed_from_u64(options.seed);
    let mut writer = EventWriter { index: 0, time: 0, out: &mut out };
    let mut state: Vec<Option<String>> = vec![None; options.keys.max(1) as usize];
    let mut open: Vec<OpenOperation> = Vec::new();
    let mut idle: Vec<u64> = (0..u64::from(options.concurrency.max(1))).rev().collect();
    let mut next_process = u64::from(options.concurrency.max(1));
    let (mut invoked, mut puts) = (0, 0_u64);
    let mut violation = options.violation;
    while invoked < options.ops || !open.is_empty() {
        if invoked >= options.ops / 2
            && let Some(kind) = violation.take()
        {
            writer.plant(kind, next_process)?;
            next_process += 100;
            state[0] = None;
        }
        let invoke = invoked < options.ops
            && !idle.is_empty()
            && (open.is_empty() || rng.random_ratio(1, 2));
        if invoke {
            let process = idle.pop().expect("one is idle");
            let key = rng.random_range(0..state.len());
            let (f, value) = match rng.random_range(0..100) {
                n if n < options.puts => {
                    puts += 1;
                    (Function::Put, Some(puts.to_string()))
                }
                n if n < options.puts + options.deletes => (Function::Del, None),
                _ => (Function::Get, None),
            };
            let name = format!("k{key}");
            writer.event(process, Kind::Invoke, f, &name, value.as_deref())?;
            open.push(OpenOperation { process, key, f, value, took_effect: false });
            invoked += 1;
            continue;
        }
        let pick = rng.random_range(0..open.len());
        let operation = &mut open[pick];
        if !operation.took_effect {
            match operation.f {
                Function::Get => operation.value.clone_from(&state[operation.key]),
                _ => state[operation.key].clone_from(&operation.value),
            }
            operation.took_effect = true;
            if rng.random_ratio(1, 2) {
                continue;
            }
        }
        let OpenOperation { process, key, f, value, .. } = open.swap_remove(pick);
        let name = format!("k{key}");
        if f.is_write() && rng.random_bool(options.indeterminate.clamp(0.0, 1.0)) {
            writer.event(process, Kind::Info, f, &name, value.as_deref())?;
            idle.push(next_process);
            next_process += 1;
        } else {
            writer.event(process, Kind::Ok, f, &name, value.as_deref())?;
            idle.push(process);
        }
    }
    Ok(())
}

struct EventWriter<'a> {
    index: u64,
    time: u64,
    out: &'a mut dyn FnMut(&Event) -> io::Result<()>,
}

impl EventWriter<'_> {
    fn event(
        &mut self,
        process: u64,
        kind: Kind,
        f: Function,
        key: &str,
        value: Option<&str>,
    ) -> io::Result<()> {
        let is_get_invocation = f == Function::Get && kind == Kind::Invoke;
        let client = ClientEvent {
            process,
            kind,
            f,
            key: key.to_owned(),
            value: value.filter(|_| !is_get_invocation).map(str::to_owned),
            version: None,
            error: match kind {
                Kind::Fail => Some("timeout: r1".to_owned()),
                Kind::Info => Some("connection reset".to_owned()),
                Kind::Invoke | Kind::Ok => None,
            },
            node: None,
        };
        let event = Event { index: self.index, time: self.time, action: Action::Client(client) };
        self.index += 1;
        self.time += 1000;
        (self.out)(&event)
    }

    /// Plants a violation: operations on key `k0`, one after the other, each by a process of its
    /// own that does nothing else. The surrounding gets determine the value whatever the other
    /// clients do.
    fn plant(&mut self, violation: PlantedViolation, process: u64) -> io::Result<()> {
        let mut last = process;
        let mut run = |writer: &mut Self, f, completion, value: Option<&str>| -> io::Result<()> {
            last += 1;
            writer.event(last, Kind::Invoke, f, "k0", value)?;
            writer.event(last, completion, f, "k0", value)
        };
        use Function::{Del, Get, Put};
        use Kind::{Fail, Ok};
        let steps: &[(Function, Kind, Option<&str>)] = match violation {
            PlantedViolation::StaleRead => &[
                (Put, Ok, Some("planted-1")),
                (Put, Ok, Some("planted-2")),
                (Get, Ok, Some("planted-2")),
                (Get, Ok, Some("planted-1")),
            ],
            PlantedViolation::LostWrite => &[
                (Put, Ok, Some("planted-1")),
                (Get, Ok, Some("planted-1")),
                (Put, Ok, Some("planted-2")),
                (Get, Ok, Some("planted-1")),
            ],
            PlantedViolation::AbortedRead => {
                &[(Put, Fail, Some("planted-1")), (Get, Ok, Some("planted-1"))]
            }
            PlantedViolation::ResurrectedDelete => {
                &[(Put, Ok, Some("planted-1")), (Del, Ok, None), (Get, Ok, Some("planted-1"))]
            }
            PlantedViolation::DoubleEffect => &[
                (Put, Ok, Some("planted-1")),
                (Get, Ok, Some("planted-1")),
                (Put, Ok, Some("planted-2")),
                (Get, Ok, Some("planted-2")),
                (Get, Ok, Some("planted-1")),
            ],
            PlantedViolation::FutureRead => {
                &[(Get, Ok, Some("planted-1")), (Put, Ok, Some("planted-1"))]
            }
        };
        for (f, completion, value) in steps {
            run(self, *f, *completion, *value)?;
        }
        // Leaves the key absent, so the simulated register can continue from a known state.
        run(self, Del, Ok, None)
    }
}
