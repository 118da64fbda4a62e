//! What long work says while it goes on: one live line on a terminal, a plain line now and then in a
//! pipe, nothing at all of what is quick. To standard error, so that standard output has the
//! results alone. Knows nothing of the work.

use std::{
    io::{self, IsTerminal as _},
    sync::mpsc::{self, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// How often the live line changes, and how often a pipe gets a line.
const REDRAW_PERIOD: Duration = Duration::from_millis(200);
const LINE_PERIOD: Duration = Duration::from_secs(5);

/// Says how far some work is until it is dropped.
pub struct Progress {
    end: Option<mpsc::Sender<()>>,
    teller: Option<JoinHandle<()>>,
}

impl Progress {
    /// `told` says how far it is, after so much time.
    pub(crate) fn telling(told: impl Fn(Duration) -> String + Send + 'static) -> Progress {
        let (end, ended) = mpsc::channel();
        let is_terminal = io::stderr().is_terminal();
        let period = if is_terminal { REDRAW_PERIOD } else { LINE_PERIOD };
        let teller = thread::spawn(move || {
            let started = Instant::now();
            let mut line: Option<ProgressBar> = None;
            while ended.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                let text = told(started.elapsed());
                if is_terminal {
                    let line = line.get_or_insert_with(live_line);
                    line.set_message(text);
                    line.tick();
                } else {
                    eprintln!("{text}");
                }
            }
            if let Some(line) = line {
                line.finish_and_clear();
            }
        });
        Progress { end: Some(end), teller: Some(teller) }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(teller) = self.teller.take() {
            // A teller that panicked has nothing more to say.
            let _ = teller.join();
        }
    }
}

fn live_line() -> ProgressBar {
    // What does not fit into the line is cut: a line that wraps cannot be drawn over.
    let style = ProgressStyle::with_template("{spinner} {wide_msg}");
    ProgressBar::new_spinner().with_style(style.expect("the template is well formed"))
}
