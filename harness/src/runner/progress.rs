//! Progress output of a run: one live line on a terminal, a plain line every few seconds otherwise.
//! Written to standard error, so that standard output has only the results.

use std::{
    collections::BTreeMap,
    io::IsTerminal as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::history::{Action, Event, Kind};

/// How often a line is written if standard error is not a terminal.
const LINE_PERIOD: Duration = Duration::from_secs(5);

/// How often the live line is redrawn.
const REDRAW_PERIOD: Duration = Duration::from_millis(100);

/// The progress of one run.
#[derive(Clone)]
pub(super) struct Progress {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    started: Instant,
    limit: Duration,
    /// `None` if standard error is not a terminal.
    bar: Option<ProgressBar>,
    last_line: Instant,
    phase: String,
    invoked: u64,
    completed: BTreeMap<Kind, u64>,
    injections: u64,
    last_injection: String,
}

impl Progress {
    /// The progress of a run whose load lasts for `limit`. `quiet` suppresses all output.
    pub(super) fn new(limit: Duration, quiet: bool) -> Self {
        let bar = if quiet {
            Some(ProgressBar::hidden())
        } else {
            std::io::stderr().is_terminal().then(|| {
                let bar = ProgressBar::new(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
                // `wide_msg` truncates: a line that wraps could not be redrawn.
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
                last_line: now,
                phase: String::new(),
                invoked: 0,
                completed: BTreeMap::new(),
                injections: 0,
                last_injection: String::new(),
            })),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a new phase of the run.
    pub(super) fn phase(&self, phase: &str) {
        let mut shared = self.lock();
        phase.clone_into(&mut shared.phase);
        shared.show();
    }

    /// Counts an event.
    pub(super) fn count(&self, event: &Event) {
        let mut shared = self.lock();
        match &event.action {
            Action::Client(event) if event.kind == Kind::Invoke => shared.invoked += 1,
            Action::Client(event) => *shared.completed.entry(event.kind).or_default() += 1,
            Action::Nemesis(event) => {
                if let "kill" | "pause" | "power-loss" | "network-fault" | "second-master"
                | "wipe-replica" = event.f.as_str()
                {
                    shared.injections += 1;
                }
                if let Some(node) = event.text("node") {
                    shared.last_injection = match event.text("at") {
                        Some(at) => format!("{} {at}", event.f),
                        None => format!("{} {node}", event.f),
                    };
                }
            }
        }
    }

    /// Shows the progress if a line is due.
    pub(super) fn tick(&self) {
        let mut shared = self.lock();
        if shared.bar.is_some() || shared.last_line.elapsed() >= LINE_PERIOD {
            shared.show();
        }
    }

    /// Removes the live line.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.lock().bar {
            bar.finish_and_clear();
        }
    }
}

impl Shared {
    fn show(&mut self) {
        let count = |kind| self.completed.get(&kind).copied().unwrap_or(0);
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
        if !self.last_injection.is_empty() {
            text.push_str(&format!(
                " | {} injections, last: {}",
                self.injections, self.last_injection
            ));
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
        self.last_line = Instant::now();
    }
}
