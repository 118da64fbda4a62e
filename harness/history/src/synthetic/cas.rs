//! Synthetic histories of a register with compare-and-set, in which the outcome of many operations is
//! unknown. Linearizable by construction, except for one violation that can be planted. The same
//! options give the same history.

use std::{fmt, str::FromStr};

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::{Completion, Invocation, MalformedHistory, Sink};

/// The kinds of violation that can be planted. Each uses values that only it and operations with an
/// unknown outcome that come with it produce, so that nothing else in the history can explain it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CasViolation {
    /// A get returns a value that was overwritten before the get was invoked.
    StaleRead,
    /// A cas succeeds although the value it expects was overwritten before it was invoked.
    StaleCas,
    /// Two concurrent cas succeed although the value they expect was written once.
    LostUpdate,
    /// Three puts and a cas with unknown outcomes produce a value that is seen five times, overwritten
    /// in between.
    DoubleEffect,
    /// Two cas with unknown outcomes replace a value three times.
    DoubleCas,
}

impl CasViolation {
    /// Every kind.
    pub const ALL: [CasViolation; 5] = [
        CasViolation::StaleRead,
        CasViolation::StaleCas,
        CasViolation::LostUpdate,
        CasViolation::DoubleEffect,
        CasViolation::DoubleCas,
    ];

    /// The name, as typed after `--violate`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            CasViolation::StaleRead => "stale-read",
            CasViolation::StaleCas => "stale-cas",
            CasViolation::LostUpdate => "lost-update",
            CasViolation::DoubleEffect => "double-effect",
            CasViolation::DoubleCas => "double-cas",
        }
    }

    /// What is planted, step by step. The values are 0, 1 and so on beyond those of the history.
    fn script(self) -> Vec<Planted> {
        use Planted::{Both, Cas, InfoCas, InfoPut, Put, Reapplied, Stale};
        match self {
            CasViolation::StaleRead => vec![Put(0), Put(1), Stale(0)],
            CasViolation::StaleCas => vec![Put(0), Put(1), Cas(0, 2)],
            CasViolation::LostUpdate => vec![Put(0), Both([(0, 1), (0, 2)])],
            CasViolation::DoubleEffect => vec![
                InfoPut(0),
                InfoPut(0),
                InfoCas(1, 0),
                InfoPut(0),
                InfoCas(0, 1),
                Reapplied(0),
                Put(1),
                Reapplied(0),
                Put(1),
                Reapplied(0),
                Put(1),
                Reapplied(0),
                Put(1),
                Reapplied(0),
            ],
            CasViolation::DoubleCas => vec![
                InfoCas(0, 1),
                InfoCas(0, 1),
                InfoCas(0, 2),
                Put(0),
                Reapplied(1),
                Put(0),
                Reapplied(1),
                Put(0),
                Reapplied(1),
            ],
        }
    }
}

/// A step of a planted violation, of a process of its own.
#[derive(Clone, Copy)]
enum Planted {
    Put(u32),
    /// A get that returns this value, whatever the register holds.
    Stale(u32),
    /// An operation of an unknown outcome takes effect, for the first time or again, and a get returns
    /// its value.
    Reapplied(u32),
    /// A cas that succeeds, whatever the register holds.
    Cas(u32, u32),
    /// Two such cas that are concurrent.
    Both([(u32, u32); 2]),
    InfoPut(u32),
    InfoCas(u32, u32),
}

impl fmt::Display for CasViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for CasViolation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        CasViolation::ALL.into_iter().find(|violation| violation.name() == text).ok_or_else(|| {
            let names: Vec<_> =
                CasViolation::ALL.iter().map(|violation| violation.name()).collect();
            format!("unknown violation '{text}': expected one of {}", names.join(", "))
        })
    }
}

/// Parameters of a history of one register, named `r`.
#[derive(Clone, Debug, PartialEq)]
pub struct CasOptions {
    /// Number of operations, without those of a planted violation.
    pub ops: u32,
    /// Number of clients. Each has one operation open at a time. A client whose operation has an
    /// unknown outcome goes on as a new process.
    pub clients: u32,
    /// Number of values that puts and cas draw from.
    pub values: u32,
    /// Gets in percent of the operations.
    pub gets: u32,
    /// Cas in percent of the operations. What gets and cas leave are puts.
    pub cas: u32,
    /// Share of operations whose outcome is unknown, from 0 to 1. Half of them have taken effect, a
    /// quarter takes effect later, a quarter never does.
    pub indeterminate: f64,
    /// Seed of all random choices.
    pub seed: u64,
    /// Violation to plant in the middle of the history.
    pub violation: Option<CasViolation>,
}

impl Default for CasOptions {
    fn default() -> Self {
        CasOptions {
            ops: 2000,
            clients: 10,
            values: 5,
            gets: 34,
            cas: 33,
            indeterminate: 0.1,
            seed: 0,
            violation: None,
        }
    }
}

#[derive(Clone, Copy)]
enum Effect {
    Get,
    Put(u32),
    Cas(u32, u32),
}

/// An operation that has not completed, or has completed without a known outcome.
struct Pending {
    process: u64,
    effect: Effect,
    /// Once it has taken effect: what a get found, and whether a cas found what it expects.
    found: Option<(Option<u32>, bool)>,
}

/// The key's name.
const KEY: &str = "r";

struct Simulation<'s> {
    sink: &'s mut dyn Sink,
    rng: SmallRng,
    /// What the register holds.
    held: Option<u32>,
    open: Vec<Pending>,
    /// Operations of an unknown outcome that take effect later.
    late: Vec<Pending>,
    idle: Vec<u64>,
    next_process: u64,
}

