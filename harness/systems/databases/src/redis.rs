//! Redis: one node, a primary with replicas, and replicas with sentinels that fail over.
//!
//! A set is a Redis set and a counter an integer; compare-and-set is a script, which Redis executes alone.
//! The client library neither reconnects nor sends a command again: a connection that broke is reported.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, LazyLock},
    time::Duration,
};

use ::redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, RedisConnectionInfo, RedisError,
    ServerErrorKind, aio::MultiplexedConnection, cmd,
};
use futures::future::BoxFuture;
use history::Function;
use lab::{
    NodeName, StartOptions, System,
    client::{Answer, Client},
    network::{Dialer, Network},
    request::Request,
};
use serde_json::json;
use tokio::{net::TcpStream, task::AbortHandle, time::timeout};

use crate::{
    Asks, Choice, Configuration, Database, Programs, Task,
    site::{Place, Site},
};

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a node may take to answer a question of the harness.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// The name under which sentinels know the primary.
const PRIMARY: &str = "m";

/// The configuration of a node, in its directory.
const CONFIGURATION: &str = "redis.conf";

/// Starts a server. The first argument repairs its log first, as the server's manual says: after a power loss,
/// a part of the end may be there without what was before it, and then the server refuses to start. What was
/// synced is before that, and is kept.
const START: &str = r#"
manifest=appendonlydir/appendonly.aof.manifest
if [ -e "$manifest" ]; then yes | "$1" --fix "$manifest"; fi
shift
exec "$@"
"#;

/// Compare-and-set. An absent key is an absent second argument.
const CAS: &str = "local old = redis.call('GET', KEYS[1])
if (ARGV[2] == nil and not old) or (old and ARGV[2] == old) then
  redis.call('SET', KEYS[1], ARGV[1])
  return 1
end
return 0";

pub(crate) struct Redis;

const DATA_NODES: &[&str] = &["n1", "n2", "n3"];
const WITH_SENTINELS: &[&str] = &["n1", "n2", "n3", "s1", "s2", "s3"];

impl Database for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn programs(&self) -> Programs {
        Programs {
            names: &["redis-server", "redis-check-aof"],
            directories: &[],
            package: "redis-server",
        }
    }

    fn configurations(&self) -> &'static [Configuration] {
        &[
            Configuration {
                name: "single",
                about: "one node, appendfsync always",
                nodes: &["n1"],
                excluded: &[],
            },
            Configuration {
                name: "everysec",
                about: "one node, appendfsync everysec",
                nodes: &["n1"],
                excluded: &[],
            },
            Configuration {
                name: "replicas",
                about: "a primary and two replicas, appendfsync always, no failover",
                nodes: DATA_NODES,
                excluded: &[],
            },
            Configuration {
                name: "sentinel",
                about: "a primary, two replicas and three sentinels; clients ask a sentinel for the primary",
                nodes: WITH_SENTINELS,
                excluded: &[],
            },
            Configuration {
                name: "sentinel-sticky",
                about: "the same, and clients stay with the first primary",
                nodes: WITH_SENTINELS,
                excluded: &[],
            },
            Configuration {
                name: "sentinel-sticky-min-replicas",
                about: "the same, with min-replicas-to-write 1 and min-replicas-max-lag 1",
                nodes: WITH_SENTINELS,
                excluded: &[],
            },
        ]
    }

    fn asks(&self) -> Option<Asks> {
        Some(Asks { option: "reads", values: &["primary", "replica"] })
    }

    fn claim(&self, choice: &Choice, _workload: &str) -> Option<&'static str> {
        match choice.configuration.name {
            // A power loss may take the last second.
            "everysec" => None,
            // Replication is asynchronous, so neither a replica nor a failover promises anything.
            "sentinel" | "sentinel-sticky" | "sentinel-sticky-min-replicas" => None,
            _ if choice.ask == "replica" => None,
            _ => Some("linearizable"),
        }
    }

    fn refuses(&self, choice: &Choice, workload: &str) -> Option<String> {
        let known = ["register", "cas-register", "set", "counter"];
        if choice.ask == "replica" && choice.configuration.name != "replicas" {
            return Some(
                "--reads replica: only redis:replicas has clients that read replicas".to_owned(),
            );
        }
        (!known.contains(&workload)).then(|| {
            format!("--workload: clients of redis know {}, and not {workload}", known.join(", "))
        })
    }

    fn stands_clocks(&self) -> bool {
        true
    }

    fn deploy(
        &self,
        choice: &Choice,
        site: Site,
        _task: &Task<'_>,
    ) -> Result<Arc<dyn System>, String> {
        let name = choice.configuration.name;
        let servers = Servers {
            program: choice.program("redis-server").into(),
            check: choice.program("redis-check-aof").into(),
            fsync: if name == "everysec" { "everysec" } else { "always" },
            sentinels: name.starts_with("sentinel"),
            sticky: name.starts_with("sentinel-sticky"),
            min_replicas: name == "sentinel-sticky-min-replicas",
            reads_replicas: choice.ask == "replica",
            site: Arc::new(site),
        };
        servers.write_files().map_err(|error| format!("cannot write redis.conf: {error}"))?;
        Ok(Arc::new(servers))
    }
}

