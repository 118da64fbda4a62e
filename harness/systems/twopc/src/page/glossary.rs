//! What the messages, records and marks of the message diagram mean, for a reader who knows two-phase commit and not
//! this store. Its words are those that the page shows, so a test looks for every message and record here.

use report::sections::Term;

/// Every term, in the order in which a transaction meets them.
pub(super) const TERMS: &[Term] = &[
    (
        "1.7",
        "the transaction with number 7 of the master's epoch 1. Each start of the master begins an epoch.",
    ),
    (
        "Prepare",
        "master to replica: vote on this write. It must repeat (piggyback) the decisions on the same key that the replica \
         has not acknowledged, or the replica still takes the key for locked.",
    ),
    (
        "PREPARE",
        "record: the write is stored and not visible. The key is locked from here to the decision: no read of it is \
         answered. Forced before the yes vote.",
    ),
    ("VoteYes, VoteNo", "replica to master: PREPARE is durable, or there will be none."),
    (
        "COMMIT",
        "record: at the master, the decision (logged mode), forced before anybody is told. At a replica, the write \
         took effect; durable before it is acknowledged.",
    ),
    ("ABORT", "record of a replica: the write has no effect."),
    ("Decide", "master to replica: commit or abort."),
    ("Ack", "replica to master: these decisions are durable here and need not be repeated."),
    (
        "END",
        "record of the master, written only after every replica has acknowledged the commit. It is forgotten then, and what \
         the master does not know counts as aborted.",
    ),
    ("Read, Value", "a get through the master, and the answer."),
    ("Query, Snapshot", "several keys read as of one instant, through the master, and the answer."),
    (
        "Busy, NotServing",
        "the key stayed locked, or the replica has not been fenced since its start.",
    ),
    (
        "Inquire, Pending",
        "a replica in doubt (voted yes, no decision) asks the master; it has not decided yet.",
    ),
    ("PeerInquire", "a replica in doubt asks another replica how the transaction ended."),
    (
        "PeerAnswer",
        "the answer: commit; abort; uncertain, which is in doubt itself, and from which nothing follows; or, in votes \
         mode, final, which is a yes that is never vetoed.",
    ),
    (
        "REFUSED",
        "record of a replica: it will never vote yes on the transaction, so whoever is in doubt about it may abort. \
         Forced before anybody is told.",
    ),
    (
        "Veto, FROZEN",
        "votes mode: the master wants the vote taken back; record that this is no longer possible.",
    ),
    (
        "Fence, FenceOk",
        "a master that has started takes over: the replica obeys no earlier epoch from then on, and says which \
         transactions it is in doubt about.",
    ),
    (
        "PROMISE, INCARNATION",
        "records of a replica: the epoch that it obeys, and the number of its start.",
    ),
    (
        "EPOCH, MEMBER, CLUSTER, START",
        "records of who belongs to the cluster and which start of the master counts.",
    ),
    ("Heartbeat, Alive", "the master asks whether the replica is there; it is."),
    ("Leaving, Stale", "the replica stops by order; the sender was fenced off by a newer master."),
    (
        "WATERMARK",
        "record of a replica, from the master\'s messages: every transaction below is finished at every node, and \
         forgotten. A replica that is in doubt about one aborts it.",
    ),
    (
        "SEEN, COMMITS, VOTES",
        "records of what a store must hold, by which an older copy is told, and of the commit mode.",
    ),
    (
        "HealRequest, HealAnswer, HEAL",
        "a replica whose entry of a key is damaged gets a copy from a peer; record of the replacement.",
    ),
    ("ScrubRequest, ScrubAnswer", "the replicas compare what they hold."),
    (
        "hold",
        "a fault that keeps a message back, or a node at a crash point. A node that is held processes nothing until it \
         is released or killed.",
    ),
    (
        "before-disk-write, after-disk-write",
        "crash points at a write of the log or of LMDB's data, meta (the root of its tree) or length.",
    ),
    ("force", "a sync of the log: from its request until the records before it are durable."),
    (
        "halt",
        "the state machine stops its process: exit status 4 if it met what must not happen, 3 if a newer master has \
         taken over, 2 if it was refused.",
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The words before the colon of every term, one by one.
    fn words() -> BTreeSet<&'static str> {
        TERMS.iter().flat_map(|(names, _)| names.split(", ")).collect()
    }

    #[test]
    fn every_message_and_record_has_an_entry() {
        let text = include_str!("../../../../../system/protocol/src/text.rs");
        let display = |of: &str| {
            let from = text.find(&format!("impl Display for {of} ")).expect("it is there");
            let rest = &text[from..];
            &rest[..rest.find("\n}\n").expect("it ends")]
        };
        let mut missing = BTreeSet::new();
        for of in ["Body", "Record"] {
            // The first word of each text that is written for a variant.
            for part in display(of).split('"').skip(1).step_by(2) {
                let word: String = part.chars().take_while(char::is_ascii_alphabetic).collect();
                if word.starts_with(|c: char| c.is_ascii_uppercase())
                    && !words().contains(&word[..])
                {
                    missing.insert(word);
                }
            }
        }
        assert!(missing.is_empty(), "the glossary of the page lacks {missing:?}");
    }
}
