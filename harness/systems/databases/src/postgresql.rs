//! PostgreSQL: one node, or a primary with a standby that is promoted.
//!
//! PostgreSQL has no failover of its own. Here it is this rule: a primary that is started again gives up its
//! role if its standby is up and was seen to follow it; the standby is promoted, and the old primary becomes
//! its standby, from a new copy. It was dead until then, so there are never two. A standby that has not
//! followed yet is not promoted: what it lacks would be lost by this rule and not by PostgreSQL.
//!
//! Nodes run under the account `postgres` if the harness is root, since the server refuses root.

mod client;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use lab::{
    NodeName, StartOptions, System,
    client::Client,
    keeper::Account,
    network::{Dialer, Network},
    workloads::{ACCOUNTS, OPENING_BALANCE},
};
use tokio::{task::JoinHandle, time::timeout};
use tokio_postgres::{Config, NoTls};

use self::client::PostgresClient;
use crate::{
    Asks, Choice, Configuration, Database, Programs, Task,
    site::{Place, Site},
};

/// The account of the server's programs, and of its superuser.
const ACCOUNT: &str = "postgres";

/// How long a node may take to answer a question of the harness.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// How long the tables may take to be created.
const SET_UP_TIMEOUT: Duration = Duration::from_secs(20);

/// Starts a node. The first argument is what it is: `primary`, `standby`, or `successor`, a standby of a
/// node that has to be promoted first, unless it was; then come the address and the port of the other node, and of itself;
/// then options of the server. It trusts everybody, and listens where only this machine or the nodes' virtual network
/// reaches it. What it does before is durable when it says `complete`: power may be lost at
/// any time.
const START: &str = r#"set -e
role=$1 other_ip=$2 other_port=$3; shift 3
if [ "$role" = primary ] && [ ! -e complete ]; then
    "$INITDB" -D data -A trust -U postgres -E UTF8 --no-locale >initdb.log
    echo 'host all,replication all all trust' >>data/pg_hba.conf
    touch complete
    sync data/pg_hba.conf complete .
fi
if [ "$role" = successor ]; then
    rm -f complete
    sync .
    promote='SELECT CASE WHEN pg_is_in_recovery() THEN pg_promote(true, 20) ELSE true END'
    until [ "$("$PSQL" -qAt -h "$other_ip" -p "$other_port" -U postgres -d postgres -c "$promote" 2>promote.log)" = t ]
    do sleep 0.1; done
fi
if [ "$role" != primary ] && [ ! -e complete ]; then
    until rm -rf data && "$PG_BASEBACKUP" -D data -h "$other_ip" -p "$other_port" -U postgres -R -c fast -X stream 2>basebackup.log
    do sleep 0.1; done
    touch complete
    sync complete .
fi
exec "$POSTGRES" -D data "$@"
"#;

/// The tables of all workloads, durable whatever the configuration says.
const TABLES: &str = "
SET synchronous_commit = on;
CREATE TABLE registers (k text PRIMARY KEY, v text NOT NULL);
CREATE TABLE lists (k text PRIMARY KEY, v text NOT NULL);
CREATE TABLE elements (s text, e bigint, PRIMARY KEY (s, e));
CREATE TABLE counters (k text PRIMARY KEY, n bigint NOT NULL);
CREATE TABLE accounts (name text PRIMARY KEY, balance bigint NOT NULL);
";

/// Makes each element of a set so large that a standby that does not read falls behind soon. What the primary
/// has written to its connection reaches the standby even after a SIGKILL, and the buffers of a loopback
/// connection hold 2.6 MB: with elements of a few bytes, they hide a pause of seconds.
const LARGE_ELEMENTS: &str = "
ALTER TABLE elements ADD payload text NOT NULL DEFAULT repeat('x', 4000);
ALTER TABLE elements ALTER payload SET STORAGE PLAIN;
";

pub(crate) struct Postgresql;

