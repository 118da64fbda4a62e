//! A load: clients, each with one operation under way at any time, on keys of its own; and what
//! came of it. Knows nothing of the system that bears it.

use std::{
    cell::{Cell, RefCell},
    io,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future;
use hdrhistogram::Histogram;
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::SmallRng};

use crate::{
    cluster::Cluster,
    line::Line,
    process::{Process, Usage},
};

/// The longest latency that is told from longer ones, in microseconds.
const LATENCY_MAX_US: u64 = 600_000_000;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Every client puts.
    Put,
    /// Every client gets what it put.
    Get,
}

/// A load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// What is done.
    pub operation: Operation,
    /// How many clients there are.
    pub clients: u32,
    /// How many connections they share.
    pub connections: u32,
    /// Keys of each client.
    pub keys: u32,
    /// The length of a value, in bytes.
    pub value_bytes: usize,
    /// Not counted.
    pub warm_up: Duration,
    /// Counted.
    pub time: Duration,
}

/// What came of a load.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Operations that were done, per second.
    pub rate: f64,
    /// How long each took, in microseconds.
    pub latency: Histogram<u64>,
    /// Operations that were not done, and how the first of them ended.
    pub failed: (u64, Option<String>),
    /// What each process of the cluster has cost meanwhile.
    pub usage: Vec<Usage>,
    /// What the clients have cost.
    pub clients: Usage,
    /// How long the disk of the cluster had something to do meanwhile, if that is counted.
    pub disk: Option<Duration>,
    /// How many operations were done.
    pub done: u64,
    /// How long it took.
    pub time: Duration,
}

impl Outcome {
    /// A quantile of the latency, in milliseconds.
    #[must_use]
    pub fn latency_ms(&self, quantile: f64) -> f64 {
        let us = self.latency.value_at_quantile(quantile);
        f64::from(u32::try_from(us).unwrap_or(u32::MAX)) / 1000.0
    }
}

/// What the clients share; they run in one thread.
struct Shared<'a> {
    cluster: &'a dyn Cluster,
    load: &'a Load,
    part: Cell<Part>,
    tally: RefCell<Tally>,
}

struct Tally {
    latency: Histogram<u64>,
    failed: (u64, Option<String>),
}

/// Which part of the load is under way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    WarmUp,
    Counted,
    Over,
}

/// Puts a load on a cluster.
///
/// # Errors
/// No connection can be made.
pub async fn run(cluster: &dyn Cluster, load: &Load) -> io::Result<Outcome> {
    let lines = open(cluster, load).await?;
    let latency = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("good bounds");
    let shared = Shared {
        cluster,
        load,
        part: Cell::new(Part::WarmUp),
        tally: RefCell::new(Tally { latency, failed: (0, None) }),
    };
    let clock = async {
        tokio::time::sleep(load.warm_up).await;
        let (before, begun) = ((look(cluster), Usage::own(), disk(cluster)), Instant::now());
        shared.part.set(Part::Counted);
        tokio::time::sleep(load.time).await;
        shared.part.set(Part::Over);
        (before, (look(cluster), Usage::own(), disk(cluster)), begun.elapsed())
    };
    let clients = (0..load.clients).zip(lines.into_iter().cycle());
    let clients = future::join_all(clients.map(|(n, line)| client(n, line, &shared)));
    let ((before, after, time), _) = future::join(clock, clients).await;
    let Tally { latency, failed } = shared.tally.into_inner();
    #[expect(clippy::cast_precision_loss, reason = "a rate is read to three digits")]
    let rate = latency.len() as f64 / time.as_secs_f64();
    let usage = after.0.into_iter().zip(before.0).map(|(after, before)| after.since(before));
    let disk = after.2.zip(before.2).map(|(after, before)| after.saturating_sub(before));
    Ok(Outcome {
        rate,
        done: latency.len(),
        latency,
        failed,
        usage: usage.collect(),
        disk,
        clients: after.1.since(before.1),
        time,
    })
}

/// Puts every key of a load once, so that gets find them.
///
/// # Errors
/// No connection can be made, or a put fails.
pub async fn fill(cluster: &dyn Cluster, load: &Load) -> io::Result<()> {
    let lines = open(cluster, load).await?;
    let clients = (0..load.clients).zip(lines.into_iter().cycle()).map(async |(n, mut line)| {
        let mut rng = SmallRng::seed_from_u64(n.into());
        for k in 0..load.keys {
            cluster.put(&mut line, key(n, k), value(load, &mut rng)).await?;
        }
        Ok::<_, tonic::Status>(())
    });
    future::try_join_all(clients).await.map(drop).map_err(io::Error::other)
}

async fn open(cluster: &dyn Cluster, load: &Load) -> io::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for _ in 0..load.connections.min(load.clients) {
        lines.push(Line::open(cluster.nodes()[0]).await?);
    }
    Ok(lines)
}

fn look(cluster: &dyn Cluster) -> Vec<Usage> {
    cluster.processes().iter().map(Process::usage).collect()
}

fn disk(cluster: &dyn Cluster) -> Option<Duration> {
    cluster.processes().first().and_then(Process::disk)
}

/// One client's operations, until the load is over.
async fn client(n: u32, mut line: Line, shared: &Shared<'_>) {
    let Shared { cluster, load, part, tally } = shared;
    let mut rng = SmallRng::seed_from_u64(rand::random());
    while part.get() != Part::Over {
        let counted = part.get() == Part::Counted;
        let key = key(n, rng.random_range(0..load.keys));
        let begun = Instant::now();
        let done = match load.operation {
            Operation::Put => {
                let put = cluster.put(&mut line, key, value(load, &mut rng)).await;
                put.map_err(|status| status.to_string())
            }
            Operation::Get => match cluster.get(&mut line, key).await {
                Ok(Some(value)) if value.len() == load.value_bytes => Ok(()),
                Ok(found) => Err(format!("not what was put: {found:?}")),
                Err(status) => Err(status.to_string()),
            },
        };
        let us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut tally = tally.borrow_mut();
        match done {
            Ok(()) if counted && part.get() == Part::Counted => {
                tally.latency.saturating_record(us);
            }
            Ok(()) => {}
            Err(why) => {
                tally.failed.0 += 1;
                tally.failed.1.get_or_insert(why);
            }
        }
    }
}

fn key(client: u32, n: u32) -> Bytes {
    format!("client{client:05}/{n:05}").into()
}

fn value(load: &Load, rng: &mut SmallRng) -> Bytes {
    let mut value = vec![0; load.value_bytes];
    rng.fill_bytes(&mut value);
    value.into()
}
