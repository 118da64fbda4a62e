//! What one hostile connection does to a node: `cargo bench -p benches --bench attack`. For each attack, the memory of
//! the node above what it has when idle, and the latency of another client before the attack and during it.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use benches::{
    cluster::Cluster,
    connection::Connection,
    process,
    table::{self, median},
    twopc::{ClusterOptions, TwopcCluster},
};
use bytes::Bytes;
use clap::Parser;
use futures::future;
use h2::{Reason, SendStream, client};
use http::Request;
use prost::Message;
use proto::v1 as pb;
use tokio::{net::TcpStream, task::JoinHandle, time::sleep};

/// The size of the value that the attackers ask for, and of the requests that they begin.
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

/// What an attacker does on its connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attack {
    /// Asks 3,000 times for the large value, and lets the node send nothing.
    UntakenAnswers,
    /// The same, with windows that let the node send everything, but reads nothing.
    UnreadSocket,
    /// Begins 64 requests of 16 MiB, which is more than the node takes.
    OversizeRequests,
    /// Begins 1,000 requests of the largest size, and finishes none.
    UnfinishedRequests,
    /// Announces messages of 4 GiB to the service for peers.
    PeerPrefix,
    /// Asks 1,000 times for the status, and takes nothing.
    UntakenStatus,
    /// Begins calls and resets them, as fast as it can, with a new connection whenever it has to.
    Resets,
    /// Opens 2,000 connections and says nothing.
    IdleConnections,
}

impl Attack {
    const ALL: [(Attack, &str); 8] = [
        (Attack::UntakenAnswers, "untaken answers: window 0, 3,000 gets of 1 MiB"),
        (Attack::UnreadSocket, "unread socket: 3,000 gets of 1 MiB"),
        (Attack::OversizeRequests, "oversize requests: 64 of 16 MiB"),
        (Attack::UnfinishedRequests, "unfinished requests: 1,000 of 1 MiB"),
        (Attack::PeerPrefix, "peer prefix: 32 messages of 4 GiB announced"),
        (Attack::UntakenStatus, "untaken status: window 0, 1,000 calls"),
        (Attack::Resets, "resets, one connection after the other"),
        (Attack::IdleConnections, "idle: 2,000 connections"),
    ];

    /// The node under attack, by its index in the cluster.
    fn node(self) -> usize {
        usize::from(self == Attack::PeerPrefix)
    }
}

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
    for (attack, name) in Attack::ALL {
        if name.contains(&args.only) {
            rows.push(measure(args, attack, name, time).await?);
        }
    }
    let head =
        ["attack", "node", "MiB above idle", "p50 us before", "p50 us during", "ratio", "failed"];
    table::write(&mut io::stdout(), &head, &rows)
}

