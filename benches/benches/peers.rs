//! This store beside a 3-node etcd, and beside Redis with two replicas: `cargo bench -p benches --bench peers`. The same
//! clients put the same load on each system in turn, in a closed loop and then, with the same number of operations a
//! second for all, in an open one. Every figure is the median of the rounds, and every ratio the median of the ratios of
//! the rounds, which disturbances of the machine affect least.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use benches::{
    chart::{self, Line, Panel},
    cluster::Cluster,
    etcd::{self, Etcd},
    load::{self, Load, LoadResult, Operation},
    process::{self, Usage},
    redis::{self, Redis},
    replica::Replica,
    table::{self, median, thousands},
    twopc::{self, TwopcCluster},
};
use clap::Parser;
use futures::future::try_join_all;

/// The number of keys of each client.
const KEYS: u32 = 100;
/// The length of a value, in bytes.
const VALUE_BYTES: usize = 128;
/// The number of etcd members.
const MEMBERS: usize = 3;

/// The operations to measure.
const OPERATIONS: [Operation; 3] = [Operation::Put, Operation::Get, Operation::Mixed];
/// The rate of the open loop: this share of that of the slowest system in the closed loop.
const OPEN_SHARE: f64 = 0.7;

/// Measures clusters of this store beside etcd and Redis, and prints the tables of the README.
#[derive(Parser)]
struct Args {
    /// The numbers of clients to measure with.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256, 1024])]
    clients: Vec<u32>,
    /// The number of replicas, besides the master. 3 makes as many copies as etcd has, 2 as many
    /// nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=64))]
    replicas: u8,
    /// The number of connections that the clients share. By default each client has its own, as always with Redis.
    #[arg(long, default_value_t = u32::MAX)]
    connections: u32,
    /// The time for which each load is measured in each round, in seconds.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// The number of rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Also measure another build: a directory with its programs `master` and `replica`. May be
    /// repeated.
    #[arg(long, value_name = "NAME=DIR", value_parser = build)]
    beside: Vec<(String, PathBuf)>,
    /// Another etcd: a name and its program. May be repeated. The one in PATH is measured too.
    #[arg(long, value_name = "NAME=PROGRAM", value_parser = program)]
    etcd: Vec<(String, PathBuf)>,
    /// Do not measure etcd and Redis.
    #[arg(long)]
    without_peers: bool,
    /// Write a chart of the rates to this file, as SVG.
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
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

fn build(text: &str) -> Result<(String, PathBuf), String> {
    let (name, directory) =
        text.split_once('=').ok_or("expected NAME=DIR, as in before=target/old")?;
    let path = PathBuf::from(directory).canonicalize().map_err(|error| error.to_string())?;
    for program in ["master", "replica"] {
        if !path.join(program).is_file() {
            return Err(format!("there is no program {}", path.join(program).display()));
        }
    }
    Ok((name.to_owned(), path))
}

fn program(text: &str) -> Result<(String, PathBuf), String> {
    let (name, program) =
        text.split_once('=').ok_or("expected NAME=PROGRAM, as in etcd-3.5=/opt/etcd/etcd")?;
    let path = PathBuf::from(program).canonicalize();
    Ok((name.to_owned(), path.map_err(|error| format!("{program}: {error}"))?))
}

fn main() -> ExitCode {
    if let Some(code) = process::run_as() {
        return code;
    }
    let mut args = Args::parse();
    if args.test {
        args = Args { clients: vec![1, 16], seconds: 0.3, rounds: 1, ..args };
    }
    let runtime = system::node::runtime();
    let done = runtime.and_then(|runtime| runtime.block_on(run(&args)));
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The results, one per round, by operation, number of clients and cluster.
type Results = BTreeMap<(Operation, u32, usize), Vec<LoadResult>>;

/// What was measured.
struct Measured {
    closed: Results,
    /// In the open loop.
    open: Results,
}

async fn run(args: &Args) -> io::Result<bool> {
    let scratch = process::scratch()?;
    let mut clusters: Vec<Box<dyn Cluster>> = Vec::new();
    let ours = twopc::ClusterOptions {
        name: "logged".into(),
        replicas: args.replicas,
        configuration: String::new(),
        programs: None,
    };
    clusters.push(Box::new(TwopcCluster::start(scratch.path(), &ours).await?));
    let configuration = "commit = \"votes\"".to_owned();
    let votes = twopc::ClusterOptions { name: "votes".into(), configuration, ..ours.clone() };
    clusters.push(Box::new(TwopcCluster::start(scratch.path(), &votes).await?));
    for (name, programs) in &args.beside {
        let programs = Some(programs.clone());
        let beside = twopc::ClusterOptions { name: name.clone(), programs, ..ours.clone() };
        clusters.push(Box::new(TwopcCluster::start(scratch.path(), &beside).await?));
    }
    let ours = clusters.len();
    if !args.without_peers {
        start_peers(args, scratch.path(), &mut clusters).await?;
    }
    // Each cluster of this store with each other system; without any, the first with the others.
    let pairs: Vec<_> = if clusters.len() > ours {
        (ours..clusters.len()).flat_map(|peer| (0..ours).map(move |n| (n, peer))).collect()
    } else {
        (1..ours).map(|n| (0, n)).collect()
    };
    let Measured { closed: measured, open } = measure(args, &clusters).await?;
    let mut good = true;
    for ((operation, clients, system), rounds) in measured.iter().chain(&open) {
        for LoadResult { failed: (failed, why), done, .. } in rounds {
            if let Some(why) = why {
                let name = clusters[*system].name();
                let of = format!("{name}, {clients} clients, {operation:?}");
                writeln!(io::stdout(), "{of}: {failed} failed: {why}")?;
            }
            good &= why.is_none() && *done > 0;
        }
    }
    speeds(args, &clusters, &pairs, &measured)?;
    tails(args, &clusters, &open)?;
    if let Some(path) = &args.chart {
        std::fs::write(path, rates_chart(args, &clusters, &measured))?;
    }
    costs(args, &clusters, &measured)?;
    limits(args, &clusters, &measured)?;
    let of_one = |n| Some(of(measured.get(&(Operation::Put, 1, n))?, |o| o.latency_ms(0.5)));
    if let Some(medians) = of_one(0).zip(of_one(1)) {
        lower_bound(scratch.path(), &*clusters[0], medians).await?;
    }
    Ok(good)
}

/// Starts the other systems that are installed.
async fn start_peers(
    args: &Args,
    scratch: &Path,
    clusters: &mut Vec<Box<dyn Cluster>>,
) -> io::Result<()> {
    let installed = ("etcd".to_owned(), PathBuf::from("etcd"));
    for (name, program) in std::iter::once(&installed).chain(&args.etcd) {
        match etcd::version(program) {
            Some(version) => {
                writeln!(io::stdout(), "{name}: version {version}")?;
                let etcd = Etcd::start(scratch, MEMBERS, name.clone(), program).await?;
                clusters.push(Box::new(etcd));
            }
            None if *program == installed.1 => writeln!(io::stdout(), "{}", etcd::MISSING)?,
            None => {
                let text = format!("{} is not a program of etcd", program.display());
                return Err(io::Error::other(text));
            }
        }
    }
    match redis::version() {
        Some(version) => {
            writeln!(io::stdout(), "redis: version {version}")?;
            clusters.push(Box::new(Redis::start(scratch).await?));
        }
        None => writeln!(io::stdout(), "no program '{}' in PATH: not measured", redis::PROGRAM)?,
    }
    Ok(())
}

/// Prints the lower bound of the latency of a put, each part measured alone: the force of PREPARE at
/// all replicas, the force of COMMIT at the master unless the votes decide, the round trip between
/// client and master, and that between master and all replicas at once. Next to it the measured
/// medians of the two commit modes, in milliseconds.
async fn lower_bound(
    scratch: &Path,
    cluster: &dyn Cluster,
    (logged, votes): (f64, f64),
) -> io::Result<()> {
    const TIMES: usize = 300;
    let micros = |begun: Instant| begun.elapsed().as_secs_f64() * 1e6;
    let mut stores: Vec<_> = (1..cluster.nodes().len())
        .map(|n| Replica::open(&scratch.join(format!("alone{n}"))))
        .collect();
    let mut one = Vec::new();
    let mut all = Vec::new();
    for _ in 0..TIMES {
        let begun = Instant::now();
        stores[0].group(1);
        one.push(micros(begun));
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for store in &mut stores {
                scope.spawn(|| store.group(1));
            }
        });
        all.push(micros(begun));
    }
    let (mut trips, mut rounds) = (Vec::new(), Vec::new());
    let mut clients =
        try_join_all((0..cluster.nodes().len()).map(|node| cluster.connect(node))).await?;
    for _ in 0..TIMES {
        let (master, replicas) = clients.split_at_mut(1);
        for (clients, times) in [(master, &mut trips), (replicas, &mut rounds)] {
            let begun = Instant::now();
            let calls = clients.iter_mut().map(|client| client.status());
            try_join_all(calls).await.map_err(io::Error::other)?;
            times.push(micros(begun));
        }
    }
    let [one, all, trip, round] = [one, all, trips, rounds].map(|times| median(&times));
    writeln!(
        io::stdout(),
        "a put of 1 client: force at {replicas} stores at once {all:.0} us, force at one more \
         {one:.0} us; round trip to one node {trip:.0} us, to {replicas} nodes at once \
         {round:.0} us",
        replicas = stores.len()
    )?;
    for (name, force, needs, median_ms) in
        [("logged", one, "two forces", logged), ("votes", 0.0, "one force", votes)]
    {
        let sum = all + force + trip + round;
        let median = median_ms * 1000.0;
        writeln!(
            io::stdout(),
            "{name}: {needs} and two round trips take at least {sum:.0} us; measured median \
             {median:.0} us, {:.2} times the lower bound",
            median / sum
        )?;
    }
    Ok(())
}