struct Servers {
    site: Arc<Site>,
    program: Box<Path>,
    /// The program that repairs its log.
    check: Box<Path>,
    fsync: &'static str,
    sentinels: bool,
    /// Whether clients stay with the first primary, whatever sentinels say.
    sticky: bool,
    /// Whether a primary takes writes only while a replica follows it.
    min_replicas: bool,
    reads_replicas: bool,
}

fn is_sentinel(node: &NodeName) -> bool {
    node.as_str().starts_with('s')
}

impl Servers {
    /// Writes the configuration of each node. Redis and its sentinels keep in it what they learn of a
    /// failover.
    fn write_files(&self) -> std::io::Result<()> {
        let primary = &self.site.places[0];
        for place in &self.site.places {
            let Place { ip, port, .. } = place;
            let own = format!(
                "port {port}\nbind {ip}\ndir {}\nprotected-mode no\n",
                place.directory.display()
            );
            let rest = if is_sentinel(&place.name) {
                format!(
                    "sentinel announce-ip {ip}\nsentinel announce-port {port}\n\
                     sentinel monitor {PRIMARY} {} {} 2\n\
                     sentinel down-after-milliseconds {PRIMARY} 500\n\
                     sentinel failover-timeout {PRIMARY} 3000\n",
                    primary.ip, primary.port
                )
            } else {
                let follows = match place.name == primary.name {
                    true => String::new(),
                    false => format!("replicaof {} {}\n", primary.ip, primary.port),
                };
                let guarded = match self.min_replicas {
                    true => "min-replicas-to-write 1\nmin-replicas-max-lag 1\n",
                    false => "",
                };
                format!(
                    "{guarded}appendonly yes\nappendfsync {}\nsave \"\"\nreplica-announce-ip {ip}\n\
                     replica-announce-port {port}\nrepl-diskless-sync-delay 0\n{follows}",
                    self.fsync
                )
            };
            fs::write(place.directory.join(CONFIGURATION), own + &rest)?;
        }
        Ok(())
    }

    /// Whether a data node does its work: as the primary, or as a replica that follows it.
    async fn is_data_ready(&self, place: &Place) -> bool {
        let dialer = self.site.dialer();
        let Some(info) = ask(&dialer, place, cmd("INFO").arg("replication")).await else {
            return false;
        };
        let info: String = info;
        let field = |name: &str| {
            info.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .unwrap_or_default()
        };
        let is_primary = field("role") == "master";
        let primary = match self.sentinels {
            true => primary_by_sentinels(&self.site, &dialer).await,
            false => Some(self.site.places[0].authority()),
        };
        let Some(primary) = primary else { return false };
        if is_primary {
            return primary == place.authority();
        }
        // It may follow another replica, as after a failover that went half way.
        field("master_link_status") == "up"
    }
}