/// Attacks a fresh cluster.
async fn measure(
    args: &Args,
    attack: Attack,
    name: &str,
    time: Duration,
) -> io::Result<Vec<String>> {
    let scratch = process::scratch()?;
    let options = ClusterOptions {
        name: "attacked".into(),
        replicas: 3,
        configuration: String::new(),
        programs: args.programs.clone(),
    };
    let cluster = TwopcCluster::start(scratch.path(), &options).await?;
    let mut connection = Connection::open(cluster.nodes()[0]).await?;
    let large = cluster.put(&mut connection, "large".into(), vec![7; LARGE].into());
    large.await.map_err(io::Error::other)?;
    let small = cluster.put(&mut connection, "small".into(), vec![7; 128].into());
    small.await.map_err(io::Error::other)?;
    // A long answer, so that its buffers are there already.
    cluster.get(&mut connection, "large".into()).await.map_err(io::Error::other)?;

    let before = bystander(&cluster, &mut connection, time).await;
    let node = &cluster.processes()[attack.node()];
    let idle = node.memory().anonymous;
    let stop = Arc::new(AtomicBool::new(false));
    let attacker = {
        let (stop, address) = (stop.clone(), cluster.nodes()[attack.node()]);
        thread::spawn(move || {
            let runtime = system::node::runtime()?;
            runtime.block_on(attack.run(&address.to_string(), &stop))
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
    let (during, peak) = future::join(bystander(&cluster, &mut connection, time), peak).await;
    stop.store(true, Ordering::Relaxed);
    if let Ok(Err(error)) = attacker.join() {
        writeln!(io::stdout(), "{name}: the attacker failed: {error}")?;
    }
    sleep(REST.min(time)).await;
    #[expect(clippy::cast_precision_loss, reason = "only three digits are shown")]
    let mib = peak.saturating_sub(idle) as f64 / f64::from(1 << 20);
    let [old, new] = [&before, &during].map(|bystander| median(&bystander.micros));
    Ok(vec![
        name.to_owned(),
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

async fn bystander(
    cluster: &TwopcCluster,
    connection: &mut Connection,
    time: Duration,
) -> Bystander {
    let mut bystander = Bystander::default();
    let begun = Instant::now();
    while begun.elapsed() < time {
        let call = Instant::now();
        let put = cluster.put(connection, "bystander".into(), vec![7; 128].into()).await;
        let get = cluster.get(connection, "bystander".into()).await;
        bystander.micros.push(call.elapsed().as_secs_f64() * 1e6 / 2.0);
        bystander.failed += u64::from(put.is_err()) + u64::from(get.is_err());
        sleep(Duration::from_millis(1)).await;
    }
    bystander
}

impl Attack {
    async fn run(self, address: &str, stop: &AtomicBool) -> io::Result<()> {
        let get = framed(&pb::GetRequest { key: "large".into() });
        match self {
            Attack::UntakenAnswers => {
                let mut attacker = Attacker::connect(address, 0).await?;
                attacker.flood("/twopc.v1.Kv/Get", &get, 3000, stop).await;
            }
            Attack::UnreadSocket => {
                let mut attacker = Attacker::connect(address, (1 << 31) - 1).await?;
                attacker.flood("/twopc.v1.Kv/Get", &get, 3000, stop).await;
            }
            Attack::OversizeRequests => begin(address, 64, 16 << 20, stop).await?,
            Attack::UnfinishedRequests => begin(address, 1000, 1 << 20, stop).await?,
            Attack::PeerPrefix => {
                let mut attacker = Attacker::connect(address, 1 << 16).await?;
                let prefix = Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff]);
                let mut open = Vec::new();
                for _ in 0..32 {
                    open.extend(
                        attacker.begin("/twopc.v1.Peer/Exchange", prefix.clone(), false).await,
                    );
                }
                until(stop).await;
            }
            Attack::UntakenStatus => {
                let mut attacker = Attacker::connect(address, 0).await?;
                let status = framed(&pb::StatusRequest {});
                attacker.flood("/twopc.v1.Inspect/Status", &status, 1000, stop).await;
            }
            Attack::Resets => {
                while !stop.load(Ordering::Relaxed) {
                    let mut attacker = Attacker::connect(address, 1 << 16).await?;
                    while !attacker.connection.is_finished() && !stop.load(Ordering::Relaxed) {
                        let small = framed(&pb::GetRequest { key: "small".into() });
                        let Some((_, mut body)) =
                            attacker.begin("/twopc.v1.Kv/Get", small, true).await
                        else {
                            break;
                        };
                        body.send_reset(Reason::CANCEL);
                        tokio::task::yield_now().await;
                    }
                }
            }
            Attack::IdleConnections => {
                let mut idle = Vec::new();
                for _ in 0..2000 {
                    idle.push(TcpStream::connect(address).await?);
                }
                until(stop).await;
            }
        }
        Ok(())
    }
}

/// Begins requests of a size, sends all of each but its last byte as far as the node lets it, and finishes none.
async fn begin(address: &str, requests: usize, size: usize, stop: &AtomicBool) -> io::Result<()> {
    let mut attacker = Attacker::connect(address, 1 << 16).await?;
    let length = u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes();
    let begun = Bytes::from([&[0][..], &length, &vec![7; size - 1]].concat());
    let mut open = Vec::new();
    for _ in 0..requests {
        open.extend(attacker.begin("/twopc.v1.Kv/Put", begun.clone(), false).await);
    }
    until(stop).await;
    Ok(())
}

async fn until(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        sleep(SAMPLE).await;
    }
}

/// A hostile connection.
struct Attacker {
    sender: client::SendRequest<Bytes>,
    connection: JoinHandle<()>,
}

impl Attacker {
    /// Connects, and lets the node send this much of each answer.
    async fn connect(address: &str, window: u32) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        let mut builder = client::Builder::new();
        builder.initial_window_size(window).initial_connection_window_size(window.max(1 << 16));
        let (sender, connection) = builder.handshake(stream).await.map_err(io::Error::other)?;
        let connection = tokio::spawn(async { drop(connection.await) });
        Ok(Attacker { sender, connection })
    }

    async fn begin(
        &mut self,
        path: &str,
        data: Bytes,
        end: bool,
    ) -> Option<(client::ResponseFuture, SendStream<Bytes>)> {
        let head = Request::post(format!("http://here{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        self.sender = self.sender.clone().ready().await.ok()?;
        let (answer, mut body) = self.sender.send_request(head.body(()).ok()?, false).ok()?;
        body.send_data(data, end).ok()?;
        Some((answer, body))
    }

    /// Begins calls, of which it takes no answer.
    async fn flood(&mut self, path: &str, request: &Bytes, calls: usize, stop: &AtomicBool) {
        let mut open = Vec::new();
        for _ in 0..calls {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let begun = tokio::time::timeout(
                Duration::from_secs(1),
                self.begin(path, request.clone(), true),
            );
            match begun.await {
                Ok(Some(call)) => open.push(call),
                // The node lets it begin no more, or has closed the connection.
                _ => break,
            }
        }
        until(stop).await;
    }
}

fn framed(message: &impl Message) -> Bytes {
    let length = u32::try_from(message.encoded_len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[0][..], &length, &message.encode_to_vec()].concat().into()
}
