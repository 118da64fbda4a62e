//! What one hostile connection does to a node: `cargo bench -p benches --bench attack`. For each attack, the memory of
//! the node above what it has when idle, and the latency of another client before the attack and during it.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use benches::{
    cluster::{Client, Cluster as _},
    process,
    table::{self, median},
    twopc::{ClusterOptions, TwopcCluster},
};
use clap::Parser;
use futures::future;
use tokio::{sync::watch, time::sleep};
use twopc::attack::Attack;

/// The size of the value that the attackers ask for.
const LARGE: usize = 1 << 20;
/// How often the memory of the node is read.
const SAMPLE: Duration = Duration::from_millis(10);
/// The pause after an attack, in which the node may give its memory back.
const REST: Duration = Duration::from_secs(2);

/// Attacks a cluster of this store, and prints what one connection costs.
#[derive(Parser)]
struct Args {
    /// How long each attack lasts, in seconds.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Attack another build: a directory with its programs `master` and `replica`.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Run only the attacks whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
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
        args.seconds = 0.5;
    }
    let runtime = system::node::runtime();
    match runtime.and_then(|runtime| runtime.block_on(run(&args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> io::Result<()> {
    let time = Duration::from_secs_f64(args.seconds);
    let mut rows = Vec::new();
    for attack in Attack::ALL {
        if attack.name().contains(&args.only) {
            rows.push(measure(args, attack, time).await?);
        }
    }
    let head = [
        "attack",
        "begun",
        "node",
        "MiB above idle",
        "p50 us before",
        "p50 us during",
        "ratio",
        "failed",
    ];
    table::write(&mut io::stdout(), &head, &rows)
}

/// Attacks a fresh cluster.
async fn measure(args: &Args, attack: Attack, time: Duration) -> io::Result<Vec<String>> {
    let scratch = process::scratch()?;
    let options = ClusterOptions {
        name: "attacked".into(),
        replicas: 3,
        configuration: String::new(),
        programs: args.programs.clone(),
    };
    let cluster = TwopcCluster::start(scratch.path(), &options).await?;
    let mut client = cluster.connect(0).await?;
    let large = client.put("large".into(), vec![7; LARGE].into());
    large.await.map_err(io::Error::other)?;
    let small = client.put("small".into(), vec![7; 128].into());
    small.await.map_err(io::Error::other)?;
    // A long answer, so that its buffers are there already.
    client.get("large".into()).await.map_err(io::Error::other)?;

    let before = bystander(&mut *client, time).await;
    let attacked = usize::from(attack.is_for_replicas());
    let node = &cluster.processes()[attacked];
    let idle = node.memory().anonymous;
    let (stop, stopped) = watch::channel(false);
    let begun = Arc::new(AtomicU64::new(0));
    let attacker = {
        let (address, begun) = (cluster.nodes()[attacked].to_string(), begun.clone());
        thread::spawn(move || {
            let runtime = system::node::runtime()?;
            runtime.block_on(attack.run(&address, b"large", None, &begun, stopped))
        })
    };
    let peak = async {
        let begun = Instant::now();
        let mut peak = 0;
        while begun.elapsed() < time {
            peak = peak.max(node.memory().anonymous);
            sleep(SAMPLE).await;
        }
        peak
    };
    let (during, peak) = future::join(bystander(&mut *client, time), peak).await;
    stop.send_replace(true);
    if let Ok(Err(error)) = attacker.join() {
        writeln!(io::stdout(), "{}: the attacker failed: {error}", attack.name())?;
    }
    sleep(REST.min(time)).await;
    #[expect(clippy::cast_precision_loss, reason = "only three digits are shown")]
    let mib = peak.saturating_sub(idle) as f64 / f64::from(1 << 20);
    let [old, new] = [&before, &during].map(|bystander| median(&bystander.micros));
    Ok(vec![
        attack.name().to_owned(),
        begun.load(Ordering::Relaxed).to_string(),
        node.name().to_owned(),
        format!("{mib:.0}"),
        format!("{old:.0}"),
        format!("{new:.0}"),
        format!("{:.1}", new / old),
        during.failed.to_string(),
    ])
}

/// A client that does no harm: its latencies, and the number of its calls that failed.
#[derive(Default)]
struct Bystander {
    micros: Vec<f64>,
    failed: u64,
}

async fn bystander(client: &mut dyn Client, time: Duration) -> Bystander {
    let mut bystander = Bystander::default();
    let begun = Instant::now();
    while begun.elapsed() < time {
        let call = Instant::now();
        let put = client.put("bystander".into(), vec![7; 128].into()).await;
        let get = client.get("bystander".into()).await;
        bystander.micros.push(call.elapsed().as_secs_f64() * 1e6 / 2.0);
        bystander.failed += u64::from(put.is_err()) + u64::from(get.is_err());
        sleep(Duration::from_millis(1)).await;
    }
    bystander
}
