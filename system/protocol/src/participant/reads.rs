//! Reads: served if the key is unlocked, and otherwise waiting for the lock.

use std::time::Duration;

use super::{Body, Effect, Key, Node, Participant, ReadId, Rule, TimerId};

impl Participant {
    /// Whether a read of the key would be served in the current state.
    pub(crate) fn serves(&self, key: &Key) -> bool {
        let rules = self.config.rules;
        self.active
            && (self.fenced || !rules.keep(Rule::HandshakeBeforeServing))
            && (!self.locks.contains_key(key) || !rules.keep(Rule::ReadsRespectLocks))
            && !self.healing.concerns(key)
    }

    /// Serves a read of an unlocked key.
    pub(super) fn serve(&self, read: ReadId, key: Key, effects: &mut Vec<Effect>) {
        if self.healing.concerns(&key) {
            // What the store holds is damaged, or would be damaged again after a crash.
            self.send(Node::Master, Body::NotServing { read }, effects);
        } else {
            effects.push(Effect::Serve { read, key });
        }
    }

    /// Serves a read, or has it wait for the lock.
    pub(super) fn on_read(
        &mut self,
        read: ReadId,
        key: Key,
        wait: Duration,
        effects: &mut Vec<Effect>,
    ) {
        if self.serves(&key) {
            effects.push(Effect::Serve { read, key });
        } else if self.healing.concerns(&key) && !self.locks.contains_key(&key) {
            self.send(Node::Master, Body::NotServing { read }, effects);
        } else if self.fenced || !self.config.rules.keep(Rule::HandshakeBeforeServing) {
            self.waiting_reads.entry(key).or_default().insert(read);
            effects.push(Effect::SetTimer { id: TimerId::ReadWait(read), after: wait });
        } else {
            self.send(Node::Master, Body::NotServing { read }, effects);
        }
    }

    pub(super) fn on_read_wait_timeout(&mut self, read: ReadId, effects: &mut Vec<Effect>) {
        let waits = self.waiting_reads.iter().find(|(_, reads)| reads.contains(&read));
        let Some(key) = waits.map(|(key, _)| key.clone()) else { return };
        let reads = self.waiting_reads.get_mut(&key).expect("just found");
        reads.remove(&read);
        if reads.is_empty() {
            self.waiting_reads.remove(&key);
        }
        self.queries.remove(&read);
        let txn = *self.locks.get(&key).expect("reads wait for locked keys only");
        self.send(Node::Master, Body::Busy { read, txn }, effects);
    }
}
