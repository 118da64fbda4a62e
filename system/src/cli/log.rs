//! The log of a node: lines for standard error, written by a thread of their own. Whoever reads the log may stop
//! reading, and strangers cause lines. So the event loop never waits for a write, lines and their queue are
//! bounded, and what does not fit is dropped and counted. Does not know what is logged.
//!
//! Not `tracing-appender`: its queue is bounded in lines, not bytes; it does not report what it dropped; and on
//! a failed shutdown it prints to standard output, where a test reads the node's reports.

use std::{
    collections::VecDeque,
    io::{self, Write},
    mem,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use clap::ValueEnum;
use tracing_subscriber::fmt::{
    format::Writer,
    time::{FormatTime as _, SystemTime},
};

/// The form of the lines of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// A JSON object per line, with `timestamp`, `level` and `message`.
    Json,
}

/// The maximum size of a line. A line of the node's own is far shorter.
const LINE_BYTES_MAX: usize = 4 << 10;
/// The maximum size of the lines that wait to be written.
const QUEUE_BYTES_MAX: usize = 1 << 20;
/// How long an ending process waits for its last lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// A handle of the log. Clones add to the same log. As a writer it takes one line per call.
#[derive(Clone)]
pub(super) struct Log {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Until the thread has started.
    out: Mutex<Option<Box<dyn Write + Send>>>,
    queue: Mutex<Queue>,
    /// Notified when there is something to write, and when all is written.
    changed: Condvar,
    format: LogFormat,
    /// Every line that was dropped.
    dropped: Arc<AtomicU64>,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<String>,
    /// The size of these lines.
    bytes: usize,
    /// Lines that did not fit since the last report of it.
    dropped: u64,
    /// Whether the thread is writing what it took from the queue.
    writing: bool,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.dropped == 0
    }
}

impl Shared {
    /// Nothing panics while it holds the lock, so the queue is whole.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self, mut out: impl Write) {
        loop {
            let mut queue = self.lock();
            queue.writing = false;
            self.changed.notify_all();
            let waited = self.changed.wait_while(queue, |queue| queue.is_empty());
            let mut queue = waited.unwrap_or_else(PoisonError::into_inner);
            queue.writing = true;
            queue.bytes = 0;
            let (lines, dropped) = (mem::take(&mut queue.lines), mem::take(&mut queue.dropped));
            drop(queue);
            for line in lines {
                // If nobody can read it, there is nobody to tell.
                let _ = out.write_all(line.as_bytes());
            }
            if dropped > 0 {
                let report = format!(
                    "{dropped} lines of the log were dropped here: they came faster than they were read"
                );
                let _ = out.write_all(self.own_line("WARN", &report).as_bytes());
            }
        }
    }
}

impl Shared {
    /// A line of the log itself or of the command line.
    fn own_line(&self, level: &str, text: &str) -> String {
        match self.format {
            LogFormat::Text => printable(text),
            LogFormat::Json => {
                let mut timestamp = String::new();
                // A clock before 1970 leaves it empty.
                let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
                let message = printable(text);
                let message = message.trim_end_matches('\n');
                let line = serde_json::json!({
                    "timestamp": timestamp, "level": level, "message": message
                });
                format!("{line}\n")
            }
        }
    }
}

impl Log {
    /// A log to a writer. Lines wait until [`Log::start`].
    pub(super) fn new(out: impl Write + Send + 'static, format: LogFormat) -> Log {
        let out = Mutex::new(Some(Box::new(out) as _));
        Log { shared: Arc::new(Shared { out, format, ..Shared::default() }) }
    }

    /// The number of lines that were dropped so far.
    pub(super) fn dropped_lines(&self) -> Arc<AtomicU64> {
        self.shared.dropped.clone()
    }

