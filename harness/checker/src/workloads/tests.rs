//! Each check accepts what its rule allows and finds what it forbids.

use history::{
    ClientEvent, Kind, Version,
    nemesis::{
        ClientFailed, Compared, Died, EndedEarly, FinalReads, Injected, InjectionKind, Missed,
        NodeState, Settled,
    },
};
use serde_json::json;

use super::*;
use crate::Validity;
use crate::transactions::{self, BaseLevel, Order};

/// A history that is written event by event.
#[derive(Default)]
struct Script {
    events: Vec<Event>,
    description: RunDescription,
}

impl Script {
    fn new(workload: &str, claim: Level) -> Self {
        let description = RunDescription {
            workload: Some(workload.to_owned()),
            claim: Some(claim.name()),
            concurrency: Some(2),
            ..RunDescription::default()
        };
        Script { events: Vec::new(), description }
    }

    fn push(&mut self, action: Action) -> &mut Self {
        let index = self.events.len() as u64;
        self.events.push(Event { index, time: index * 1000, action });
        self
    }

    fn event(
        &mut self,
        process: u64,
        kind: Kind,
        f: Function,
        key: &str,
        value: &str,
    ) -> &mut Self {
        let value = (!value.is_empty()).then(|| value.to_owned());
        let client = ClientEvent {
            process,
            kind,
            f,
            key: key.to_owned(),
            value,
            version: None,
            error: None,
            node: None,
        };
        self.push(Action::Client(client))
    }

    /// An operation that ends before the next one begins.
    fn op(&mut self, process: u64, kind: Kind, f: Function, key: &str, value: &str) -> &mut Self {
        let written = if f.returns_value() { "" } else { value };
        self.event(process, Kind::Invoke, f, key, written).event(process, kind, f, key, value)
    }

    /// The same with a version.
    fn versioned(
        &mut self,
        process: u64,
        f: Function,
        key: &str,
        value: &str,
        version: u64,
    ) -> &mut Self {
        self.op(process, Kind::Ok, f, key, value);
        let last = self.events.last_mut().expect("it was just pushed");
        if let Action::Client(client) = &mut last.action {
            client.version = Some(Version::new(version));
        }
        self
    }

    fn settled(&mut self) -> &mut Self {
        self.push(Action::Nemesis(NemesisEvent::Settled(Settled {
            ms: Some(1),
            ..Settled::default()
        })))
    }

    fn read_everything(&mut self) -> &mut Self {
        self.push(Action::Nemesis(NemesisEvent::FinalReads(FinalReads { unread: Vec::new() })))
    }

    /// The result of a check.
    fn result(&self, name: &str) -> CheckResult {
        let operations = history::pair(&self.events).expect("well formed");
        let run = WorkloadRun {
            description: &self.description,
            events: &self.events,
            operations: &operations,
        };
        let results = check(&run, &Limits::default()).expect("the workload exists");
        results.results.check(name).unwrap_or_else(|| panic!("no check {name}")).clone()
    }

    fn expect(&self, name: &str, verdict: Validity, part: &str) {
        let result = self.result(name);
        let text = serde_json::to_string(&result).expect("it is plain data");
        assert_eq!(result.verdict, verdict, "{text}");
        assert!(text.contains(part), "'{part}' is not in {text}");
    }
}

use Function::{Add, Append, Dequeue, Enqueue, Get, Inc, Lock, Poll, Put, Read, Transfer, Unlock};
use Kind::{Fail, Info, Invoke, Ok};
use Level::{Durable, ExactlyOnce, Fenced, Linearizable};
use Validity::{Invalid, Unknown, Valid};

/// What a bank claims.
const SERIALIZABLE: Level = Level::Isolation(transactions::Level {
    base: BaseLevel::Serializable,
    order: Order::Dependencies,
});