impl Database for Postgresql {
    fn name(&self) -> &'static str {
        "postgresql"
    }

    fn programs(&self) -> Programs {
        Programs {
            names: &["postgres", "initdb", "pg_basebackup", "psql"],
            directories: &["/usr/lib/postgresql/15/bin"],
            package: "postgresql-15",
        }
    }

    fn configurations(&self) -> &'static [Configuration] {
        &[
            Configuration {
                name: "single",
                about: "one node with default settings",
                nodes: &["n1"],
                excluded: &[],
            },
            Configuration {
                name: "asynchronous-commit",
                about: "one node, synchronous_commit = off, wal_writer_delay = 10s",
                nodes: &["n1"],
                excluded: &[],
            },
            Configuration {
                name: "standby",
                about: "a primary and an asynchronous standby, which is promoted",
                nodes: &["n1", "n2"],
                excluded: &[],
            },
            Configuration {
                name: "synchronous-standby",
                about: "a primary and a synchronous standby, which is promoted",
                nodes: &["n1", "n2"],
                excluded: &[],
            },
        ]
    }

    fn asks(&self) -> Option<Asks> {
        let values = &["serializable", "repeatable-read", "read-committed"];
        Some(Asks { option: "isolation", values })
    }

    fn claim(&self, choice: &Choice, workload: &str) -> Option<&'static str> {
        let isolation = match choice.ask {
            "serializable" => Some("serializable"),
            // So says its manual.
            "repeatable-read" => Some("snapshot-isolation"),
            _ => Some("read-committed"),
        };
        match (choice.configuration.name, workload) {
            // What was acknowledged may be lost, and with it any order.
            ("asynchronous-commit" | "standby", _) => None,
            (_, "append" | "rw") => isolation,
            (_, "bank") => isolation.filter(|level| *level != "read-committed"),
            _ => Some("linearizable"),
        }
    }

    fn refuses(&self, _choice: &Choice, workload: &str) -> Option<String> {
        let known = ["register", "cas-register", "set", "counter", "bank", "append", "rw"];
        (!known.contains(&workload)).then(|| {
            format!(
                "--workload: clients of postgresql know {}, and not {workload}",
                known.join(", ")
            )
        })
    }

    fn stands_clocks(&self) -> bool {
        true
    }

    fn deploy(
        &self,
        choice: &Choice,
        site: Site,
        task: &Task<'_>,
    ) -> Result<Arc<dyn System>, String> {
        let account = match nix::unistd::geteuid().is_root() {
            true => Some(Account::named(ACCOUNT)?),
            false => None,
        };
        if let Some(account) = account {
            site.give_to(account)
                .map_err(|error| format!("cannot give the nodes their directories: {error}"))?;
        }
        let mut settings: Vec<&'static str> = vec![
            "unix_socket_directories=",
            "shared_buffers=32MB",
            "deadlock_timeout=10ms",
            "max_wal_senders=10",
            "wal_keep_size=256MB",
            "wal_retrieve_retry_interval=100ms",
        ];
        match choice.configuration.name {
            // It writes what is in memory only now and then.
            "asynchronous-commit" => settings.extend([
                "synchronous_commit=off",
                "wal_writer_delay=10s",
                "wal_writer_flush_after=1GB",
            ]),
            "synchronous-standby" => settings.push("synchronous_standby_names=ANY 1 (*)"),
            _ => {}
        }
        let programs = self.programs().names.iter();
        let programs =
            programs.map(|name| (name.to_uppercase(), choice.program(name).to_owned())).collect();
        let primary = site.names[0].clone();
        let isolation = choice.ask.replace('-', " ");
        let on_lists = task.workload.name() == "append";
        let roles = Mutex::new(Roles { primary, followed: false, leads: true });
        let shared = Shared { site, roles, isolation, on_lists };
        Ok(Arc::new(Servers { shared: Arc::new(shared), account, settings, programs }))
    }
}

