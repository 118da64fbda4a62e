//! What a run says while it goes on: one live line on a terminal, a plain line now and then in a
//! pipe. To standard error, so that standard output has the results alone.

use std::{
    collections::BTreeMap,
    io::IsTerminal as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::history::{Action, Event, Kind};

/// How often a pipe gets a line.
const LINE_PERIOD: Duration = Duration::from_secs(5);

/// How often the live line changes.
const REDRAW_PERIOD: Duration = Duration::from_millis(100);

/// The progress of one run.
#[derive(Clone)]
pub(super) struct Progress {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    started: Instant,
    limit: Duration,
    /// None in a pipe.
    bar: Option<ProgressBar>,
    said: Instant,
    phase: String,
    invoked: u64,
    ended: BTreeMap<Kind, u64>,
    strikes: u64,
    last_strike: String,
}

impl Progress {
    /// Progress of a run whose load lasts for `limit`; silent if `quiet`.
    pub(super) fn new(limit: Duration, quiet: bool) -> Self {
        let bar = if quiet {
            Some(ProgressBar::hidden())
        } else {
            std::io::stderr().is_terminal().then(|| {
                let bar = ProgressBar::new(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
                // What does not fit into the line is cut: a line that wraps cannot be drawn over.
                let style = ProgressStyle::with_template("{spinner} [{bar:12}] {wide_msg}");
                bar.set_style(style.expect("the template is well formed").progress_chars("=> "));
                bar.enable_steady_tick(REDRAW_PERIOD);
                bar
            })
        };
        let now = Instant::now();
        Progress {
            shared: Arc::new(Mutex::new(Shared {
                started: now,
                limit,
                bar,
                said: now,
                phase: String::new(),
                invoked: 0,
                ended: BTreeMap::new(),
                strikes: 0,
                last_strike: String::new(),
            })),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new part of the run begins.
    pub(super) fn phase(&self, phase: &str) {
        let mut shared = self.lock();
        phase.clone_into(&mut shared.phase);
        shared.say();
    }

    /// Counts an event.
    pub(super) fn count(&self, event: &Event) {
        let mut shared = self.lock();
        match &event.action {
            Action::Client(event) if event.kind == Kind::Invoke => shared.invoked += 1,
            Action::Client(event) => *shared.ended.entry(event.kind).or_default() += 1,
            Action::Nemesis(event) => {
                if let "kill" | "pause" | "power-loss" | "disturb" | "second-master"
                | "wipe-replica" = event.f.as_str()
                {
                    shared.strikes += 1;
                }
                if let Some(node) = event.text("node") {
                    shared.last_strike = match event.text("at") {
                        Some(at) => format!("{} {at}", event.f),
                        None => format!("{} {node}", event.f),
                    };
                }
            }
        }
    }

    /// Shows the progress, if it is time to.
    pub(super) fn tick(&self) {
        let mut shared = self.lock();
        if shared.bar.is_some() || shared.said.elapsed() >= LINE_PERIOD {
            shared.say();
        }
    }

    /// Takes the live line away.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.lock().bar {
            bar.finish_and_clear();
        }
    }
}

impl Shared {
    fn say(&mut self) {
        let count = |kind| self.ended.get(&kind).copied().unwrap_or(0);
        let elapsed = self.started.elapsed();
        let mut text = format!("{:>5.1}s {}", elapsed.as_secs_f64(), self.phase);
        if self.invoked > 0 {
            text.push_str(&format!(
                " | {} operations: {} ok, {} fail, {} info",
                self.invoked,
                count(Kind::Ok),
                count(Kind::Fail),
                count(Kind::Info)
            ));
        }
        if !self.last_strike.is_empty() {
            text.push_str(&format!(" | {} strikes, last: {}", self.strikes, self.last_strike));
        }
        match &self.bar {
            Some(bar) => {
                bar.set_position(
                    u64::try_from(elapsed.min(self.limit).as_millis()).unwrap_or(u64::MAX),
                );
                bar.set_message(text);
            }
            None => eprintln!("{text}"),
        }
        self.said = Instant::now();
    }
}
