//! An etcd cluster with default settings, if the program `etcd` is installed or another one is given. The few messages
//! of etcd's v3 API that are needed are declared here.

use std::{
    fs, io,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    cluster::{CallFuture, Client, Cluster, ConnectFuture},
    connection::Connection,
    process::{Process, free_addresses},
};

/// The cluster must have a leader within this time.
const READY: Duration = Duration::from_secs(30);

/// The message if etcd is not installed.
pub const MISSING: &str = "no program 'etcd' in PATH: only this store is measured. On Debian and \
    Ubuntu: apt-get install etcd-server";

/// A method that involves no other member.
const STATUS: &str = "/etcdserverpb.Maintenance/Status";

#[derive(Clone, PartialEq, prost::Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
}

/// Without further fields: a linearizable read of one key.
#[derive(Clone, PartialEq, prost::Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

/// An etcd cluster. Clients connect to its leader, which saves a hop.
#[derive(Debug)]
pub struct Etcd {
    name: String,
    nodes: Vec<SocketAddr>,
    processes: Vec<Process>,
}

/// The version of an etcd program, if there is one: the last word of the first line of `--version`.
#[must_use]
pub fn version(program: &Path) -> Option<String> {
    let output = std::process::Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Some(text.lines().next()?.split_whitespace().last()?.to_owned())
}

impl Etcd {
    /// Starts a cluster of a program in a directory and waits until it has a leader.
    ///
    /// # Errors
    /// No leader is elected in time.
    pub async fn start(
        dir: &Path,
        members: usize,
        name: String,
        program: &Path,
    ) -> io::Result<Self> {
        let dir = dir.join(name.replace(' ', "-"));
        fs::create_dir_all(&dir)?;
        let addresses = free_addresses(2 * members)?;
        let (fronts, peers) = addresses.split_at(members);
        let url = |address: &SocketAddr| format!("http://{address}");
        let all: Vec<_> =
            peers.iter().enumerate().map(|(n, at)| format!("n{n}={}", url(at))).collect();
        let mut processes = Vec::new();
        for (n, (front, peer)) in fronts.iter().zip(peers).enumerate() {
            let member = format!("n{n}");
            let data = dir.join(&member).display().to_string();
            let options = [
                ("name", member.clone()),
                ("data-dir", data),
                ("listen-client-urls", url(front)),
                ("advertise-client-urls", url(front)),
                ("listen-peer-urls", url(peer)),
                ("initial-advertise-peer-urls", url(peer)),
                ("initial-cluster", all.join(",")),
                ("initial-cluster-state", "new".into()),
                ("logger", "zap".into()),
                ("log-level", "error".into()),
            ];
            let options = options.map(|(option, value)| format!("--{option}={value}"));
            let command = [&[program.display().to_string()], &options[..]].concat();
            let log = dir.join(format!("{member}.log"));
            processes.push(Process::program(&member, &log, &command)?);
        }
        let leader = find_leader(fronts, &mut processes).await?;
        let mut nodes = fronts.to_vec();
        nodes.swap(0, leader);
        processes.swap(0, leader);
        Ok(Etcd { name, nodes, processes })
    }
}

async fn find_leader(fronts: &[SocketAddr], processes: &mut [Process]) -> io::Result<usize> {
    let until = Instant::now() + READY;
    loop {
        for (n, front) in fronts.iter().enumerate() {
            let Ok(mut connection) = Connection::open(*front).await else { continue };
            let Ok(status) = connection.call::<_, StatusResponse>(STATUS, StatusRequest {}).await
            else {
                continue;
            };
            let own = status.header.map_or(0, |header| header.member_id);
            if own != 0 && own == status.leader {
                return Ok(n);
            }
        }
        processes.iter_mut().try_for_each(Process::check)?;
        if Instant::now() > until {
            return Err(io::Error::other(format!("etcd has no leader after {READY:?}")));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

impl Cluster for Etcd {
    fn name(&self) -> &str {
        &self.name
    }

    fn nodes(&self) -> &[SocketAddr] {
        &self.nodes
    }

    fn processes(&self) -> &[Process] {
        &self.processes
    }

    fn connect(&self, node: usize) -> ConnectFuture<'_> {
        let address = self.nodes[node];
        Box::pin(async move {
            let client = EtcdClient(Connection::open(address).await?);
            Ok(Box::new(client) as Box<dyn Client>)
        })
    }
}

struct EtcdClient(Connection);

impl Client for EtcdClient {
    fn share(&self) -> Option<Box<dyn Client>> {
        Some(Box::new(EtcdClient(self.0.clone())))
    }

    fn put(&mut self, key: Bytes, value: Bytes) -> CallFuture<'_, ()> {
        Box::pin(async move {
            let request = PutRequest { key, value };
            self.0.call::<_, PutResponse>("/etcdserverpb.KV/Put", request).await.map(drop)
        })
    }

    fn get(&mut self, key: Bytes) -> CallFuture<'_, Option<Bytes>> {
        Box::pin(async move {
            let request = RangeRequest { key };
            let answer = self.0.call::<_, RangeResponse>("/etcdserverpb.KV/Range", request).await?;
            Ok(answer.kvs.into_iter().next().map(|entry| entry.value))
        })
    }

    fn status(&mut self) -> CallFuture<'_, ()> {
        Box::pin(async move {
            self.0.call::<_, StatusResponse>(STATUS, StatusRequest {}).await.map(drop)
        })
    }
}