#[test]
fn sets_keep_what_is_known() {
    let set = |claim| Script::new("set", claim);
    let mut good = set(Linearizable);
    good.op(0, Ok, Add, "s", "1").op(1, Info, Add, "s", "2").op(0, Fail, Add, "s", "3");
    good.settled().op(0, Ok, Read, "s", "[1]").op(0, Ok, Read, "s", "[1,2]");
    good.expect("set", Valid, "");

    let mut lost = set(Durable);
    lost.op(0, Ok, Add, "s", "1").settled().op(0, Ok, Read, "s", "[]");
    lost.expect("set", Invalid, "1 is lost");

    // An add of unknown outcome was seen, so it is known.
    let mut seen = set(Durable);
    seen.op(1, Info, Add, "s", "1")
        .op(0, Ok, Read, "s", "[1]")
        .settled()
        .op(0, Ok, Read, "s", "[]");
    seen.expect("set", Invalid, "1 is lost");

    let mut unread = set(Durable);
    unread.op(0, Ok, Add, "s", "1").settled();
    unread.expect("set", Unknown, "were not looked for");

    for (claim, verdict) in [(Linearizable, Invalid), (Durable, Valid)] {
        let mut stale = set(claim);
        stale.op(0, Ok, Add, "s", "1").op(0, Ok, Read, "s", "[]");
        stale.settled().op(0, Ok, Read, "s", "[1]").expect("set", verdict, "\"stale_reads\":1");
    }

    let mut failed = set(Durable);
    failed.op(0, Fail, Add, "s", "1").settled().op(0, Ok, Read, "s", "[1]");
    failed.expect("set", Invalid, "reports as fail what may have happened");
    let mut unknown = set(Durable);
    unknown.settled().op(0, Ok, Read, "s", "[9]").expect("set", Invalid, "nobody has added");
    let mut twice = set(Durable);
    twice.op(0, Ok, Add, "s", "1").settled().op(0, Ok, Read, "s", "[1,1]");
    twice.expect("set", Invalid, "returned 1 twice");
}

#[test]
fn counters_lie_between_their_bounds() {
    let mut script = Script::new("counter", Linearizable);
    script.op(0, Ok, Inc, "c", "5").op(1, Info, Inc, "c", "3").op(0, Ok, Inc, "c", "-1");
    script.op(2, Fail, Inc, "c", "9").settled();
    for (value, verdict) in [("4", Valid), ("7", Valid), ("3", Invalid), ("8", Invalid)] {
        let mut read =
            Script { events: script.events.clone(), ..Script::new("counter", Linearizable) };
        read.op(0, Ok, Read, "c", value).expect("counter", verdict, "");
    }
    // Before the end of all faults, only a linearizable counter is judged.
    for (claim, verdict) in [(Linearizable, Invalid), (Durable, Valid)] {
        let mut stale = Script::new("counter", claim);
        stale
            .op(0, Ok, Inc, "c", "5")
            .op(0, Ok, Read, "c", "0")
            .settled()
            .op(0, Ok, Read, "c", "5");
        stale.expect("counter", verdict, "\"wrong_reads\":1");
    }
    // What is invoked but has not returned may be counted, or not. Once it was, it is counted for ever.
    for (claim, first, last, verdict) in [
        (Linearizable, "0", "0", Valid),
        (Linearizable, "0", "5", Valid),
        (Linearizable, "5", "5", Valid),
        (Linearizable, "5", "0", Invalid),
        (Durable, "5", "0", Valid),
    ] {
        let mut open = Script::new("counter", claim);
        open.event(1, Invoke, Inc, "c", "5").op(0, Ok, Read, "c", first);
        open.settled().op(0, Ok, Read, "c", last).expect("counter", verdict, "");
    }
}