struct Servers {
    shared: Arc<Shared>,
    account: Option<Account>,
    settings: Vec<&'static str>,
    /// By the name of the variable in the script.
    programs: Vec<(String, PathBuf)>,
}

/// What clients share with the nodes.
struct Shared {
    site: Site,
    roles: Mutex<Roles>,
    /// The isolation of all transactions, in SQL.
    isolation: String,
    /// Whether transactions are on lists.
    on_lists: bool,
}

/// Who is what.
struct Roles {
    primary: NodeName,
    /// Whether the standby was seen to follow the primary since one of them started.
    followed: bool,
    /// Whether the primary needs no promotion: it was the first one, or was seen to have been promoted.
    leads: bool,
}

impl Roles {
    /// What a node is from now on that is started again or for the first time (`bootstrap`). `accepts` says whether
    /// the other one accepts connections.
    fn start(
        &mut self,
        (node, other): (&NodeName, &NodeName),
        bootstrap: bool,
        accepts: impl FnOnce() -> bool,
    ) -> &'static str {
        let is_primary = self.primary == *node;
        if is_primary && !bootstrap && self.followed && accepts() {
            *self = Roles { primary: other.clone(), followed: false, leads: false };
            return "successor";
        }
        self.followed = false;
        match (is_primary, self.leads) {
            (true, _) => "primary",
            (false, true) => "standby",
            // It may have been killed before it had promoted the other one, which nobody else does.
            (false, false) => "successor",
        }
    }
}

impl Shared {
    fn lock_roles(&self) -> MutexGuard<'_, Roles> {
        self.roles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn primary(&self) -> NodeName {
        self.lock_roles().primary.clone()
    }

    fn config(&self, node: &NodeName) -> Config {
        let place = self.site.of(node);
        let mut config = Config::new();
        config.host(&place.ip).port(place.port).user(ACCOUNT).dbname("postgres");
        config
    }

    /// Connects to a node. The task moves the bytes of the connection.
    async fn connect(
        &self,
        dialer: &Dialer,
        node: &NodeName,
    ) -> Result<(tokio_postgres::Client, JoinHandle<()>), String> {
        let stream = dialer.connect(&self.site.of(node).authority()).await;
        let stream = stream.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let connected = self.config(node).connect_raw(stream, NoTls).await;
        let (client, connection) = connected.map_err(|error| error.to_string())?;
        let running = tokio::spawn(async move {
            // Whoever waits for an answer learns of the error.
            let _ = connection.await;
        });
        Ok((client, running))
    }
}

impl Servers {
    /// What a node is from now on.
    fn role(&self, node: &NodeName, other: &Place, start: &StartOptions) -> &'static str {
        let mut roles = self.shared.lock_roles();
        roles.start((node, &other.name), start.bootstrap, || self.accepts(other))
    }

    /// Whether a node accepts connections. It is only asked before a node starts, when nothing else waits.
    fn accepts(&self, place: &Place) -> bool {
        let address: Option<SocketAddr> = place.authority().parse().ok();
        address.is_some_and(|address| self.shared.site.dialer().accepts(address, PROBE_TIMEOUT))
    }

    /// Whether a node answers as what it is: the primary, or a standby that follows it.
    async fn does_its_work(&self, node: &NodeName) -> Option<()> {
        let (client, running) = self.shared.connect(&self.shared.site.dialer(), node).await.ok()?;
        let question = "SELECT pg_is_in_recovery(), EXISTS (SELECT FROM pg_stat_wal_receiver \
                        WHERE status = 'streaming')";
        let row = client.query_one(question, &[]).await;
        running.abort();
        let row = row.ok()?;
        let (recovers, streams): (bool, bool) = (row.try_get(0).ok()?, row.try_get(1).ok()?);
        let mut roles = self.shared.lock_roles();
        if roles.primary == *node {
            roles.leads |= !recovers;
            return (!recovers).then_some(());
        }
        roles.followed |= recovers && streams;
        (recovers && streams).then_some(())
    }

    async fn create_tables(&self) -> Result<(), String> {
        let primary = self.shared.primary();
        let (client, running) = self.shared.connect(&self.shared.site.dialer(), &primary).await?;
        let accounts = format!(
            "INSERT INTO accounts SELECT 'a' || n, {OPENING_BALANCE} FROM generate_series(0, {}) n",
            ACCOUNTS - 1
        );
        let large = if self.shared.site.names.len() > 1 { LARGE_ELEMENTS } else { "" };
        let created = client.batch_execute(&format!("{TABLES}{large}{accounts}")).await;
        running.abort();
        created.map_err(|error| error.to_string())
    }
}

