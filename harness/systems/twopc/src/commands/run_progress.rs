//! Progress output of a run: one live line on a terminal, a plain line every few seconds otherwise.
//! Written to standard error, so that standard output has only the results.

use std::{
    collections::BTreeMap,
    io::IsTerminal as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::run::{self, CompletedRun, RunError, RunOptions};
use history::{Action, Event, Kind, NemesisEvent, nemesis::InjectionKind};
use indicatif::{ProgressBar, ProgressStyle};
use lab::progress::RunProgress;
use tokio::sync::watch;

/// How often a line is written if standard error is not a terminal.
const LINE_PERIOD: Duration = Duration::from_secs(5);

/// How often the live line is redrawn.
const REDRAW_PERIOD: Duration = Duration::from_millis(100);

/// Makes a run and shows its progress. See [`run::run`].
///
/// # Errors
/// The harness cannot do its part.
pub async fn run_with_progress(
    options: &RunOptions,
    interrupt: watch::Receiver<bool>,
) -> Result<CompletedRun, RunError> {
    let progress = Arc::new(Progress::new(options.time_limit));
    let completed = run::run(options, interrupt, progress.clone()).await;
    progress.finish();
    completed
}

/// The progress of one run.
pub struct Progress {
    state: Mutex<State>,
}

struct State {
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
    /// The progress of a run whose load lasts for `limit`.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
            // `wide_msg` truncates: a line that wraps could not be redrawn.
            let style = ProgressStyle::with_template("{spinner} [{bar:12}] {wide_msg}");
            bar.set_style(style.expect("the template is well formed").progress_chars("=> "));
            bar.enable_steady_tick(REDRAW_PERIOD);
            bar
        });
        let now = Instant::now();
        Progress {
            state: Mutex::new(State {
                started: now,
                limit,
                bar,
                last_line: now,
                phase: String::new(),
                invoked: 0,
                completed: BTreeMap::new(),
                injections: 0,
                last_injection: String::new(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the live line.
    pub fn finish(&self) {
        if let Some(bar) = &self.lock().bar {
            bar.finish_and_clear();
        }
    }
}

impl RunProgress for Progress {
    fn phase(&self, phase: &str) {
        let mut state = self.lock();
        phase.clone_into(&mut state.phase);
        state.show();
    }

    fn event(&self, event: &Event) {
        let mut state = self.lock();
        match &event.action {
            Action::Client(event) if event.kind == Kind::Invoke => state.invoked += 1,
            Action::Client(event) => *state.completed.entry(event.kind).or_default() += 1,
            Action::Nemesis(event) => {
                let NemesisEvent::Injected(kind, injected) = event else { return };
                let is_step = matches!(kind, InjectionKind::Hold | InjectionKind::Intercept);
                if is_step {
                    return;
                }
                state.injections += 1;
                let place = injected.at.as_ref().or(injected.node.as_ref());
                state.last_injection =
                    place.map_or_else(String::new, |place| format!("{} {place}", kind.name()));
            }
        }
    }

    fn tick(&self) {
        let mut state = self.lock();
        if state.bar.is_some() || state.last_line.elapsed() >= LINE_PERIOD {
            state.show();
        }
    }
}

impl State {
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
