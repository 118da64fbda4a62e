//! A primary of Redis with two replicas, if the program `redis-server` is installed. Every write is synced before it is
//! answered (appendfsync always), and a put waits until both replicas have the write (WAIT 2). A replica answers WAIT when
//! it has applied the write, before its own sync: the other systems wait for that too. A get reads the primary.

use std::{
    fs, io,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream},
    net::TcpStream,
};
use tonic::Status;

use crate::{
    cluster::{CallFuture, Client, Cluster, ConnectFuture},
    process::{Process, free_addresses},
};

/// The program.
pub const PROGRAM: &str = "redis-server";

/// The replicas must follow the primary within this time.
const READY: Duration = Duration::from_secs(20);

/// The number of replicas: with the primary, as many copies as etcd has.
const REPLICAS: usize = 2;

/// A primary and its replicas.
#[derive(Debug)]
pub struct Redis {
    nodes: Vec<SocketAddr>,
    processes: Vec<Process>,
}

/// The version of the program, if it is installed.
#[must_use]
pub fn version() -> Option<String> {
    let output = std::process::Command::new(PROGRAM).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(text.split_whitespace().find_map(|word| word.strip_prefix("v="))?.to_owned())
}

impl Redis {
    /// Starts the nodes in a directory, and waits until a write reaches both replicas.
    ///
    /// # Errors
    /// They do not become ready in time.
    pub async fn start(dir: &Path) -> io::Result<Self> {
        let dir = dir.join("redis");
        let nodes = free_addresses(1 + REPLICAS)?;
        let mut processes = Vec::new();
        for (n, address) in nodes.iter().enumerate() {
            let data = dir.join(format!("n{n}"));
            fs::create_dir_all(&data)?;
            let mut command: Vec<String> = [
                PROGRAM,
                "--bind",
                &address.ip().to_string(),
                "--port",
                &address.port().to_string(),
                "--dir",
                &data.display().to_string(),
                "--appendonly",
                "yes",
                "--appendfsync",
                "always",
                "--save",
                "",
                "--protected-mode",
                "no",
            ]
            .map(ToOwned::to_owned)
            .to_vec();
            if n > 0 {
                let (ip, port) = (nodes[0].ip().to_string(), nodes[0].port().to_string());
                command.extend(["--replicaof".to_owned(), ip, port]);
            }
            let name = format!("n{n}");
            processes.push(Process::program(&name, &dir.join(format!("{name}.log")), &command)?);
        }
        let mut redis = Redis { nodes, processes };
        redis.wait_until_ready().await?;
        Ok(redis)
    }

    async fn wait_until_ready(&mut self) -> io::Result<()> {
        let until = Instant::now() + READY;
        loop {
            if let Ok(mut client) = self.connect(0).await
                && client.put("ready".into(), "yes".into()).await.is_ok()
            {
                return Ok(());
            }
            self.processes.iter_mut().try_for_each(Process::check)?;
            if Instant::now() > until {
                return Err(io::Error::other(format!("redis: not ready in {READY:?}")));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Cluster for Redis {
    fn name(&self) -> &'static str {
        "redis"
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
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(RedisClient(BufStream::new(stream))) as Box<dyn Client>)
        })
    }
}

struct RedisClient(BufStream<TcpStream>);

/// An answer of the few kinds that these commands have.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Simple(String),
    Integer(i64),
    Bulk(Option<Bytes>),
}

impl RedisClient {
    /// Sends a command, without waiting.
    async fn send(&mut self, words: &[&[u8]]) -> io::Result<()> {
        self.0.write_all(format!("*{}\r\n", words.len()).as_bytes()).await?;
        for word in words {
            self.0.write_all(format!("${}\r\n", word.len()).as_bytes()).await?;
            self.0.write_all(word).await?;
            self.0.write_all(b"\r\n").await?;
        }
        Ok(())
    }

    async fn receive(&mut self) -> Result<Answer, Status> {
        let broken = |error: io::Error| Status::unavailable(error.to_string());
        let foreign = |line: &str| Status::unknown(format!("redis answers '{line}'"));
        let mut line = String::new();
        self.0.read_line(&mut line).await.map_err(broken)?;
        let line = line.trim_end();
        let Some((kind, rest)) = line.split_at_checked(1) else { return Err(foreign(line)) };
        match kind {
            "+" => Ok(Answer::Simple(rest.to_owned())),
            ":" => rest.parse().map(Answer::Integer).map_err(|_| foreign(line)),
            "$" if rest == "-1" => Ok(Answer::Bulk(None)),
            "$" => {
                let length: usize = rest.parse().map_err(|_| foreign(line))?;
                let mut value = vec![0; length + 2];
                self.0.read_exact(&mut value).await.map_err(broken)?;
                value.truncate(length);
                Ok(Answer::Bulk(Some(value.into())))
            }
            _ => Err(foreign(line)),
        }
    }

    async fn ask(&mut self, commands: &[&[&[u8]]]) -> Result<Vec<Answer>, Status> {
        let broken = |error: io::Error| Status::unavailable(error.to_string());
        for command in commands {
            self.send(command).await.map_err(broken)?;
        }
        self.0.flush().await.map_err(broken)?;
        let mut answers = Vec::new();
        for _ in commands {
            answers.push(self.receive().await?);
        }
        Ok(answers)
    }
}

impl Client for RedisClient {
    fn share(&self) -> Option<Box<dyn Client>> {
        // Answers come in the order of the commands, so two clients would wait for each other.
        None
    }

    fn put(&mut self, key: Bytes, value: Bytes) -> CallFuture<'_, ()> {
        Box::pin(async move {
            let replicas = REPLICAS.to_string();
            let wait: &[&[u8]] = &[b"WAIT", replicas.as_bytes(), b"1000"];
            let answers = self.ask(&[&[b"SET", &key, &value], wait]).await?;
            match &answers[..] {
                [Answer::Simple(ok), Answer::Integer(reached)]
                    if ok == "OK" && usize::try_from(*reached) == Ok(REPLICAS) =>
                {
                    Ok(())
                }
                other => Err(Status::unknown(format!("redis answers {other:?}"))),
            }
        })
    }

    fn get(&mut self, key: Bytes) -> CallFuture<'_, Option<Bytes>> {
        Box::pin(async move {
            match self.ask(&[&[b"GET", &key]]).await?.swap_remove(0) {
                Answer::Bulk(value) => Ok(value),
                other => Err(Status::unknown(format!("redis answers {other:?}"))),
            }
        })
    }

    fn status(&mut self) -> CallFuture<'_, ()> {
        Box::pin(async move { self.ask(&[&[b"PING"]]).await.map(drop) })
    }
}
