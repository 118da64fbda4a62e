//! The coordinator where the votes decide: a transaction is committed when PREPARE is durable at
//! every replica and none has vetoed, and the master's log says nothing of it. Knows when an abort
//! may be announced, and what a master has to find out that takes over.
//!
//! Commit may be concluded in three ways, which cannot contradict each other: every yes has come
//! while nobody had been asked to veto; every replica has said that its yes is final; somebody has
//! concluded it before. Abort may be concluded in one: some replica has vetoed, durably. Invariants,
//! wherever the machine rests:
//!
//! - nobody has been told Aborted, or Abort, before a veto was durable at some replica;
//! - until a starting master has handshaken with every replica, and settled everything that they
//!   were in doubt about, it takes nothing for aborted and no writes, and its watermark is one that it
//!   has from them.

use super::{
    AbortReason, Body, CommitMode, Coordinator, Effect, Key, PeerKnowledge, Phase, Replicas, Rule,
    Txn, TxnId,
};

/// What a master has learnt of its predecessors, who left no log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Heritage {
    /// Replicas that have handshaken with this master.
    met: Replicas,
    /// The greatest watermark that a replica knew of.
    watermark: TxnId,
    /// All have handshaken, and all that they were in doubt about is settled.
    settled: bool,
}

impl Heritage {
    pub(super) fn rename(&mut self, slot: &impl Fn(u8) -> u8) {
        self.met = self.met.renamed(slot);
    }
}

impl Coordinator {
    pub(super) fn votes_decide(&self) -> bool {
        self.config.commit == CommitMode::Votes
    }

    /// Whether nothing of the predecessors can be in doubt any more, of which this master does not
    /// know. A log tells at once.
    pub(super) fn settled(&self) -> bool {
        self.heritage.as_ref().is_none_or(|heritage| heritage.settled)
    }

    /// The watermark of the predecessors, as long as this master cannot know a greater one.
    pub(super) fn inherited_watermark(&self) -> Option<TxnId> {
        let heritage = self.heritage.as_ref().filter(|heritage| !heritage.settled)?;
        self.config.rules.keep(Rule::WatermarkWaitsForHandshakes).then_some(heritage.watermark)
    }

    /// Whether a transaction that is not under way here was aborted, if somebody is in doubt about
    /// it. One that this master has begun has ended here, with a veto; of an earlier one it knows
    /// when it has met everybody.
    pub(super) fn presumes_abort(&self, txn: TxnId) -> bool {
        self.settled()
            || txn.epoch == self.epoch
            || self.heritage.as_ref().is_some_and(|heritage| txn < heritage.watermark)
            || !self.config.rules.keep(Rule::NoPresumption)
    }

    /// Votes are missing. They may be durable all the same, so it takes a veto to abort: any
    /// replica's that is not bound to its yes. From here on a yes vote does not count, for it may
    /// have been vetoed since.
    pub(super) fn ask_for_vetoes(&mut self, txn: TxnId, effects: &mut Vec<Effect>) {
        let all = self.all();
        let rules = self.config.rules;
        let Some(Txn { phase, .. }) = self.txns.get_mut(&txn) else { return };
        let Phase::Voting { call, yes, .. } = phase else { return };
        let last = if rules.keep(Rule::LateYesIsVoid) { Replicas::default() } else { *yes };
        *phase = Phase::Asking { call: Some(*call), unheard: all.without(*yes), last };
        self.ask(txn, self.live(), effects);
        self.set_resend(txn, 0, effects);
    }

    /// A replica that handshakes is in doubt about a transaction that an earlier master has begun:
    /// everybody is to be asked, and it with the rest of what is asked of it.
    pub(super) fn inherit(&mut self, slot: u8, txn: TxnId, key: Key, effects: &mut Vec<Effect>) {
        let none = Replicas::default();
        let phase = Phase::Asking { call: None, unheard: none, last: none };
        self.txns.insert(txn, Txn { key, phase });
        let mut others = self.live();
        others.remove(slot);
        self.ask(txn, others, effects);
    }

    /// Asks replicas how they stand to a transaction, if it is one to ask about. What an earlier
    /// master has begun is not to be vetoed: it may have been committed.
    pub(super) fn ask(&self, txn: TxnId, to: Replicas, effects: &mut Vec<Effect>) -> bool {
        let body = match self.txns.get(&txn).map(|txn| &txn.phase) {
            Some(Phase::Asking { call: Some(_), .. }) => Body::Veto { txn },
            Some(Phase::Asking { call: None, .. }) => Body::PeerInquire { txn },
            _ => return false,
        };
        self.send_to(to, body, effects);
        true
    }

    /// A replica has said how it stands to a transaction.
    pub(super) fn testified(
        &mut self,
        slot: u8,
        txn: TxnId,
        answer: PeerKnowledge,
        effects: &mut Vec<Effect>,
    ) {
        let all = self.config.replicas;
        let Some(Txn { phase: Phase::Asking { unheard, last, .. }, .. }) = self.txns.get_mut(&txn)
        else {
            return;
        };
        match answer {
            PeerKnowledge::Commit => self.publish_commit(txn, effects),
            PeerKnowledge::Abort => {
                let missing = unheard.nodes();
                self.abort(txn, AbortReason::Timeout { missing }, effects);
            }
            PeerKnowledge::Final => {
                last.insert(slot);
                if last.len() == all {
                    self.publish_commit(txn, effects);
                }
            }
            PeerKnowledge::Uncertain => {}
        }
        self.settle();
    }

    /// A replica has handshaken, and knew of this watermark: ask it as well about all that others are
    /// asked about.
    pub(super) fn inherits(&mut self, slot: u8, watermark: TxnId, effects: &mut Vec<Effect>) {
        let Some(heritage) = &mut self.heritage else { return };
        heritage.met.insert(slot);
        heritage.watermark = heritage.watermark.max(watermark);
        let asking: Vec<_> = self
            .txns
            .iter()
            .filter(
                |(_, txn)| matches!(txn.phase, Phase::Asking { last, .. } if !last.contains(slot)),
            )
            .map(|(txn, _)| *txn)
            .collect();
        let mut to = Replicas::default();
        to.insert(slot);
        for txn in asking {
            self.ask(txn, to, effects);
            self.set_resend(txn, 0, effects);
        }
        self.settle();
    }

    /// Takes note when nothing of the predecessors is open any more.
    fn settle(&mut self) {
        let all = self.config.replicas;
        let inherited = |txn: &Txn| matches!(txn.phase, Phase::Asking { call: None, .. });
        if let Some(heritage) = self.heritage.as_mut().filter(|heritage| !heritage.settled) {
            heritage.settled = heritage.met.len() == all && !self.txns.values().any(inherited);
        }
    }
}
