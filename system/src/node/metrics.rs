//! Metrics for monitoring, at an address of their own: plain HTTP, in the text format 0.0.4 of Prometheus. A scrape
//! asks the event loop once, and costs nothing otherwise. Does not know what the numbers lead to.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt::{Display, Write as _},
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, oneshot},
    time::{sleep, timeout},
};

use super::{
    environment::DamageCounts,
    limits::{Budgets, Resource},
    peers::Peers,
    server::InspectRequest,
};
use crate::{
    config::Address,
    protocol::{AbortReason, Reply, Status},
};

/// The media type of the format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The number of scrapers at one time. More connections are closed at once.
const SCRAPERS_MAX: usize = 4;
/// The time that a scrape may take.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a node offers its metrics.
#[derive(Clone, Debug)]
pub struct MetricsOptions {
    /// The address.
    pub address: Address,
    /// Lines that the log of the process has dropped. It is counted there.
    pub dropped_log_lines: Arc<AtomicU64>,
}

/// The replies to calls, by outcome.
#[derive(Clone, Debug, Default)]
pub(super) struct ReplyCounts([u64; OUTCOMES.len()]);

/// The outcomes of calls, as labels.
const OUTCOMES: [&str; 8] = [
    "committed",
    "aborted\",reason=\"conflict",
    "aborted\",reason=\"refused",
    "aborted\",reason=\"unavailable",
    "aborted\",reason=\"timeout",
    "value",
    "unavailable",
    "snapshot",
];

impl ReplyCounts {
    pub(super) fn count(&mut self, reply: &Reply) {
        self.0[match reply {
            Reply::Committed { .. } => 0,
            Reply::Aborted(AbortReason::Conflict { .. }) => 1,
            Reply::Aborted(AbortReason::Refused { .. }) => 2,
            Reply::Aborted(AbortReason::Unavailable { .. }) => 3,
            Reply::Aborted(AbortReason::Timeout { .. }) => 4,
            Reply::Value(_) => 5,
            Reply::Unavailable => 6,
            Reply::Snapshot { .. } => 7,
        }] += 1;
    }
}

/// What the event loop knows.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) status: Status,
    pub(super) replies: ReplyCounts,
    /// Their number, and the time that they took together.
    pub(super) forces: (u64, Duration),
    pub(super) checkpoints: u64,
    pub(super) damage: DamageCounts,
    pub(super) calls_queued: usize,
    pub(super) batches_queued: usize,
}

/// Where the numbers come from.
pub(super) struct Sources {
    pub(super) inspections: mpsc::Sender<InspectRequest>,
    pub(super) budgets: Arc<Budgets>,
    pub(super) peers: Arc<Peers>,
    /// The directory of the store.
    pub(super) dir: PathBuf,
    pub(super) map_bytes: u64,
    pub(super) dropped_log_lines: Arc<AtomicU64>,
}

/// Serves scrapers for as long as the node runs.
pub(super) async fn serve(listener: TcpListener, sources: Sources) {
    let (sources, scrapers) = (Arc::new(sources), Arc::new(Semaphore::new(SCRAPERS_MAX)));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("cannot accept a scraper: {error}");
                sleep(Duration::from_millis(500)).await;
                continue;
            }
        };
        if let Ok(place) = scrapers.clone().try_acquire_owned() {
            let answered = answer(stream, sources.clone());
            tokio::spawn(async move {
                // A scraper that is slow or does not speak HTTP is nobody's concern.
                let _ = timeout(SCRAPE_TIMEOUT, answered).await;
                drop(place);
            });
        }
    }
}

async fn answer(stream: TcpStream, sources: Arc<Sources>) -> hyper::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| {
        let sources = sources.clone();
        async move {
            let (status, text) = match (request.method(), request.uri().path()) {
                (&Method::GET, "/metrics") => sources.page().await,
                _ => (StatusCode::NOT_FOUND, "the metrics are at /metrics\n".to_owned()),
            };
            let mut response = Response::new(text);
            *response.status_mut() = status;
            let kind = TEXT.parse().expect("it is a header value");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            Ok::<_, Infallible>(response)
        }
    });
    http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service).await
}

