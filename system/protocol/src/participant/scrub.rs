//! The scrub: finds entries that were lost without a checksum that shows it, such as an entry whose key has
//! rotted, and entries that are damaged and not read. It compares what a peer holds with what is here.
//!
//! In each turn a replica asks one peer about one range of keys: how many entries are in it, and their
//! digest. If the answer differs from what is here, the range is made smaller, until it has one entry, and
//! the next turns go on behind it. All replicas hold the same writes, but not at the same moment, so what
//! is compared is chosen such that a difference means something:
//!
//! - In ranges, only entries count whose versions are below a bound: the watermark at the beginning of the
//!   round, or the peer's, if that is less. Every transaction below is applied at both. The tables of both
//!   contain it as well, because each round begins with a checkpoint, so that no turn has to search what was
//!   written since. What differs nevertheless was overwritten or deleted at one of them, and is narrowed down
//!   in vain.
//! - Of a single entry nothing but the peer's version is believed, and that only if the key was unlocked
//!   there, is unlocked here, and was not written here since the peer was asked. Then its last committed
//!   write is the one that the peer has: a later one would have needed the vote of both, and so a lock at
//!   both, and would still hold it or have been applied here. So an entry that is older here, or damaged, is
//!   replaced by a copy (see `healing`).
//! - An entry that is absent here may be a deleted one which has come back at the peer, if that has lost a
//!   page of its tables. So it is replaced if all other replicas have it.
//!
//! A turn reads a bounded number of rows, at the replica and at the peer, and forces nothing. The copies are
//! safe whatever the scrub concludes: `healing` accepts none that is not the last committed write.

use std::collections::BTreeSet;

use super::{
    Body, Effect, Key, Lsn, Mistake, Node, Participant, RangeSummary, Replicas, Rule, ScrubId,
    TimerId, TxnId, Version,
};

/// The most rows of a range.
const ROWS_MAX: u32 = 256;

/// By how much a range that differs is made smaller, and one that does not differ larger.
const STEP: u32 = 16;

/// The least number of turns from the beginning of one round to that of the next: each begins with a
/// checkpoint.
const ROUND_TURNS_MIN: u32 = 60;

/// For how many turns an answer is awaited at most. At first for one, and for twice as many after each question
/// that was not answered.
const PATIENCE_MAX: u32 = 64;

/// How many keys may be written while an answer is on its way. With more it does not count.
const WRITTEN_MAX: usize = 1024;

/// The state of the scrub.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Scrub {
    /// A transaction was prepared here. So all replicas have been told each other's stores, and none refuses
    /// a question as a stranger's.
    has_begun: bool,
    phase: Phase,
    /// Every transaction below is applied, and contained in the tables.
    below: TxnId,
    /// Turns since the round began.
    turns: u32,
    /// Completed rounds.
    pub(super) rounds: u64,
    /// The number of the last question.
    questions: u64,
    /// Which peer is asked.
    peer: u64,
    /// For how many turns more than one an answer is awaited.
    patience: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
enum Phase {
    /// Between two rounds.
    #[default]
    Resting,
    /// Waits until the tables contain every record up to this one, and so every transaction below the
    /// watermark.
    Preparing { upto: Lsn, watermark: TxnId },
    /// Everything up to the cursor is compared.
    Comparing(Box<Cursor>),
}

/// How far a round has come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Cursor {
    /// The last key that is compared.
    after: Option<Key>,
    /// The size of the next range.
    rows_max: u32,
    /// The peers that have an entry that is absent here: the first one after the cursor.
    holders: Replicas,
    asked: Option<Question>,
}

/// A question that is not settled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Question {
    n: u64,
    /// The peer.
    slot: u8,
    /// Turns since it was asked.
    waited: u32,
    /// The keys that were written here since it was asked.
    written: BTreeSet<Key>,
    /// What it has answered, while the store is read.
    answer: Option<RangeSummary>,
}

impl Cursor {
    fn new(after: Option<Key>, rows_max: u32) -> Self {
        Cursor { after, rows_max, holders: Replicas::default(), asked: None }
    }
}

impl Scrub {
    /// A transaction is prepared here, or was.
    pub(super) fn begin(&mut self) {
        self.has_begun = true;
    }

    /// A write has replaced the entry of a key.
    pub(super) fn written(&mut self, key: &Key) {
        let Phase::Comparing(cursor) = &mut self.phase else { return };
        let Some(question) = &mut cursor.asked else { return };
        question.written.insert(key.clone());
        if question.written.len() > WRITTEN_MAX {
            cursor.asked = None;
        }
    }