async fn measure(args: &Args, clusters: &[Box<dyn Cluster>]) -> io::Result<Measured> {
    let load = |operation, clients, arrivals| Load {
        operation,
        clients,
        connections: args.connections,
        keys: KEYS,
        value_bytes: VALUE_BYTES,
        arrivals,
        warm_up: Duration::from_secs_f64(args.seconds / 4.0),
        time: Duration::from_secs_f64(args.seconds),
    };
    let most = args.clients.iter().copied().max().unwrap_or(1);
    for cluster in clusters {
        load::fill(&**cluster, &load(Operation::Put, most, None)).await?;
    }
    let (mut closed, mut open) = (Results::new(), Results::new());
    for round in 0..args.rounds {
        for &clients in &args.clients {
            for operation in OPERATIONS {
                // Rotate the order, so that no system is always first.
                let systems = || (0..clusters.len()).map(|turn| (turn + round) % clusters.len());
                let mut slowest = f64::MAX;
                for system in systems() {
                    let load = load(operation, clients, None);
                    let outcome = load::run(&*clusters[system], &load).await?;
                    slowest = slowest.min(outcome.rate);
                    closed.entry((operation, clients, system)).or_default().push(outcome);
                }
                let arrivals = Some((slowest * OPEN_SHARE).max(1.0));
                for system in systems() {
                    let load = load(operation, clients, arrivals);
                    let outcome = load::run(&*clusters[system], &load).await?;
                    open.entry((operation, clients, system)).or_default().push(outcome);
                }
            }
        }
    }
    Ok(Measured { closed, open })
}

