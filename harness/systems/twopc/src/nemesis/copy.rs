//! Older copies that are put back: a node is killed and started on a copy of its disk, which must be
//! refused. Then it gets its own disk back, and goes on as if nothing had happened.

use std::{collections::BTreeSet, time::Duration};

use history::{
    NemesisEvent,
    nemesis::{Died, InDoubt, Injected, InjectionKind, ReturnKind},
};
use lab::cluster::{ForbiddenStartResult, poll};
use system::protocol::{Node, TxnId, Version};

use super::{Nemesis, NemesisError, millis, trigger::Miss};
use crate::faults::Injection;

/// How long a copy has to become one that lacks something, beyond its age.
const LACK_DEADLINE: Duration = Duration::from_secs(3);

/// What a replica says that is started on its own disk after it was started on a copy: the master takes it for
/// another process. Its next start has a number of its own.
const TAKEN_FOR_COPY: &str = "only one may";

impl Nemesis<'_> {
    /// Copies the target's disk, and after a while kills the target and starts it on the copy. Then it gets
    /// its own disk back.
    pub(super) async fn restored_copy(
        &mut self,
        injection: &Injection,
        mut fields: Injected,
        age: Duration,
        lacks_epoch: bool,
    ) -> Result<Option<Vec<TxnId>>, NemesisError> {
        let node = injection.target;
        if let Some(miss) = self.why_no_disk(injection) {
            self.missed(injection, fields, None, miss.to_string())?;
            return Ok(None);
        }
        let Some(device) = self.cluster.device(node) else { return Ok(None) };
        let copy = device.with_image(|image| image.snapshot());
        let lacks_something = match node {
            Node::Master if lacks_epoch => self.lacks_epoch(age).await?,
            Node::Master => self.lacks_commit(age).await,
            Node::Replica(_) => self.lacks_own_commit(node, age).await,
        };
        if !lacks_something {
            let load_ended = *self.load_ended.borrow();
            let miss = if load_ended { Miss::LoadEnded } else { Miss::LacksNothing };
            self.missed(injection, fields, Some(load_ended), miss.to_string())?;
            return Ok(None);
        }
        self.cluster.kill(node).await;
        let in_doubt;
        (fields.in_doubt, in_doubt) = self.observe_in_doubt(None).await;
        fields.age_ms = Some(millis(age));
        let own = self
            .cluster
            .change_disk(node, |image| {
                let own = image.clone();
                image.restore(copy);
                own
            })
            .await?;
        let start = lab::ForbiddenStart::RestoredCopy;
        let result = self.cluster.try_forbidden_start(node, start).await?;
        fields.start = result.record();
        let is_decided = !matches!(result, ForbiddenStartResult::Undecided);
        self.injected(InjectionKind::RestoredCopy, &fields)?;
        let is_admitted = if let ForbiddenStartResult::Admitted(process) = result {
            process.kill().await;
            true
        } else {
            false
        };
        // Replicas that obey a copy of the master obey nobody else.
        if let Some(own) = own.filter(|_| !is_admitted || node != Node::Master) {
            self.cluster.change_disk(node, |image| image.restore(own)).await?;
        }
        self.start_original(node).await?;
        self.returned(ReturnKind::Restart, node, InDoubt::default())?;
        Ok(is_decided.then_some(in_doubt))
    }

    /// Starts a node on its own disk.
    async fn start_original(&self, node: Node) -> Result<(), NemesisError> {
        match self.cluster.try_start(node).await? {
            None => {}
            Some(exit) if exit.last_log_line.contains(TAKEN_FOR_COPY) => {
                self.cluster.start(node).await?;
            }
            Some(exit) => {
                let (status, log) = (exit.status, exit.last_log_line);
                self.record(NemesisEvent::Died(Died { node: node.to_string(), status, log }))?;
                self.cluster.start(node).await?;
            }
        }
        Ok(())
    }

    /// Waits until the master's store of this moment lacks a commit that every replica has applied. Returns
    /// whether it does.
    ///
    /// What was begun by now may have been decided by now. When all of that is finished, a commit that is
    /// new at a replica was begun later, and so was decided later. Below the watermark every replica has
    /// applied it.
    async fn lacks_commit(&mut self, age: Duration) -> bool {
        let Some(begun) = self.unsettled_at_master().await else { return false };
        if self.wait(age).await {
            return false;
        }
        let finished = poll(LACK_DEADLINE, || async {
            self.unsettled_at_master().await.is_some_and(|open| open.is_disjoint(&begun))
        });
        if finished.await.is_none() {
            return false;
        }
        let Some(before) = self.versions(Node::Replica(1)).await else { return false };
        self.acknowledges_more(Node::Replica(1), &before).await
    }

    /// Waits until a replica has acknowledged a commit that its store of this moment lacks. Returns whether it
    /// has. A copy that lacks nothing is as good as the original, however old it is.
    async fn lacks_own_commit(&mut self, replica: Node, age: Duration) -> bool {
        let Some(before) = self.versions(replica).await else { return false };
        !self.wait(age).await && self.acknowledges_more(replica, &before).await
    }

    /// Waits until a replica has acknowledged a write with another version than these.
    async fn acknowledges_more(&self, replica: Node, before: &BTreeSet<Version>) -> bool {
        let more = poll(LACK_DEADLINE, || async {
            let Some(after) = self.versions(replica).await else { return false };
            let statuses = self.cluster.observe([Node::Master]).await;
            let Some(status) = statuses.get(&Node::Master) else { return false };
            after.difference(before).any(|version| *version < status.watermark)
        });
        more.await.is_some() && !*self.load_ended.borrow()
    }

    /// Starts the master again, and waits until the replicas have promised it the next epoch. Returns whether
    /// they have.
    async fn lacks_epoch(&mut self, age: Duration) -> Result<bool, NemesisError> {
        if self.wait(age).await {
            return Ok(false);
        }
        self.cluster.kill(Node::Master).await;
        self.cluster.start(Node::Master).await?;
        let ready = poll(LACK_DEADLINE, || async {
            let statuses = self.cluster.observe([Node::Master]).await;
            statuses.get(&Node::Master).is_some_and(|status| status.ready)
        });
        let is_ready = ready.await.is_some();
        self.returned(ReturnKind::Restart, Node::Master, InDoubt::default())?;
        Ok(is_ready && !*self.load_ended.borrow())
    }

    async fn unsettled_at_master(&self) -> Option<BTreeSet<TxnId>> {
        let mut statuses = self.cluster.observe([Node::Master]).await;
        let status = statuses.remove(&Node::Master)?;
        Some(status.unsettled.into_iter().map(|(txn, _)| txn).collect())
    }

    /// The versions of all keys at a replica.
    async fn versions(&self, replica: Node) -> Option<BTreeSet<Version>> {
        let dump = self.cluster.deployment().dump(replica).await.ok()?;
        Some(dump.entries.into_iter().map(|(_, version, _)| version).collect())
    }
}
