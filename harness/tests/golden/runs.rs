//! The golden runs: valid ones from a small cluster, and for each check the violations that it must
//! find, planted one at a time.

use std::time::Duration;

use checker::Validity;
use history::{Action, ClientEvent, Function, Kind, NemesisEvent, Version, nemesis::Settled};
use serde_json::json;
use system::{
    journal::Entry,
    protocol::{
        Body, Decision, Effect, Event, HaltKind, Message, NoReason, Node, ReadId, Record, TxnId,
        Value,
    },
};

use super::{
    Expected,
    cluster::{Cluster, Files},
};

const R1: Node = Node::Replica(1);
const R2: Node = Node::Replica(2);
const R3: Node = Node::Replica(3);

/// The put at whose commit point the master is killed.
const IN_DOUBT: TxnId = TxnId::new(1, 2);

/// Every golden run by name, with its expected result.
pub(crate) fn all() -> Vec<(&'static str, Expected, Files)> {
    let mut all = Vec::new();
    let mut add = |name, check: &str, verdict, says: &str, files| {
        let expected = Expected { verdict, check: check.to_owned(), says: says.to_owned() };
        all.push((name, expected, files));
    };
    let uncertain = || window_of_uncertainty(Duration::ZERO);
    let mut invalid = |name, check, says, plant: &dyn Fn(&mut Files)| {
        let mut files = uncertain();
        plant(&mut files);
        add(name, check, Validity::Invalid, says, files);
    };
    invalid("linearizability-invalid", "linearizability", "k1 is not linearizable: ", &stale_get);
    invalid("atomicity-ac1-invalid", "atomicity", "AC1: r2 aborted 1.2", &aborts_alone);
    invalid("atomicity-ac2-invalid", "atomicity", "AC2: r2 aborted 1.2", &reverses);
    invalid("atomicity-ac3-invalid", "atomicity", "without the yes of r3", &unheard_vote);
    invalid("atomicity-ac3-unforced-invalid", "atomicity", "r3 voted yes on 1.2", &early_vote);
    invalid("atomicity-ac4-invalid", "atomicity", "AC4: ", &aborts_though_all_yes);
    invalid("atomicity-ac5-invalid", "atomicity", "AC5: r1 is still in doubt", &stays_in_doubt);
    invalid("atomicity-halt-invalid", "atomicity", "r3 halted", &halts);
    invalid("atomicity-differ-invalid", "atomicity", "r3 has '9-9'", &differs);
    invalid("reads-invalid", "reads", "r1 answered a read of k1", &serves_a_locked_key);
    invalid("durability-invalid", "durability", "but r1 has nothing", &loses_a_write);
    invalid(
        "reply-soundness-ok-invalid",
        "reply-soundness",
        "nobody has committed",
        &ok_for_nothing,
    );
    invalid(
        "reply-soundness-fail-invalid",
        "reply-soundness",
        "'0-1' (index 0) failed",
        &fail_of_a_commit,
    );
    let of_a_del = "deletes of k2: 1 committed, but only 0 answered Ok";
    invalid("reply-soundness-del-invalid", "reply-soundness", of_a_del, &fail_of_a_delete);
    let unrequested = "put k3 = '3-1'";
    invalid(
        "reply-soundness-unasked-invalid",
        "reply-soundness",
        unrequested,
        &requests_another_value,
    );
    invalid(
        "reply-soundness-version-invalid",
        "reply-soundness",
        "was told the version 2.2",
        &tells_another_version,
    );
    invalid("recovery-invalid", "recovery", "without COMMIT", &forgets_at_a_start);
    invalid("messages-invalid", "messages", "that master never sent", &changes_a_message);
    invalid(
        "liveness-invalid",
        "liveness",
        "r1 was in doubt about 1.2 and did not inquire",
        &never_inquires,
    );
    let past = "r1 voted no on 1.9";
    invalid("conflicts-refusal-invalid", "conflicts", past, &refuses_because_of_the_past);
    let unsettled = "not all ready";
    invalid("convergence-unsettled-invalid", "convergence", unsettled, &never_settles);
    invalid("conflicts-over-invalid", "conflicts", "no other write", &conflicts_with_the_past);
    invalid("conflicts-invalid", "conflicts", "no other write", &conflicts_with_nobody);
    for (name, check) in [
        ("linearizability-valid", "linearizability"),
        ("atomicity-valid", "atomicity"),
        ("reads-valid", "reads"),
        ("durability-valid", "durability"),
        ("reply-soundness-valid", "reply-soundness"),
        ("recovery-valid", "recovery"),
        ("messages-valid", "messages"),
        ("liveness-valid", "liveness"),
        ("convergence-valid", "convergence"),
        ("faults-valid", "faults"),
        ("statistics-valid", "statistics"),
    ] {
        add(name, check, Validity::Valid, "", uncertain());
    }
    add("messages-settled-valid", "messages", Validity::Valid, "", settled(&mut |_| {}));
    let says = "after everything was repaired; 1 messages between the two were lost";
    let lost = settled(&mut loses_a_message);
    add("messages-settled-invalid", "messages", Validity::Invalid, says, lost);
    let mut by_handshake = uncertain();
    votes_by_handshake(&mut by_handshake);
    add("atomicity-handshake-valid", "atomicity", Validity::Valid, "", by_handshake);
    let mut without_journal = uncertain();
    without_journal.journals.insert(R2, Vec::new());
    let says = "r2 has no journal, or its journal records no start";
    add("atomicity-unknown", "atomicity", Validity::Unknown, says, without_journal);
    let says = "no write completed with ok (1 invoked)";
    add("statistics-idle-unknown", "statistics", Validity::Unknown, says, nothing_completes());
    add("conflicts-valid", "conflicts", Validity::Valid, "", conflict());
    let late = window_of_uncertainty(Duration::from_secs(60));
    add("convergence-invalid", "convergence", Validity::Invalid, "about 1.2", late);
    let mut vacuous = uncertain();
    vacuous.description.faults.push("pause-replica".to_owned());
    let says = "pause-replica was requested but never injected";
    add("faults-vacuous", "faults", Validity::Unknown, says, vacuous);
    let mut unfinished = uncertain();
    unfinished.final_state = None;
    let says = "the run ended before";
    add("durability-unknown", "durability", Validity::Unknown, says, unfinished);
    let mut monitored = uncertain();
    let final_state = monitored.final_state.as_mut().expect("the run ended");
    final_state.invariant_violations =
        Some(vec!["R1: what can be read is the last committed write".to_owned()]);
    add("invariant-monitor-invalid", "invariant-monitor", Validity::Invalid, "R1: ", monitored);
    let mut truncated = uncertain();
    ends_before_the_last_put(&mut truncated);
    let says = "the first trace of 1 committed writes";
    add("reply-soundness-unknown", "reply-soundness", Validity::Unknown, says, truncated);
    let silent = Cluster::new(&[]).finish();
    add("statistics-unknown", "statistics", Validity::Unknown, "no operation", silent);
    all
}

