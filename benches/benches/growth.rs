//! How the cost of an operation scales: `cargo bench -p benches --bench growth`. Puts and gets of 64
//! clients, and the memory of each node, as one parameter at a time grows: the number of replicas, the
//! size of values, the number of keys, and the number of earlier puts. Takes a few minutes.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use benches::{
    cluster::Cluster as _,
    load::{self, Load, LoadResult, Operation},
    process::{self, Process},
    table::{self, thousands},
    twopc::{ClusterOptions, TwopcCluster},
};
use clap::Parser;

/// Measures how the cost of an operation scales.
#[derive(Parser)]
struct Args {
    /// The time for which each load is measured, in seconds.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// The largest number of earlier puts.
    #[arg(long, default_value_t = 500_000)]
    age: u64,
    /// The largest number of keys.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u32,
    /// Only check that everything works, in a few seconds.
    #[arg(long)]
    test: bool,
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The allocator of the programs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if let Some(code) = process::run_as() {
        return code;
    }
    let mut args = Args::parse();
    if args.test {
        args = Args { seconds: 0.2, age: 2000, keys: 1000, ..args };
    }
    let runtime = system::node::runtime();
    match runtime.and_then(|runtime| runtime.block_on(run(&args))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

const CLIENTS: u32 = 64;
const HEAD: [&str; 9] = [
    "puts a second",
    "p50, p99 ms",
    "CPU us: master",
    "a replica",
    "gets a second",
    "p50, p99 ms",
    "CPU us: master",
    "memory of the master, a replica: own",
    "mapped",
];

/// Runs all measurements. Whether every operation succeeded.
async fn run(args: &Args) -> io::Result<bool> {
    let base = Load {
        operation: Operation::Put,
        clients: CLIENTS,
        connections: CLIENTS,
        keys: 100,
        value_bytes: 128,
        arrivals: None,
        warm_up: Duration::from_secs_f64(args.seconds / 4.0),
        time: Duration::from_secs_f64(args.seconds),
    };
    let mut failures = 0;
    let mut rows = Vec::new();
    for replicas in [1, 3, 5, 7] {
        rows.push(measure_new(&replicas.to_string(), replicas, &base, &mut failures).await?);
    }
    print("replicas", &rows)?;
    let mut rows = Vec::new();
    for value_bytes in [16, 128, 1024, 8 << 10, 64 << 10] {
        // Limited by the disk and the memory of the machine.
        let keys = if value_bytes > 1024 { 10 } else { 100 };
        let load = Load { value_bytes, keys, ..base };
        rows.push(measure_new(&value_bytes.to_string(), 3, &load, &mut failures).await?);
    }
    print("value size, bytes", &rows)?;
    let mut rows = Vec::new();
    for keys in [1000, 30_000, args.keys] {
        let load = Load { keys: keys / CLIENTS, ..base };
        rows.push(measure_new(&thousands(keys.into()), 3, &load, &mut failures).await?);
    }
    print("keys", &rows)?;
    measure_aging(args, &base, &mut failures).await?;
    Ok(failures == 0)
}

/// Measures a new cluster under one load.
async fn measure_new(
    name: &str,
    replicas: u8,
    load: &Load,
    failures: &mut u64,
) -> io::Result<Vec<String>> {
    let scratch = process::scratch()?;
    let cluster = start(&scratch, replicas).await?;
    load::fill(&cluster, load).await?;
    let mut row = vec![name.to_owned()];
    row.extend(measure(&cluster, load, failures).await?);
    Ok(row)
}

async fn start(scratch: &tempfile::TempDir, replicas: u8) -> io::Result<TwopcCluster> {
    let options = ClusterOptions {
        name: "growth".into(),
        replicas,
        configuration: String::new(),
        programs: None,
    };
    TwopcCluster::start(scratch.path(), &options).await
}

/// Measures one cluster as the number of its puts grows.
async fn measure_aging(args: &Args, base: &Load, failures: &mut u64) -> io::Result<()> {
    let scratch = process::scratch()?;
    let cluster = start(&scratch, 3).await?;
    load::fill(&cluster, base).await?;
    let mut puts = u64::from(base.clients * base.keys);
    let mut rows = Vec::new();
    for until in [0, args.age / 8, args.age / 2, args.age] {
        while puts < until {
            let more_puts = Load { warm_up: Duration::ZERO, time: Duration::from_secs(1), ..*base };
            puts += load::run(&cluster, &more_puts).await?.done;
        }
        #[expect(clippy::cast_precision_loss, reason = "only three digits are shown")]
        let mut row = vec![thousands(puts as f64)];
        row.extend(measure(&cluster, base, failures).await?);
        rows.push(row);
    }
    print("earlier puts", &rows)
}

async fn measure(
    cluster: &TwopcCluster,
    load: &Load,
    failures: &mut u64,
) -> io::Result<Vec<String>> {
    let mut row = Vec::new();
    for operation in [Operation::Put, Operation::Get] {
        let outcome = load::run(cluster, &Load { operation, ..*load }).await?;
        if let (failed, Some(why)) = &outcome.failed {
            *failures += failed;
            writeln!(io::stdout(), "{failed} operations failed: {why}")?;
        }
        row.push(thousands(outcome.rate));
        row.push(format!("{:.2}, {:.2}", outcome.latency_ms(0.5), outcome.latency_ms(0.99)));
        row.push(cpu(&outcome, 0));
        if operation == Operation::Put {
            row.push(cpu(&outcome, 1));
        }
    }
    let memory = |bytes: fn(&Process) -> u64| {
        let mib = |process| format!("{} MiB", bytes(process) >> 20);
        cluster.processes().iter().take(2).map(mib).collect::<Vec<_>>().join(", ")
    };
    row.push(memory(|process| process.memory().anonymous));
    row.push(memory(|process| process.memory().file));
    Ok(row)
}

/// The processor time of an operation in one process, in microseconds.
fn cpu(outcome: &LoadResult, process: usize) -> String {
    #[expect(clippy::cast_precision_loss, reason = "only three digits are shown")]
    let done = outcome.done.max(1) as f64;
    format!("{:.1}", outcome.usage[process].cpu.as_secs_f64() * 1e6 / done)
}

fn print(parameter: &str, rows: &[Vec<String>]) -> io::Result<()> {
    table::write(&mut io::stdout(), &[&[parameter], &HEAD[..]].concat(), rows)
}