    /// See [`Machine::rebase`](crate::Machine::rebase).
    pub(super) fn rebase(&mut self, durable: Lsn) {
        if let Phase::Preparing { upto, .. } = &mut self.phase {
            *upto = upto.saturating_sub(durable);
        }
    }

    /// See [`Machine::renamed`](crate::Machine::renamed).
    pub(super) fn rename(&mut self, slot: &impl Fn(u8) -> u8) {
        if let Phase::Comparing(cursor) = &mut self.phase {
            cursor.holders = cursor.holders.renamed(slot);
            if let Some(question) = &mut cursor.asked {
                question.slot = slot(question.slot);
            }
        }
    }

    /// Goes on behind a key, or ends the round behind the last one.
    fn pass(&mut self, upto: Option<Key>, rows_max: u32) {
        self.phase = if upto.is_some() {
            Phase::Comparing(Box::new(Cursor::new(upto, rows_max)))
        } else {
            self.rounds += 1;
            Phase::Resting
        };
    }

    /// The question that is being settled, its answer and the cursor.
    fn answered(&mut self) -> Option<(&mut Cursor, RangeSummary)> {
        let Phase::Comparing(cursor) = &mut self.phase else { return None };
        let cursor: &mut Cursor = cursor;
        let answer = cursor.asked.as_mut()?.answer.take()?;
        Some((cursor, answer))
    }
}

impl Participant {
    pub(super) fn set_scrub_timer(&self, effects: &mut Vec<Effect>) {
        let after = self.config.scrub_interval;
        if !after.is_zero() && self.config.replicas > 1 {
            effects.push(Effect::SetTimer { id: TimerId::Scrub, after });
        }
    }

    /// The next turn.
    pub(super) fn on_scrub_timer(&mut self, effects: &mut Vec<Effect>) {
        self.set_scrub_timer(effects);
        if !self.fenced || self.is_stalled() || !self.scrub.has_begun {
            return;
        }
        let scrub = &mut self.scrub;
        scrub.turns = scrub.turns.saturating_add(1);
        match &mut scrub.phase {
            Phase::Resting if scrub.turns < ROUND_TURNS_MIN && scrub.rounds > 0 => {}
            // A master that has taken over has not told its watermark yet: nothing could be compared.
            Phase::Resting if self.watermark == TxnId::default() => {}
            Phase::Resting => {
                scrub.turns = 0;
                let (upto, watermark) = (self.lsn, self.watermark);
                scrub.phase = Phase::Preparing { upto, watermark };
                effects.push(Effect::Checkpoint { upto });
            }
            Phase::Preparing { upto, .. } => effects.push(Effect::Checkpoint { upto: *upto }),
            Phase::Comparing(cursor) => {
                if let Some(question) = &mut cursor.asked {
                    question.waited += 1;
                    if question.waited <= scrub.patience {
                        return;
                    }
                    // Not the next peer at once: a range that differs from that of one may equal that of another,
                    // in which the same entry has rotted.
                    scrub.peer += u64::from(scrub.patience == PATIENCE_MAX);
                    scrub.patience = (2 * scrub.patience + 1).min(PATIENCE_MAX);
                }
                self.ask_for_summary(effects);
            }
        }
    }

    /// The tables contain what the round waits for.
    pub(super) fn on_checkpointed(&mut self, upto: Lsn, effects: &mut Vec<Effect>) {
        match self.scrub.phase {
            Phase::Preparing { upto: awaited, watermark } if awaited == upto => {
                self.scrub.below = watermark;
            }
            _ => return,
        }
        self.scrub.phase = Phase::Comparing(Box::new(Cursor::new(None, ROWS_MAX)));
        self.scrub.peer += 1;
        self.ask_for_summary(effects);
    }

    fn ask_for_summary(&mut self, effects: &mut Vec<Effect>) {
        let peers: Vec<u8> =
            (1..=self.config.replicas).filter(|n| Node::Replica(*n) != self.config.node).collect();
        let turn = self.scrub.peer % peers.len() as u64;
        let slot = peers[usize::try_from(turn).expect("less than the number of peers")];
        let below = self.scrub.below;
        let Phase::Comparing(cursor) = &mut self.scrub.phase else { return };
        self.scrub.questions += 1;
        let n = self.scrub.questions;
        cursor.asked =
            Some(Question { n, slot, waited: 0, written: BTreeSet::new(), answer: None });
        let (after, rows_max) = (cursor.after.clone(), cursor.rows_max);
        let scrub = ScrubId { incarnation: self.incarnation, n };
        let request = Body::ScrubRequest { scrub, after, rows_max, below };
        self.send(Node::Replica(slot), request, effects);
    }

