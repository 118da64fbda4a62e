//! Locks of etcd, taken as its concurrency recipe does. A client has a lease, which it keeps alive. To take a
//! lock it puts a key of its own under the name of the lock, bound to the lease; the key that was created first
//! holds the lock, and the revision that created it is the fencing token. Whoever does not get the lock in time
//! deletes its key.
//!
//! A lock is released in a transaction that asks whether the key is still the one that was created: if it is,
//! nobody else has held the lock meanwhile, and if it is not, the lease had run out and the lock was lost. So a
//! release that succeeds confirms the holding, and one that fails disavows it.

use std::time::Duration;

use lab::{client::Answer, network::Dialer};
use serde_json::{Value as Json, json};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{Connection, EtcdClient, Unanswered, encode};

/// How long a lease lasts that is not kept alive, in seconds. etcd grants no less than 1 with the election
/// timeout of these nodes.
const LEASE_SECONDS: u64 = 2;
/// How often a lease is kept alive: the recipe's third of its time.
const KEEPALIVE_PERIOD: Duration = Duration::from_millis(LEASE_SECONDS * 1000 / 3);
/// How often a client that waits for a lock looks who holds it.
const POLL_PERIOD: Duration = Duration::from_millis(50);

/// A lease, and the task that keeps it alive.
pub(super) struct Lease {
    id: String,
    keeping: JoinHandle<()>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

/// A lock that a client has taken.
#[derive(Clone)]
pub(super) struct Taken {
    lock: String,
    /// The key of the client, and the revision that created it.
    key: String,
    token: u64,
}

impl EtcdClient {
    /// Takes a lease, unless there is one.
    pub(super) async fn take_lease(&mut self) -> Result<(), Unanswered> {
        if self.lease.is_some() {
            return Ok(());
        }
        let granted = self.post("/v3/lease/grant", &json!({ "TTL": LEASE_SECONDS })).await?;
        let Some(id) = granted.get("ID").and_then(Json::as_str).map(str::to_owned) else {
            return Err(self.misunderstood("it grants no lease"));
        };
        let keeping =
            tokio::spawn(keep_alive(self.dialer.clone(), self.authority.clone(), id.clone()));
        self.lease = Some(Lease { id, keeping });
        Ok(())
    }

    /// Takes a lock. Gives up in time to say for certain that it did not get it.
    pub(super) async fn lock(
        &mut self,
        lock: &str,
        deadline: Duration,
    ) -> Result<Answer, Unanswered> {
        let give_up = Instant::now() + deadline / 2;
        let Some(lease) = self.lease.as_ref().map(|lease| lease.id.clone()) else {
            let error = "unavailable: there is no lease".to_owned();
            return Ok(Answer::Fail { error, unavailable: true });
        };
        let key = format!("{lock}/{lease}");
        let own = json!({ "key": encode(&key), "value": "", "lease": lease });
        let is_new = json!({ "key": encode(&key), "target": "CREATE", "create_revision": "0" });
        let body = json!({ "compare": [is_new], "success": [{ "requestPut": own }] });
        let Some(token) = self.write_if(&body).await? else {
            return Ok(Answer::info(format!("{key} is there already")));
        };
        let taken = Taken { lock: lock.to_owned(), key, token };
        // Its key is there from here on, and may come to hold the lock: nothing is certain to have had no effect.
        self.wait_for(taken, give_up).await.map_err(|answer| match answer {
            Answer::Fail { error, .. } => Answer::info(error),
            other => other,
        })
    }

    /// Waits until a key is the one that holds its lock, and deletes it if that takes too long.
    async fn wait_for(&mut self, taken: Taken, give_up: Instant) -> Result<Answer, Unanswered> {
        loop {
            if self.holder(&taken.lock).await?.as_deref() == Some(&*taken.key) {
                let version = Some(history::Version::new(taken.token));
                self.taken = Some(taken);
                return Ok(Answer::Ok { version, value: None });
            }
            if Instant::now() >= give_up {
                break;
            }
            sleep(POLL_PERIOD).await;
        }
        self.post("/v3/kv/deleterange", &json!({ "key": encode(&taken.key) })).await?;
        Ok(Answer::Fail { error: "held: by another client".to_owned(), unavailable: false })
    }

    /// Releases a lock, if it was not lost.
    pub(super) async fn unlock(&mut self, lock: &str) -> Result<Answer, Unanswered> {
        let Some(taken) = self.taken.clone().filter(|taken| taken.lock == lock) else {
            return Ok(self.misunderstood(&format!("{lock} is released and was not taken")));
        };
        let token = taken.token.to_string();
        let is_own =
            json!({ "key": encode(&taken.key), "target": "CREATE", "create_revision": token });
        let delete = json!({ "requestDeleteRange": { "key": encode(&taken.key) } });
        let body = json!({ "compare": [is_own], "success": [delete] });
        let released = self.write_if(&body).await?;
        self.taken = None;
        if released.is_some() {
            return Ok(Answer::Ok { version: None, value: None });
        }
        // The key went with the lease.
        self.lease = None;
        self.connection = None;
        Ok(Answer::Fail { error: "lost: the lease had run out".to_owned(), unavailable: false })
    }

    /// The key that was created first under the name of a lock.
    async fn holder(&mut self, lock: &str) -> Result<Option<String>, Unanswered> {
        let body = json!({
            "key": encode(&format!("{lock}/")),
            // The keys of a prefix end before the prefix with a greater last byte.
            "range_end": encode(&format!("{lock}0")),
            "sort_order": "ASCEND",
            "sort_target": "CREATE",
            "limit": "1",
            "keys_only": true,
        });
        let answer = self.post("/v3/kv/range", &body).await?;
        let found = super::pairs(&answer).map_err(|why| self.misunderstood(&why))?;
        Ok(found.into_iter().next().map(|pair| pair.key))
    }
}

/// Keeps a lease alive over a connection of its own, as long as the node answers in time.
async fn keep_alive(dialer: Dialer, authority: String, lease: String) {
    let mut connection = None;
    loop {
        sleep(KEEPALIVE_PERIOD).await;
        let once = async {
            if connection.is_none() {
                connection = Connection::open(&dialer, &authority).await.ok();
            }
            let body = json!({ "ID": lease });
            match &mut connection {
                Some(open) => open.post("/v3/lease/keepalive", &body).await.is_ok(),
                None => false,
            }
        };
        // A node that was paused for a part of the lease must be asked again within what is left of it.
        let is_alive = timeout(KEEPALIVE_PERIOD, once).await;
        if !matches!(is_alive, Ok(true)) {
            connection = None;
        }
    }
}
