//! A generated load: many clients, each with one random operation after the other, and statistics
//! of the results. Checks nothing: that is a checker's work.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use clap::Args;
use hdrhistogram::Histogram;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;

use super::output::{ClientError, ExitStatus, print_line};
use crate::{
    client::{Client, ReadError, Reason, ReasonKind, WriteOutcome},
    config::Address,
    protocol::{Key, Value},
    tls::Tls,
};

/// The delay before a client that cannot reach the master tries again.
const UNREACHABLE_RETRY: Duration = Duration::from_millis(50);

/// The highest latency that the histogram distinguishes.
const LATENCY_MAX_US: u64 = 3_600_000_000;

/// The parameters of a load.
#[derive(Args, Clone, Debug)]
pub struct LoadArgs {
    /// The number of clients, each with one operation in flight at any time
    #[arg(long, value_name = "N", default_value_t = 16,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub clients: u32,

    /// The number of connections that the clients share. Default: one each
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: Option<u32>,

    /// The total number of operations
    #[arg(long, value_name = "N", conflicts_with = "time")]
    pub ops: Option<u64>,

    /// How long to run
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = super::duration)]
    pub time: Duration,

    /// The number of keys
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub keys: u64,

    /// The length of the values, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    pub value_size: usize,

    /// How often each operation is done, in parts of the whole.
    #[arg(long, value_name = "MIX", default_value = "get=50,put=40,del=10")]
    pub mix: Mix,

    /// The seed of the random operations
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

/// How often each operation is done, in parts of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    get: u32,
    put: u32,
    del: u32,
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut mix = Mix { get: 0, put: 0, del: 0 };
        for part in text.split(',') {
            let (f, n) = part
                .split_once('=')
                .and_then(|(f, n)| Some((f, n.parse::<u16>().ok()?)))
                .ok_or_else(|| {
                    format!("invalid part '{part}': expected a mix such as get=50,put=40,del=10")
                })?;
            *match f {
                "get" => &mut mix.get,
                "put" => &mut mix.put,
                "del" => &mut mix.del,
                _ => return Err(format!("unknown operation '{f}': expected get, put or del")),
            } = n.into();
        }
        if mix.get + mix.put + mix.del == 0 {
            return Err("the mix is empty: expected for example get=50,put=40,del=10".into());
        }
        Ok(mix)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OperationKind {
    Get,
    Put,
    Del,
}

impl Mix {
    fn draw(self, rng: &mut ChaCha8Rng) -> OperationKind {
        let n = rng.random_range(0..self.get + self.put + self.del);
        if n < self.get {
            OperationKind::Get
        } else if n < self.get + self.put {
            OperationKind::Put
        } else {
            OperationKind::Del
        }
    }
}

/// Statistics of the operations of one kind.
#[derive(Clone, Debug)]
struct Tally {
    ok: u64,
    /// Operations without effect or without a result, by reason.
    refused: BTreeMap<&'static str, u64>,
    unknown: u64,
    /// The latency of successful operations, in microseconds.
    latency: Histogram<u64>,
}

/// The result of an operation that did not succeed.
enum Failure {
    /// By this reason; the node may have said when to try again.
    Refused(&'static str, Option<Duration>),
    Unknown,
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        let retry_after = match reason.kind {
            ReasonKind::Unreachable => Some(UNREACHABLE_RETRY),
            _ => reason.retry_after,
        };
        Failure::Refused(reason.kind.name(), retry_after)
    }
}

impl Tally {
    fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("valid bounds");
        Tally { ok: 0, refused: BTreeMap::new(), unknown: 0, latency }
    }

    fn add(&mut self, other: &Tally) {
        self.ok += other.ok;
        self.unknown += other.unknown;
        for (reason, n) in &other.refused {
            *self.refused.entry(reason).or_default() += n;
        }
        self.latency.add(&other.latency).expect("both have the same bounds");
    }

    fn refused(&self) -> u64 {
        self.refused.values().sum()
    }

    fn row(&self, name: &str, text: &mut String) {
        let ms = |quantile| {
            let us = u32::try_from(self.latency.value_at_quantile(quantile)).unwrap_or(u32::MAX);
            f64::from(us) / 1000.0
        };
        writeln!(
            text,
            "{name:<4}{:>10}{:>9}{:>9}{:>10.2}{:>9.2}{:>9.2}{:>9.2}{:>9.2}",
            self.ok,
            self.refused(),
            self.unknown,
            ms(0.5),
            ms(0.9),
            ms(0.99),
            ms(0.999),
            ms(1.0),
        )
        .expect("writing to a string");
    }
}

/// The remaining work.
struct Budget {
    left: AtomicU64,
    until: Option<Instant>,
    interrupted: AtomicBool,
}

impl Budget {
    /// The time until the end of the load, if that is fixed.
    fn left(&self) -> Duration {
        let until = |until: Instant| until.saturating_duration_since(Instant::now());
        self.until.map_or(Duration::MAX, until)
    }

    fn take(&self) -> bool {
        !self.interrupted.load(Ordering::Relaxed)
            && self.until.is_none_or(|until| Instant::now() < until)
            && self
                .left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok()
    }
}

