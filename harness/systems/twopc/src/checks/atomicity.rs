//! Atomicity: AC1 to AC5 by name, from the journals of all nodes and the final states. Does not
//! look at what clients observed.
//!
//! - AC1: all nodes that decide reach the same decision.
//! - AC2: no decision is reversed.
//! - AC3: a commit needs the yes votes of all.
//! - AC4: if all voted yes and there is no failure, the decision is commit.
//! - AC5: once failures are repaired, all nodes decide.

use std::collections::{BTreeMap, BTreeSet};

use checker::{CheckResult, Finding, Impact, Reference, Results, finding};
use system::protocol::{HaltKind, Key, Node, TxnId, Value, Version};

use super::{
    Run,
    evidence::{Abort, AbortRecipient, Evidence, Fact, FactKind, JournalPosition, Transaction},
    run::FinalState,
    trigger::named,
};

/// The name of the check.
pub const NAME: &str = "atomicity";

/// Checks a run.
#[must_use]
pub fn check(run: &Run) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    let evidence = &run.evidence;
    let complete = evidence.complete(&mut check_result);
    halts(evidence, &mut check_result);
    let (mut commits, mut aborts) = (0, 0);
    for (txn, transaction) in &evidence.transactions.by_id {
        // First what a node did to its own decision: of two violations at one line, it says more.
        not_reversed(*txn, transaction, &mut check_result);
        same_decision(*txn, transaction, &mut check_result);
        all_voted(*txn, transaction, run, complete, &mut check_result);
        commits += usize::from(transaction.commit().is_some());
        aborts += usize::from(transaction.commit().is_none() && !transaction.aborted.is_empty());
    }
    check_result.measure("transactions", evidence.transactions.by_id.len());
    check_result.measure("committed", commits);
    check_result.measure("aborted", aborts);
    match &run.final_state {
        None => check_result.unknown("AC5: the run ended before the final states were read"),
        Some(final_state) => {
            all_decide(run, final_state, complete, &mut check_result);
            replicas_are_equal(run, final_state, complete, &mut check_result);
        }
    }
    broken_promises(evidence, &mut check_result);
    check_result.with_impact(Impact::Divergence)
}

/// The first violation that these journals show and that no entry that follows can explain. Journals that are still
/// being written suffice: what is missing in them is never held against anybody.
#[must_use]
pub fn certain_violation(evidence: &Evidence) -> Option<Finding> {
    let mut check_result = CheckResult::new(NAME);
    halts(evidence, &mut check_result);
    for (txn, transaction) in &evidence.transactions.by_id {
        // First what a node did to its own decision: of two violations at one line, it says more.
        not_reversed(*txn, transaction, &mut check_result);
        same_decision(*txn, transaction, &mut check_result);
    }
    broken_promises(evidence, &mut check_result);
    Results::new(vec![check_result]).cause.map(|cause| cause.finding)
}

/// A state machine that meets an impossible situation has found a violation itself.
fn halts(evidence: &Evidence, check_result: &mut CheckResult) {
    for (node, facts) in &evidence.nodes {
        // A node that is started again may halt for the same reason each time.
        let mut by_reason: BTreeMap<&str, (Vec<JournalPosition>, &[TxnId])> = BTreeMap::new();
        for fact in &facts.facts {
            if let FactKind::Halted { kind: HaltKind::Violation, why, over } = &fact.kind {
                by_reason.entry(why).or_insert((Vec::new(), over)).0.push(fact.position);
            }
        }
        for (why, (positions, over)) in by_reason {
            let first = positions[0];
            let again = match &positions[1..] {
                [] => Finding::default(),
                [second] => finding!(line(second); "; and again at a later start ({second})"),
                [.., last] => finding!(line(last);
                    "; and again at {} later starts (the last: {last})", positions.len() - 1),
            };
            let over = over.iter().map(|txn| Reference::Transaction(txn.to_string()));
            let finding = finding!(line(position = first), nested(again);
                "{node} halted ({position}): {why}{again}");
            let finding = finding.with_time(Some(first.time)).with_impact(Impact::Stopped);
            check_result.violation(finding.about(over));
        }
    }
}

/// Messages that were sent before what they promise was durable, so that a crash would break the promise, and
/// decisions to commit that did not wait for all votes. There may be thousands, of which the first are kept: those about a transaction that something else is wrong with.
fn broken_promises(evidence: &Evidence, check_result: &mut CheckResult) {
    let subjects = check_result.violations.iter().flat_map(Finding::subjects);
    let harmed: BTreeSet<TxnId> = subjects
        .filter_map(|subject| match subject {
            Reference::Transaction(id) => id.parse().ok(),
            _ => None,
        })
        .collect();
    let facts = evidence.nodes.values().flat_map(|node| &node.facts);
    let broken = facts.filter_map(broken_promise);
    let (came_true, harmless): (Vec<_>, Vec<_>) = broken.partition(|(txn, _)| harmed.contains(txn));
    for (_, finding) in came_true.into_iter().chain(harmless) {
        check_result.violation(finding.with_impact(Impact::BrokenPromise));
    }
}

