//! A load: clients, each with one operation in progress at any time, on keys of its own; and its measured result. In a
//! closed loop each client begins the next operation when the last one is answered. In an open loop operations are due
//! at fixed times, and the latency of each counts from then: one that has to wait for a late answer is late itself.

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
    cluster::{Client, Cluster},
    process::{Process, Usage},
};

/// The largest latency that the histogram distinguishes, in microseconds.
const LATENCY_MAX_US: u64 = 600_000_000;

/// The kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Every client puts.
    Put,
    /// Every client gets values that it has put.
    Get,
    /// Every operation is a put or a get, with the same probability.
    Mixed,
}

impl Operation {
    /// The operations, in words.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Operation::Put => "puts",
            Operation::Get => "gets",
            Operation::Mixed => "puts and gets",
        }
    }
}

/// A load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// The operation.
    pub operation: Operation,
    /// The number of clients.
    pub clients: u32,
    /// The number of connections that the clients share.
    pub connections: u32,
    /// The number of keys of each client.
    pub keys: u32,
    /// The length of a value, in bytes.
    pub value_bytes: usize,
    /// Operations per second of all clients together in an open loop; `None` for a closed loop.
    pub arrivals: Option<f64>,
    /// The time before the measurement.
    pub warm_up: Duration,
    /// The time of the measurement.
    pub time: Duration,
}

/// The measured result of a load.
#[derive(Clone, Debug)]
pub struct LoadResult {
    /// Operations per second.
    pub rate: f64,
    /// The latency of each operation, in microseconds.
    pub latency: Histogram<u64>,
    /// The number of operations that failed, and the error of the first.
    pub failed: (u64, Option<String>),
    /// The resource usage of each process of the cluster.
    pub usage: Vec<Usage>,
    /// The resource usage of the clients.
    pub clients: Usage,
    /// How long the cluster's disk was busy, if the kernel counts that.
    pub disk: Option<Duration>,
    /// The number of operations.
    pub done: u64,
    /// The measured time.
    pub time: Duration,
}

impl LoadResult {
    /// A quantile of the latency, in milliseconds.
    #[must_use]
    pub fn latency_ms(&self, quantile: f64) -> f64 {
        // The quantile 1 is the longest latency, which the histogram knows exactly.
        let us = match quantile {
            1.0.. => self.latency.max(),
            _ => self.latency.value_at_quantile(quantile),
        };
        f64::from(u32::try_from(us).unwrap_or(u32::MAX)) / 1000.0
    }
}

/// State shared by the clients, which run in one thread.
struct Shared<'a> {
    load: &'a Load,
    phase: Cell<Phase>,
    tally: RefCell<Tally>,
}

struct Tally {
    latency: Histogram<u64>,
    failed: (u64, Option<String>),
}

/// The phase of a load.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    WarmUp,
    Measured,
    Finished,
}

/// Runs a load on a cluster.
///
/// # Errors
/// A connection cannot be established.
pub async fn run(cluster: &dyn Cluster, load: &Load) -> io::Result<LoadResult> {
    let connections = open(cluster, load).await?;
    let latency = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("the bounds are valid");
    let shared = Shared {
        load,
        phase: Cell::new(Phase::WarmUp),
        tally: RefCell::new(Tally { latency, failed: (0, None) }),
    };
    let clock = async {
        tokio::time::sleep(load.warm_up).await;
        let (before, begun) = ((usage(cluster), Usage::own(), disk_busy(cluster)), Instant::now());
        shared.phase.set(Phase::Measured);
        tokio::time::sleep(load.time).await;
        shared.phase.set(Phase::Finished);
        (before, (usage(cluster), Usage::own(), disk_busy(cluster)), begun.elapsed())
    };
    let clients = (0..load.clients).zip(connections);
    let clients = future::join_all(clients.map(|(n, connection)| client(n, connection, &shared)));
    let ((before, after, time), _) = future::join(clock, clients).await;
    let Tally { latency, failed } = shared.tally.into_inner();
    #[expect(clippy::cast_precision_loss, reason = "only three digits of a rate are shown")]
    let rate = latency.len() as f64 / time.as_secs_f64();
    let usage = after.0.into_iter().zip(before.0).map(|(after, before)| after.since(before));
    let disk = after.2.zip(before.2).map(|(after, before)| after.saturating_sub(before));
    Ok(LoadResult {
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

/// Puts every key of a load once, so that gets find values.
///
/// # Errors
/// A connection cannot be established, or a put fails.
pub async fn fill(cluster: &dyn Cluster, load: &Load) -> io::Result<()> {
    let connections = open(cluster, load).await?;
    let clients = (0..load.clients).zip(connections).map(async |(n, mut client)| {
        let mut rng = SmallRng::seed_from_u64(n.into());
        for k in 0..load.keys {
            client.put(key(n, k), value(load, &mut rng)).await?;
        }
        Ok::<_, tonic::Status>(())
    });
    future::try_join_all(clients).await.map(drop).map_err(io::Error::other)
}

/// A client for each client of the load, on as many connections as it has where the protocol allows sharing them.
async fn open(cluster: &dyn Cluster, load: &Load) -> io::Result<Vec<Box<dyn Client>>> {
    let mut clients: Vec<Box<dyn Client>> = Vec::new();
    for n in 0..load.clients {
        let shared = n.checked_sub(load.connections).and_then(|n| clients[n as usize].share());
        clients.push(match shared {
            Some(client) => client,
            None => cluster.connect(0).await?,
        });
    }
    Ok(clients)
}

fn usage(cluster: &dyn Cluster) -> Vec<Usage> {
    cluster.processes().iter().map(Process::usage).collect()
}

fn disk_busy(cluster: &dyn Cluster) -> Option<Duration> {
    cluster.processes().first().and_then(Process::disk)
}

/// Runs one client's operations until the load is finished.
async fn client(n: u32, mut client: Box<dyn Client>, shared: &Shared<'_>) {
    let Shared { load, phase, tally } = shared;
    let mut rng = SmallRng::seed_from_u64(rand::random());
    let interval =
        load.arrivals.map(|rate| Duration::from_secs_f64(f64::from(load.clients) / rate));
    // Not all clients at the same moment.
    let mut due = interval.map(|interval| Instant::now() + interval.mul_f64(rng.random()));
    while phase.get() != Phase::Finished {
        let key = key(n, rng.random_range(0..load.keys));
        let begun = match (&mut due, interval) {
            (Some(due), Some(interval)) => {
                let begun = *due;
                tokio::time::sleep_until(begun.into()).await;
                *due += interval;
                begun
            }
            _ => Instant::now(),
        };
        let measured = phase.get() == Phase::Measured;
        let puts = match load.operation {
            Operation::Put => true,
            Operation::Get => false,
            Operation::Mixed => rng.random(),
        };
        let done = match puts {
            true => {
                let put = client.put(key, value(load, &mut rng)).await;
                put.map_err(|status| status.to_string())
            }
            false => match client.get(key).await {
                Ok(Some(value)) if value.len() == load.value_bytes => Ok(()),
                Ok(found) => Err(format!("the value is not the one that was put: {found:?}")),
                Err(status) => Err(status.to_string()),
            },
        };
        let us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut tally = tally.borrow_mut();
        match done {
            Ok(()) if measured && phase.get() == Phase::Measured => {
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
