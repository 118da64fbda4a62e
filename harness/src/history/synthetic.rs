//! Histories that nobody recorded: a simulated register for each key, asked by concurrent clients,
//! with random linearization points; valid by construction, or with one violation planted in it.
//! Knows nothing of checkers.

use std::{fmt, io, str::FromStr};

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::{Action, ClientEvent, Event, Function, Kind};

/// What kind of violation is planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Plant {
    /// A get finds a value that had been overwritten before it was invoked.
    StaleRead,
    /// A put that was answered Ok is never seen: the value before it goes on.
    LostWrite,
    /// A get finds the value of a put that failed.
    AbortedRead,
    /// A value comes back after a delete of it was seen.
    ResurrectedDelete,
    /// A put takes effect a second time, after another write was seen.
    DoubleEffect,
    /// A get finds a value whose put is invoked later.
    FutureRead,
}

impl Plant {
    /// Every kind.
    pub const ALL: [Plant; 6] = [
        Plant::StaleRead,
        Plant::LostWrite,
        Plant::AbortedRead,
        Plant::ResurrectedDelete,
        Plant::DoubleEffect,
        Plant::FutureRead,
    ];

    /// Its name, as typed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Plant::StaleRead => "stale-read",
            Plant::LostWrite => "lost-write",
            Plant::AbortedRead => "aborted-read",
            Plant::ResurrectedDelete => "resurrected-delete",
            Plant::DoubleEffect => "double-effect",
            Plant::FutureRead => "future-read",
        }
    }
}

impl fmt::Display for Plant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Plant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Plant::ALL.into_iter().find(|plant| plant.name() == text).ok_or_else(|| {
            let names: Vec<_> = Plant::ALL.iter().map(|plant| plant.name()).collect();
            format!("'{text}' is no violation: want one of {}", names.join(", "))
        })
    }
}

/// What a synthetic history looks like.
#[derive(Clone, Debug, PartialEq)]
pub struct SyntheticOptions {
    /// Operations.
    pub ops: u64,
    /// Keys.
    pub keys: u32,
    /// Operations under way at a time.
    pub concurrency: u32,
    /// The share of writes that never return, from 0 to 1.
    pub indeterminate: f64,
    /// Of a hundred operations: puts and deletes; the others are gets.
    pub puts: u32,
    /// Deletes.
    pub deletes: u32,
    /// What all random choices come from.
    pub seed: u64,
    /// What is planted, if anything, in the middle.
    pub plant: Option<Plant>,
}

/// An operation under way.
struct UnderWay {
    process: u64,
    key: usize,
    f: Function,
    value: Option<String>,
    done: bool,
}

/// Makes a history, event by event.
///
/// # Errors
/// What `out` returns.
pub fn generate(
    options: &SyntheticOptions,
    mut out: impl FnMut(&Event) -> io::Result<()>,
) -> io::Result<()> {
    let mut rng = SmallRng::seed_from_u64(options.seed);
    let mut maker = Maker { index: 0, time: 0, out: &mut out };
    let mut state: Vec<Option<String>> = vec![None; options.keys.max(1) as usize];
    let mut under_way: Vec<UnderWay> = Vec::new();
    let mut idle: Vec<u64> = (0..u64::from(options.concurrency.max(1))).rev().collect();
    let mut next_process = u64::from(options.concurrency.max(1));
    let (mut begun, mut puts) = (0, 0_u64);
    let mut plant = options.plant;
    while begun < options.ops || !under_way.is_empty() {
        if begun >= options.ops / 2
            && let Some(kind) = plant.take()
        {
            maker.plant(kind, next_process)?;
            next_process += 100;
            state[0] = None;
        }
        let begin = begun < options.ops
            && !idle.is_empty()
            && (under_way.is_empty() || rng.random_ratio(1, 2));
        if begin {
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
            maker.event(process, Kind::Invoke, f, &name, value.as_deref())?;
            under_way.push(UnderWay { process, key, f, value, done: false });
            begun += 1;
            continue;
        }
        let pick = rng.random_range(0..under_way.len());
        let operation = &mut under_way[pick];
        if !operation.done {
            match operation.f {
                Function::Get => operation.value.clone_from(&state[operation.key]),
                _ => state[operation.key].clone_from(&operation.value),
            }
            operation.done = true;
            if rng.random_ratio(1, 2) {
                continue;
            }
        }
        let UnderWay { process, key, f, value, .. } = under_way.swap_remove(pick);
        let name = format!("k{key}");
        if f.is_write() && rng.random_bool(options.indeterminate.clamp(0.0, 1.0)) {
            maker.event(process, Kind::Info, f, &name, value.as_deref())?;
            idle.push(next_process);
            next_process += 1;
        } else {
            maker.event(process, Kind::Ok, f, &name, value.as_deref())?;
            idle.push(process);
        }
    }
    Ok(())
}