fn of(rounds: &[LoadResult], figure: impl Fn(&LoadResult) -> f64) -> f64 {
    median(&rounds.iter().map(figure).collect::<Vec<_>>())
}

/// The ratio of the rates of two clusters: the median over the rounds.
fn ratio(
    measured: &Results,
    operation: Operation,
    clients: u32,
    (own, other): (usize, usize),
) -> f64 {
    let own = &measured[&(operation, clients, own)];
    let other = &measured[&(operation, clients, other)];
    let ratios = own.iter().zip(other).map(|(own, other)| own.rate / other.rate);
    median(&ratios.collect::<Vec<_>>())
}

fn speeds(
    args: &Args,
    clusters: &[Box<dyn Cluster>],
    pairs: &[(usize, usize)],
    measured: &Results,
) -> io::Result<()> {
    for operation in OPERATIONS {
        let word = operation.plural();
        let mut head = vec!["clients".to_owned()];
        for cluster in clusters {
            let name = cluster.name();
            head.extend([
                format!("{name}: {word} a second"),
                "p50, p99, p99.9, longest ms".to_owned(),
            ]);
        }
        for (own, other) in pairs {
            head.push(format!("{} to {}", clusters[*own].name(), clusters[*other].name()));
        }
        let mut rows = Vec::new();
        for &clients in &args.clients {
            let mut row = vec![clients.to_string()];
            for n in 0..clusters.len() {
                let rounds = &measured[&(operation, clients, n)];
                row.push(thousands(of(rounds, |outcome| outcome.rate)));
                row.push(latencies(rounds));
            }
            for pair in pairs {
                row.push(format!("{:.2}", ratio(measured, operation, clients, *pair)));
            }
            rows.push(row);
        }
        let head: Vec<_> = head.iter().map(String::as_str).collect();
        table::write(&mut io::stdout(), &head, &rows)?;
    }
    Ok(())
}

