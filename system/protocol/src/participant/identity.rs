//! Who is who: the cluster, its master and the other replicas, and whether this store is the one that the
//! master knows. Nothing that arrives is believed for its words alone.

use super::{
    Body, ClusterId, Effect, HaltKind, Message, Node, Nonce, Participant, Record, Rule, StoreId,
    TxnId, bounds,
};
use crate::Seen;

impl Participant {
    /// The identities that this replica knows.
    pub(crate) fn identities(&self) -> (ClusterId, Vec<(Node, StoreId)>) {
        let master = self.master_store.map(|store| (Node::Master, store));
        let peers = (1..).zip(&self.stores);
        let peers = peers.filter_map(|(slot, store)| Some((Node::Replica(slot), (*store)?)));
        (self.cluster, master.into_iter().chain(peers).collect())
    }

    /// Whether commits are counted, so that a master can tell that its log lacks one, and this replica
    /// that its store does.
    pub(super) fn counts_commits(&self) -> bool {
        self.config.nonce != 0
            && self.config.rules.keep(Rule::DecisionNumberChecked)
            && self.config.rules.keep(Rule::RestoredStoreRefused)
    }

    /// PREPARE of a transaction is durable here.
    pub(super) fn note_durable_vote(&mut self, txn: TxnId) {
        if self.config.nonce != 0 {
            self.voted = self.voted.max(txn);
        }
    }

    /// Why a message cannot be from the master that this replica has promised to obey, although it
    /// comes from that master's store.
    pub(super) fn contradicts_promise(
        &self,
        cluster: ClusterId,
        epoch: u64,
        nonce: Nonce,
    ) -> Option<&'static str> {
        if !self.config.rules.keep(Rule::NonceOnEveryMessage) {
            return None;
        }
        if !self.cluster.is_unknown() && cluster != self.cluster {
            return Some("it is of another cluster");
        }
        let known = self.promised_nonce != 0 && epoch == self.promised;
        (known && nonce != self.promised_nonce).then_some(
            "another start of a master has the same epoch: one runs on a copy of the store",
        )
    }

    /// Whether a message is from the replica of this slot, in this cluster. Pushes the refusal if not.
    pub(super) fn is_from_peer(
        &self,
        slot: u8,
        message: &Message,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let known = usize::from(slot).checked_sub(1).and_then(|n| *self.stores.get(n)?);
        let why = if !self.config.rules.keep(Rule::PeerIdChecked) {
            return true;
        } else if known != Some(message.store) {
            "its store is not the one that the master has named"
        } else {
            match self.contradicts_promise(message.cluster, message.epoch, message.nonce) {
                Some(why) => why,
                None => return true,
            }
        };
        effects.push(bounds::refuse(Node::Replica(slot), why));
        false
    }

    /// Records what a master has told: the cluster, its own store, and the stores of all replicas.
    pub(super) fn record_identities(
        &mut self,
        cluster: ClusterId,
        master: StoreId,
        members: &[StoreId],
        effects: &mut Vec<Effect>,
    ) {
        if self.master_store.is_none() {
            self.master_store = Some(master);
            self.append(Record::Member { node: Node::Master, store: master }, effects);
        }
        if self.cluster.is_unknown() && !cluster.is_unknown() {
            self.cluster = cluster;
            self.append(Record::Cluster { id: cluster }, effects);
        }
        if !self.config.rules.keep(Rule::PeerIdChecked) {
            return;
        }
        for (slot, store) in (1..).zip(members).take(self.stores.len()) {
            if self.stores[usize::from(slot) - 1].replace(*store) != Some(*store)
                && Node::Replica(slot) != self.config.node
            {
                self.append(Record::Member { node: Node::Replica(slot), store: *store }, effects);
            }
        }
    }

    /// Halts if this store holds less than the master knows that it held: it is an older copy, or
    /// another process runs on a copy of it. What the master knows was durable here when this replica
    /// told it, so an original always holds it, however late the message is.
    pub(super) fn halts_as_copy(&mut self, seen: Seen, effects: &mut Vec<Effect>) -> bool {
        let Seen { incarnation, nonce, voted, commits } = seen;
        let twin = incarnation == self.incarnation && nonce != self.config.nonce && nonce != 0;
        let older = incarnation > self.incarnation
            || voted > self.voted
            || (self.counts_commits() && commits > self.durable_commits);
        if !(twin || older) || !self.config.rules.keep(Rule::RestoredStoreRefused) {
            return false;
        }
        let node = self.config.node;
        let why = if older {
            format!(
                "the store of {node} is an older copy: it lacks what {node} has told the master. Put \
                 the original directory back, or replace this replica; a copy must not serve"
            )
        } else {
            format!("another process runs on a copy of the store of {node}: only one may")
        };
        self.halt(HaltKind::Refused, why, effects);
        true
    }

    /// What this replica says of itself.
    pub(super) fn alive(&self) -> Body {
        let (incarnation, start) = (self.incarnation, self.config.nonce);
        let force_age = self.force_age;
        Body::Alive { incarnation, start, promised: None, force_age, applied: 0 }
    }

    /// A master or another replica tells how many commits are decided.
    pub(super) fn hear_decisions(&mut self, decisions: u64) {
        if self.counts_commits() && self.config.rules.keep(Rule::DecisionsInEveryMessage) {
            self.decisions = self.decisions.max(decisions);
        }
    }

    /// Whether this replica votes, applies decisions and acknowledges. Before the handshake its master has
    /// not said what the store must hold. An older copy would vote with records that the original, put back,
    /// lacks, and would acknowledge decisions that the original still waits for.
    pub(super) fn obeys(&self) -> bool {
        self.fenced
            || self.config.nonce == 0
            || !self.config.rules.keep(Rule::HandshakeBeforeObeying)
    }

    /// How many commits this replica knows of. One counts as soon as it is applied, because the master had
    /// decided it by then; others may have applied more.
    pub(super) fn known_commits(&self) -> u64 {
        self.commits.max(self.decisions)
    }

    /// Whether a master whose store has decided this many commits may be promised an epoch. If this
    /// replica knows of more, that store is an older copy: it would abort what is committed.
    pub(super) fn may_promise(&self, decided: Option<u64>) -> bool {
        !self.counts_commits()
            || !self.config.rules.keep(Rule::DecisionsBeforePromise)
            || decided.is_none_or(|decided| self.known_commits() <= decided)
    }
}