struct Maker<'a> {
    index: u64,
    time: u64,
    out: &'a mut dyn FnMut(&Event) -> io::Result<()>,
}

impl Maker<'_> {
    fn event(
        &mut self,
        process: u64,
        kind: Kind,
        f: Function,
        key: &str,
        value: Option<&str>,
    ) -> io::Result<()> {
        let asks_only = f == Function::Get && kind == Kind::Invoke;
        let client = ClientEvent {
            process,
            kind,
            f,
            key: key.to_owned(),
            value: value.filter(|_| !asks_only).map(str::to_owned),
            version: None,
            error: match kind {
                Kind::Fail => Some("timeout: r1".to_owned()),
                Kind::Info => Some("connection reset".to_owned()),
                Kind::Invoke | Kind::Ok => None,
            },
        };
        let event = Event { index: self.index, time: self.time, action: Action::Client(client) };
        self.index += 1;
        self.time += 1000;
        (self.out)(&event)
    }

    /// Operations on key `k0`, by processes that do nothing else, one after the other. The gets
    /// that surround them make it certain what was there, whatever else goes on.
    fn plant(&mut self, plant: Plant, process: u64) -> io::Result<()> {
        let mut next = process;
        let mut whole = |maker: &mut Self, f, ends, value: Option<&str>| -> io::Result<()> {
            next += 1;
            maker.event(next, Kind::Invoke, f, "k0", value)?;
            maker.event(next, ends, f, "k0", value)
        };
        use Function::{Del, Get, Put};
        use Kind::{Fail, Ok};
        let steps: &[(Function, Kind, Option<&str>)] = match plant {
            Plant::StaleRead => &[
                (Put, Ok, Some("planted-1")),
                (Put, Ok, Some("planted-2")),
                (Get, Ok, Some("planted-2")),
                (Get, Ok, Some("planted-1")),
            ],
            Plant::LostWrite => &[
                (Put, Ok, Some("planted-1")),
                (Get, Ok, Some("planted-1")),
                (Put, Ok, Some("planted-2")),
                (Get, Ok, Some("planted-1")),
            ],
            Plant::AbortedRead => &[(Put, Fail, Some("planted-1")), (Get, Ok, Some("planted-1"))],
            Plant::ResurrectedDelete => {
                &[(Put, Ok, Some("planted-1")), (Del, Ok, None), (Get, Ok, Some("planted-1"))]
            }
            Plant::DoubleEffect => &[
                (Put, Ok, Some("planted-1")),
                (Get, Ok, Some("planted-1")),
                (Put, Ok, Some("planted-2")),
                (Get, Ok, Some("planted-2")),
                (Get, Ok, Some("planted-1")),
            ],
            Plant::FutureRead => &[(Get, Ok, Some("planted-1")), (Put, Ok, Some("planted-1"))],
        };
        for (f, ends, value) in steps {
            whole(self, *f, *ends, *value)?;
        }
        // What comes after finds a key that is certainly empty.
        whole(self, Del, Ok, None)
    }
}