/// A master that is killed at its commit point and restarted, with operations before and after. Between
/// heal and restart some time may pass.
fn window_of_uncertainty(late: Duration) -> Files {
    use Function::{Del, Get, Put};
    let mut cluster = Cluster::new(&["master-uncertainty"]);
    cluster.op(0, Put, "k1", Some("0-1"));
    cluster.op(1, Get, "k1", None);
    cluster.invoke(0, Put, "k1", Some("0-2"));
    cluster
        .run_until(|node, effect| node == Node::Master && matches!(effect, Effect::Reply { .. }));
    let at = "master:after-persist:commit";
    cluster.nemesis("kill", json!({ "node": "master", "at": at, "txn": "1.2", "in_doubt": 3 }));
    cluster.kill(Node::Master);
    if !late.is_zero() {
        cluster.nemesis("heal", json!(null));
        cluster.advance(late);
    }
    cluster.nemesis("restart", json!({ "node": "master" }));
    cluster.start(Node::Master);
    cluster.run();
    cluster.op(1, Get, "k1", None);
    cluster.op(1, Put, "k2", Some("1-1"));
    cluster.op(2, Del, "k2", None);
    cluster.op(3, Put, "k3", Some("3-1"));
    cluster.op(2, Get, "k2", None);
    let mut files = cluster.finish();
    if !late.is_zero() {
        // Keeps only the heal that came too early.
        let last = |event: &history::Event| {
            matches!(&event.action, Action::Nemesis(NemesisEvent::Healed(_)))
        };
        let at = files.history.iter().rposition(last).expect("the run was healed");
        files.history.remove(at);
    }
    files
}