/// Generates a history and passes its events to `sink`.
///
/// # Errors
/// What `sink` returns.
pub fn generate(options: &CasOptions, sink: &mut dyn Sink) -> Result<(), MalformedHistory> {
    let clients = u64::from(options.clients.max(1));
    let mut simulation = Simulation {
        sink,
        rng: SmallRng::seed_from_u64(options.seed),
        held: None,
        open: Vec::new(),
        late: Vec::new(),
        idle: (0..clients).rev().collect(),
        next_process: clients,
    };
    let script = options.violation.map(CasViolation::script).unwrap_or_default();
    let mut script = script.into_iter();
    let mut invoked = 0;
    while invoked < options.ops || !simulation.open.is_empty() {
        // Between two steps of a planted violation other clients go on.
        if invoked >= options.ops / 2
            && simulation.rng.random_ratio(1, 8)
            && let Some(step) = script.next()
        {
            simulation.plant(step, options.values)?;
            continue;
        }
        let invoke = invoked < options.ops
            && !simulation.idle.is_empty()
            && (simulation.open.is_empty() || simulation.rng.random_ratio(1, 2));
        if invoke {
            simulation.invoke(options)?;
            invoked += 1;
        } else {
            simulation.proceed(options.indeterminate)?;
        }
    }
    script.try_for_each(|step| simulation.plant(step, options.values))
}

impl Simulation<'_> {
    fn invoke(&mut self, options: &CasOptions) -> Result<(), MalformedHistory> {
        let [from, to] = [(); 2].map(|()| self.rng.random_range(0..options.values.max(1)));
        let effect = match self.rng.random_range(0..100) {
            n if n < options.gets => Effect::Get,
            n if n < options.gets + options.cas => Effect::Cas(from, to),
            _ => Effect::Put(to),
        };
        let process = self.idle.pop().expect("one is idle");
        self.invoked(process, effect)?;
        self.open.push(Pending { process, effect, found: None });
        Ok(())
    }

    fn invoked(&mut self, process: u64, effect: Effect) -> Result<(), MalformedHistory> {
        match effect {
            Effect::Get => self.sink.invoke(process, KEY, Invocation::Get),
            Effect::Put(value) => {
                self.sink.invoke(process, KEY, Invocation::Put(&value.to_string()))
            }
            Effect::Cas(from, to) => {
                let [from, to] = [from, to].map(|value| value.to_string());
                self.sink.invoke(process, KEY, Invocation::Cas(Some(&from), Some(&to)))
            }
        }
    }

    fn take_effect(&mut self, effect: Effect) -> (Option<u32>, bool) {
        let before = self.held;
        match effect {
            Effect::Get => {}
            Effect::Put(value) => self.held = Some(value),
            Effect::Cas(from, _) if before != Some(from) => return (before, false),
            Effect::Cas(_, to) => self.held = Some(to),
        }
        (before, true)
    }

    /// One of the pending operations takes effect or completes.
    fn proceed(&mut self, indeterminate: f64) -> Result<(), MalformedHistory> {
        if !self.late.is_empty() && self.rng.random_ratio(1, 16) {
            let pick = self.rng.random_range(0..self.late.len());
            let late = self.late.swap_remove(pick);
            self.take_effect(late.effect);
            return Ok(());
        }
        let pick = self.rng.random_range(0..self.open.len());
        if self.open[pick].found.is_none() && self.rng.random_ratio(3, 4) {
            self.open[pick].found = Some(self.take_effect(self.open[pick].effect));
            if self.rng.random_ratio(1, 2) {
                return Ok(());
            }
        }
        let pending = self.open.swap_remove(pick);
        if self.rng.random_bool(indeterminate.clamp(0.0, 1.0)) {
            self.sink.complete(pending.process, Completion::Info)?;
            self.idle.push(self.next_process);
            self.next_process += 1;
            if pending.found.is_none() && self.rng.random_ratio(1, 2) {
                self.late.push(pending);
            }
            return Ok(());
        }
        let (found, succeeds) = match pending.found {
            Some(found) => found,
            None => self.take_effect(pending.effect),
        };
        let text = found.map(|value| value.to_string());
        let completion = match pending.effect {
            Effect::Get => Completion::Ok(text.as_deref()),
            _ if succeeds => Completion::Ok(None),
            _ => Completion::Fail,
        };
        self.idle.push(pending.process);
        self.sink.complete(pending.process, completion)
    }

    /// The next step of a planted violation. The register holds what the faulty system would.
    fn plant(&mut self, step: Planted, first: u32) -> Result<(), MalformedHistory> {
        let cas = |(from, to)| Effect::Cas(first + from, first + to);
        let (effects, found) = match step {
            Planted::Put(value) | Planted::InfoPut(value) => {
                (vec![Effect::Put(first + value)], None)
            }
            Planted::Stale(value) | Planted::Reapplied(value) => {
                (vec![Effect::Get], Some((first + value).to_string()))
            }
            Planted::Cas(from, to) | Planted::InfoCas(from, to) => (vec![cas((from, to))], None),
            Planted::Both(both) => (both.map(cas).to_vec(), None),
        };
        self.held = match step {
            Planted::Stale(_) | Planted::InfoPut(_) | Planted::InfoCas(..) => self.held,
            Planted::Put(value) | Planted::Reapplied(value) | Planted::Cas(_, value) => {
                Some(first + value)
            }
            Planted::Both([_, (_, value)]) => Some(first + value),
        };
        let completion = match step {
            Planted::InfoPut(_) | Planted::InfoCas(..) => Completion::Info,
            _ => Completion::Ok(found.as_deref()),
        };
        let process = self.next_process;
        self.next_process += effects.len() as u64;
        for (effect, process) in effects.iter().zip(process..) {
            self.invoked(process, *effect)?;
        }
        (process..self.next_process).try_for_each(|process| self.sink.complete(process, completion))
    }
}
