//! The state of a whole cluster as the model explores it, and what can happen to it. A few numbers
//! of what the [`World`] keeps; its hash does not tell apart what symmetry makes the same.

use std::{
    fmt::{self, Debug, Formatter},
    hash::{Hash, Hasher},
    sync::Arc,
};

use super::world::{Id, World};

/// A cluster at rest between two steps.
#[derive(Clone)]
pub struct State {
    pub(super) world: Arc<World>,
    /// The master, then the replicas.
    pub(super) hosts: Box<[Id]>,
    /// Every message that was ever sent, ascending: each may arrive at any time, again, or never.
    pub(super) sent: Box<[Id]>,
    pub(super) judge: Id,
    pub(super) left: Left,
    /// The least of the hashes under all renamings of the replicas: equal for states that differ in
    /// names alone, and only for those.
    pub(super) hash: u64,
}

/// How much more may happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Left {
    /// The next call of the script.
    pub(super) next_call: u8,
    pub(super) master_crashes: u8,
    pub(super) replica_crashes: u8,
    pub(super) wipes: u8,
    pub(super) second_instances: u8,
}

/// One step of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A message arrives.
    Deliver {
        /// Which message.
        message: u32,
        /// At the second instance of its receiver.
        second_instance: bool,
    },
    /// Something happens to a node by itself.
    Local {
        /// 0 is the master.
        node: u8,
        /// The node as it stands.
        host: u32,
        /// Its place among everything that can happen to the node.
        item: u8,
    },
    /// A client makes the next call of the script.
    Call {
        /// The number that picks a replica for a get.
        choice: u8,
    },
}

impl State {
    pub(super) fn new(
        world: Arc<World>,
        hosts: Box<[Id]>,
        sent: Box<[Id]>,
        judge: Id,
        left: Left,
    ) -> Self {
        let mut state = State { world, hosts, sent, judge, left, hash: 0 };
        let world = &state.world;
        let under = |renaming: usize| {
            let hosts = state.hosts.iter().map(|id| world.host(*id).hashes[renaming]);
            let sent = state.sent.iter().map(|id| world.message_hash(*id, renaming));
            hosts.chain(sent).fold(0u64, u64::wrapping_add)
        };
        let least = (0..world.renamings()).map(under).min().unwrap_or_default();
        let Left { next_call, master_crashes, replica_crashes, wipes, second_instances } =
            state.left;
        let left = u64::from_le_bytes([
            next_call,
            master_crashes,
            replica_crashes,
            wipes,
            second_instances,
            0,
            0,
            1,
        ]);
        // The parts are hashes but for `left`, which is spread over all bits here.
        state.hash = least
            .wrapping_add(world.judge_hash(state.judge))
            .wrapping_add(left.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23));
        state
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
            && self.judge == other.judge
            && self.left == other.left
    }
}

impl Debug for State {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let world = &self.world;
        for id in &self.hosts {
            writeln!(f, "{}", world.host(*id).host)?;
        }
        if !self.sent.is_empty() {
            writeln!(f, "sent, and may arrive at any time:")?;
        }
        for id in &self.sent {
            let envelope = world.envelope(*id);
            let (from, to, message) = (envelope.from, envelope.to, &envelope.message);
            writeln!(
                f,
                "  {from} → {to}: {} [epoch {}, watermark {}]",
                message.body, message.epoch, message.watermark
            )?;
        }
        let judge = world.judge(self.judge);
        let Left { next_call, master_crashes, replica_crashes, wipes, second_instances } =
            self.left;
        write!(f, "{judge}may still happen: calls from {next_call} on")?;
        for (count, what) in [
            (master_crashes, "of the master's crashes"),
            (replica_crashes, "of the replicas' crashes"),
            (wipes, "wiped replicas"),
            (second_instances, "second_instances"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}