/// Runs the load and prints statistics. An interrupt ends it early.
pub(super) async fn run(
    args: &LoadArgs,
    master: &Address,
    tls: Option<&Arc<Tls>>,
    timeout: Duration,
) -> Result<ExitStatus, ClientError> {
    // A wrong address is reported as an error, rather than in the statistics.
    let client = || Client::with_tls(master.clone(), tls.cloned()).timeout(timeout);
    tokio::time::timeout(timeout, client().connect())
        .await
        .map_err(|_| format!("no answer from the master at {master}"))?
        .map_err(|error| format!("cannot reach the master at {master}: {error}"))?;
    let connections = args.connections.unwrap_or(args.clients).min(args.clients);
    let clients: Vec<_> = (0..connections).map(|_| client()).collect();

    let begun = Instant::now();
    let budget = Budget {
        left: AtomicU64::new(args.ops.unwrap_or(u64::MAX)),
        until: args.ops.is_none().then_some(begun + args.time),
        interrupted: AtomicBool::new(false),
    };
    let workers = clients.iter().cycle().zip(0..args.clients);
    let workers = workers.map(|(client, n)| work(args, n, client, &budget));
    let mut workers = std::pin::pin!(futures::future::join_all(workers));
    let tallies = tokio::select! {
        tallies = &mut workers => tallies,
        Ok(()) = tokio::signal::ctrl_c() => {
            budget.interrupted.store(true, Ordering::Relaxed);
            workers.await
        }
    };
    let seconds = begun.elapsed().as_secs_f64();

    let mut by_kind = [Tally::new(), Tally::new(), Tally::new()];
    for tally in &tallies {
        by_kind.iter_mut().zip(tally).for_each(|(sum, part)| sum.add(part));
    }
    print_line(report(args, seconds, &by_kind).trim_end())?;
    let unknown = by_kind.iter().any(|tally| tally.unknown > 0);
    Ok(if unknown { ExitStatus::Unknown } else { ExitStatus::Ok })
}

/// Runs one client and returns its statistics for get, put and del.
async fn work(args: &LoadArgs, n: u32, client: &Client, budget: &Budget) -> [Tally; 3] {
    let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
    rng.set_stream(n.into());
    let mut tallies = [Tally::new(), Tally::new(), Tally::new()];
    let mut count = 0_u64;
    while budget.take() {
        count += 1;
        let key = Key::from(format!("k{}", rng.random_range(0..args.keys)).as_str());
        let kind = args.mix.draw(&mut rng);
        let begun = Instant::now();
        let done = match kind {
            OperationKind::Get => match client.get(key).await {
                Ok(_) => Ok(()),
                Err(ReadError::Refused(reason)) => Err(reason.into()),
                Err(ReadError::Failed(_)) => Err(Failure::Refused("no answer", None)),
            },
            OperationKind::Put => {
                written(client.put(key, value(n, count, args.value_size, &mut rng)).await)
            }
            OperationKind::Del => written(client.del(key).await),
        };
        let tally = &mut tallies[kind as usize];
        match done {
            Ok(()) => {
                tally.ok += 1;
                let us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                tally.latency.saturating_record(us);
            }
            Err(Failure::Unknown) => tally.unknown += 1,
            Err(Failure::Refused(reason, retry_after)) => {
                *tally.refused.entry(reason).or_default() += 1;
                if let Some(least) = retry_after {
                    // Not all at once.
                    let wait = least.mul_f64(rng.random_range(1.0..2.0));
                    tokio::time::sleep(wait.min(budget.left())).await;
                }
            }
        }
    }
    tallies
}

fn written(outcome: WriteOutcome) -> Result<(), Failure> {
    match outcome {
        WriteOutcome::Committed { .. } => Ok(()),
        WriteOutcome::Aborted(reason) => Err(reason.into()),
        WriteOutcome::Unknown(_) => Err(Failure::Unknown),
    }
}

/// A value that is unique in the load, if `size` leaves enough room, padded with incompressible
/// bytes.
fn value(client: u32, count: u64, size: usize, rng: &mut ChaCha8Rng) -> Value {
    let mut bytes = format!("{client}-{count}-").into_bytes();
    let mut noise = [0; 8];
    while bytes.len() < size {
        rng.fill_bytes(&mut noise);
        bytes.extend(noise.map(|byte| b'a' + byte % 26));
    }
    bytes.truncate(size);
    Value::from(bytes)
}

fn report(args: &LoadArgs, seconds: f64, by_kind: &[Tally; 3]) -> String {
    let mut all = Tally::new();
    by_kind.iter().for_each(|tally| all.add(tally));
    let done = all.ok + all.refused() + all.unknown;
    #[expect(clippy::cast_precision_loss, reason = "a rate is read to three digits")]
    let rate = all.ok as f64 / seconds;
    let mut text = format!(
        "{} clients, {} keys, values of {} bytes: {done} operations in {seconds:.2} s, \
         {rate:.0} ok/s\n{:<4}{:>10}{:>9}{:>9}{:>10}{:>9}{:>9}{:>9}{:>9}\n",
        args.clients,
        args.keys,
        args.value_size,
        "",
        "ok",
        "refused",
        "unknown",
        "p50 ms",
        "p90",
        "p99",
        "p99.9",
        "max",
    );
    for (name, tally) in ["get", "put", "del"].into_iter().zip(by_kind) {
        tally.row(name, &mut text);
    }
    all.row("all", &mut text);
    for (reason, n) in &all.refused {
        writeln!(text, "refused {reason}: {n}").expect("writing to a string");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixes_are_parsed() {
        assert_eq!("get=50,put=40,del=10".parse(), Ok(Mix { get: 50, put: 40, del: 10 }));
        assert_eq!("put=1".parse(), Ok(Mix { get: 0, put: 1, del: 0 }));
        for wrong in ["", "get", "get=x", "cas=3", "get=0,put=0"] {
            assert!(wrong.parse::<Mix>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn values_have_their_size_and_are_unique() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let [a, b] = [1, 2].map(|count| value(1, count, 100, &mut rng));
        assert_eq!((a.as_bytes().len(), b.as_bytes().len()), (100, 100));
        assert_ne!(a, b);
        assert_eq!(value(1, 1, 0, &mut rng).as_bytes(), b"");
    }
}