/// The promise that a fact breaks, and its transaction.
fn broken_promise(fact: &Fact) -> Option<(TxnId, Finding)> {
    let (node, position) = (fact.position.node, fact.position);
    match &fact.kind {
        FactKind::EarlyVote(txn) => Some((
            *txn,
            finding!(
                transaction(txn), line(position);
                "AC3: {node} voted yes on {txn} ({position}) before its PREPARE was durable: \
                 a crash would make it forget the vote"
            ),
        )),
        FactKind::EarlyAck(txn) => Some((
            *txn,
            finding!(
                transaction(txn), line(position);
                "AC1: {node} acknowledged {txn} ({position}) before its COMMIT was durable: \
                 the master may forget a decision that {node} can still lose"
            ),
        )),
        FactKind::EarlyEnd { txn, missing } => {
            let names = listed(missing);
            Some((
                *txn,
                finding!(
                    transaction(txn), line(position);
                    "AC1: the master forgot the commit of {txn} (END, {position}), which {names} had not acknowledged: \
                     what it has forgotten counts as aborted"
                ),
            ))
        }
        FactKind::EarlyWatermark { txn, watermark } => Some((
            *txn,
            finding!(
                transaction(txn), line(position);
                "AC1: the master told the watermark {watermark} ({position}), which has passed the commit of {txn}, though \
                 not every replica had acknowledged it: who is in doubt about it will abort it"
            ),
        )),
        FactKind::EarlyAbort(txn, to) => {
            let to = named(*to);
            Some((
                *txn,
                finding!(
                    transaction(txn), line(position);
                    "AC1: {node} told {to} that {txn} is aborted ({position}) without a durable REFUSED: \
                     nothing keeps it from voting yes on {txn} later, and the master from a commit"
                ),
            ))
        }
        FactKind::EarlyDecide(txn, to) => Some((
            *txn,
            finding!(
                transaction(txn), line(position);
                "AC2: the master told {to} to commit {txn} ({position}) before COMMIT was durable: \
                 a crash would reverse the decision"
            ),
        )),
        FactKind::DecisionAppended { txn, missing } if !missing.is_empty() => {
            let names = listed(missing);
            Some((
                *txn,
                finding!(
                    transaction(txn), line(position);
                    "AC3: the master decided to commit {txn} ({position}) without the yes of {names}"
                ),
            ))
        }
        _ => None,
    }
}

