//! Progress of long work on standard error: one live line on a terminal, a plain line now and then in a
//! pipe, nothing for quick work. Standard output is left to the results.

use std::{
    io::{self, IsTerminal as _},
    sync::mpsc::{self, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// How often the live line is redrawn, and how often a pipe gets a line.
const REDRAW_PERIOD: Duration = Duration::from_millis(200);
const LINE_PERIOD: Duration = Duration::from_secs(5);

/// Shows the progress of some work until it is dropped.
pub struct Progress {
    end: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Starts to show progress. `status` returns the text to show after the elapsed time.
    pub fn show(status: impl Fn(Duration) -> String + Send + 'static) -> Progress {
        let (end, ended) = mpsc::channel();
        let is_terminal = io::stderr().is_terminal();
        let period = if is_terminal { REDRAW_PERIOD } else { LINE_PERIOD };
        let thread = thread::spawn(move || {
            let started = Instant::now();
            let mut line: Option<ProgressBar> = None;
            while ended.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                let text = status(started.elapsed());
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
        Progress { end: Some(end), thread: Some(thread) }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing more to show.
            let _ = thread.join();
        }
    }
}

fn live_line() -> ProgressBar {
    // Text that does not fit is cut: a line that wraps cannot be redrawn.
    let style = ProgressStyle::with_template("{spinner} {wide_msg}");
    ProgressBar::new_spinner().with_style(style.expect("the template is well formed"))
}