impl System for Servers {
    fn nodes(&self) -> &[NodeName] {
        &self.shared.site.names
    }

    fn command(&self, node: &NodeName, start: &StartOptions) -> Command {
        let site = &self.shared.site;
        let place = site.of(node);
        let other = site.places.iter().find(|other| other.name != *node).unwrap_or(place);
        let mut command = Command::new("sh");
        command
            .args(["-c", START, "sh", self.role(node, other, start)])
            .args([&other.ip, &other.port.to_string()])
            .args(["-c", &format!("listen_addresses={}", place.ip)])
            .args(["-c", &format!("port={}", place.port)])
            .current_dir(&place.directory);
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        command.envs(self.programs.iter().map(|(name, path)| (name, path)));
        command
    }

    fn is_ready<'a>(&'a self, node: &'a NodeName) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            matches!(timeout(PROBE_TIMEOUT, self.does_its_work(node)).await, Ok(Some(())))
        })
    }

    fn client(&self, worker: u32) -> Box<dyn Client> {
        let names = &self.shared.site.names;
        // With two nodes, a client follows the primary.
        let node = (names.len() == 1).then(|| names[0].clone());
        let dialer = Dialer::of_client(self.shared.site.network.as_ref(), worker);
        Box::new(PostgresClient::new(self.shared.clone(), dialer, node))
    }

    fn keeper(&self) -> Option<&Path> {
        Some(&self.shared.site.keeper)
    }

    fn account(&self, _node: &NodeName) -> Option<Account> {
        self.account
    }

    fn network(&self) -> Option<&Network> {
        self.shared.site.network.as_deref()
    }

    fn scratch(&self) -> &Path {
        self.shared.site.scratch()
    }

    fn after_start(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            match timeout(SET_UP_TIMEOUT, self.create_tables()).await {
                Ok(created) => created.map_err(|error| format!("the tables: {error}")),
                Err(_) => Err(format!("the tables were not created within {SET_UP_TIMEOUT:?}")),
            }
        })
    }

    fn disk_directories(&self, node: &NodeName) -> Vec<PathBuf> {
        vec![self.shared.site.of(node).directory.clone()]
    }

    fn leader(&self) -> BoxFuture<'_, Option<NodeName>> {
        Box::pin(std::future::ready(Some(self.shared.primary())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_killed_during_a_promotion_does_it_again() {
        let (one, two) = (NodeName::new("n1"), NodeName::new("n2"));
        let mut roles = Roles { primary: one.clone(), followed: false, leads: true };
        let first = (&one, &two);
        let second = (&two, &one);
        assert_eq!(roles.start(first, true, || true), "primary");
        assert_eq!(roles.start(second, true, || true), "standby");
        // What the standby lacks would be lost.
        assert_eq!(roles.start(first, false, || true), "primary");
        roles.followed = true;
        assert_eq!(roles.start(first, false, || true), "successor");
        // It is killed, and so is the other one: there is still nobody who was seen to lead.
        assert_eq!(roles.start(first, false, || true), "successor");
        assert_eq!(roles.start(second, false, || true), "primary");
        assert_eq!(roles.start(first, false, || true), "successor");
        roles.leads = true;
        assert_eq!(roles.start(first, false, || true), "standby");
    }
}