/// A run with a fault, in which two keys are written after everything has settled.
fn settled(plant: &mut dyn FnMut(&mut Files)) -> Files {
    let mut cluster = Cluster::new(&["pause-replica"]);
    cluster.op(0, Function::Put, "k1", Some("0-1"));
    cluster.nemesis("pause", json!({ "node": "r1", "fault": "pause-replica" }));
    cluster.nemesis("resume", json!({ "node": "r1" }));
    cluster.nemesis("settled", json!({ "ms": 3 }));
    for (key, value) in [("k1", "0-2"), ("k2", "0-3"), ("k3", "0-4")] {
        cluster.op(0, Function::Put, key, Some(value));
    }
    cluster.nemesis("final", json!({ "unread": [] }));
    let mut files = cluster.finish();
    plant(&mut files);
    files
}

/// A single write, during which the master is killed.
fn nothing_completes() -> Files {
    let mut cluster = Cluster::new(&["master-uncertainty"]);
    cluster.invoke(0, Function::Put, "k1", Some("0-1"));
    cluster
        .run_until(|node, effect| node == Node::Master && matches!(effect, Effect::Reply { .. }));
    let at = "master:after-persist:commit";
    cluster.nemesis("kill", json!({ "node": "master", "at": at, "txn": "1.1", "in_doubt": 3 }));
    cluster.kill(Node::Master);
    cluster.nemesis("restart", json!({ "node": "master" }));
    cluster.start(Node::Master);
    cluster.run();
    cluster.finish()
}

/// Two concurrent writes of one key: the second is aborted.
fn conflict() -> Files {
    let mut cluster = Cluster::new(&[]);
    cluster.invoke(0, Function::Put, "k1", Some("0-1"));
    cluster.invoke(1, Function::Put, "k1", Some("1-1"));
    cluster.run();
    cluster.op(1, Function::Put, "k1", Some("1-2"));
    cluster.op(0, Function::Get, "k1", None);
    cluster.finish()
}

// ---- Violations to plant ----

/// The client events of a run.
fn clients(files: &mut Files) -> impl Iterator<Item = &mut ClientEvent> {
    files.history.iter_mut().filter_map(|event| match &mut event.action {
        Action::Client(client) => Some(client),
        Action::Nemesis(_) => None,
    })
}

/// The journal of a node, and the position of the first effect that `which` selects.
fn find(
    files: &mut Files,
    node: Node,
    which: impl Fn(&Effect) -> bool,
) -> (&mut Vec<Entry>, usize) {
    let journal = files.journals.get_mut(&node).expect("every node has one");
    let at = journal
        .iter()
        .position(|entry| matches!(entry, Entry::Effect(effect) if which(effect)))
        .expect("the effect is in the journal");
    (journal, at)
}

fn commits(effect: &Effect) -> bool {
    matches!(effect, Effect::Append(Record::Commit { txn }) if *txn == IN_DOUBT)
}

fn decides(effect: &Effect) -> bool {
    matches!(effect, Effect::Append(Record::CommitDecision { txn, .. }) if *txn == IN_DOUBT)
}