/// The address of the primary, as the first sentinel that answers says.
async fn primary_by_sentinels(site: &Site, dialer: &Dialer) -> Option<String> {
    for place in site.places.iter().filter(|place| is_sentinel(&place.name)) {
        let mut question = cmd("SENTINEL");
        question.arg("get-master-addr-by-name").arg(PRIMARY);
        if let Some((ip, port)) = ask::<(String, String)>(dialer, place, &question).await {
            return Some(format!("{ip}:{port}"));
        }
    }
    None
}

/// A connection, and the task that moves its bytes.
struct Link {
    connection: MultiplexedConnection,
    task: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The servers ask for none.
static NO_CREDENTIALS: LazyLock<RedisConnectionInfo> = LazyLock::new(RedisConnectionInfo::default);

async fn connect(dialer: &Dialer, authority: &str) -> Result<Link, RedisError> {
    // The deadline of each request is the worker's.
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let opened = async {
        let stream: TcpStream = dialer.connect(authority).await?;
        stream.set_nodelay(true)?;
        MultiplexedConnection::new_with_config(&NO_CREDENTIALS, stream, config).await
    };
    let late = || RedisError::from((ErrorKind::Io, "the connection was not opened in time"));
    let (connection, work) = timeout(CONNECT_TIMEOUT, opened).await.map_err(|_| late())??;
    Ok(Link { connection, task: tokio::spawn(work).abort_handle() })
}

/// What a node answers to a question.
async fn ask<T: FromRedisValue>(dialer: &Dialer, place: &Place, question: &Cmd) -> Option<T> {
    let authority = place.authority();
    let asked = async {
        let mut link = connect(dialer, &authority).await.ok()?;
        question.query_async(&mut link.connection).await.ok()
    };
    timeout(PROBE_TIMEOUT, asked).await.ok()?
}

impl System for Servers {
    fn nodes(&self) -> &[NodeName] {
        &self.site.names
    }

    fn command(&self, node: &NodeName, _start: &StartOptions) -> Command {
        let place = self.site.of(node);
        let mut command = Command::new("sh");
        command
            .args(["-c", START, "sh"])
            .args([&*self.check, &*self.program])
            .arg(place.directory.join(CONFIGURATION))
            .current_dir(&place.directory);
        if is_sentinel(node) {
            command.arg("--sentinel");
        }
        command
    }

    fn is_ready<'a>(&'a self, node: &'a NodeName) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let place = self.site.of(node);
            if is_sentinel(node) {
                return ask::<String>(&self.site.dialer(), place, &cmd("PING")).await.is_some();
            }
            self.is_data_ready(place).await
        })
    }

    fn client(&self, worker: u32) -> Box<dyn Client> {
        let data = self.site.places.iter().filter(|place| !is_sentinel(&place.name)).count();
        let at = match self.reads_replicas {
            true => worker as usize % data,
            false => 0,
        };
        Box::new(RedisClient {
            site: self.site.clone(),
            dialer: Dialer::of_client(self.site.network.as_ref(), worker),
            node: (!self.sentinels || self.sticky).then(|| self.site.names[at].clone()),
            connection: None,
            primary: None,
            misconduct: None,
        })
    }

    fn keeper(&self) -> Option<&Path> {
        Some(&self.site.keeper)
    }

    fn network(&self) -> Option<&Network> {
        self.site.network.as_deref()
    }

    fn scratch(&self) -> &Path {
        self.site.scratch()
    }

    fn disk_directories(&self, node: &NodeName) -> Vec<PathBuf> {
        vec![self.site.of(node).directory.clone()]
    }

    fn leader(&self) -> BoxFuture<'_, Option<NodeName>> {
        Box::pin(async move {
            let primary = match self.sentinels {
                true => primary_by_sentinels(&self.site, &self.site.dialer()).await?,
                false => self.site.places[0].authority(),
            };
            let found = self.site.places.iter().find(|place| place.authority() == primary);
            found.map(|place| place.name.clone())
        })
    }
}

/// A client that stays with a node, or asks a sentinel each time it connects.
struct RedisClient {
    site: Arc<Site>,
    dialer: Dialer,
    /// The node that it stays with.
    node: Option<NodeName>,
    connection: Option<Link>,
    /// The connection for writes, if reads go to another node.
    primary: Option<Link>,
    misconduct: Option<String>,
}

