//! Symmetry: the protocol treats all replicas alike, so a permutation of their slots maps states to
//! equivalent states.

use protocol::{Body, Node};

use super::interner::Envelope;
use crate::schedule::rename_store;

/// Every permutation of the slots from 1 to `count`, each as the new slot of each slot; the identity
/// is first.
pub(super) fn permutations(count: u8) -> Vec<Vec<u8>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for shorter in permutations(count - 1) {
        for index in (0..=shorter.len()).rev() {
            let mut longer = shorter.clone();
            longer.insert(index, count);
            all.push(longer);
        }
    }
    all
}

/// A message after each replica is given the slot that the renaming maps it to.
pub(super) fn rename(envelope: &Envelope, renaming: &[u8]) -> Envelope {
    let node = |node| match node {
        Node::Master => Node::Master,
        Node::Replica(slot) => Node::Replica(renaming[usize::from(slot) - 1]),
    };
    let Envelope { from, to, message } = envelope;
    let mut message = message.clone();
    message.store = rename_store(renaming, message.store);
    if let Body::Fence { member, members, .. } = &mut message.body {
        if let Some(store) = member {
            *store = rename_store(renaming, *store);
        }
        let before = members.clone();
        for (old, store) in before.into_iter().enumerate() {
            members[usize::from(renaming[old]) - 1] = rename_store(renaming, store);
        }
    }
    Envelope { from: node(*from), to: node(*to), message }
}