/// The put completes with ok, but the get after the restart returns the previous value.
fn stale_get(files: &mut Files) {
    let mut found = None;
    for client in clients(files) {
        match (client.f, client.kind) {
            (Function::Put, Kind::Info) => {
                client.kind = Kind::Ok;
                client.error = None;
                client.version = Some(Version::new(IN_DOUBT));
            }
            (Function::Get, Kind::Ok) => match &found {
                None => found = Some(client.clone()),
                Some(first) => {
                    client.value.clone_from(&first.value);
                    client.version.clone_from(&first.version);
                    return;
                }
            },
            _ => {}
        }
    }
}

fn aborts_alone(files: &mut Files) {
    let (journal, at) = find(files, R2, commits);
    journal[at] = Entry::Effect(Effect::Append(Record::Abort { txn: IN_DOUBT }));
}

fn reverses(files: &mut Files) {
    let (journal, at) = find(files, R2, commits);
    journal.insert(at + 1, Entry::Effect(Effect::Append(Record::Abort { txn: IN_DOUBT })));
}

fn unheard_vote(files: &mut Files) {
    let journal = files.journals.get_mut(&Node::Master).expect("the master has one");
    journal.retain(|entry| {
        !matches!(entry, Entry::Event {
            event: Event::Message { from: R3, message: Message { body: Body::VoteYes { txn }, .. } },
            ..
        } if *txn == IN_DOUBT)
    });
}

/// The last vote was lost, and the following handshake names the transaction.
fn votes_by_handshake(files: &mut Files) {
    let journal = files.journals.get_mut(&Node::Master).expect("the master has one");
    for entry in journal {
        if let Entry::Event { event: Event::Message { from: R3, message }, .. } = entry
            && matches!(message.body, Body::VoteYes { txn } if txn == IN_DOUBT)
        {
            message.body = handshake();
        }
    }
    let (journal, at) = find(
        files,
        R3,
        |effect| matches!(effect, Effect::Send { message, .. } if is_vote(&message.body)),
    );
    if let Entry::Effect(Effect::Send { message, .. }) = &mut journal[at] {
        message.body = handshake();
    }
}

fn is_vote(body: &Body) -> bool {
    matches!(body, Body::VoteYes { txn } if *txn == IN_DOUBT)
}

/// r1 voted no on a transaction because of another one, which had ended.
fn refuses_because_of_the_past(files: &mut Files) {
    let (journal, at) = find(
        files,
        R1,
        |effect| matches!(effect, Effect::Send { message, .. } if is_vote(&message.body)),
    );
    let Entry::Effect(Effect::Send { to, message }) = journal[at].clone() else { return };
    let reason = NoReason::Locked { holder: TxnId::new(1, 1) };
    let message = Message { body: Body::VoteNo { txn: TxnId::new(1, 9), reason }, ..message };
    journal.insert(at, Entry::Effect(Effect::Send { to, message }));
}

/// The master started again without the COMMIT that it had made durable.
fn forgets_at_a_start(files: &mut Files) {
    for entry in files.journals.get_mut(&Node::Master).expect("the master has one") {
        if let Entry::Start { records, .. } = entry {
            records.retain(|record| !matches!(record, Record::CommitDecision { .. }));
        }
    }
}

/// r2 received a watermark that the master had not sent.
fn changes_a_message(files: &mut Files) {
    let journal = files.journals.get_mut(&R2).expect("every node has one");
    let message = journal.iter_mut().rev().find_map(|entry| match entry {
        Entry::Event { event: Event::Message { from: Node::Master, message }, .. } => Some(message),
        _ => None,
    });
    message.expect("it heard the master").watermark.seq += 1;
}

/// The master did not hear a vote of r3.
fn loses_a_message(files: &mut Files) {
    let journal = files.journals.get_mut(&Node::Master).expect("the master has one");
    let votes = TxnId::new(1, 3);
    journal.retain(|entry| {
        !matches!(entry, Entry::Event { event: Event::Message { from: R3, message }, .. }
            if matches!(message.body, Body::VoteYes { txn } if txn == votes))
    });
}

