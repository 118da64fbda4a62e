//! Gets and snapshots: each is sent to one live replica, and retried at another one.

use std::{ops::Bound, time::Duration};

use super::{
    Asked, Body, CallId, Coordinator, Decision, Effect, Get, Key, Mistake, Node, Query, ReadId,
    Reply, Snapshot, TimerId, Timing, TxnId, Value, Version, bounds, reply,
};

impl Coordinator {
    pub(super) fn begin_read(
        &mut self,
        call: CallId,
        asks: Asked,
        choice: u64,
        deadline: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let Timing { read_wait, read_slack, .. } = self.config.timing;
        let attempt = (read_wait + read_slack).as_millis().max(1);
        let attempts_max = (deadline.as_millis() / attempt).clamp(1, u32::MAX.into());
        let attempts_max = u32::try_from(attempts_max).expect("it is clamped to u32");
        let get = Get { call, asks, choice, attempt: 0, attempts_max };
        self.last_read += 1;
        self.send_read(self.last_read, get, effects);
    }

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
        let Timing { read_wait: wait, read_slack, .. } = self.config.timing;
        let body = match &get.asks {
            Asked::Key(key) => {
                let piggybacked = self.unacknowledged(key);
                Body::Read { read, key: key.clone(), piggybacked, wait }
            }
            Asked::Query(query) => {
                let piggybacked = self.unacknowledged_in(query);
                Body::Query { read, query: query.clone(), piggybacked, wait }
            }
        };
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
        let is_of_key = |get: &Get| matches!(get.asks, Asked::Key(_));
        if let Some(Get { call, .. }) = self.take_get(read, is_of_key) {
            reply(call, Reply::Value(found), effects);
        }
    }

    /// Accepts the answer of any attempt, as for a get.
    pub(super) fn on_snapshot(
        &mut self,
        slot: u8,
        read: ReadId,
        snapshot: Snapshot,
        watermark: TxnId,
        effects: &mut Vec<Effect>,
    ) {
        if !self.gets.contains_key(&read.n) {
            return;
        }
        let answers = |get: &Get| match &get.asks {
            Asked::Query(query) => snapshot.answers(query),
            Asked::Key(_) => false,
        };
        match self.take_get(read, answers) {
            Some(Get { call, .. }) => reply(call, Reply::Snapshot { snapshot, watermark }, effects),
            None => {
                let why = "a snapshot that does not answer its query";
                effects.push(bounds::refuse(Node::Replica(slot), why));
            }
        }
    }

    fn take_get(&mut self, read: ReadId, is_answered: impl FnOnce(&Get) -> bool) -> Option<Get> {
        if self.gets.get(&read.n).is_some_and(is_answered) {
            return self.gets.remove(&read.n);
        }
        None
    }

    /// The decisions about the keys of a query that some replica may not have received. Of a range, those
    /// about as many keys as a page may have.
    fn unacknowledged_in(&self, query: &Query) -> Vec<(TxnId, Decision)> {
        match query {
            Query::Keys(keys) => keys.iter().flat_map(|key| self.unacknowledged(key)).collect(),
            Query::Range(range) => {
                let keys = self.keys.range::<Key, _>((range.start(), Bound::Unbounded));
                keys.take_while(|(key, _)| range.contains(key))
                    .filter(|(_, state)| !state.unacknowledged.is_empty())
                    .take(range.limit as usize)
                    .flat_map(|(_, state)| &state.unacknowledged)
                    .map(|(txn, decision)| (*txn, *decision))
                    .collect()
            }
        }
    }
}
