//! Who is who: the cluster, and whether this master runs on its own store or on a copy. A copy of the
//! master's store shows in one of three ways: a replica has promised an epoch that this store counts
//! with another nonce; it has promised one that this store does not know; or it knows of
//! more commits than this store has decided. Also keeps what each replica has told about its own store, so
//! that a replica can tell that its store is a copy.

use super::{
    Body, ClusterId, Coordinator, Deferred, Effect, HaltKind, Lsn, Node, Nonce, Record, Rule, Seen,
    StoreId,
};

/// SEEN is appended when a replica has applied this many commits since the last one.
const SEEN_COMMITS: u64 = 256;

impl Coordinator {
    /// The identities that this master knows.
    pub(crate) fn identities(&self) -> (ClusterId, Vec<(Node, StoreId)>) {
        let members = (1..).zip(&self.members);
        let members =
            members.filter_map(|(slot, member)| Some((Node::Replica(slot), member.store?)));
        (self.cluster, members.collect())
    }

    /// Appends what identifies this start, and the cluster if it has no identity: it is new, or its
    /// store was written before clusters had one.
    pub(super) fn record_start(&mut self, records: &[Record], effects: &mut Vec<Effect>) {
        let nonce = self.config.nonce;
        if nonce != 0 {
            if self.cluster.is_unknown() {
                self.cluster = ClusterId(nonce);
                self.append(Record::Cluster { id: self.cluster }, effects);
            }
            self.append(Record::Start { epoch: self.epoch, nonce }, effects);
        }
        // A store that was written before commits were counted. The replicas count from now on too,
        // and can only apply what one of them has not acknowledged.
        let counted = records.iter().any(|record| matches!(record, Record::Commits { .. }));
        let commits = self.txns.len() as u64;
        if !counted && commits > 0 && self.counts_commits() {
            self.commits = commits;
            self.append(Record::Commits { count: commits, decisions: 0 }, effects);
        }
    }

    /// Whether commits are counted. In votes mode the master's store says nothing about them.
    pub(super) fn counts_commits(&self) -> bool {
        self.config.nonce != 0
            && !self.votes_decide()
            && self.config.rules.keep(Rule::DecisionNumberChecked)
    }

    /// How many commits this master's store has decided, for a replica that may know more.
    pub(super) fn decided(&self) -> Option<u64> {
        let names = self.counts_commits() && self.config.rules.keep(Rule::DecisionsBeforePromise);
        names.then_some(self.commits)
    }

    /// How many commits are decided, for every message. Only durable ones: a crash takes the others back.
    pub(super) fn decisions(&self) -> u64 {
        let tells = self.counts_commits() && self.config.rules.keep(Rule::DecisionsInEveryMessage);
        if tells { self.durable_commits } else { 0 }
    }

    /// Counts the decisions that have become durable: all at once, so that the messages that publish them
    /// carry one number.
    pub(super) fn note_durable_commits(&mut self, lsn: Lsn) {
        let durable = self.deferred.iter().take_while(|(due, _)| *due <= lsn);
        let commits = durable.filter(|(_, deferred)| matches!(deferred, Deferred::Commit(_)));
        self.durable_commits += commits.count() as u64;
    }

    /// Whether this master remembers what the replicas' stores hold.
    pub(super) fn remembers_stores(&self) -> bool {
        self.config.nonce != 0 && self.config.rules.keep(Rule::RestoredStoreRefused)
    }

    /// Whether a member's message comes from another cluster. A replica that no master has fenced in
    /// this cluster does not know its identity yet, and can only make itself known and ask.
    pub(super) fn is_of_other_cluster(
        &mut self,
        slot: u8,
        cluster: ClusterId,
        body: &Body,
    ) -> bool {
        let member = &mut self.members[usize::from(slot) - 1];
        member.knows_cluster |= cluster == self.cluster && !cluster.is_unknown();
        let introduces = cluster.is_unknown()
            && !member.knows_cluster
            && matches!(body, Body::Alive { .. } | Body::Inquire { .. } | Body::Stale { .. });
        cluster != self.cluster && !introduces && self.config.rules.keep(Rule::NonceOnEveryMessage)
    }

