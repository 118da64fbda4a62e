//! Renumbers the transactions in a step: when a client's call is removed from a schedule, later calls
//! get other transaction ids.

use protocol::{Body, Message, NoReason, Snapshot, TimerId, TxnId};

use super::Step;

/// The step with every transaction id replaced by its new one; `None` if the step is about a
/// transaction that has none. In a list such transactions are left out.
pub(super) fn renumbered(step: &Step, new: &impl Fn(TxnId) -> Option<TxnId>) -> Option<Step> {
    Some(match step {
        Step::Deliver { from, to, message, second_instance } => {
            let body = body(&message.body, new)?;
            let message = Message { body, ..message.clone() };
            Step::Deliver { from: *from, to: *to, message, second_instance: *second_instance }
        }
        Step::Timer { node, id, second_instance } => {
            let id = match *id {
                TimerId::VoteTimeout(txn) => TimerId::VoteTimeout(new(txn)?),
                TimerId::Retransmit { txn, round } => TimerId::Retransmit { txn: new(txn)?, round },
                TimerId::InquiryTimeout(txn) => TimerId::InquiryTimeout(new(txn)?),
                id => id,
            };
            Step::Timer { node: *node, id, second_instance: *second_instance }
        }
        step => step.clone(),
    })
}

fn body(body: &Body, new: &impl Fn(TxnId) -> Option<TxnId>) -> Option<Body> {
    fn pairs<T: Clone>(
        list: &[(TxnId, T)],
        new: &impl Fn(TxnId) -> Option<TxnId>,
    ) -> Vec<(TxnId, T)> {
        list.iter().filter_map(|(txn, about)| Some((new(*txn)?, about.clone()))).collect()
    }
    let mut body = body.clone();
    match &mut body {
        Body::Prepare { txn, piggybacked, .. } => {
            *txn = new(*txn)?;
            *piggybacked = pairs(piggybacked, new);
        }
        Body::VoteNo { txn, reason } => {
            *txn = new(*txn)?;
            if let NoReason::Locked { holder } = reason {
                *holder = new(*holder)?;
            }
        }
        Body::VoteYes { txn }
        | Body::Decide { txn, .. }
        | Body::Inquire { txn }
        | Body::Pending { txn }
        | Body::Veto { txn }
        | Body::PeerInquire { txn }
        | Body::PeerAnswer { txn, .. }
        | Body::Busy { txn, .. } => *txn = new(*txn)?,
        Body::Ack { txns, .. } => {
            *txns = txns.iter().filter_map(|txn| new(*txn)).collect();
            if txns.is_empty() {
                return None;
            }
        }
        Body::FenceOk { in_doubt, .. } => *in_doubt = pairs(in_doubt, new),
        Body::Read { piggybacked, .. } | Body::Query { piggybacked, .. } => {
            *piggybacked = pairs(piggybacked, new);
        }
        Body::Snapshot { snapshot: Snapshot::Keys(found), .. } => {
            for (version, _) in found.iter_mut().flatten() {
                *version = new(*version)?;
            }
        }
        Body::Snapshot { snapshot: Snapshot::Page(page), .. } => {
            for (_, version, _) in &mut page.entries {
                *version = new(*version)?;
            }
        }
        Body::Value { found: Some((version, _)), .. }
        | Body::HealAnswer { found: Some((version, _)), .. } => *version = new(*version)?,
        Body::Value { found: None, .. }
        | Body::Snapshot { snapshot: Snapshot::TooLarge, .. }
        | Body::HealAnswer { found: None, .. }
        | Body::HealRequest { .. }
        | Body::ScrubAnswer { .. }
        | Body::ScrubRequest { .. }
        | Body::Fence { .. }
        | Body::NotServing { .. }
        | Body::Heartbeat
        | Body::Alive { .. }
        | Body::Leaving { .. }
        | Body::Stale { .. } => {}
    }
    Some(body)
}
