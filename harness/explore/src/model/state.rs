//! A state of the cluster as the model explores it, and the actions. A few numbers that the
//! [`Interner`] knows; its hash is the same for states that are symmetric.

use std::{
    fmt::{self, Debug, Formatter},
    hash::{Hash, Hasher},
    sync::Arc,
};

use super::interner::{Id, Interner};

/// A state between two steps.
#[derive(Clone)]
pub struct State {
    pub(super) interner: Arc<Interner>,
    /// The master, then the replicas.
    pub(super) hosts: Box<[Id]>,
    /// Every message that was ever sent, ascending. Each may be delivered at any time, repeatedly, or
    /// never.
    pub(super) sent: Box<[Id]>,
    pub(super) checker: Id,
    pub(super) budget: Budget,
    /// The least of the hashes under all renamings of the replicas: the same for states that are
    /// symmetric.
    pub(super) hash: u64,
}

/// The calls and faults that may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Budget {
    /// The next call of the script.
    pub(super) next_call: u8,
    pub(super) master_crashes: u8,
    pub(super) replica_crashes: u8,
    pub(super) wipes: u8,
    pub(super) second_instances: u8,
    pub(super) damages: u8,
}

/// An action of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A message is delivered.
    Deliver {
        /// The message.
        message: u32,
        /// To the second instance of its receiver.
        second_instance: bool,
    },
    /// A host takes a step that needs no input from others.
    Local {
        /// 0 is the master.
        node: u8,
        /// The host before the step.
        host: u32,
        /// The index of the step among the host's local steps.
        item: u8,
    },
    /// A client makes the next call of the script.
    Call {
        /// The number that selects a replica for a get.
        choice: u8,
    },
}

impl State {
    pub(super) fn new(
        interner: Arc<Interner>,
        hosts: Box<[Id]>,
        sent: Box<[Id]>,
        checker: Id,
        budget: Budget,
    ) -> Self {
        let under = |renaming: usize| {
            let hosts = hosts.iter().map(|id| interner.host(*id).hashes[renaming]);
            let sent = sent.iter().map(|id| interner.message_hash(*id, renaming));
            hosts.chain(sent).fold(0u64, u64::wrapping_add)
        };
        let least = (0..interner.renamings()).map(under).min().unwrap_or_default();
        let Budget { next_call, master_crashes, replica_crashes, wipes, second_instances, damages } =
            budget;
        let packed_budget = u64::from_le_bytes([
            next_call,
            master_crashes,
            replica_crashes,
            wipes,
            second_instances,
            damages,
            0,
            1,
        ]);
        // The other parts are hashes already; the budget has to be spread over all bits.
        let hash = least
            .wrapping_add(interner.checker_hash(checker))
            .wrapping_add(packed_budget.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23));
        State { interner, hosts, sent, checker, budget, hash }
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.hosts == other.hosts
            && self.sent == other.sent
            && self.checker == other.checker
            && self.budget == other.budget
    }
}

impl Debug for State {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let interner = &self.interner;
        for id in &self.hosts {
            writeln!(f, "{}", interner.host(*id).host)?;
        }
        if !self.sent.is_empty() {
            writeln!(f, "messages in flight:")?;
        }
        for id in &self.sent {
            let envelope = interner.envelope(*id);
            let (from, to, message) = (envelope.from, envelope.to, &envelope.message);
            writeln!(
                f,
                "  {from} → {to}: {} [epoch {}, watermark {}]",
                message.body, message.epoch, message.watermark
            )?;
        }
        let checker = interner.checker(self.checker);
        let Budget { next_call, master_crashes, replica_crashes, wipes, second_instances, damages } =
            self.budget;
        write!(f, "{checker}still possible: calls from number {next_call}")?;
        for (count, name) in [
            (master_crashes, "crashes of the master"),
            (replica_crashes, "crashes of replicas"),
            (wipes, "wipes of replicas"),
            (second_instances, "second instances"),
            (damages, "damaged entries"),
        ] {
            if count > 0 {
                write!(f, ", {count} {name}")?;
            }
        }
        Ok(())
    }
}