#[test]
fn queues_return_what_was_put_in() {
    let queue = |claim| Script::new("queue", claim);
    let mut good = queue(ExactlyOnce);
    good.op(0, Ok, Enqueue, "q", "1").op(1, Info, Enqueue, "q", "2").op(0, Ok, Dequeue, "q", "2");
    good.settled().op(0, Ok, Dequeue, "q", "1").op(0, Ok, Dequeue, "q", "").read_everything();
    good.expect("queue", Valid, "");

    let mut lost = queue(Durable);
    lost.op(0, Ok, Enqueue, "q", "1").settled().op(0, Ok, Dequeue, "q", "").read_everything();
    lost.expect("queue", Invalid, "lost 1 acknowledged elements");
    // A dequeue of unknown outcome may have taken it; one that says what it took has not.
    let mut taken = queue(Durable);
    taken.op(0, Ok, Enqueue, "q", "1").op(1, Info, Dequeue, "q", "");
    taken.settled().op(0, Ok, Dequeue, "q", "").read_everything();
    taken.expect("queue", Unknown, "may have taken them");
    let mut delivered = queue(Durable);
    delivered.op(0, Ok, Enqueue, "q", "1").op(1, Info, Dequeue, "q", "1");
    delivered.settled().op(0, Ok, Dequeue, "q", "").read_everything();
    delivered.expect("queue", Valid, "");

    let mut undrained = queue(Durable);
    undrained.op(0, Ok, Enqueue, "q", "1").settled().read_everything();
    undrained.expect("queue", Unknown, "was not emptied");
    for (claim, verdict) in [(ExactlyOnce, Invalid), (Durable, Valid)] {
        let mut twice = queue(claim);
        twice
            .op(0, Ok, Enqueue, "q", "1")
            .op(0, Ok, Dequeue, "q", "1")
            .op(1, Ok, Dequeue, "q", "1");
        twice.settled().op(0, Ok, Dequeue, "q", "").read_everything();
        twice.expect("queue", verdict, "\"delivered_twice\":1");
    }
    let mut failed = queue(Durable);
    failed.op(0, Fail, Enqueue, "q", "1").op(0, Ok, Dequeue, "q", "1");
    failed.settled().op(0, Ok, Dequeue, "q", "").read_everything();
    failed.expect("queue", Invalid, "reports as fail");
}

#[test]
fn logs_keep_elements_at_their_offsets() {
    let log = |claim| Script::new("log", claim);
    let mut good = log(ExactlyOnce);
    good.versioned(0, Append, "l", "7", 0).op(1, Info, Append, "l", "8").settled();
    good.op(0, Ok, Poll, "l", "[[0,7]]").op(0, Ok, Poll, "l", "[]").expect("log", Valid, "");

    let mut lost = log(Durable);
    lost.op(0, Ok, Append, "l", "7").settled().op(0, Ok, Poll, "l", "[]");
    lost.expect("log", Invalid, "7 is lost");
    let mut unread = log(Durable);
    unread.op(0, Ok, Append, "l", "7").settled().op(0, Ok, Poll, "l", "[[0,7]]");
    unread.expect("log", Unknown, "to its end");
    let mut differs = log(Durable);
    differs.op(0, Ok, Append, "l", "7").op(0, Ok, Append, "l", "8");
    differs.op(0, Ok, Poll, "l", "[[0,7]]").settled();
    differs.op(0, Ok, Poll, "l", "[[0,8],[1,7]]").op(0, Ok, Poll, "l", "[]");
    differs.expect("log", Invalid, "offset 0 holds 7");
    let mut moved = log(Durable);
    moved.versioned(0, Append, "l", "7", 3).settled();
    moved.op(0, Ok, Poll, "l", "[[0,7]]").op(0, Ok, Poll, "l", "[]");
    moved.expect("log", Invalid, "was acknowledged at offset 3");
    for (claim, verdict) in [(ExactlyOnce, Invalid), (Durable, Valid)] {
        let mut twice = log(claim);
        twice.op(0, Ok, Append, "l", "7").settled();
        twice.op(0, Ok, Poll, "l", "[[0,7],[1,7]]").op(0, Ok, Poll, "l", "[]");
        twice.expect("log", verdict, "\"duplicates\":1");
    }
}

#[test]
fn elements_that_are_appended_several_times_are_told_apart() {
    let log = |claim| Script::new("log", claim);
    let end = |script: &mut Script, records: &str, verdict, part: &str| {
        script.settled().op(0, Ok, Poll, "l", records).op(0, Ok, Poll, "l", "[]");
        script.expect("log", verdict, part);
    };
    // The append that was acknowledged is not the one that failed, nor the one that nobody knows of.
    let mut failed = log(Durable);
    failed.versioned(0, Append, "l", "7", 0).op(0, Fail, Append, "l", "7");
    end(&mut failed, "[[0,7]]", Valid, "\"lost\":0");
    let mut unknown = log(Durable);
    unknown.versioned(0, Append, "l", "7", 0).op(1, Info, Append, "l", "7");
    end(&mut unknown, "[[1,8]]", Invalid, "7 is lost");
    let mut all_failed = log(Durable);
    all_failed.op(0, Fail, Append, "l", "7");
    end(&mut all_failed, "[[0,7]]", Invalid, "reports as fail");
    for (records, verdict) in [("[[0,7],[1,7]]", Valid), ("[[0,7]]", Invalid)] {
        let mut twice = log(ExactlyOnce);
        twice.op(0, Ok, Append, "l", "7").op(0, Ok, Append, "l", "7");
        end(&mut twice, records, verdict, "");
    }
    // The second append found that the first had happened.
    let mut same = log(ExactlyOnce);
    same.versioned(0, Append, "l", "7", 0).versioned(0, Append, "l", "7", 0);
    end(&mut same, "[[0,7]]", Valid, "\"lost\":0");
}

