//! The handshake with the master.

use super::{Body, Deferred, Effect, HaltKind, Master, Node, Participant, Record, Rule};

impl Participant {
    /// Handles a master's Fence: promises its epoch durably, then reports the transactions in
    /// doubt.
    pub(super) fn on_fence(&mut self, master: Master, fence: &Body, effects: &mut Vec<Effect>) {
        let Body::Fence { member, commit, members, supersedes, seen, decided } = fence else {
            return;
        };
        let Master { cluster, store, epoch, nonce } = master;
        let own = self.config.store;
        if *commit != self.config.commit {
            let why = format!(
                "the master runs with commit = {commit} and {} with commit = {}: all nodes of a \
                 cluster must use the same mode",
                self.config.node, self.config.commit
            );
            return self.halt(HaltKind::Refused, why, effects);
        }
        if let Some(known) = member
            && *known != own
            && self.config.rules.keep(Rule::EmptyStoreRefused)
        {
            let node = self.config.node;
            let why = format!(
                "the cluster knows {node} by store {known}, this is store {own}: a replica that \
                 lost its data must not rejoin"
            );
            return self.halt(HaltKind::Refused, why, effects);
        }
        // A Fence that names no store is from the beginning of the cluster. It may have been sent
        // before this replica lost its store, which the master then knows, so promise nothing: the
        // master, if it does not know this store yet, names it in its next Fence.
        if member.is_none() && self.config.rules.keep(Rule::MemberBeforePromise) {
            return self.send(Node::Master, self.alive(), effects);
        }
        // A master that names another promise does not know this one. It may run on a copy of the
        // master's store, and if this replica promised, the original could not come back. So the
        // answer says which promise it is. A replica without a promise has none to lose.
        let promised = (self.promised, self.promised_nonce);
        if epoch > self.promised
            && self.promised > 0
            && *supersedes != Some(promised)
            && self.config.rules.keep(Rule::FenceNamesSuperseded)
        {
            return self.send(Node::Master, self.promises_nothing(0), effects);
        }
        // A master that lacks a decision halts when it is told. It must not have a promise by then.
        if epoch > self.promised && !self.may_promise(*decided) {
            return self.send(Node::Master, self.promises_nothing(self.known_commits()), effects);
        }
        if seen.is_some_and(|seen| self.halts_as_copy(seen, effects)) {
            return;
        }
        self.record_identities(cluster, store, members, effects);
        if epoch > self.promised {
            self.promised = epoch;
            self.promised_nonce = nonce;
            self.fenced = false;
            if nonce != 0 {
                self.append(Record::Start { epoch, nonce }, effects);
            }
            let lsn = self.append(Record::Promise { epoch }, effects);
            effects.push(Effect::Force(lsn));
            self.deferred.push_back((lsn, Deferred::Promise(epoch)));
        } else if !self
            .deferred
            .iter()
            .any(|(_, deferred)| matches!(deferred, Deferred::Promise(_)))
        {
            self.complete_handshake(effects);
        }
    }

    /// The answer to a Fence that must not be promised: which promise this replica keeps, and how many
    /// commits it knows of if that is the reason.
    fn promises_nothing(&self, applied: u64) -> Body {
        let (incarnation, start) = (self.incarnation, self.config.nonce);
        let promised = Some((self.promised, self.promised_nonce));
        Body::Alive { incarnation, start, promised, force_age: self.force_age, applied }
    }

    /// Completes the handshake. What was pending before PROMISE is prepared by now, so the master
    /// of the new epoch learns about every lock that an earlier epoch left here.
    pub(super) fn complete_handshake(&mut self, effects: &mut Vec<Effect>) {
        if self.votes_decide() && self.must_wait_for_commits(effects) {
            return;
        }
        self.fenced = true;
        let in_doubt = self.in_doubt().map(|(txn, key)| (txn, key.clone())).collect();
        let (incarnation, start) = (self.incarnation, self.config.nonce);
        let commits = self.durable_commits;
        self.send(Node::Master, Body::FenceOk { incarnation, in_doubt, start, commits }, effects);
    }
}
