//! Healing: a damaged entry is replaced by the copy of a peer.
//!
//! The store finds an entry whose checksum is wrong, when it is read or compared with a peer's (`scrub`). The
//! replica numbers the detection, and asks a peer for the key. The peer answers if the key is unlocked there: with its last
//! committed write (R1), because a commit needs the vote of that peer, which would lock the key. The replica
//! accepts the answer if the key is unlocked here too and was not written since the detection. Then the
//! answer is the write that was damaged, for any other one would have locked the key here in between, and
//! either is still undecided, or was aborted, or was applied:
//!
//! - Undecided: the key is locked, and the peer may have applied it already. The answer is not accepted, and
//!   the peer is asked again.
//! - Aborted: no peer has ever held it.
//! - Applied: it has replaced the damaged entry, and the answer may be older. The number says so.
//!
//! If the key is absent at the peer, it is absent here, and the damaged row belongs to another key, whose
//! name has rotted. It is left alone: it is what tells that something is missing beside it.

use std::{collections::BTreeMap, ops::Bound};

use super::{
    Body, Deferred, Effect, HealId, Key, KeyRange, Node, Participant, Record, Rule, TimerId, Value,
    Version,
};

/// How many keys are healed at one time. Whatever is found beyond them is found again.
const KEYS_MAX: usize = 64;

/// How often peers are asked for a key before it is given up until it is found again.
const ROUNDS_MAX: u8 = 4;

/// The damaged entries that were found and are not replaced yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Healing {
    /// The number of the last detection.
    detections: u64,
    keys: BTreeMap<Key, Detection>,
}

/// A damaged entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Detection {
    n: u64,
    /// The version that a peer is known to have: an older copy is none of it.
    least: Version,
    /// How often peers were asked, after the first time.
    rounds: u8,
    /// HEAL is appended, and not durable yet.
    appended: bool,
}

impl Healing {
    /// Whether the entry of a key is damaged, or replaced by a record that is not durable yet.
    pub(super) fn concerns(&self, key: &Key) -> bool {
        self.keys.contains_key(key)
    }

    /// The first key of a range, or one behind it, whose entry is damaged.
    pub(super) fn first_in(&self, range: &KeyRange) -> Option<&Key> {
        let mut keys = self.keys.range::<Key, _>((range.start(), Bound::Unbounded));
        keys.next().map(|(key, _)| key)
    }

    /// A write has replaced the entry of a key.
    pub(super) fn written(&mut self, key: &Key) {
        self.keys.remove(key);
    }

    /// Whether an answer is awaited.
    fn asks(&self) -> bool {
        self.keys.values().any(|detection| !detection.appended)
    }
}

impl Participant {
    /// The entry of a key is damaged: asks a peer for it, in this version or a later one.
    pub(super) fn on_damaged(&mut self, key: Key, least: Version, effects: &mut Vec<Effect>) {
        let is_alone = self.config.replicas < 2;
        if is_alone || self.healing.concerns(&key) || self.healing.keys.len() >= KEYS_MAX {
            return;
        }
        if !self.healing.asks() {
            self.set_heal_timer(effects);
        }
        self.healing.detections += 1;
        let n = self.healing.detections;
        let detection = Detection { n, least, rounds: 0, appended: false };
        self.ask_for_copy(key.clone(), &detection, effects);
        self.healing.keys.insert(key, detection);
    }

    /// Asks the next peer for each damaged entry that none has answered for.
    pub(super) fn on_heal_timeout(&mut self, effects: &mut Vec<Effect>) {
        for detection in self.healing.keys.values_mut() {
            detection.rounds += u8::from(!detection.appended);
        }
        self.healing.keys.retain(|_, detection| detection.rounds < ROUNDS_MAX);
        if !self.healing.asks() {
            return;
        }
        for (key, detection) in &self.healing.keys {
            if !detection.appended {
                self.ask_for_copy(key.clone(), detection, effects);
            }
        }
        self.set_heal_timer(effects);
    }

    fn set_heal_timer(&self, effects: &mut Vec<Effect>) {
        let after = self.config.timing.inquiry_timeout;
        effects.push(Effect::SetTimer { id: TimerId::Heal, after });
    }

    /// Asks one peer, because a value may be large: another one for each detection and round.
    fn ask_for_copy(&self, key: Key, detection: &Detection, effects: &mut Vec<Effect>) {
        let peers: Vec<_> =
            self.config.replica_nodes().filter(|peer| *peer != self.config.node).collect();
        let turn = detection.n.wrapping_add(detection.rounds.into()) % peers.len() as u64;
        let heal = HealId { incarnation: self.incarnation, n: detection.n };
        let to = peers[usize::try_from(turn).expect("less than the number of peers")];
        self.send(to, Body::HealRequest { heal, key }, effects);
    }

    /// A peer asks for the last committed write of a key.
    pub(super) fn on_heal_request(
        &mut self,
        to: Node,
        heal: HealId,
        key: Key,
        effects: &mut Vec<Effect>,
    ) {
        // If the key is locked, the peer asks again.
        if self.serves(&key) {
            effects.push(Effect::Copy { to, heal, key });
        }
    }

    /// A peer answers with its last committed write of a key.
    pub(super) fn on_heal_answer(
        &mut self,
        heal: HealId,
        key: Key,
        found: Option<(Version, Value)>,
        effects: &mut Vec<Effect>,
    ) {
        let detection = self.healing.keys.get_mut(&key).filter(|detection| {
            heal.incarnation == self.incarnation && heal.n == detection.n && !detection.appended
        });
        if detection.is_none() && self.config.rules.keep(Rule::LateHealDropped) {
            return;
        }
        let Some((version, value)) = found else {
            self.healing.keys.remove(&key);
            return;
        };
        let is_older = detection.as_ref().is_some_and(|detection| version < detection.least);
        if self.locks.contains_key(&key) || self.full || is_older {
            return;
        }
        if let Some(detection) = detection {
            detection.appended = true;
        }
        let lsn = self.append(Record::Heal { key: key.clone(), version, value }, effects);
        effects.push(Effect::Force(lsn));
        self.deferred.push_back((lsn, Deferred::Heal(key, heal.n)));
    }

    /// HEAL is durable: the key is served again.
    pub(super) fn on_heal_durable(&mut self, key: &Key, n: u64) {
        if self.healing.keys.get(key).is_some_and(|detection| detection.n == n) {
            self.healing.keys.remove(key);
        }
    }
}
