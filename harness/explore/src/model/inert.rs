//! Messages that can change nothing any more and are removed from a state: states that differ only
//! in such messages become one.

use std::sync::Arc;

use protocol::{Body, Node};

use super::interner::{Envelope, Id, Interner};

/// The replies to a message if the message is inert apart from them; `None` if it is not.
pub(super) type Replies = Option<Arc<[Id]>>;

impl Interner {
    /// Whether a durable promise of the receiver makes it reject the message for ever. Not for
    /// clusters with second instances, to which the rejection is of interest, or with lost stores.
    pub(super) fn is_fenced_off(&self, message: Id, receiver: Id) -> bool {
        let Envelope { from, message, .. } = self.envelope(message);
        let promised = self.host(receiver).view.promised_epoch;
        match message.body {
            Body::Value { read, .. }
            | Body::Snapshot { read, .. }
            | Body::Busy { read, .. }
            | Body::NotServing { read } => read.epoch < promised,
            Body::FenceOk { .. } => message.epoch < promised,
            Body::PeerAnswer { .. } => false,
            _ => *from == Node::Master && message.epoch < promised,
        }
    }

    /// Whether a message can change nothing any more because its subject is settled: it changes
    /// neither the receiver as it is, nor the receiver after any crash, and each reply to it has been
    /// sent already (is in `sent`) or is inert itself. `can_crash` says whether the master, and whether
    /// replicas, may still crash.
    ///
    /// For the kinds of messages considered here, one that changes nothing now never will: a
    /// transaction that is past voting is not voted on again, a settled one stays settled, and a
    /// handshake happens once for each incarnation of a replica.
    pub(super) fn is_inert(
        &self,
        message: Id,
        hosts: &[Id],
        sent: &[Id],
        can_crash: [bool; 2],
    ) -> bool {
        let to = self.receiver(message);
        let receiver_can_crash = can_crash[usize::from(to > 0)];
        let replies = self.replies_if_inert(message, hosts[to], receiver_can_crash);
        replies.is_some_and(|replies| {
            replies.iter().all(|reply| {
                sent.binary_search(reply).is_ok() || self.is_inert(*reply, hosts, sent, can_crash)
            })
        })
    }

    /// The replies to a message if it changes nothing at its receiver, now and after any crash.
    fn replies_if_inert(&self, message: Id, host: Id, can_crash: bool) -> Replies {
        let key = (message, host, can_crash);
        if let Some(known) = self.inert.get(&key) {
            return known.clone();
        }
        let replies = self.compute_replies_if_inert(message, host, can_crash).map(Arc::from);
        self.inert.insert(key, replies.clone());
        replies
    }

    fn compute_replies_if_inert(&self, message: Id, host: Id, can_crash: bool) -> Option<Vec<Id>> {
        let Envelope { from, message, .. } = self.envelope(message);
        let subject = match &message.body {
            Body::Prepare { txn, .. } | Body::Decide { txn, .. } | Body::PeerAnswer { txn, .. } => {
                Some(*txn)
            }
            Body::VoteNo { .. } | Body::FenceOk { .. } => None,
            _ => return None,
        };
        let host = &self.host(host).host;
        // The receiver as it is, and as each crash and restart could leave it.
        let mut receivers = Vec::new();
        if host.up() {
            receivers.push(host.clone());
        }
        if can_crash || !host.up() {
            for keep in 0..=host.unforced() {
                let mut restarted = host.clone();
                if restarted.up() {
                    restarted.power_loss(keep)?;
                }
                restarted.restart(&self.setup)?;
                restarted.force(&self.setup, restarted.forceable(false), false)?;
                receivers.push(restarted);
            }
        }
        let mut replies = Vec::new();
        for receiver in receivers {
            let status = receiver.machine()?.status();
            let undecided = |txn| status.unsettled.iter().any(|(held, _)| *held == txn);
            // An epoch that is not promised yet will be accepted later.
            let early = *from == Node::Master && message.epoch > status.epoch;
            // A master that does not know the outcome yet, or may restart, may have to inquire.
            let may_inquire = receiver.node() == Node::Master
                && matches!(message.body, Body::PeerAnswer { .. })
                && (can_crash || !status.ready);
            if early || may_inquire || !receiver.acts() || subject.is_some_and(undecided) {
                return None;
            }
            let mut after = receiver.clone();
            let step_effects = after.deliver(&self.setup, *from, message, false)?;
            if after != receiver || !step_effects.observations.is_empty() {
                return None;
            }
            replies.extend(self.intern_sent(receiver.node(), step_effects.sent));
        }
        replies.sort_unstable();
        replies.dedup();
        Some(replies)
    }
}