    /// Starts the thread that writes lines, if it is not running. It has the scheduling policy of the caller.
    ///
    /// # Errors
    /// The system is out of threads.
    pub(super) fn start(&self) -> io::Result<()> {
        let out = self.shared.out.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(out) = out else { return Ok(()) };
        let writer = self.shared.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || writer.write_all(out))?;
        Ok(())
    }

    /// Adds an error of the command line.
    pub(super) fn line(&self, text: &str) {
        self.add(self.shared.own_line("ERROR", text));
    }

    /// Adds a line, or counts it as dropped if the queue is full. Never waits for a write.
    fn add(&self, line: String) {
        let mut queue = self.shared.lock();
        if queue.bytes + line.len() > QUEUE_BYTES_MAX {
            queue.dropped += 1;
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        } else {
            queue.bytes += line.len();
            queue.lines.push_back(line);
        }
        drop(queue);
        self.shared.changed.notify_all();
    }

    /// Waits until every line is written, or until whoever should read them has not done so for a second.
    pub(super) fn flush(&self) {
        // It has started, unless the process ends before it has begun. Without a thread nothing can be written.
        if self.start().is_err() {
            return;
        }
        let unwritten = |queue: &mut Queue| queue.writing || !queue.is_empty();
        let _ =
            self.shared.changed.wait_timeout_while(self.shared.lock(), FLUSH_TIMEOUT, unwritten);
    }
}

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // Bounded before it is decoded: a line may quote a message of any size.
        let shown = &line[..line.len().min(LINE_BYTES_MAX + 4)];
        let mut text = String::from_utf8_lossy(shown).into_owned();
        if shown.len() < line.len() {
            text.push('…');
        }
        self.add(match self.shared.format {
            LogFormat::Text => printable(&text),
            LogFormat::Json if line.len() <= LINE_BYTES_MAX => text,
            // What is left of a cut object is none.
            LogFormat::Json => {
                let report = format!("a line of {} bytes was left out", line.len());
                self.shared.own_line("WARN", &report)
            }
        });
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A text as one line of bounded size, with control characters escaped: it may quote what a stranger sent.
fn printable(text: &str) -> String {
    let text = text.trim_end_matches('\n');
    let mut line = String::with_capacity(text.len().min(LINE_BYTES_MAX) + 1);
    for (at, c) in text.char_indices() {
        if line.len() >= LINE_BYTES_MAX {
            line.push_str(&format!(" … ({} more bytes)", text.len() - at));
            break;
        }
        match c {
            // Errors of configuration files quote several lines.
            '\n' => line.push_str("\n    "),
            c if c.is_control() => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Instant};

    use super::*;

    /// A reader that takes a write only when the test lets it.
    struct Slow {
        permits: mpsc::Receiver<()>,
        written: mpsc::Sender<String>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.permits.recv().map_err(io::Error::other)?;
            let text = String::from_utf8(bytes.to_vec()).map_err(io::Error::other)?;
            self.written.send(text).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_that_nobody_reads_drops_lines_and_says_how_many() {
        let (permit, permits) = mpsc::channel();
        let (written, lines) = mpsc::channel();
        let log = Log::new(Slow { permits, written }, LogFormat::Text);
        log.start().expect("a thread");
        let began = Instant::now();
        let line = "x".repeat(1000);
        // The writer takes some of the first lines, and then waits.
        let total = 10 * QUEUE_BYTES_MAX / line.len();
        (0..total).for_each(|_| log.line(&line));
        assert!(log.shared.lock().bytes <= QUEUE_BYTES_MAX);
        log.flush();
        assert!(began.elapsed() < Duration::from_secs(20), "nothing waits for the reader");
        drop(permit);
        // Without permits each write fails, so all that is left is the count of what was not queued.
        let shared = log.shared.clone();
        let done = |queue: &mut Queue| queue.writing || !queue.is_empty();
        drop(shared.changed.wait_while(shared.lock(), done).expect("no panic"));
        assert_eq!(lines.try_iter().count(), 0);
    }

    #[test]
    fn lines_arrive_in_order_and_drops_are_counted() {
        let (permit, permits) = mpsc::channel();
        let (written, lines) = mpsc::channel();
        let mut log = Log::new(Slow { permits, written }, LogFormat::Text);
        log.start().expect("a thread");
        log.line("first");
        let line = "x".repeat(LINE_BYTES_MAX - 1);
        let fitting = QUEUE_BYTES_MAX / LINE_BYTES_MAX;
        // Whether the writer has taken the first line already does not change how many it writes.
        while log.shared.lock().bytes > 0 {
            thread::yield_now();
        }
        (0..fitting + 7).for_each(|_| log.line(&line));
        (0..fitting + 2).for_each(|_| permit.send(()).expect("the writer waits"));
        log.flush();
        log.write_all("last\n".as_bytes()).expect("it is queued");
        permit.send(()).expect("the writer waits");
        log.flush();
        let lines: Vec<String> = lines.try_iter().collect();
        assert_eq!(lines.len(), fitting + 3);
        assert_eq!((&*lines[0], &*lines[fitting + 2]), ("first\n", "last\n"));
        assert!(
            lines[fitting + 1].starts_with("7 lines of the log were dropped here"),
            "{lines:?}"
        );
    }

    #[test]
    fn every_line_of_a_json_log_is_an_object() {
        let (permit, permits) = mpsc::channel();
        let (written, lines) = mpsc::channel();
        let mut log = Log::new(Slow { permits, written }, LogFormat::Json);
        log.start().expect("a thread");
        log.write_all(b"{\"level\":\"INFO\",\"message\":\"as it is\"}\n").expect("queued");
        log.line("an \"error\"\nof two lines \u{1b}");
        let long = format!("{{\"message\":\"{}\"}}\n", "x".repeat(LINE_BYTES_MAX));
        log.write_all(long.as_bytes()).expect("queued");
        let line = "x".repeat(LINE_BYTES_MAX / 2);
        (0..2 * QUEUE_BYTES_MAX / line.len()).for_each(|_| log.line(&line));
        let dropped = log.dropped_lines().load(Ordering::Relaxed);
        assert!(dropped > 0);
        (0..2 * QUEUE_BYTES_MAX / line.len())
            .for_each(|_| permit.send(()).expect("the writer waits"));
        log.flush();
        let lines: Vec<serde_json::Value> = lines
            .try_iter()
            .map(|line| serde_json::from_str(&line).unwrap_or_else(|why| panic!("{line}: {why}")))
            .collect();
        let messages: Vec<_> =
            lines.iter().map(|line| line["message"].as_str().expect("a message")).collect();
        assert_eq!(messages[..2], ["as it is", "an \"error\"\n    of two lines \\u{1b}"]);
        assert!(messages[2].ends_with("bytes was left out"), "{}", messages[2]);
        let last = messages.last().expect("lines");
        assert!(last.starts_with(&format!("{dropped} lines of the log were dropped")), "{last}");
    }

    #[test]
    fn a_line_is_bounded_and_controls_nothing() {
        assert_eq!(printable("a\u{1b}[2J\u{9b}\rb\nc\n"), "a\\u{1b}[2J\\u{9b}\\rb\n    c\n");
        let long = printable(&"ü".repeat(1 << 20));
        assert!(
            long.len() < LINE_BYTES_MAX + 40 && long.ends_with("more bytes)\n"),
            "{}",
            long.len()
        );
    }
}