impl RedisClient {
    async fn connect(&mut self) -> Result<(), String> {
        (self.connection, self.primary) = (None, None);
        let text = |error: RedisError| error.to_string();
        let first = self.site.places[0].authority();
        let authority = match &self.node {
            Some(node) => self.site.of(node).authority(),
            None => {
                let asked = primary_by_sentinels(&self.site, &self.dialer).await;
                asked.ok_or("no sentinel answers")?
            }
        };
        if self.node.is_some() && authority != first {
            self.primary = Some(connect(&self.dialer, &first).await.map_err(text)?);
        }
        self.connection = Some(connect(&self.dialer, &authority).await.map_err(text)?);
        Ok(())
    }

    async fn request(&mut self, request: &Request) -> Result<Answer, RedisError> {
        let Request { f, key, value } = request;
        let value = value.as_deref().unwrap_or_default();
        let primary = if f.is_write() { self.primary.as_mut() } else { None };
        let Some(Link { connection, .. }) = primary.or(self.connection.as_mut()) else {
            let error = "unavailable: there is no connection".to_owned();
            return Ok(Answer::Fail { error, unavailable: true });
        };
        let ok = |value| Ok(Answer::Ok { version: None, value });
        match f {
            Function::Get => ok(cmd("GET").arg(key).query_async(connection).await?),
            Function::Put => {
                cmd("SET").arg(key).arg(value).exec_async(connection).await?;
                ok(None)
            }
            Function::Add => {
                cmd("SADD").arg(key).arg(value).exec_async(connection).await?;
                ok(None)
            }
            Function::Inc => {
                cmd("INCRBY").arg(key).arg(value).exec_async(connection).await?;
                ok(None)
            }
            // The counters are named `c`, and the sets `s`.
            Function::Read if key.starts_with('c') => {
                let count: Option<i64> = cmd("GET").arg(key).query_async(connection).await?;
                ok(Some(count.unwrap_or(0).to_string()))
            }
            Function::Read => {
                let elements: Vec<i64> = cmd("SMEMBERS").arg(key).query_async(connection).await?;
                ok(Some(json!(elements).to_string()))
            }
            Function::Cas => {
                let pair: Result<(Option<String>, String), _> = serde_json::from_str(value);
                let Ok((expected, new)) = pair else {
                    return Ok(self.misunderstood(&format!("{value} is no pair of values")));
                };
                let mut script = cmd("EVAL");
                script.arg(CAS).arg(1).arg(key).arg(new);
                if let Some(expected) = expected {
                    script.arg(expected);
                }
                match script.query_async::<i64>(connection).await? {
                    1 => ok(None),
                    _ => Ok(Answer::Fail { error: "mismatch".to_owned(), unavailable: false }),
                }
            }
            other => Ok(self.misunderstood(&format!("{other} is not known"))),
        }
    }

    fn misunderstood(&mut self, why: &str) -> Answer {
        self.misconduct = Some(why.to_owned());
        Answer::info(why)
    }
}

/// What an error says of a request. Only what Redis refuses before it executes anything has no effect.
fn judge(error: &RedisError) -> Answer {
    let text = error.to_string();
    let is_refusal = match error.kind() {
        ErrorKind::Server(kind) => matches!(
            kind,
            ServerErrorKind::ReadOnly | ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown
        ),
        _ => error.code() == Some("NOREPLICAS"),
    };
    match is_refusal {
        true => Answer::Fail { error: format!("refused: {text}"), unavailable: false },
        false => Answer::info(format!("lost: {text}")),
    }
}

impl Client for RedisClient {
    fn open(&mut self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(self.connect())
    }

    fn perform<'a>(
        &'a mut self,
        request: &'a Request,
        deadline: Duration,
    ) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            match timeout(deadline, self.request(request)).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => judge(&error),
                Err(_) => Answer::info("timeout: no answer in time"),
            }
        })
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        (self.connection, self.primary) = (None, None);
        Box::pin(std::future::ready(()))
    }

    fn node(&self) -> Option<&NodeName> {
        self.node.as_ref()
    }

    fn misconduct(&mut self) -> Option<String> {
        self.misconduct.take()
    }
}