/// The quantiles of the latency, in milliseconds.
fn latencies(rounds: &[LoadResult]) -> String {
    let quantiles = [0.5, 0.99, 0.999, 1.0].map(|q| of(rounds, |outcome| outcome.latency_ms(q)));
    quantiles.map(|ms| format!("{ms:.2}")).join(", ")
}

/// Prints the latencies of the open loop, in which the systems have the same number of operations a second.
fn tails(args: &Args, clusters: &[Box<dyn Cluster>], open: &Results) -> io::Result<()> {
    let mut head = vec!["open loop: clients".to_owned(), "a second".to_owned()];
    for cluster in clusters {
        head.push(format!("{}: p50, p99, p99.9, longest ms", cluster.name()));
    }
    let head: Vec<_> = head.iter().map(String::as_str).collect();
    for operation in OPERATIONS {
        let mut rows = Vec::new();
        for &clients in &args.clients {
            let rounds = |n| &open[&(operation, clients, n)];
            let rate = thousands(of(rounds(0), |outcome| outcome.rate));
            let mut row = vec![clients.to_string(), format!("{rate} {}", operation.plural())];
            row.extend((0..clusters.len()).map(|n| latencies(rounds(n))));
            rows.push(row);
        }
        table::write(&mut io::stdout(), &head, &rows)?;
    }
    Ok(())
}

/// The rates of the closed loop, as a picture.
fn rates_chart(args: &Args, clusters: &[Box<dyn Cluster>], measured: &Results) -> String {
    let panels = OPERATIONS.map(|operation| Panel {
        title: format!("{} a second", operation.plural()),
        lines: (0..clusters.len())
            .map(|n| Line {
                name: clusters[n].name().to_owned(),
                values: args
                    .clients
                    .iter()
                    .map(|clients| of(&measured[&(operation, *clients, n)], |it| it.rate))
                    .collect(),
            })
            .collect(),
    });
    chart::svg(&panels, "clients", &args.clients)
}