#[test]
fn logs_return_what_is_there_and_keep_it() {
    let mut future = Script::new("log", Durable);
    future.op(0, Ok, Poll, "l", "[[0,7]]").versioned(0, Append, "l", "7", 0);
    future.settled().op(0, Ok, Poll, "l", "[[0,7]]").op(0, Ok, Poll, "l", "[]");
    future.expect("log", Invalid, "returned 7 before the append");

    let vanished = |records| {
        let mut script = Script::new("log", Durable);
        script.versioned(0, Append, "l", "7", 0).op(1, Info, Append, "l", "8");
        script.op(0, Ok, Poll, "l", "[[0,7],[1,8]]").settled();
        script.op(0, Ok, Poll, "l", records).op(0, Ok, Poll, "l", "[]");
        script
    };
    vanished("[[0,7],[1,8]]").expect("log", Valid, "\"lost\":0");
    vanished("[[0,7]]").expect("log", Invalid, "offset 1 of l is lost: it held 8");
    vanished("[[1,8]]").expect("log", Invalid, "\"lost\":1");
    // A poll that was over later may have seen what came after the consumers.
    let mut late = Script::new("log", Durable);
    late.versioned(0, Append, "l", "7", 0).op(1, Info, Append, "l", "8");
    late.event(2, Invoke, Poll, "l", "").settled();
    late.op(0, Ok, Poll, "l", "[[0,7]]").op(0, Ok, Poll, "l", "[]");
    late.event(2, Ok, Poll, "l", "[[0,7],[1,8]]").expect("log", Valid, "\"lost\":0");
}

#[test]
fn locks_are_held_by_one() {
    let lock = || Script::new("lock", Linearizable);
    let mut good = lock();
    good.versioned(0, Lock, "m", "", 1).op(0, Ok, Unlock, "m", "").versioned(1, Lock, "m", "", 2);
    good.expect("lock", Valid, "");

    let mut twice = lock();
    twice.op(0, Ok, Lock, "m", "").op(1, Ok, Lock, "m", "").op(0, Ok, Unlock, "m", "");
    twice.expect("lock", Invalid, "m is held twice");
    // Where the holding that came first was lost, its release says so; two that are confirmed do not overlap.
    for (release, claim, verdict) in
        [(Fail, Fenced, Valid), (Ok, Fenced, Invalid), (Fail, Linearizable, Invalid)]
    {
        let mut lost = Script::new("lock", claim);
        lost.op(0, Ok, Lock, "m", "").op(1, Ok, Lock, "m", "").op(0, release, Unlock, "m", "");
        lost.op(1, Ok, Unlock, "m", "").expect("lock", verdict, "");
    }
    let mut unconfirmed = Script::new("lock", Fenced);
    unconfirmed.op(0, Ok, Lock, "m", "").op(0, Fail, Unlock, "m", "");
    unconfirmed.expect("lock", Unknown, "no release succeeded");
    let mut again = lock();
    again.op(0, Ok, Lock, "m", "").op(0, Ok, Lock, "m", "").op(0, Ok, Unlock, "m", "");
    again.op(1, Ok, Lock, "m", "");
    again.expect("lock", Valid, "");

    // The release may have taken effect at any time after its invocation.
    let mut released = lock();
    released.op(0, Ok, Lock, "m", "").event(0, Invoke, Unlock, "m", "").op(1, Ok, Lock, "m", "");
    released.expect("lock", Valid, "");
    // An acquire of unknown outcome holds nothing for certain.
    let mut unknown = lock();
    unknown.op(0, Info, Lock, "m", "").op(1, Ok, Lock, "m", "").expect("lock", Valid, "");
    let mut tokens = lock();
    tokens.versioned(0, Lock, "m", "", 5).op(0, Ok, Unlock, "m", "").versioned(1, Lock, "m", "", 5);
    tokens.expect("lock", Invalid, "the token 5");
    // The greatest token of all is that of a lock that was taken meanwhile.
    let masked = |token| {
        let mut masked = lock();
        masked.versioned(0, Lock, "m", "", 50).op(0, Ok, Unlock, "m", "");
        masked.event(1, Invoke, Lock, "m", "");
        masked.versioned(2, Lock, "m", "", 90).op(2, Ok, Unlock, "m", "");
        masked.event(1, Ok, Lock, "m", "");
        let last = masked.events.last_mut().expect("it was just pushed");
        if let Action::Client(client) = &mut last.action {
            client.version = Some(Version::new(token));
        }
        masked
    };
    masked(40).expect("lock", Invalid, "the token 40");
    masked(60).expect("lock", Valid, "");
}