impl Sources {
    async fn page(&self) -> (StatusCode, String) {
        let (reply, snapshot) = oneshot::channel();
        let asked = self.inspections.send(InspectRequest::Metrics(reply)).await;
        match (asked, snapshot.await) {
            (Ok(()), Ok(snapshot)) => (StatusCode::OK, self.text(&snapshot)),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "the node is stopping\n".to_owned()),
        }
    }

    fn text(&self, snapshot: &Snapshot) -> String {
        let mut page = Page(String::new());
        self.protocol(snapshot, &mut page);
        self.store(snapshot, &mut page);
        self.limits(snapshot, &mut page);
        page.0
    }

    fn protocol(&self, snapshot: &Snapshot, page: &mut Page) {
        let status = &snapshot.status;
        page.gauge("ready", "Whether the node serves its part: 1 or 0.", u8::from(status.ready));
        page.gauge(
            "live_replicas",
            "At the master: the replicas that are live.",
            status.live.len(),
        );
        page.gauge(
            "unsettled_transactions",
            "At a replica: transactions in doubt, whose keys are locked. At the master: transactions that not all \
             replicas have acknowledged.",
            status.unsettled.len(),
        );
        let replies = OUTCOMES.iter().zip(snapshot.replies.0);
        let replies = replies.map(|(outcome, n)| (format!("{{outcome=\"{outcome}\"}}"), n));
        page.metric("replies_total", "counter", "Calls that were decided, by outcome.", replies);
        let refused = self.peers.refusals().count();
        page.counter(
            "refused_messages_total",
            "Messages of peers and strangers that were refused, and with TLS connections and calls.",
            refused,
        );
        if let Some(expires) = self.peers.certificate_expires() {
            let since = expires.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            page.gauge(
                "certificate_expires_timestamp_seconds",
                "When the certificate of the node expires, in seconds since 1970.",
                since.as_secs(),
            );
        }
        let dropped = self.dropped_log_lines.load(Ordering::Relaxed);
        page.counter(
            "dropped_log_lines_total",
            "Lines of the log that nobody read in time.",
            dropped,
        );
    }

    fn store(&self, snapshot: &Snapshot, page: &mut Page) {
        let (count, time) = snapshot.forces;
        page.metric(
            "force_seconds",
            "summary",
            "Forces, from the request to the report that everything up to there is durable.",
            [("_sum", time.as_secs_f64().to_string()), ("_count", count.to_string())],
        );
        page.gauge(
            "oldest_force_seconds",
            "The age of the oldest force under way, in steps of a quarter of a second.",
            snapshot.status.force_age.as_secs_f64(),
        );
        page.counter(
            "checkpoints_total",
            "Checkpoints of the write-ahead log to the tables.",
            snapshot.checkpoints,
        );
        page.counter(
            "damaged_entries_total",
            "Entries that were found damaged.",
            snapshot.damage.found,
        );
        page.counter(
            "healed_entries_total",
            "Damaged entries that were replaced by the copy of another replica.",
            snapshot.damage.healed,
        );
        page.counter(
            "scrubbed_ranges_total",
            "Ranges of entries that were read for the scrub, here or for another replica.",
            snapshot.damage.scrubbed,
        );
        page.counter(
            "scrubs_total",
            "Times that all entries were compared with those of the other replicas.",
            snapshot.status.scrubs,
        );
        let files = self.files().into_iter();
        let files = files.map(|(name, bytes)| (format!("{{file=\"{name}\"}}"), bytes));
        page.metric("file_bytes", "gauge", "The size of the files of the store.", files);
        page.gauge("map_bytes", "The largest size of the tables' file.", self.map_bytes);
    }

    /// The files of the store and their sizes.
    fn files(&self) -> BTreeMap<String, u64> {
        let files = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let sized = files.filter_map(|file| {
            let metadata = file.metadata().ok().filter(fs::Metadata::is_file)?;
            // A name that needs no escapes: the store has no others, and an operator may add any.
            let name = file.file_name().into_string().ok()?;
            let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
            name.chars().all(plain).then_some((name, metadata.len()))
        });
        sized.collect()
    }

    fn limits(&self, snapshot: &Snapshot, page: &mut Page) {
        let queues = [("calls", snapshot.calls_queued), ("batches", snapshot.batches_queued)];
        let queues = queues.map(|(queue, n)| (format!("{{queue=\"{queue}\"}}"), n));
        page.metric("queue_length", "gauge", "What waits for the event loop.", queues);
        let used = |resource| self.budgets.used(resource);
        page.gauge("calls", "Calls of clients that are in progress.", used(Resource::Calls));
        let bytes = [
            ("requests", used(Resource::RequestBytes)),
            ("writes", used(Resource::WriteBytes)),
            ("answers", used(Resource::AnswerBytes)),
        ];
        let bytes = bytes.map(|(of, n)| (format!("{{of=\"{of}\"}}"), n));
        page.metric("bytes_in_flight", "gauge", "Bytes that count against a budget.", bytes);
        let refused = self.budgets.refused();
        page.counter(
            "overloads_total",
            "Calls that were refused because a budget was used up.",
            refused,
        );
        let buffers = self.peers.send_buffers();
        let buffers = buffers.map(|(to, buffer)| (format!("{{peer=\"{to}\"}}"), buffer.bytes()));
        page.metric("send_buffer_bytes", "gauge", "Bytes that wait to be sent to a peer.", buffers);
    }
}

/// A page under construction.
struct Page(String);

impl Page {
    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.metric(name, "gauge", help, [("", value)]);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.metric(name, "counter", help, [("", value)]);
    }

    /// Adds a metric with its values, each with what follows the name: a suffix, or labels.
    fn metric(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        values: impl IntoIterator<Item = (impl Display, impl Display)>,
    ) {
        let page = &mut self.0;
        let mut add = |line: std::fmt::Arguments<'_>| {
            page.write_fmt(line).expect("writing to a string cannot fail");
        };
        add(format_args!("# HELP twopc_{name} {help}\n# TYPE twopc_{name} {kind}\n"));
        for (rest, value) in values {
            add(format_args!("twopc_{name}{rest} {value}\n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_the_text_format() {
        let mut page = Page(String::new());
        page.gauge("ready", "Whether.", 1);
        let labelled = [("{queue=\"calls\"}", 7), ("{queue=\"batches\"}", 0)];
        page.metric("queue_length", "gauge", "What waits.", labelled);
        let text = "# HELP twopc_ready Whether.\n# TYPE twopc_ready gauge\ntwopc_ready 1\n\
                    # HELP twopc_queue_length What waits.\n# TYPE twopc_queue_length gauge\n\
                    twopc_queue_length{queue=\"calls\"} 7\ntwopc_queue_length{queue=\"batches\"} 0\n";
        assert_eq!(page.0, text);
    }
}