/// The resource usage of an operation, which other work on the machine disturbs less than its latency.
fn costs(args: &Args, clusters: &[Box<dyn Cluster>], measured: &Results) -> io::Result<()> {
    let head = [
        "operation, clients",
        "system",
        "CPU us an operation: clients",
        "front node",
        "each other node",
        "all",
        "cores busy",
        "disk busy",
        "the front node's thread",
        "bytes written",
        "waits",
    ];
    let mut rows = Vec::new();
    for operation in OPERATIONS {
        for &clients in &args.clients {
            for (n, cluster) in clusters.iter().enumerate() {
                let rounds = &measured[&(operation, clients, n)];
                #[expect(clippy::cast_precision_loss, reason = "only three digits are shown")]
                let each = |figure: &dyn Fn(&LoadResult) -> f64| {
                    of(rounds, |outcome| figure(outcome) / outcome.done.max(1) as f64)
                };
                let cpu = |usage: &Usage| usage.cpu.as_secs_f64() * 1e6;
                let others = cluster.processes().len().saturating_sub(1).max(1);
                let others = f64::from(u32::try_from(others).unwrap_or(1));
                let all = |outcome: &LoadResult| {
                    cpu(&outcome.clients) + outcome.usage.iter().map(cpu).sum::<f64>()
                };
                #[expect(clippy::cast_precision_loss, reason = "only three digits are shown")]
                let sum = |outcome: &LoadResult, count: fn(&Usage) -> u64| {
                    outcome.usage.iter().map(count).sum::<u64>() as f64
                };
                let front = each(&|outcome| cpu(&outcome.usage[0]));
                let rest = each(&|o| o.usage[1..].iter().map(cpu).sum::<f64>() / others);
                let busy = of(rounds, |outcome| all(outcome) / 1e6 / outcome.time.as_secs_f64());
                rows.push(vec![
                    format!("{operation:?}, {clients}"),
                    cluster.name().to_owned(),
                    format!("{:.1}", each(&|outcome| cpu(&outcome.clients))),
                    format!("{front:.1}"),
                    format!("{rest:.1}"),
                    format!("{:.1}", each(&all)),
                    format!("{busy:.2}"),
                    percent(of(rounds, |outcome| share(outcome, outcome.disk.unwrap_or_default()))),
                    percent(of(rounds, |outcome| share(outcome, outcome.usage[0].busiest))),
                    thousands(each(&|outcome| sum(outcome, |usage| usage.written))),
                    format!("{:.2}", each(&|outcome| sum(outcome, |usage| usage.waits))),
                ]);
            }
        }
    }
    table::write(&mut io::stdout(), &head, &rows)
}

/// The fraction of the measured time that something was busy.
fn share(outcome: &LoadResult, busy: Duration) -> f64 {
    busy.as_secs_f64() / outcome.time.as_secs_f64()
}

fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

/// Prints what is closest to saturation with the largest number of clients.
fn limits(args: &Args, clusters: &[Box<dyn Cluster>], measured: &Results) -> io::Result<()> {
    let clients = args.clients.iter().copied().max().unwrap_or(1);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    #[expect(clippy::cast_precision_loss, reason = "few cores")]
    let cores = cores as f64;
    for operation in OPERATIONS {
        let rounds = &measured[&(operation, clients, 0)];
        let all = |outcome: &LoadResult| {
            let nodes: Duration = outcome.usage.iter().map(|usage| usage.cpu).sum();
            share(outcome, nodes + outcome.clients.cpu) / cores
        };
        let mut busy = [
            (of(rounds, all), "all processors"),
            (of(rounds, |o| share(o, o.usage[0].busiest)), "the thread of the front node"),
            (of(rounds, |o| share(o, o.clients.busiest)), "the thread of the clients"),
            (of(rounds, |o| share(o, o.disk.unwrap_or_default())), "the disk"),
        ];
        busy.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        let busy: Vec<_> =
            busy.iter().map(|(share, what)| format!("{what} {}", percent(*share))).collect();
        let name = clusters[0].name();
        let of = format!("{operation:?}, {clients} clients, {name}");
        writeln!(io::stdout(), "{of}, busy: {}", busy.join(", "))?;
    }
    writeln!(io::stdout())
}
