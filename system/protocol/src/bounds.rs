//! The bounds of the numbers in messages. A message from outside is checked in two places: where it
//! is decoded, by [`Message::check_bounds`], which needs no state; and by the machine that receives
//! it, against the transactions that it knows. A message out of bounds is refused. It halts nobody,
//! and changes nothing.
//!
//! The bounds keep arithmetic from overflowing. They also keep one damaged or forged number from
//! doing lasting harm: an epoch that no master can ever reach, or a watermark above every
//! transaction that will ever be.

use std::fmt;

use super::{
    event::Effect,
    message::{Body, Message, NoReason},
    types::{HealId, Node, ReadId, ScrubId, TxnId},
};

/// The greatest epoch and the greatest incarnation. A node that started a thousand times a second
/// would reach it after 8,900 years.
pub const STARTS_MAX: u64 = 1 << 48;
/// The greatest sequence number, of transactions and of reads.
pub const SEQ_MAX: u64 = 1 << 56;
/// How far an epoch may lie above the one that the receiver knows. A node misses the epochs that
/// passed while it was down: one for each start of the master.
pub const EPOCHS_AHEAD_MAX: u64 = 1 << 20;
/// How far a transaction may lie above the last one of its epoch that a replica knows. A master
/// begins transactions only while every replica answers its heartbeats; a replica that misses this
/// many must have answered heartbeats for minutes and received nothing else.
pub const TXNS_AHEAD_MAX: u64 = 1 << 24;

/// A message is out of bounds: what is too large in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfBounds(pub &'static str);

impl fmt::Display for OutOfBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is out of bounds", self.0)
    }
}

impl std::error::Error for OutOfBounds {}

impl Message {
    /// Checks every number in the message, apart from what only the receiver can know.
    ///
    /// # Errors
    /// What is out of bounds.
    pub fn check_bounds(&self) -> Result<(), OutOfBounds> {
        let starts =
            |number: u64, what| if number > STARTS_MAX { Err(OutOfBounds(what)) } else { Ok(()) };
        starts(self.epoch, "the epoch")?;
        if self.decisions > SEQ_MAX {
            return Err(OutOfBounds("the number of decisions"));
        }
        for txn in self.watermark_and_txns() {
            if txn.seq > SEQ_MAX {
                return Err(OutOfBounds("a sequence number"));
            }
            if txn.epoch > self.epoch {
                return Err(OutOfBounds("a transaction of a later epoch than the message"));
            }
        }
        match self.body {
            Body::FenceOk { commits, .. }
            | Body::Ack { commits, .. }
            | Body::Alive { applied: commits, .. }
            | Body::Fence { decided: Some(commits), .. }
                if commits > SEQ_MAX =>
            {
                Err(OutOfBounds("the number of commits"))
            }
            Body::FenceOk { incarnation, .. }
            | Body::Alive { incarnation, promised: None, .. }
            | Body::Leaving { incarnation } => starts(incarnation, "the incarnation"),
            Body::Fence { supersedes, seen, .. } => {
                starts(supersedes.map_or(0, |(epoch, _)| epoch), "the superseded epoch")?;
                starts(seen.map_or(0, |seen| seen.incarnation), "the incarnation")
            }
            Body::Alive { incarnation, promised: Some((epoch, _)), .. } => {
                starts(incarnation, "the incarnation")?;
                starts(epoch, "the promised epoch")
            }
            Body::Stale { promised } => starts(promised, "the promised epoch"),
            Body::Read { read: ReadId { n, epoch, .. }, .. }
            | Body::Value { read: ReadId { n, epoch, .. }, .. }
            | Body::Query { read: ReadId { n, epoch, .. }, .. }
            | Body::Snapshot { read: ReadId { n, epoch, .. }, .. }
            | Body::Busy { read: ReadId { n, epoch, .. }, .. }
            | Body::NotServing { read: ReadId { n, epoch, .. } } => {
                if n > SEQ_MAX || epoch > self.epoch {
                    return Err(OutOfBounds("the number of a read"));
                }
                Ok(())
            }
            Body::HealRequest { heal: HealId { incarnation, n }, .. }
            | Body::HealAnswer { heal: HealId { incarnation, n }, .. } => {
                starts(incarnation, "the incarnation")?;
                if n > SEQ_MAX {
                    return Err(OutOfBounds("the number of a damaged entry"));
                }
                Ok(())
            }
            Body::ScrubRequest { scrub: ScrubId { incarnation, n }, .. }
            | Body::ScrubAnswer { scrub: ScrubId { incarnation, n }, .. } => {
                starts(incarnation, "the incarnation")?;
                if n > SEQ_MAX {
                    return Err(OutOfBounds("the number of a question of the scrub"));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The watermark, and every transaction that the body names.
    pub(super) fn watermark_and_txns(&self) -> impl Iterator<Item = TxnId> {
        let (pairs, keyed, one) = match &self.body {
            Body::Prepare { piggybacked, .. }
            | Body::Read { piggybacked, .. }
            | Body::Query { piggybacked, .. } => (piggybacked.as_slice(), [].as_slice(), None),
            Body::Snapshot { snapshot, .. } => {
                ([].as_slice(), [].as_slice(), snapshot.versions().max())
            }
            Body::FenceOk { in_doubt, .. } => ([].as_slice(), in_doubt.as_slice(), None),
            Body::VoteNo { reason: NoReason::Locked { holder }, .. } => {
                ([].as_slice(), [].as_slice(), Some(*holder))
            }
            Body::Value { found: Some((version, _)), .. }
            | Body::HealAnswer { found: Some((version, _)), .. }
            | Body::ScrubRequest { below: version, .. } => {
                ([].as_slice(), [].as_slice(), Some(*version))
            }
            Body::ScrubAnswer { below, summary, .. } => {
                ([].as_slice(), [].as_slice(), Some(summary.version.unwrap_or(*below).max(*below)))
            }
            _ => ([].as_slice(), [].as_slice(), None),
        };
        std::iter::once(self.watermark)
            .chain(self.body.txns().iter().copied())
            .chain(pairs.iter().map(|(txn, _)| *txn))
            .chain(keyed.iter().map(|(txn, _)| *txn))
            .chain(one)
    }
}

/// Whether a transaction lies further above the last known one than any that the master can have
/// begun, where the transactions of each epoch are numbered above a number.
pub(super) fn is_too_far_ahead(txn: TxnId, known: TxnId, sequence_above: u64) -> bool {
    let known_seq = if txn.epoch == known.epoch { known.seq } else { 0 };
    let known_seq = known_seq.max(sequence_above);
    txn > known && txn.seq.saturating_sub(known_seq) > TXNS_AHEAD_MAX
}

/// Whether an epoch lies further above the known one than the master can have started since.
pub(super) fn is_epoch_too_far_ahead(epoch: u64, known: u64) -> bool {
    epoch.saturating_sub(known) > EPOCHS_AHEAD_MAX
}

/// The effect of refusing a message.
pub(super) fn refuse(from: Node, why: &str) -> Effect {
    Effect::Refuse { from, why: why.to_owned() }
}
