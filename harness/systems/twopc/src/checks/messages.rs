//! Messages: what a node received is what another one sent to it, with the same epoch, watermark, store and
//! content. The network may lose, repeat and reorder messages, but nothing may change or make up one. And while there
//! are no faults and no connection ends, none is lost: in a whole run without faults, and otherwise after everything is
//! repaired and has settled. From the journals and the history.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use checker::{CheckResult, Finding, finding};
use history::{Action, Event, NemesisEvent, nemesis::InjectionKind};
use system::protocol::Node;

use super::{
    Run,
    evidence::{NodeFacts, Sent},
};

/// The name of the check.
pub const NAME: &str = "messages";

/// Checks a run.
#[must_use]
pub fn check(run: &Run) -> CheckResult {
    let mut check_result = CheckResult::new(NAME);
    run.evidence.complete(&mut check_result);
    let mut compared = 0;
    let seconds = second_processes(&run.events);
    for (node, facts) in &run.evidence.nodes {
        for received in &facts.traffic.received {
            // A node without a journal has been reported.
            let sender = run.evidence.nodes.get(&received.from);
            let Some(sender) = sender.filter(|sender| sender.starts > 0) else { continue };
            if received.is_value && sender.traffic.lacks_values {
                continue;
            }
            // What an empty or a copied store says in the name of a node is in a journal of its own, if it is kept.
            if seconds.contains(&received.from) && !sender.traffic.has_second {
                continue;
            }
            compared += 1;
            let sent = sender.traffic.sent.get(node);
            if sent.is_some_and(|sent| sent.contains_key(&received.hash)) {
                continue;
            }
            let (position, from, kind) = (received.position, received.from, received.kind);
            let about = received
                .txn
                .map_or_else(Finding::default, |txn| finding!(transaction(txn); " about {txn}"));
            check_result.violation(finding!(
                line(position), nested(about);
                "{node} received a message '{kind}'{about} from {from} ({position}) that {from} never sent \
                 to it, or sent with another epoch, watermark, store or content"
            ));
        }
    }
    check_result.measure("compared", compared);
    if let Some((time, words)) = undisturbed(run) {
        let judged = none_lost(run, &time, words, &mut check_result);
        check_result.measure("sent_undisturbed", judged);
    }
    check_result
}

/// The time in which nothing may be lost, and in words. None if there is none.
fn undisturbed(run: &Run) -> Option<(Range<i64>, &'static str)> {
    let starts = |facts: &NodeFacts| facts.starts == 1;
    if run.parameters.faults.is_empty() && run.evidence.nodes.values().all(starts) {
        return Some((i64::MIN..i64::MAX, "in a run without faults"));
    }
    let settled = run.events.iter().rev().find_map(|event| match &event.action {
        Action::Nemesis(NemesisEvent::Settled(settled)) => Some((event.time, settled.ms)),
        _ => None,
    });
    let end = run.events.iter().rev().find_map(|event| match &event.action {
        Action::Nemesis(NemesisEvent::FinalReads(_)) => Some(event.time),
        _ => None,
    });
    let (begin, Some(_)) = settled? else { return None };
    Some((begin.cast_signed()..end?.cast_signed(), "after everything was repaired"))
}

/// The nodes in whose name a second process was started.
fn second_processes(events: &[Event]) -> HashSet<Node> {
    let node = |event: &Event| match &event.action {
        Action::Nemesis(NemesisEvent::Injected(
            InjectionKind::SecondInstance | InjectionKind::Wipe | InjectionKind::RestoredCopy,
            injected,
        )) => injected.node.as_deref()?.parse().ok(),
        _ => None,
    };
    events.iter().filter_map(node).collect()
}

/// Each stream delivers in order. So whatever was sent between two messages that were received is received too.
/// Returns how many messages were sent in this time.
fn none_lost(run: &Run, time: &Range<i64>, words: &str, check_result: &mut CheckResult) -> usize {
    let mut judged = 0;
    for (node, facts) in &run.evidence.nodes {
        let received: HashSet<(Node, u64)> =
            facts.traffic.received.iter().map(|message| (message.from, message.hash)).collect();
        for (from, sender) in &run.evidence.nodes {
            let Some(sent) = sender.traffic.sent.get(node) else { continue };
            let is_within = |message: &Sent| time.contains(&message.position.time);
            let sent: HashMap<&u64, &Sent> = sent.iter().filter(|(_, it)| is_within(it)).collect();
            judged += sent.len();
            let arrived = |hash: &u64| received.contains(&(*from, *hash));
            let lines = sent.iter().filter(|(hash, _)| arrived(hash));
            let lines = lines.map(|(_, message)| message.position.line);
            let (first, last) = lines
                .fold((usize::MAX, 0), |(first, last), line| (first.min(line), last.max(line)));
            let is_between = |message: &Sent| (first..last).contains(&message.position.line);
            let lost = sent.iter().filter(|(hash, message)| is_between(message) && !arrived(hash));
            let mut lost: Vec<&Sent> = lost.map(|(_, message)| *message).collect();
            lost.sort_by_key(|message| message.position.line);
            if let Some(Sent { position, kind, txn }) = lost.first() {
                let about = txn.map_or_else(
                    Finding::default,
                    |txn| finding!(transaction(txn); " about {txn}"),
                );
                check_result.violation(finding!(
                    line(position), nested(about);
                    "{node} never received the message '{kind}'{about} that {from} sent to it ({position}), \
                     but later ones, {words}; {} messages between the two were lost",
                    lost.len()
                ));
            }
        }
    }
    judged
}