    /// A peer asks what is in a range. Until the first checkpoint of a round here, nothing can be said.
    pub(super) fn on_scrub_request(
        &mut self,
        by: Node,
        scrub: ScrubId,
        after: Option<Key>,
        rows_max: u32,
        below: TxnId,
        effects: &mut Vec<Effect>,
    ) {
        let below = below.min(self.scrub.below);
        if self.fenced && below > TxnId::default() {
            let rows_max = rows_max.clamp(1, ROWS_MAX);
            effects.push(Effect::Summarize { scrub, by, after, upto: None, rows_max, below });
        }
    }

    /// The summary of a range, for a peer or for this replica.
    pub(super) fn on_summarized(
        &mut self,
        scrub: ScrubId,
        by: Node,
        below: TxnId,
        mut summary: RangeSummary,
        effects: &mut Vec<Effect>,
    ) {
        if by != self.config.node {
            // The last write of a locked key may be decided, and not applied here.
            let settled = summary.upto.as_ref().is_some_and(|key| self.serves(key));
            if !settled && self.config.rules.keep(Rule::ScrubComparesSettled) {
                summary.version = None;
            }
            return self.send(by, Body::ScrubAnswer { scrub, below, summary }, effects);
        }
        let Some((cursor, answer)) = self.scrub.answered() else { return };
        let blind = self.config.rules.makes(Mistake::ScrubComparesNothing);
        if (answer.rows, answer.digest) == (summary.rows, summary.digest) || blind {
            let rows_max = (cursor.rows_max * STEP).min(ROWS_MAX);
            self.scrub.pass(answer.upto, rows_max);
        } else {
            cursor.rows_max = (cursor.rows_max / STEP).max(1);
            cursor.asked = None;
        }
    }

    /// A peer says what it holds in a range.
    pub(super) fn on_scrub_answer(
        &mut self,
        slot: u8,
        scrub: ScrubId,
        below: TxnId,
        summary: RangeSummary,
        effects: &mut Vec<Effect>,
    ) {
        let Phase::Comparing(cursor) = &mut self.scrub.phase else { return };
        let Some(question) = &mut cursor.asked else { return };
        let known = ScrubId { incarnation: self.incarnation, n: question.n };
        let goes_on = summary.upto.is_none() || summary.upto > cursor.after;
        if scrub != known || slot != question.slot || question.answer.is_some() || !goes_on {
            return;
        }
        question.answer = Some(summary.clone());
        self.scrub.patience /= 2;
        if cursor.rows_max > 1 {
            let (after, upto) = (cursor.after.clone(), summary.upto);
            // What is here and not at the peer has no end.
            let rows_max = 2 * cursor.rows_max;
            let by = self.config.node;
            return effects.push(Effect::Summarize { scrub, by, after, upto, rows_max, below });
        }
        let Some(key) = summary.upto else { return self.scrub.pass(None, 1) };
        let settled = !self.locks.contains_key(&key) && !question.written.contains(&key);
        let settled = settled || !self.config.rules.keep(Rule::ScrubComparesSettled);
        match summary.version.filter(|_| settled && !self.healing.concerns(&key)) {
            Some(version) => effects.push(Effect::Check { key, version }),
            None => self.scrub.pass(Some(key), 1),
        }
    }

    /// The entry of a key is intact or absent here; a peer has it with this version.
    pub(super) fn on_checked(
        &mut self,
        key: Key,
        version: Version,
        found: Option<Version>,
        effects: &mut Vec<Effect>,
    ) {
        let others = self.config.replicas - 1;
        let Some((cursor, answer)) = self.scrub.answered() else { return };
        if answer.upto.as_ref() != Some(&key) {
            return;
        }
        if found.is_some_and(|found| found >= version) {
            return self.scrub.pass(Some(key), STEP);
        }
        if let Some(question) = cursor.asked.take() {
            cursor.holders.insert(question.slot);
        }
        if found.is_none() && cursor.holders.len() < others {
            // The next turn asks the next peer.
            self.scrub.peer += 1;
            return;
        }
        effects.push(Effect::Lost { key: key.clone(), version, found });
        self.on_damaged(key.clone(), version, effects);
        self.scrub.pass(Some(key), 1);
    }

    /// The entry of a key has turned out to be damaged, maybe because the scrub has looked at it.
    pub(super) fn scrub_met_damage(&mut self, key: Key) {
        let Some((cursor, answer)) = self.scrub.answered() else { return };
        if answer.upto.as_ref() == Some(&key) {
            self.scrub.pass(Some(key), 1);
        } else {
            cursor.asked = None;
        }
    }
}