#[test]
fn banks_keep_their_total() {
    for (claim, total, verdict) in [
        (SERIALIZABLE, json!(60), Invalid),
        (SERIALIZABLE, json!(50), Valid),
        (SERIALIZABLE, json!(i64::MAX), Invalid),
        (SERIALIZABLE, json!(u64::MAX), Invalid),
        (Durable, json!(60), Unknown),
    ] {
        let mut bank = Script::new("bank", claim);
        let options = [("accounts", json!(["a0", "a1"])), ("opening_balance", json!(50))];
        bank.description.options =
            options.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let transfer = json!({ "from": "a0", "to": "a1", "amount": 5 }).to_string();
        bank.op(0, Ok, Transfer, "bank", &transfer);
        bank.op(0, Ok, Read, "bank", &json!({ "a0": 50, "a1": total }).to_string());
        bank.expect("bank", verdict, "");
    }
}

#[test]
fn numbers_that_are_no_integers_are_not_judged() {
    let mut counter = Script::new("counter", Linearizable);
    counter.op(0, Ok, Inc, "c", "1.5").settled().op(0, Ok, Read, "c", "0");
    counter.expect("counter", Unknown, "no integer of at most 96 bits");
    let mut whole = Script::new("counter", Linearizable);
    whole.op(0, Ok, Inc, "c", "2.0").settled().op(0, Ok, Read, "c", "2");
    whole.expect("counter", Valid, "");
    let mut unread = Script::new("bank", SERIALIZABLE);
    let options = [("accounts", json!(["a0"])), ("opening_balance", json!(50))];
    unread.description.options =
        options.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    unread.op(0, Info, Read, "bank", "");
    unread.expect("bank", Unknown, "no read of the balances succeeded");
}

#[test]
fn drains_of_unknown_outcome_explain_what_is_missing() {
    for value in ["", "[8]"] {
        let mut drained = Script::new("queue", Durable);
        drained
            .op(0, Ok, Enqueue, "q", "7")
            .op(0, Ok, Enqueue, "q", "8")
            .op(0, Ok, Enqueue, "q", "9");
        drained.op(1, Info, Function::Drain, "q", value);
        drained.settled().op(0, Ok, Dequeue, "q", "").read_everything();
        drained.expect("queue", Unknown, "1 drains of unknown outcome may have taken them");
    }
}