fn listed(nodes: &[Node]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Who decided to abort, in words.
fn aborter(abort: &Abort, txn: TxnId) -> Finding {
    let (node, position) = (abort.position.node, abort.position);
    match &abort.recipient {
        None => finding!(transaction(txn), line(position); "{node} aborted {txn} ({position})"),
        Some(AbortRecipient::Client(_)) => finding!(
            transaction(txn), line(position);
            "the master told the client that {txn} was aborted ({position})"
        ),
        Some(AbortRecipient::Replica(replica)) => finding!(
            transaction(txn), line(position);
            "the master told {replica} to abort {txn} ({position})"
        ),
    }
}

/// AC1.
fn same_decision(txn: TxnId, transaction: &Transaction, check_result: &mut CheckResult) {
    let Some(commit) = transaction.commit() else { return };
    for abort in &transaction.aborted {
        // Of a second answer to a client, the check of replies tells.
        if matches!(abort.recipient, Some(AbortRecipient::Client(_)))
            && transaction.answered_ok.is_some()
        {
            continue;
        }
        let committed = if commit.node == Node::Master {
            finding!(transaction(txn), line(commit); "COMMIT {txn} was logged ({commit})")
        } else {
            let node = commit.node;
            finding!(line(commit); "{node} committed it ({commit})")
        };
        let order = if abort.position.time < commit.time { "before" } else { "after" };
        check_result.violation(finding!(
            nested(aborter = aborter(abort, txn)), nested(committed);
            "AC1: {aborter} {order} {committed}"
        ));
    }
}

/// AC2.
fn not_reversed(txn: TxnId, transaction: &Transaction, check_result: &mut CheckResult) {
    for commit in &transaction.committed {
        let own = |abort: &&Abort| abort.recipient.is_none() && abort.position.node == commit.node;
        for abort in transaction.aborted.iter().filter(own) {
            let (node, position) = (commit.node, abort.position);
            check_result.violation(if position.line < commit.line {
                finding!(
                    transaction(txn), line(commit), line(position);
                    "AC2: {node} committed {txn} ({commit}) having aborted it ({position})"
                )
            } else {
                finding!(
                    transaction(txn), line(commit), line(position);
                    "AC2: {node} aborted {txn} ({position}) having committed it ({commit})"
                )
            });
        }
    }
}

/// AC3 and AC4. A decision without a vote is among the [broken promises](broken_promises).
fn all_voted(
    txn: TxnId,
    transaction: &Transaction,
    run: &Run,
    complete: bool,
    check_result: &mut CheckResult,
) {
    if let (Some(commit), true) = (transaction.commit(), complete) {
        for node in run.replicas() {
            if !transaction.voted.iter().any(|vote| vote.node == node) {
                check_result.violation(finding!(
                    transaction(txn), line(commit);
                    "AC3: {txn} was committed ({commit}), but {node} has no durable PREPARE of it"
                ));
            }
        }
        if transaction.decided.is_none() {
            let earliest = transaction.committed.iter().min_by_key(|commit| commit.time);
            let commit = earliest.copied().unwrap_or(commit);
            let node = commit.node;
            check_result.violation(finding!(
                transaction(txn), line(commit);
                "AC3: {node} committed {txn} ({commit}), but the master has no durable COMMIT of it"
            ));
        }
    }
    let first = transaction.aborted.iter().find(|abort| abort.recipient.is_some());
    if let Some(abort) = first.filter(|abort| abort.all_yes) {
        let finding = finding!(
            nested(aborter = aborter(abort, txn));
            "AC4: {aborter}, though every replica had voted yes"
        );
        check_result.violation(finding.with_impact(Impact::BrokenPromise));
    }
}

/// AC5.
fn all_decide(run: &Run, final_state: &FinalState, complete: bool, check_result: &mut CheckResult) {
    for node in run.replicas() {
        match final_state.replicas.get(&node) {
            None => check_result.unknown(format!("AC5: {}", run.unreported(node))),
            Some(replica) => {
                for (txn, key) in &replica.in_doubt {
                    let finding = finding!(
                        transaction(txn), key(key);
                        "AC5: {node} is still in doubt about {txn}, which locks {key}"
                    );
                    check_result.violation(finding.with_impact(Impact::Stopped));
                }
            }
        }
    }
    if !complete {
        return;
    }
    for (txn, transaction) in &run.evidence.transactions.by_id {
        let Some(decided) = transaction.decided else { continue };
        for node in run.replicas().filter(|node| !transaction.committed_at(*node)) {
            let finding = finding!(
                transaction(txn), line(decided);
                "AC5: {node} never committed {txn}, decided at {decided}, \
                 and no failure was left to keep it from doing so"
            );
            check_result.violation(finding.with_time(None).with_impact(Impact::Stopped));
        }
    }
}

/// A replica's final state by key.
pub(super) fn by_key(entries: &[(Key, Version, Value)]) -> BTreeMap<&Key, (Version, &Value)> {
    entries.iter().map(|(key, version, value)| (key, (*version, value))).collect()
}

/// What a replica has under a key, in words.
pub(super) fn held(found: Option<&(Version, &Value)>) -> Finding {
    match found {
        None => "nothing".into(),
        Some((version, value)) => finding!(transaction(version); "'{value}' of {version}"),
    }
}

/// The replicas are equal, and equal to what was committed.
fn replicas_are_equal(
    run: &Run,
    final_state: &FinalState,
    complete: bool,
    check_result: &mut CheckResult,
) {
    let states: BTreeMap<Node, _> = final_state
        .replicas
        .iter()
        .map(|(node, replica)| (*node, by_key(&replica.entries)))
        .collect();
    let Some((&first, reference)) = states.first_key_value() else { return };
    for (&node, state) in states.iter().skip(1) {
        let mut keys: Vec<_> = reference.keys().chain(state.keys()).collect();
        keys.sort();
        keys.dedup();
        for key in keys {
            let (ours, theirs) = (reference.get(*key), state.get(*key));
            if ours != theirs {
                check_result.violation(finding!(
                    key(key), nested(ours = held(ours)), nested(theirs = held(theirs));
                    "the replicas differ: under {key} {first} has {ours}, {node} has {theirs}"
                ));
            }
        }
    }
    if !complete {
        return;
    }
    let last = run.evidence.transactions.last_commits();
    for (&node, state) in &states {
        for (key, (txn, write)) in &last {
            let expected = write.value.as_ref().map(|value| (*txn, value));
            if state.get(*key) != expected.as_ref() {
                check_result.violation(finding!(
                    nested(found = held(state.get(*key))), nested(left = held(expected.as_ref())),
                    key(key), transaction(txn);
                    "{node} has {found} under {key}, but its last commit {txn} left {left}"
                ));
            }
        }
        for (key, found) in state.iter().filter(|(key, _)| !last.contains_key(*key)) {
            check_result.violation(finding!(
                key(key), nested(found = held(Some(found)));
                "{node} has {found} under {key}, which no transaction has committed"
            ));
        }
    }
}