/// r1 made no inquiry, and there was time for many.
fn never_inquires(files: &mut Files) {
    let journal = files.journals.get_mut(&R1).expect("every node has one");
    let asks = |entry: &Entry| matches!(entry, Entry::Effect(Effect::Send { message, .. }) if matches!(message.body, Body::Inquire { .. }));
    journal.retain(|entry| !asks(entry));
    let at =
        journal.iter().position(|entry| matches!(entry, Entry::Effect(effect) if commits(effect)));
    let mut at = at.expect("r1 commits it");
    while !matches!(journal[at], Entry::Event { .. }) {
        at -= 1;
    }
    for entry in &mut journal[at..] {
        if let Entry::Event { t, .. } | Entry::Start { t, .. } = entry {
            *t += 60_000_000_000;
        }
    }
    // Nothing shows that the node ran late: its timers were not due.
    for entry in journal {
        if let Entry::Effect(Effect::SetTimer { after, .. }) = entry {
            *after = Duration::from_secs(600);
        }
    }
}

/// A get was told the right value and the version of another transaction.
fn tells_another_version(files: &mut Files) {
    let mut gets =
        clients(files).filter(|client| client.f == Function::Get && client.kind == Kind::Ok);
    let get = gets.find(|client| client.value.is_some()).expect("the first get finds a value");
    get.version = Some(Version::new(TxnId::new(2, 2)));
}

fn handshake() -> Body {
    Body::FenceOk { incarnation: 1, in_doubt: vec![(IN_DOUBT, "k1".into())], start: 0, commits: 0 }
}

/// The vote is sent with the PREPARE, not when it is durable.
fn early_vote(files: &mut Files) {
    let (journal, at) = find(files, R3, |effect| {
        matches!(effect, Effect::Send { message: Message { body: Body::VoteYes { txn }, .. }, .. }
            if *txn == IN_DOUBT)
    });
    let vote = journal.remove(at);
    let (journal, at) = find(
        files,
        R3,
        |effect| matches!(effect, Effect::Append(Record::Prepare { txn, .. }) if *txn == IN_DOUBT),
    );
    journal.insert(at + 1, vote);
}

fn aborts_though_all_yes(files: &mut Files) {
    let (journal, at) = find(files, Node::Master, decides);
    let message = journal.iter().find_map(|entry| match entry {
        Entry::Effect(Effect::Send { message, .. }) => Some(message.clone()),
        _ => None,
    });
    let message = message.expect("the master has sent something");
    let body = Body::Decide { txn: IN_DOUBT, decision: Decision::Abort };
    let abort = Effect::Send { to: R1, message: Message { body, ..message } };
    journal.insert(at, Entry::Effect(abort));
}

fn stays_in_doubt(files: &mut Files) {
    let final_state = files.final_state.as_mut().expect("the run was finished");
    let replica = final_state.replicas.get_mut(&R1).expect("every replica reported its state");
    replica.in_doubt.push((IN_DOUBT, "k1".into()));
}

fn halts(files: &mut Files) {
    let why = "told to commit 1.2, which is aborted here".to_owned();
    let halt = Effect::Halt { kind: HaltKind::Violation, why };
    files.journals.get_mut(&R3).expect("every node has one").push(Entry::Effect(halt));
}

fn differs(files: &mut Files) {
    let final_state = files.final_state.as_mut().expect("the run was finished");
    let replica = final_state.replicas.get_mut(&R3).expect("every replica reported its state");
    replica.entries[0].2 = Value::from("9-9");
}

/// Between the commit point and the commit at r1, which are far apart because the master was killed.
fn serves_a_locked_key(files: &mut Files) {
    let master = files.journals[&Node::Master].clone();
    let restarted = master.iter().rev().find_map(|entry| match entry {
        Entry::Start { t, .. } => Some(*t),
        _ => None,
    });
    let t = restarted.expect("the master was started again");
    let (journal, at) = find(files, R1, commits);
    let event = journal[..at]
        .iter()
        .rposition(|entry| matches!(entry, Entry::Event { .. }))
        .expect("something made it commit");
    let serve = Effect::Serve { read: ReadId { epoch: 1, n: 9, attempt: 0 }, key: "k1".into() };
    journal.insert(event, Entry::Event { t, event: Event::Persisted(0) });
    journal.insert(event + 1, Entry::Effect(serve));
}

