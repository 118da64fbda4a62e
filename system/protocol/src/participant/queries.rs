//! Queries: several keys, or a page of a range, read at one instant at which none of them is locked.
//!
//! At that instant each key has its last decided write (R1), so what is read is a state that the whole
//! cluster has had: a snapshot. It needs no vote and locks nothing.
//!
//! Listed keys wait until none of them is locked. A page need not: it ends before the first locked key,
//! and waits only if nothing would be before that. The store says what is in a range and the machine what
//! is locked, so a page is read up to the first lock, whether or not its key is in the store. If the page
//! turns out to be empty, the query waits for that lock.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::Bound,
    time::Duration,
};

use super::{
    Body, Effect, Key, KeyRange, Node, Page, Participant, Query, ReadId, Rule, Snapshot, TimerId,
    Value, Version,
};

/// A query that is not answered yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct OpenQuery {
    query: Query,
    /// How long it may wait for locks. None: its timer runs.
    wait: Option<Duration>,
    /// What was read of listed keys before the others were unlocked, and which of them are being read. Only
    /// if the rule `snapshot-at-one-instant` is broken.
    early: BTreeMap<Key, Option<(Version, Value)>>,
    reading: Vec<Key>,
}

impl Participant {
    pub(super) fn on_query(
        &mut self,
        read: ReadId,
        query: Query,
        wait: Duration,
        effects: &mut Vec<Effect>,
    ) {
        if !self.fenced && self.config.rules.keep(Rule::HandshakeBeforeServing) {
            return self.send(Node::Master, Body::NotServing { read }, effects);
        }
        // A duplicate is answered with the first.
        if let Entry::Vacant(vacant) = self.queries.entry(read) {
            let (early, reading) = (BTreeMap::new(), Vec::new());
            vacant.insert(OpenQuery { query, wait: Some(wait), early, reading });
            self.try_query(read, effects);
        }
    }

    /// Serves a query, or has it wait for a lock.
    pub(super) fn try_query(&mut self, read: ReadId, effects: &mut Vec<Effect>) {
        let Some(OpenQuery { query, early, .. }) = self.queries.get(&read) else { return };
        match query {
            Query::Range(range) => {
                let before = self.first_obstacle(range);
                effects.push(Effect::ServePage { read, range: range.clone(), before });
            }
            Query::Keys(keys) => {
                let unread = keys.iter().filter(|key| !early.contains_key(*key));
                let (free, obstacles): (Vec<_>, Vec<_>) =
                    unread.cloned().partition(|key| self.is_readable(key));
                let at_once = !self.config.rules.keep(Rule::SnapshotAtOneInstant);
                match obstacles.first() {
                    Some(obstacle) if free.is_empty() || !at_once => {
                        self.wait_for(read, obstacle.clone(), effects);
                    }
                    _ => {
                        if at_once && let Some(open) = self.queries.get_mut(&read) {
                            open.reading.clone_from(&free);
                        }
                        effects.push(Effect::ServeKeys { read, keys: free });
                    }
                }
            }
        }
    }

    /// Listed keys were read; `None` if their values are too long for an answer.
    pub(super) fn on_keys_read(
        &mut self,
        read: ReadId,
        found: Option<Vec<Option<(Version, Value)>>>,
        effects: &mut Vec<Effect>,
    ) {
        let open = self.queries.remove(&read);
        let snapshot = found.map_or(Snapshot::TooLarge, Snapshot::Keys);
        let is_whole = self.config.rules.keep(Rule::SnapshotAtOneInstant);
        let (Some(mut open), false, Snapshot::Keys(found)) = (open, is_whole, &snapshot) else {
            return self.send(Node::Master, Body::Snapshot { read, snapshot }, effects);
        };
        let Query::Keys(keys) = &open.query else { return };
        open.early.extend(open.reading.drain(..).zip(found.iter().cloned()));
        let whole: Option<Vec<_>> = keys.iter().map(|key| open.early.get(key).cloned()).collect();
        if let Some(found) = whole {
            let snapshot = Snapshot::Keys(found);
            return self.send(Node::Master, Body::Snapshot { read, snapshot }, effects);
        }
        self.queries.insert(read, open);
        self.try_query(read, effects);
    }

    /// A page was read, up to the first obstacle.
    pub(super) fn on_page_read(&mut self, read: ReadId, mut page: Page, effects: &mut Vec<Effect>) {
        if !self.config.rules.keep(Rule::RangeSeesAbsentLocks)
            && let Some(at) = page.entries.iter().position(|(key, ..)| !self.is_readable(key))
        {
            page.end = Some(page.entries.swap_remove(at).0);
            page.entries.truncate(at);
        }
        match page.end {
            // A machine that has halted keeps nobody waiting.
            Some(_) if page.entries.is_empty() && self.halted => {}
            // Later in the same step the lock may have been released. What it was held for is then about to be appended,
            // after this: a page that was read now would lack it.
            Some(obstacle) if page.entries.is_empty() => self.wait_for(read, obstacle, effects),
            _ => {
                self.queries.remove(&read);
                let snapshot = Snapshot::Page(page);
                self.send(Node::Master, Body::Snapshot { read, snapshot }, effects);
            }
        }
    }

    /// A query cannot be served while this key is locked, or its entry damaged. If it is not locked, the master tries
    /// again.
    fn wait_for(&mut self, read: ReadId, obstacle: Key, effects: &mut Vec<Effect>) {
        if !self.locks.contains_key(&obstacle) {
            self.queries.remove(&read);
            return self.send(Node::Master, Body::NotServing { read }, effects);
        }
        self.waiting_reads.entry(obstacle).or_default().insert(read);
        let wait = self.queries.get_mut(&read).and_then(|open| open.wait.take());
        if let Some(after) = wait {
            effects.push(Effect::SetTimer { id: TimerId::ReadWait(read), after });
        }
    }

    fn is_readable(&self, key: &Key) -> bool {
        let ignores_locks = !self.config.rules.keep(Rule::ReadsRespectLocks);
        (ignores_locks || !self.locks.contains_key(key)) && !self.healing.concerns(key)
    }

    /// The first key of a range that cannot be read.
    fn first_obstacle(&self, range: &KeyRange) -> Option<Key> {
        let rules = self.config.rules;
        let first_lock = || {
            let mut locked = self.locks.range::<Key, _>((range.start(), Bound::Unbounded));
            locked.next().map(|(key, _)| key)
        };
        let lock = (rules.keep(Rule::ReadsRespectLocks) && rules.keep(Rule::RangeSeesAbsentLocks))
            .then(first_lock)
            .flatten();
        let damaged = self.healing.first_in(range);
        let first = lock.into_iter().chain(damaged).min();
        first.filter(|key| range.contains(key)).cloned()
    }
}
