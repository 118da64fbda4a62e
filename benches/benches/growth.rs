//! How the cost of an operation grows, or does not: `cargo bench -p benches --bench growth`. Puts
//! and gets of 64 clients while the replicas, the values, the keys and the age of the records grow,
//! each alone; and the memory of each node then. A few minutes in all.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use benches::{
    cluster::Cluster as _,
    load::{self, Load, Operation, Outcome},
    ours::{Ours, OursOptions},
    process::{self, Process},
    table::{self, thousands},
};
use clap::Parser;

/// Measures how the cost of an operation grows.
#[derive(Parser)]
struct Args {
    /// Seconds that each load is measured.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Puts that make the records of one cluster age.
    #[arg(long, default_value_t = 500_000)]
    age: u64,
    /// The most keys.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u32,
    /// Only sees that everything works: a few seconds.
    #[arg(long)]
    test: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// As the programs have it.
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

/// Measures everything, and says whether every operation was done.
async fn run(args: &Args) -> io::Result<bool> {
    let plain = Load {
        operation: Operation::Put,
        clients: CLIENTS,
        connections: CLIENTS,
        keys: 100,
        value_bytes: 128,
        warm_up: Duration::from_secs_f64(args.seconds / 4.0),
        time: Duration::from_secs_f64(args.seconds),
    };
    let mut failed = 0;
    let mut rows = Vec::new();
    for replicas in [1, 3, 5, 7] {
        rows.push(point(&replicas.to_string(), replicas, &plain, &mut failed).await?);
    }
    print("replicas", &rows)?;
    let mut rows = Vec::new();
    for value_bytes in [16, 128, 1024, 8 << 10, 64 << 10] {
        // Not more than the disk and the machine's memory hold.
        let keys = if value_bytes > 1024 { 10 } else { 100 };
        let load = Load { value_bytes, keys, ..plain };
        rows.push(point(&value_bytes.to_string(), 3, &load, &mut failed).await?);
    }
    print("bytes of a value", &rows)?;
    let mut rows = Vec::new();
    for keys in [1000, 30_000, args.keys] {
        let load = Load { keys: keys / CLIENTS, ..plain };
        rows.push(point(&thousands(keys.into()), 3, &load, &mut failed).await?);
    }
    print("keys", &rows)?;
    age(args, &plain, &mut failed).await?;
    Ok(failed == 0)
}

/// A fresh cluster under one load.
async fn point(
    name: &str,
    replicas: u8,
    load: &Load,
    all_failed: &mut u64,
) -> io::Result<Vec<String>> {
    let scratch = process::scratch()?;
    let cluster = start(&scratch, replicas).await?;
    load::fill(&cluster, load).await?;
    let mut row = vec![name.to_owned()];
    row.extend(measure(&cluster, load, all_failed).await?);
    Ok(row)
}

async fn start(scratch: &tempfile::TempDir, replicas: u8) -> io::Result<Ours> {
    let options = OursOptions {
        name: "growth".into(),
        replicas,
        configuration: String::new(),
        programs: None,
    };
    Ours::start(scratch.path(), &options).await
}

/// One cluster, from its first put on.
async fn age(args: &Args, plain: &Load, all_failed: &mut u64) -> io::Result<()> {
    let scratch = process::scratch()?;
    let cluster = start(&scratch, 3).await?;
    load::fill(&cluster, plain).await?;
    let mut puts = u64::from(plain.clients * plain.keys);
    let mut rows = Vec::new();
    for until in [0, args.age / 8, args.age / 2, args.age] {
        while puts < until {
            let part = Load { warm_up: Duration::ZERO, time: Duration::from_secs(1), ..*plain };
            puts += load::run(&cluster, &part).await?.done;
        }
        #[expect(clippy::cast_precision_loss, reason = "read to three digits")]
        let mut row = vec![thousands(puts as f64)];
        row.extend(measure(&cluster, plain, all_failed).await?);
        rows.push(row);
    }
    print("puts before", &rows)
}

async fn measure(cluster: &Ours, load: &Load, all_failed: &mut u64) -> io::Result<Vec<String>> {
    let mut row = Vec::new();
    for operation in [Operation::Put, Operation::Get] {
        let outcome = load::run(cluster, &Load { operation, ..*load }).await?;
        if let (failed, Some(why)) = &outcome.failed {
            *all_failed += failed;
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

/// What an operation costs a process.
fn cpu(outcome: &Outcome, process: usize) -> String {
    #[expect(clippy::cast_precision_loss, reason = "read to three digits")]
    let done = outcome.done.max(1) as f64;
    format!("{:.1}", outcome.usage[process].cpu.as_secs_f64() * 1e6 / done)
}

fn print(what: &str, rows: &[Vec<String>]) -> io::Result<()> {
    table::write(&mut io::stdout(), &[&[what], &HEAD[..]].concat(), rows)
}