    /// The nonce of an epoch of this master; 0 if it is not known.
    fn nonce_of(&self, epoch: u64) -> Nonce {
        let own = (epoch == self.epoch).then_some(self.config.nonce);
        own.or_else(|| self.earlier_starts.get(&epoch).copied()).unwrap_or_default()
    }

    /// The promise that a Fence supersedes: what the replica has reported, or else the epoch before.
    pub(super) fn superseded_promise(&self, slot: u8) -> Option<(u64, Nonce)> {
        let before = self.epoch - 1;
        let guess = (before, self.nonce_of(before));
        let promise = self.members[usize::from(slot) - 1].promise.unwrap_or(guess);
        self.config.rules.keep(Rule::FenceNamesSuperseded).then_some(promise)
    }

    /// Halts if a replica has promised an epoch to another start of the master than this store knows.
    pub(super) fn halts_as_copy(
        &mut self,
        slot: u8,
        epoch: u64,
        nonce: Nonce,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let rule = if epoch == self.epoch {
            Rule::NonceOnEveryMessage
        } else {
            Rule::FenceNamesSuperseded
        };
        // Epochs from before nonces existed have none, and a new replica has promised nothing.
        let known = self.nonce_of(epoch);
        if nonce == known || nonce == 0 || !self.config.rules.keep(rule) {
            return false;
        }
        let why = format!(
            "r{slot} has promised epoch {epoch} to another start of the master: this store is a copy. \
             Put the original directory back; a copy must not decide"
        );
        self.halt(HaltKind::Refused, why, effects);
        true
    }

    /// Halts if a replica knows of more commits than this store has decided.
    pub(super) fn halts_without_commits(
        &mut self,
        slot: u8,
        commits: u64,
        effects: &mut Vec<Effect>,
    ) -> bool {
        if commits <= self.commits || !self.counts_commits() {
            return false;
        }
        let why = format!(
            "r{slot} knows of {commits} commits and this store has decided {}: it is an older copy. \
             Put the original directory back; a copy would abort what is committed",
            self.commits
        );
        self.halt(HaltKind::Refused, why, effects);
        true
    }

    /// Whether a replica reports another start than the one that had the same number: one of the two
    /// runs on a copy of the store. Keeps the first one that is reported.
    pub(super) fn is_other_start(&mut self, slot: u8, incarnation: u64, nonce: Nonce) -> bool {
        if !self.remembers_stores() {
            return false;
        }
        let seen = &mut self.members[usize::from(slot) - 1].seen;
        if incarnation > seen.incarnation {
            *seen = Seen { incarnation, nonce, ..*seen };
        }
        incarnation == seen.incarnation && nonce != seen.nonce
    }

    /// A yes vote tells that the replica's store holds PREPARE of the transaction.
    pub(super) fn note_vote(&mut self, slot: u8, body: &Body) {
        if let Body::VoteYes { txn } | Body::Inquire { txn } = body
            && self.remembers_stores()
        {
            let Seen { voted, .. } = &mut self.members[usize::from(slot) - 1].seen;
            *voted = (*voted).max(*txn);
        }
    }

    /// A replica reports how many commits its store holds.
    pub(super) fn note_commits(&mut self, slot: u8, commits: u64, effects: &mut Vec<Effect>) {
        // No replica has applied what was not decided.
        let too_many = self.counts_commits() && commits > self.commits;
        if !self.remembers_stores() || too_many {
            return;
        }
        let member = &mut self.members[usize::from(slot) - 1];
        member.seen.commits = member.seen.commits.max(commits);
        if member.seen.commits >= member.recorded.saturating_add(SEEN_COMMITS) {
            self.record_seen(slot, effects);
        }
    }

    /// Appends what a replica's store is known to hold. Nothing waits for it.
    pub(super) fn record_seen(&mut self, slot: u8, effects: &mut Vec<Effect>) {
        if !self.remembers_stores() {
            return;
        }
        let member = &mut self.members[usize::from(slot) - 1];
        member.recorded = member.seen.commits;
        let seen = member.seen;
        self.append(Record::Seen { slot, seen }, effects);
    }

    /// What a Fence tells a replica about its own store.
    pub(super) fn seen(&self, slot: u8) -> Option<Seen> {
        let seen = self.members[usize::from(slot) - 1].seen;
        self.remembers_stores().then_some(seen)
    }
}
