//! Clusters of ours: a master and its replicas, out of this executable or out of other programs.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use proto::v1 as pb;

use crate::{
    cluster::{Calling, Cluster},
    line::Line,
    process::{Process, free_addresses},
};

/// A cluster must be ready within this time.
const READY: Duration = Duration::from_secs(20);

/// A method that needs nothing but the node itself.
const STATUS: &str = "/twopc.v1.Inspect/Status";

/// How a cluster is made.
#[derive(Clone, Debug)]
pub struct OursOptions {
    /// What it is called in tables.
    pub name: String,
    /// How many replicas there are.
    pub replicas: u8,
    /// Lines that the configuration has besides.
    pub configuration: String,
    /// Where the programs `master` and `replica` are; none for this executable.
    pub programs: Option<PathBuf>,
}

/// A cluster of ours.
#[derive(Debug)]
pub struct Ours {
    name: String,
    nodes: Vec<SocketAddr>,
    processes: Vec<Process>,
}

impl Ours {
    /// Starts a cluster in a directory and waits until it is ready.
    ///
    /// # Errors
    /// It does not become ready.
    pub async fn start(dir: &Path, options: &OursOptions) -> io::Result<Self> {
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
        let mut this = Ours { name: options.name.clone(), nodes: addresses, processes };
        this.wait().await?;
        Ok(this)
    }

    /// Until a write is taken.
    async fn wait(&mut self) -> io::Result<()> {
        let until = Instant::now() + READY;
        loop {
            if let Ok(mut line) = Line::open(self.nodes[0]).await {
                let answer = line.call::<_, pb::StatusResponse>(STATUS, pb::StatusRequest {}).await;
                if answer.is_ok_and(|answer| answer.ready) {
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

impl Cluster for Ours {
    fn name(&self) -> &str {
        &self.name
    }

    fn nodes(&self) -> &[SocketAddr] {
        &self.nodes
    }

    fn processes(&self) -> &[Process] {
        &self.processes
    }

    fn put<'a>(&self, line: &'a mut Line, key: Bytes, value: Bytes) -> Calling<'a, ()> {
        Box::pin(async move {
            let request = pb::PutRequest { key, value };
            line.call::<_, pb::PutResponse>("/twopc.v1.Kv/Put", request).await.map(drop)
        })
    }

    fn get<'a>(&self, line: &'a mut Line, key: Bytes) -> Calling<'a, Option<Bytes>> {
        Box::pin(async move {
            let request = pb::GetRequest { key };
            let answer = line.call::<_, pb::GetResponse>("/twopc.v1.Kv/Get", request).await?;
            Ok(answer.found.map(|found| found.value))
        })
    }

    fn nothing<'a>(&self, line: &'a mut Line) -> Calling<'a, ()> {
        Box::pin(async move {
            line.call::<_, pb::StatusResponse>(STATUS, pb::StatusRequest {}).await.map(drop)
        })
    }
}