fn loses_a_write(files: &mut Files) {
    let final_state = files.final_state.as_mut().expect("the run was finished");
    for replica in final_state.replicas.values_mut() {
        replica.entries.retain(|(key, ..)| *key != "k3".into());
    }
}

fn ok_for_nothing(files: &mut Files) {
    let last = clients(files)
        .filter(|client| client.f == Function::Put && client.kind == Kind::Info)
        .last()
        .expect("its outcome is unknown");
    last.kind = Kind::Ok;
    last.error = None;
    last.version = Some(Version::new(IN_DOUBT));
    // Nobody has committed it: it was aborted everywhere.
    for (node, journal) in &mut files.journals {
        if *node == Node::Master {
            journal.retain(|entry| !matches!(entry, Entry::Effect(effect) if decides(effect)));
        }
        for entry in journal {
            match entry {
                Entry::Effect(effect) if commits(effect) => {
                    *effect = Effect::Append(Record::Abort { txn: IN_DOUBT });
                }
                Entry::Start { records, .. } => records.retain(
                    |record| !matches!(record, Record::CommitDecision { txn, .. } if *txn == IN_DOUBT),
                ),
                _ => {}
            }
        }
    }
}

fn fail_of_a_commit(files: &mut Files) {
    let first = clients(files)
        .find(|client| client.f == Function::Put && client.kind == Kind::Ok)
        .expect("the first put");
    first.kind = Kind::Fail;
    first.version = None;
    first.error = Some("timeout: r1".to_owned());
}

/// A delete that took effect fails.
fn fail_of_a_delete(files: &mut Files) {
    let del = clients(files)
        .find(|client| client.f == Function::Del && client.kind == Kind::Ok)
        .expect("the delete of k2");
    del.kind = Kind::Fail;
    del.version = None;
    del.error = Some("timeout: r1".to_owned());
}

/// The client requested another value than the one that was committed.
fn requests_another_value(files: &mut Files) {
    for client in clients(files).filter(|client| client.value.as_deref() == Some("3-1")) {
        client.value = Some("3-9".to_owned());
    }
}

/// As after a kill of the harness, when its last lines had not reached the file.
fn ends_before_the_last_put(files: &mut Files) {
    files.final_state = None;
    let of_the_put = |event: &history::Event| matches!(&event.action, Action::Client(client) if client.value.as_deref() == Some("3-1"));
    let at = files.history.iter().position(of_the_put).expect("the put was invoked");
    files.history.truncate(at);
}

fn never_settles(files: &mut Files) {
    let last = files.history.last().expect("the heal");
    let (index, time) = (last.index + 1, last.time + 1);
    let settled = NemesisEvent::Settled(Settled { ms: None, ..Settled::default() });
    files.history.push(history::Event { index, time, action: Action::Nemesis(settled) });
}

/// The transaction of an indeterminate put of k1 is over, and still the next write conflicts.
fn conflicts_with_the_past(files: &mut Files) {
    let last = files.history.last().expect("the heal").clone();
    let put = |kind, error: Option<&str>| {
        Action::Client(ClientEvent {
            process: 9,
            kind,
            f: Function::Put,
            key: "k1".to_owned(),
            value: Some("9-1".to_owned()),
            version: None,
            error: error.map(str::to_owned),
            node: None,
        })
    };
    let actions = [put(Kind::Invoke, None), put(Kind::Fail, Some("conflict: 1.2 was first"))];
    for (n, action) in (1..).zip(actions) {
        let (index, time) = (last.index + n, last.time + n);
        files.history.push(history::Event { index, time, action });
    }
}

fn conflicts_with_nobody(files: &mut Files) {
    let last = clients(files)
        .filter(|client| client.f == Function::Del && client.kind == Kind::Ok)
        .last()
        .expect("the delete of k2");
    last.kind = Kind::Fail;
    last.version = None;
    last.error = Some("conflict: 1.7 was first".to_owned());
}