#[test]
fn transactions_are_judged_by_what_is_claimed() {
    let steps = |script: &mut Script, process, invoked: &str, completed: &str| {
        script.event(process, Invoke, Function::Txn, "t", invoked);
        script.event(process, Ok, Function::Txn, "t", completed);
    };
    let causal = Level::Axiomatic(transactions::AxiomaticLevel::CausalConsistency);
    let atomic = Level::Axiomatic(transactions::AxiomaticLevel::ReadAtomic);
    for (claim, verdict, part) in [
        (causal, Invalid, "no order of the transactions is causal-consistency"),
        (atomic, Valid, ""),
        (Durable, Unknown, "the durability of registers cannot be judged"),
    ] {
        let mut script = Script::new("rw", claim);
        for write in [r#"[["w","x","1"]]"#, r#"[["w","x","2"]]"#] {
            steps(&mut script, 0, write, write);
        }
        let read = r#"[["r","x",null]]"#;
        steps(&mut script, 1, read, r#"[["r","x","2"]]"#);
        steps(&mut script, 1, read, r#"[["r","x","1"]]"#);
        script.settled().read_everything().expect("transactions", verdict, part);
    }
}

#[test]
fn registers_lose_no_acknowledged_write() {
    let register = || Script::new("register", Durable);
    let mut good = register();
    good.op(0, Ok, Put, "k", "1").op(1, Info, Put, "k", "2").settled().op(0, Ok, Get, "k", "2");
    good.expect("durability", Valid, "\"linearizable\":\"valid\"");
    let mut lost = register();
    lost.op(0, Ok, Put, "k", "1").op(0, Ok, Put, "k", "2").settled().op(0, Ok, Get, "k", "1");
    lost.expect("durability", Invalid, "is lost");
    let mut absent = register();
    absent.op(0, Ok, Put, "k", "1").settled().op(0, Ok, Get, "k", "");
    absent.expect("durability", Invalid, "returned nothing");
    // A concurrent write may have been the first of the two.
    let mut concurrent = register();
    concurrent.event(1, Invoke, Put, "k", "1").op(0, Ok, Put, "k", "2").event(1, Ok, Put, "k", "1");
    concurrent.settled().op(0, Ok, Get, "k", "1").expect("durability", Valid, "");
    let mut unread = register();
    unread.op(0, Ok, Put, "k", "1").settled().expect("durability", Unknown, "was not read");
    let mut garbage = register();
    garbage.op(0, Ok, Put, "k", "1").settled().op(0, Ok, Get, "k", "9");
    garbage.expect("durability", Invalid, "returned 9, which nobody had written");
    let mut failed = register();
    failed.op(0, Ok, Put, "k", "1").op(0, Fail, Put, "k", "2").settled().op(0, Ok, Get, "k", "2");
    failed.expect("durability", Invalid, "reports as fail what may have happened");
    let mut again = register();
    again.op(0, Fail, Put, "k", "1").op(0, Ok, Put, "k", "1").settled().op(0, Ok, Get, "k", "1");
    again.expect("durability", Valid, "");
}

#[test]
fn amounts_from_outside_do_not_overflow() {
    let mut counter = Script::new("counter", Linearizable);
    for _ in 0..3 {
        counter.op(0, Ok, Function::Inc, "c", &i64::MAX.to_string());
    }
    counter.settled().op(0, Ok, Read, "c", "7").expect("counter", Invalid, "returned 7");
}

/// Enough of everything: ten reads and writes that overlap, before and after the end.
fn active() -> Script {
    let mut script = Script::new("register", Linearizable);
    for n in 0..10 {
        let value = n.to_string();
        script.event(0, Invoke, Put, "k", &value).event(1, Invoke, Get, "k", "");
        script.event(0, Ok, Put, "k", &value).event(1, Ok, Get, "k", &value);
    }
    script.settled().op(1, Ok, Get, "k", "9").read_everything();
    script
}

#[test]
fn a_vacuous_run_is_unknown() {
    active().expect("activity", Valid, "");
    let mut few = active();
    few.op(0, Ok, Function::Del, "k", "").expect("activity", Unknown, "1 of the operations del");
    let mut onesided = active();
    onesided.description.workload = Some("cas-register".to_owned());
    onesided.expect("activity", Unknown, "0 of the operations cas");
    let mut silent = active();
    let kill = NemesisEvent::Injected(InjectionKind::Kill, Box::default());
    silent.push(Action::Nemesis(kill));
    silent.expect("activity", Unknown, "after the first fault");
    let mut unsettled = active();
    unsettled.events.truncate(40);
    unsettled.expect("activity", Unknown, "not all ready");
    let mut unread = active();
    unread.events.truncate(41);
    unread.expect("activity", Unknown, "after the end of all faults");
    let mut alone = Script::new("register", Linearizable);
    for n in 0..10 {
        alone.op(0, Ok, Put, "k", &n.to_string()).op(1, Ok, Get, "k", &n.to_string());
    }
    alone.settled().op(1, Ok, Get, "k", "9").expect("activity", Unknown, "were concurrent");
}

#[test]
fn what_goes_wrong_around_a_run_leaves_it_unknown() {
    let mut broken = active();
    let why = "it answers request 7 twice".to_owned();
    broken.push(Action::Nemesis(NemesisEvent::ClientFailed(ClientFailed { process: 3, why })));
    broken.expect("clients", Unknown, "it answers request 7 twice");
    let mut died = active();
    let (node, status, log) =
        ("n2".to_owned(), "exit status: 1".to_owned(), "a\nout of luck".to_owned());
    died.push(Action::Nemesis(NemesisEvent::Died(Died { node, status, log })));
    died.expect("unexpected-exits", Unknown, "out of luck");
    let mut large = active();
    let why = "it is too large".to_owned();
    large.push(Action::Nemesis(NemesisEvent::EndedEarly(EndedEarly { why })));
    large.expect("unexpected-exits", Unknown, "it is too large");
    let mut spared = active();
    spared.description.faults = vec!["kill".to_owned()];
    spared.expect("faults", Unknown, "kill was asked for and never injected");
    let fault = Some("kill".to_owned());
    let injected = Injected { fault, node: Some("n1".to_owned()), ..Injected::default() };
    let kind = InjectionKind::Kill;
    spared.push(Action::Nemesis(NemesisEvent::Injected(kind, Box::new(injected.clone()))));
    spared.expect("faults", Valid, "");
    let why = "it did not stop in time".to_owned();
    let missed = Missed { injected, action: None, load_ended: None, why };
    spared.push(Action::Nemesis(NemesisEvent::Missed(Box::new(missed))));
    spared.expect("faults", Unknown, "never injected");
}

#[test]
fn each_part_of_a_fault_must_be_injected() {
    let name = "partition+kill:followers";
    let injected = |part: u8, node: Option<&str>| Injected {
        fault: Some(name.to_owned()),
        part: Some(part),
        node: node.map(str::to_owned),
        ..Injected::default()
    };
    let inject = |kind, part| {
        let fields = Box::new(injected(part, Some("n1")));
        Action::Nemesis(NemesisEvent::Injected(kind, fields))
    };
    let miss = |part, node| {
        let (injected, why) = (injected(part, node), "it was not there".to_owned());
        let missed = Missed { injected, action: None, load_ended: None, why };
        Action::Nemesis(NemesisEvent::Missed(Box::new(missed)))
    };
    let mut run = active();
    run.description.faults = vec![name.to_owned()];
    // The second part has nobody to hit.
    run.push(inject(InjectionKind::NetworkFault, 1)).push(miss(2, None));
    run.expect("faults", Unknown, "part 2 of partition+kill:followers was asked for");
    run.push(inject(InjectionKind::Kill, 2));
    run.expect("faults", Valid, "");
    // Two kills do not make up for a partition that no packet met.
    run.push(inject(InjectionKind::Kill, 2)).push(miss(1, Some("n1")));
    run.expect("faults", Unknown, "part 1 of partition+kill:followers was asked for");
}

#[test]
fn nodes_that_differ_are_found_whenever_they_are_compared() {
    let compared = |hashes: [&str; 3]| {
        let state = |(node, hash): (&str, &str)| {
            let progress = "revision 9".to_owned();
            (node.to_owned(), NodeState { hash: hash.to_owned(), progress })
        };
        let nodes = ["n1", "n2", "n3"].into_iter().zip(hashes).map(state).collect();
        let at = "revision 7".to_owned();
        Action::Nemesis(NemesisEvent::Compared(Compared { at, nodes, failed: None }))
    };
    let mut same = active();
    same.push(compared(["17", "17", "17"])).expect("agreement", Valid, "\"compared\":1");
    let mut other = active();
    other.push(compared(["17", "18", "17"])).push(compared(["17", "17", "17"]));
    other.expect(
        "agreement",
        Invalid,
        "revision 7 (event 44): n1 and n3 have hash 17; n2 has hash 18",
    );
    let mut never = active();
    let failed = Some("n1 does not answer".to_owned());
    never.push(Action::Nemesis(NemesisEvent::Compared(Compared { failed, ..Compared::default() })));
    never.expect("agreement", Unknown, "n1 does not answer");
}
