//! A cluster of this store: a master and its replicas, from this executable or from another build.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use proto::v1 as pb;

use crate::{
    cluster::{CallFuture, Client, Cluster, ConnectFuture},
    connection::Connection,
    process::{Process, free_addresses},
};

/// A cluster must be ready within this time.
const READY: Duration = Duration::from_secs(20);

/// A method that involves no other node.
const STATUS: &str = "/twopc.v1.Inspect/Status";

/// The options of a cluster.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Its name in tables.
    pub name: String,
    /// The number of replicas.
    pub replicas: u8,
    /// Additional lines of the configuration file.
    pub configuration: String,
    /// The directory of the programs `master` and `replica`; `None` for this executable.
    pub programs: Option<PathBuf>,
}

/// A cluster of this store.
#[derive(Debug)]
pub struct TwopcCluster {
    name: String,
    nodes: Vec<SocketAddr>,
    processes: Vec<Process>,
}

impl TwopcCluster {
    /// Starts a cluster in a directory and waits until it is ready.
    ///
    /// # Errors
    /// The cluster does not become ready in time.
    pub async fn start(dir: &Path, options: &ClusterOptions) -> io::Result<Self> {
        let dir = dir.join(&options.name);
        fs::create_dir_all(&dir)?;
        let addresses = free_addresses(usize::from(options.replicas) + 1)?;
        let config = dir.join("cluster.toml");
        let replicas: Vec<_> = addresses[1..].iter().map(|at| format!("\"{at}\"")).collect();
        let text = format!(
            "cluster = \"bench\"\nmaster = \"{}\"\nreplicas = [{}]\n{}\n",
            addresses[0],
            replicas.join(", "),
            options.configuration
        );
        fs::write(&config, text)?;
        let mut processes = Vec::new();
        for slot in 0..=options.replicas {
            let (role, name) = match slot {
                0 => ("master", "master".to_owned()),
                slot => ("replica", format!("r{slot}")),
            };
            let mut arguments: Vec<String> = ["--bootstrap", "--config"].map(Into::into).to_vec();
            arguments.push(config.display().to_string());
            arguments.extend(["--dir".into(), dir.join(&name).display().to_string()]);
            if slot > 0 {
                arguments.extend(["--slot".into(), slot.to_string()]);
            }
            let log = dir.join(format!("{name}.log"));
            processes.push(match &options.programs {
                None => Process::own(&name, &log, &[&[role.to_owned()], &arguments[..]].concat())?,
                Some(programs) => {
                    let program = programs.join(role).display().to_string();
                    Process::program(&name, &log, &[&[program], &arguments[..]].concat())?
                }
            });
        }
        let mut cluster = TwopcCluster { name: options.name.clone(), nodes: addresses, processes };
        cluster.wait_until_ready().await?;
        Ok(cluster)
    }

    /// Waits until the master accepts writes.
    async fn wait_until_ready(&mut self) -> io::Result<()> {
        let until = Instant::now() + READY;
        loop {
            if let Ok(mut connection) = Connection::open(self.nodes[0]).await {
                let response =
                    connection.call::<_, pb::StatusResponse>(STATUS, pb::StatusRequest {}).await;
                if response.is_ok_and(|status| status.ready) {
                    return Ok(());
                }
            }
            self.processes.iter_mut().try_for_each(Process::check)?;
            if Instant::now() > until {
                return Err(io::Error::other(format!("{}: not ready in {READY:?}", self.name)));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Cluster for TwopcCluster {
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
            let client = TwopcClient(Connection::open(address).await?);
            Ok(Box::new(client) as Box<dyn Client>)
        })
    }
}

struct TwopcClient(Connection);

impl Client for TwopcClient {
    fn share(&self) -> Option<Box<dyn Client>> {
        Some(Box::new(TwopcClient(self.0.clone())))
    }

    fn put(&mut self, key: Bytes, value: Bytes) -> CallFuture<'_, ()> {
        Box::pin(async move {
            let request = pb::PutRequest { key, value };
            self.0.call::<_, pb::PutResponse>("/twopc.v1.Kv/Put", request).await.map(drop)
        })
    }

    fn get(&mut self, key: Bytes) -> CallFuture<'_, Option<Bytes>> {
        Box::pin(async move {
            let request = pb::GetRequest { key };
            let response = self.0.call::<_, pb::GetResponse>("/twopc.v1.Kv/Get", request).await?;
            Ok(response.found.map(|found| found.value))
        })
    }

    fn status(&mut self) -> CallFuture<'_, ()> {
        Box::pin(async move {
            self.0.call::<_, pb::StatusResponse>(STATUS, pb::StatusRequest {}).await.map(drop)
        })
    }
}
