//! What the invariant checker looks at: the durable state of a host, and what it would serve.

use protocol::{Key, Machine, Node, Record, Status, TxnId, Version};

use super::host::ScheduleHost;

/// What the invariant checker looks at in a host. Equal hosts have equal views.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostView {
    /// The process is up.
    pub up: bool,
    /// The status of the machine; `None` if the process is down.
    pub status: Option<Status>,
    /// Some records are not durable.
    pub unforced: bool,
    /// The store is the one that the node started with.
    pub intact: bool,
    /// How many entries are damaged.
    pub damaged: usize,
    /// The keys, of those asked for, whose reads would be served now, each with the version that a
    /// read would return.
    pub readable: Vec<(Key, Option<Version>)>,
    /// Transactions that are durably prepared here without an outcome.
    prepared: Vec<TxnId>,
    /// Transactions that are durably committed here.
    committed: Vec<TxnId>,
    /// Outcomes below this are durably dropped.
    watermark: TxnId,
    /// The durable epoch: the master's own, or the one that a replica has promised. Messages of an
    /// earlier epoch are rejected.
    pub promised_epoch: u64,
}

impl HostView {
    /// The view of a host. Whether a key is readable is found by asking the machine.
    #[must_use]
    pub fn of(host: &ScheduleHost, keys: &[Key]) -> HostView {
        let mut view = HostView {
            up: host.up(),
            status: host.machine().map(Machine::status),
            unforced: host.unforced() > 0,
            intact: host.intact(),
            damaged: host.store().current().damaged().count(),
            ..HostView::default()
        };
        for record in host.store().durable().records() {
            match record {
                Record::Prepare { txn, .. } => view.prepared.push(*txn),
                Record::Commit { txn } => view.committed.push(*txn),
                Record::Watermark { watermark } => view.watermark = *watermark,
                Record::Epoch { epoch, .. } | Record::Promise { epoch } => {
                    view.promised_epoch = *epoch;
                }
                _ => {}
            }
        }
        if host.node() != Node::Master {
            for key in keys {
                if let Some(version) = host.readable_version(key) {
                    view.readable.push((key.clone(), version));
                }
            }
        }
        view
    }

    /// Whether the yes vote for a transaction, or the commit that followed it, is durable here.
    pub(super) fn has_vote(&self, txn: TxnId) -> bool {
        self.prepared.contains(&txn) || self.has_commit(txn)
    }

    /// Whether a commit is durable here. Below the watermark every outcome is settled, and a
    /// committed one is no longer recorded.
    fn has_commit(&self, txn: TxnId) -> bool {
        self.committed.contains(&txn) || (txn < self.watermark && !self.prepared.contains(&txn))
    }

    /// Transactions whose key is locked here, according to the machine.
    pub fn in_doubt(&self) -> impl Iterator<Item = TxnId> {
        self.status.iter().flat_map(|status| status.unsettled.iter().map(|(txn, _)| *txn))
    }
}

/// What the invariant checker needs to know about the replicas' disks. A replica that has lost its
/// store is exempt: both questions are answered with yes.
pub trait ReplicaDisks {
    /// Whether the yes vote for a transaction, or the commit that followed it, is durable at a
    /// replica.
    fn has_vote(&self, slot: u8, txn: TxnId) -> bool;
    /// Whether a commit is durable at a replica.
    fn has_commit(&self, slot: u8, txn: TxnId) -> bool;
}

impl<'a, F: Fn(u8) -> &'a HostView> ReplicaDisks for F {
    fn has_vote(&self, slot: u8, txn: TxnId) -> bool {
        let view = self(slot);
        !view.intact || view.has_vote(txn)
    }

    fn has_commit(&self, slot: u8, txn: TxnId) -> bool {
        let view = self(slot);
        !view.intact || view.has_commit(txn)
    }
}
