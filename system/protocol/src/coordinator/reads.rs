//! Gets: each is sent to one live replica, and retried at another one.

use super::{
    Body, Coordinator, Effect, Get, Mistake, ReadId, Reply, TimerId, Timing, Value, Version, reply,
};

impl Coordinator {
    /// Sends a read to one of the live replicas: the first is the client's random choice, and each
    /// further attempt goes to the next one.
    pub(super) fn send_read(&mut self, n: u64, get: Get, effects: &mut Vec<Effect>) {
        let live = self.in_service().nodes();
        if !self.active || live.is_empty() || get.attempt >= get.attempts_max {
            self.gets.remove(&n);
            return reply(get.call, Reply::Unavailable, effects);
        }
        let bits = if self.config.rules.makes(Mistake::ReadsByThreeBits) { 7 } else { u64::MAX };
        let index = (get.choice & bits).wrapping_add(get.attempt.into()) % live.len() as u64;
        let to = live[usize::try_from(index).expect("less than the number of replicas")];
        let read = ReadId { epoch: self.epoch, n, attempt: get.attempt };
        let piggybacked = self.unacknowledged(&get.key);
        let Timing { read_wait: wait, read_slack, .. } = self.config.timing;
        let body = Body::Read { read, key: get.key.clone(), piggybacked, wait };
        effects.push(Effect::Send { to, message: self.message(body) });
        effects.push(Effect::SetTimer { id: TimerId::Attempt(read), after: wait + read_slack });
        self.gets.insert(n, get);
    }

    pub(super) fn retry_get(&mut self, read: ReadId, effects: &mut Vec<Effect>) {
        let Some(get) = self.gets.get(&read.n) else { return };
        if get.attempt == read.attempt {
            let get = Get { attempt: get.attempt + 1, ..get.clone() };
            self.send_read(read.n, get, effects);
        }
    }

    /// Accepts the answer of any attempt: each was served after the client had asked.
    pub(super) fn on_value(
        &mut self,
        read: ReadId,
        found: Option<(Version, Value)>,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(Get { call, .. }) = self.gets.remove(&read.n) {
            reply(call, Reply::Value(found), effects);
        }
    }
}
