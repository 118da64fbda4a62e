//! Forces the steps of a schedule on processes, one after the other.

use std::{collections::BTreeMap, io, time::Duration};

use explore::schedule::{Schedule, Step, keys_of};
use history::nemesis::Exit;
use lab::{
    ForbiddenStart,
    cluster::ForbiddenStartResult,
    disk,
    process::{Activity, Process, ProcessState},
    workload::ClientRequest,
};
use nix::sys::signal::Signal;
use system::{
    node::Role,
    protocol::{Body, Event, Message, Node, Request, TimerId, Write},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    EARLY_TIMERS, StepResult,
    journal::JournalTail,
    lost_records::{LostRecord, Stop, is_of_second_instance, lost_records},
    not_forced, worker,
};
use crate::{
    checks::{JOURNAL, SECOND_INSTANCE_JOURNAL},
    network::InterceptRule,
    run::{RunError, Testbed},
    snapshots::SnapshotValue,
};

/// How long the effect of a step may take to show in a journal.
const STEP_DEADLINE: Duration = Duration::from_millis(1_500);

/// How long a timer may take to fire, beyond its period.
const TIMER_SLACK: Duration = Duration::from_millis(1_500);

/// How often the journals are read.
const POLL_PERIOD: Duration = Duration::from_millis(5);

/// Forces steps.
pub(super) struct Driver<'a> {
    testbed: &'a Testbed,
    /// Holds every message until its step.
    held: InterceptRule,
    /// The journals of each node and of its second instance.
    journals: BTreeMap<(Node, bool), JournalTail>,
    lost_records: BTreeMap<usize, LostRecord>,
    /// Nodes that are stopped before a record becomes durable, and the kind of that record.
    stopped: BTreeMap<Node, &'static str>,
    clients: JoinSet<io::Result<()>>,
    /// The second process of the master. Only one of the two acts at a time, and the other is paused,
    /// because the replicas serve the master that dialed last.
    second_instance: Option<SecondInstance>,
    /// The keys that clients have used.
    keys: Vec<String>,
}

struct SecondInstance {
    process: Process,
    acts: bool,
}

impl<'a> Driver<'a> {
    pub(super) fn new(testbed: &'a Testbed, held: InterceptRule, schedule: &Schedule) -> Self {
        Driver {
            journals: journals(testbed),
            testbed,
            held,
            lost_records: lost_records(schedule),
            stopped: BTreeMap::new(),
            clients: JoinSet::new(),
            second_instance: None,
            keys: Vec::new(),
        }
    }

    /// Forces a step.
    pub(super) async fn step(&mut self, number: usize, step: &Step) -> StepResult {
        self.arm(number).await;
        let mut result = self.force(number, step).await;
        if let Err(why) = self.until_stopped(number).await {
            result = Err(why);
        }
        result.unwrap_or_else(StepResult::NotForced)
    }

    /// Ends the replay: kills the second instance, drops held messages, and waits for the clients.
    /// Returns the keys that were used.
    pub(super) async fn finish(self) -> Result<Vec<String>, RunError> {
        if let Some(second_instance) = self.second_instance {
            second_instance.process.kill().await;
        }
        self.held.discard();
        for finished in self.clients.join_all().await {
            finished.map_err(RunError::io("cannot write the history"))?;
        }
        Ok(self.keys)
    }

    /// Arms the point at which a process or its disk must stop, if this step appends a record that
    /// is to be lost.
    async fn arm(&mut self, number: usize) {
        let Some(record) = self.lost_records.get(&number).cloned() else { return };
        let LostRecord { node, kind, before, stop } = record;
        let cluster = self.testbed.cluster();
        if let Some(point) = stop.point(node) {
            if stop == Stop::AfterWrite {
                // Earlier records must not be mistaken for this one.
                let _ = self.until_durable(node, false).await;
            }
            if let Some(device) = cluster.device(node) {
                device.arm(point.at);
            }
            return;
        }
        let point = format!("{}:before-persist:{kind}:{}", Role::from(node).name(), before + 1);
        if let Some(process) = cluster.process(node) {
            // If this fails, the process does not stop, and `until_stopped` reports it.
            let _ = process.arm(&point);
        }
    }

    /// Waits until the process or its disk has stopped, if this step was to stop it.
    async fn until_stopped(&mut self, number: usize) -> Result<(), String> {
        let Some(record) = self.lost_records.get(&number).cloned() else { return Ok(()) };
        let LostRecord { node, kind, stop, .. } = record;
        let cluster = self.testbed.cluster();
        if stop != Stop::Process {
            // Without such a disk, the power loss itself is reported as not forced.
            let Some(device) = cluster.device(node) else { return Ok(()) };
            let held = timeout(STEP_DEADLINE, device.until_reached()).await.is_ok();
            return if held || device.disarm() {
                Ok(())
            } else {
                not_forced(format!("the disk of {node} did not stop before its {kind} was durable"))
            };
        }
        let why = format!("{node} did not stop before its {kind} was durable");
        let Some(process) = cluster.process(node) else { return Err(why) };
        match process.wait_until(STEP_DEADLINE, ProcessState::is_stopped_at_point).await {
            Some(_) => {
                self.stopped.insert(node, kind);
                Ok(())
            }
            None => Err(why),
        }
    }

    async fn force(&mut self, number: usize, step: &Step) -> Result<StepResult, String> {
        let node = step.node();
        let crash = matches!(step, Step::Kill { .. } | Step::PowerLoss { .. } | Step::Wipe { .. });
        if let (Some(kind), false) = (self.stopped.get(&node), crash) {
            return not_forced(format!("{node} is stopped, so that its {kind} stays undurable"));
        }
        if node == Node::Master && !crash && !matches!(step, Step::SecondInstance { .. }) {
            self.let_act(is_of_second_instance(step)).await?;
        }
        match step {
            Step::Client { request, .. } => self.send(request).await,
            Step::Deliver { from, to, message, second_instance } => {
                self.deliver(*from, *to, message, *second_instance).await
            }
            Step::Force { node, second_instance, .. } => {
                self.until_durable(*node, *second_instance).await
            }
            Step::Timer { node, id, second_instance } => {
                self.timer(*node, *id, *second_instance).await
            }
            Step::Kill { node, .. } => Ok(self.kill(*node).await),
            Step::PowerLoss { node, .. } => self.lose_power(*node, number).await,
            Step::Restart { node } => {
                let started = self.testbed.cluster().start(*node).await;
                started.map_err(|error| error.to_string())?;
                Ok(StepResult::Forced)
            }
            Step::SecondInstance { node } => self.start_second_instance(*node).await,
            Step::Damage { node, .. } => {
                not_forced(format!("a running store of {node} cannot be made to rot"))
            }
            Step::Wipe { node } => {
                self.kill(*node).await;
                let deployment = self.testbed.cluster().deployment();
                let empty = deployment.create_empty_directory(*node);
                deployment.set_directory(*node, empty.map_err(|error| error.to_string())?);
                Ok(StepResult::Forced)
            }
        }
    }

    async fn kill(&mut self, node: Node) -> StepResult {
        if let Some(second_instance) = self.second_instance.take_if(|_| node == Node::Master) {
            second_instance.process.kill().await;
        }
        self.testbed.cluster().kill(node).await;
        if let Some(network) = self.testbed.network() {
            network.forget_streams(node);
        }
        self.stopped.remove(&node);
        StepResult::Forced
    }

    async fn lose_power(&mut self, node: Node, number: usize) -> Result<StepResult, String> {
        let killed = self.kill(node).await;
        let cluster = self.testbed.cluster();
        if cluster.device(node).is_some() {
            cluster.lose_power(&[node], None).await.map_err(|error| error.to_string())?;
            return Ok(killed);
        }
        let needs_disk = self
            .lost_records
            .range(..number)
            .any(|(_, record)| record.node == node && record.stop != Stop::Process);
        if needs_disk {
            let why = disk::available().err().unwrap_or_default();
            return not_forced(format!(
                "killed instead, because no disk can lose power here: {why}"
            ));
        }
        // A record that never reached the disk is lost by a kill as well.
        Ok(killed)
    }

    /// If there are two masters, lets one of them act and pauses the other.
    async fn let_act(&mut self, second_instance_acts: bool) -> Result<(), String> {
        match &self.second_instance {
            None if second_instance_acts => return not_forced("there is no second instance"),
            Some(second_instance) if second_instance.acts != second_instance_acts => {
                self.between_commits(second_instance.acts).await;
            }
            _ => return Ok(()),
        }
        let cluster = self.testbed.cluster();
        let Some(second_instance) = self.second_instance.as_mut() else { return Ok(()) };
        second_instance.acts = second_instance_acts;
        let process = &second_instance.process;
        let switched = if second_instance_acts {
            cluster.pause(Node::Master).await && process.signal(Signal::SIGCONT)
        } else {
            let paused = |state: &ProcessState| state.activity == Activity::Stopped;
            process.signal(Signal::SIGSTOP);
            process.wait_until(STEP_DEADLINE, paused).await.is_some()
                && cluster.resume(Node::Master).await
        };
        self.disconnect_master();
        if switched { Ok(()) } else { not_forced("the other master could not be paused") }
    }

    /// Waits until the master, or its second instance, has nothing to commit. Paused during a commit,
    /// it would block the commits of the other one, because LMDB has one writer.
    async fn between_commits(&mut self, second_instance: bool) {
        // If it never gets there, the following steps fail.
        let _ = self.until_durable(Node::Master, second_instance).await;
    }

    /// Makes the acting master dial the replicas again.
    fn disconnect_master(&self) {
        if let Some(network) = self.testbed.network() {
            network.disconnect_master();
        }
    }

    async fn send(&mut self, request: &Request) -> Result<StepResult, String> {
        let client_request: lab::request::Request = match request {
            Request::Write(Write { key, value: Some(value) }) => {
                ClientRequest::Put { key: key.to_string(), value: value.to_string() }.into()
            }
            Request::Write(Write { key, value: None }) => {
                ClientRequest::Del { key: key.to_string() }.into()
            }
            Request::Get { key, .. } => ClientRequest::Get { key: key.to_string() }.into(),
            Request::Snapshot { query, .. } => SnapshotValue::asking(query).request(),
        };
        let number = u32::try_from(self.clients.len()).unwrap_or(u32::MAX);
        let mut worker = worker(self.testbed, number);
        self.clients.spawn(async move { worker.send(&client_request).await.map(drop) });
        for key in keys_of(request).iter().map(ToString::to_string) {
            if !self.keys.contains(&key) {
                self.keys.push(key);
            }
        }
        let kind = request.kind();
        let arrived = |event: &Event| matches!(event, Event::Client { request, .. } if request.kind() == kind);
        let why = "the request did not arrive";
        self.until_event(Node::Master, false, STEP_DEADLINE, arrived, why).await?;
        Ok(StepResult::Forced)
    }

    async fn deliver(
        &mut self,
        from: Node,
        to: Node,
        message: &Message,
        second_instance: bool,
    ) -> Result<StepResult, String> {
        let expected = message.body.clone();
        // With two masters, the epoch identifies the sender.
        let epoch =
            (from == Node::Master && self.second_instance.is_some()).then_some(message.epoch);
        let is_expected = |held: &Message| {
            corresponds(&held.body, &expected) && epoch.is_none_or(|epoch| held.epoch == epoch)
        };
        let arrived = |event: &Event| matches!(event, Event::Message { from: sender, message } if *sender == from && corresponds(&message.body, &expected));
        if matches!(expected, Body::Heartbeat | Body::Alive { .. }) {
            let why = "no such message arrived in time";
            self.until_event(to, second_instance, STEP_DEADLINE, arrived, why).await?;
            return Ok(StepResult::Spontaneous);
        }
        let mut deadline = Instant::now() + STEP_DEADLINE;
        // Of two masters, one may have been paused before it sent what its step made it send. It acts once
        // more, and the next step of the other one pauses it again.
        let mut may_act = epoch.is_some();
        while !self.held.deliver((from, to), is_expected, STEP_DEADLINE).await {
            if Instant::now() >= deadline {
                let acts = self.second_instance.as_ref().is_some_and(|instance| instance.acts);
                if !std::mem::take(&mut may_act) {
                    return not_forced("no such message was sent");
                }
                self.let_act(!acts).await?;
                deadline = Instant::now() + STEP_DEADLINE;
            }
            sleep(POLL_PERIOD).await;
        }
        let why = "the message was released and did not arrive";
        self.until_event(to, second_instance, STEP_DEADLINE, arrived, why).await?;
        Ok(StepResult::Forced)
    }

    /// Waits until the records of a node are durable: a process syncs without being told to.
    async fn until_durable(
        &mut self,
        node: Node,
        second_instance: bool,
    ) -> Result<StepResult, String> {
        let deadline = Instant::now() + STEP_DEADLINE;
        loop {
            let journal = self.journal(node, second_instance);
            journal.refresh()?;
            if journal.is_durable() {
                return Ok(StepResult::Spontaneous);
            }
            if Instant::now() >= deadline {
                let (durable, appended) = (journal.durable, journal.appended);
                return not_forced(format!("{durable} of {appended} records are durable"));
            }
            sleep(POLL_PERIOD).await;
        }
    }

    async fn timer(
        &mut self,
        node: Node,
        id: TimerId,
        second_instance: bool,
    ) -> Result<StepResult, String> {
        let period = EARLY_TIMERS.iter().map(|(_, period)| Duration::from_millis(*period)).max();
        let deadline = period.unwrap_or_default() + TIMER_SLACK;
        let fired = |event: &Event| matches!(event, Event::Timer(timer) if *timer == id);
        let why = "the timer did not fire in time";
        self.until_event(node, second_instance, deadline, fired, why).await?;
        Ok(StepResult::Spontaneous)
    }

    async fn start_second_instance(&mut self, node: Node) -> Result<StepResult, String> {
        self.between_commits(false).await;
        let cluster = self.testbed.cluster();
        cluster.pause(node).await;
        self.disconnect_master();
        let start = cluster.try_forbidden_start(node, ForbiddenStart::SecondInstance).await;
        let result = match start.map_err(|error| error.to_string())? {
            ForbiddenStartResult::Admitted(process) => {
                self.second_instance = Some(SecondInstance { process, acts: true });
                return Ok(StepResult::Forced);
            }
            ForbiddenStartResult::Refused(Exit { last_log_line, .. }) => {
                not_forced(format!("the second instance was refused: {last_log_line}"))
            }
            ForbiddenStartResult::Exited(Exit { status, last_log_line }) => {
                not_forced(format!("the second instance exited, {status}: {last_log_line}"))
            }
            ForbiddenStartResult::Undecided => {
                not_forced("the second instance did not come up in time")
            }
        };
        cluster.resume(node).await;
        result
    }

    /// Waits until an event that satisfies the condition shows in a journal. `why` is the error if
    /// none does.
    async fn until_event(
        &mut self,
        node: Node,
        second_instance: bool,
        deadline: Duration,
        condition: impl Fn(&Event) -> bool,
        why: &str,
    ) -> Result<(), String> {
        let deadline = Instant::now() + deadline;
        loop {
            if self.journal(node, second_instance).matches(&condition)? {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return not_forced(why);
            }
            sleep(POLL_PERIOD).await;
        }
    }

    fn journal(&mut self, node: Node, second_instance: bool) -> &mut JournalTail {
        self.journals.get_mut(&(node, second_instance)).expect("every node has a journal")
    }
}

fn journals(testbed: &Testbed) -> BTreeMap<(Node, bool), JournalTail> {
    let nodes = testbed.cluster().nodes().flat_map(|node| [(node, false), (node, true)]);
    let tail = |(node, second_instance): (Node, bool)| {
        let name = if second_instance { SECOND_INSTANCE_JOURNAL } else { JOURNAL };
        let path = testbed.directory().join("nodes").join(node.to_string()).join(name);
        ((node, second_instance), JournalTail::new(path))
    };
    nodes.map(tail).collect()
}

/// Whether a real message corresponds to one of the schedule. Store ids, incarnations and wait times
/// differ between a schedule and real processes.
fn corresponds(real: &Body, expected: &Body) -> bool {
    match (real, expected) {
        (Body::Fence { .. }, Body::Fence { .. }) | (Body::Alive { .. }, Body::Alive { .. }) => true,
        // An inquiry repeats a yes vote, and schedules may not distinguish them.
        (Body::Inquire { txn }, Body::VoteYes { txn: other }) => txn == other,
        (Body::FenceOk { in_doubt: ours, .. }, Body::FenceOk { in_doubt: theirs, .. }) => {
            ours == theirs
        }
        (Body::Read { read: ours, key, .. }, Body::Read { read: theirs, key: other, .. }) => {
            (ours, key) == (theirs, other)
        }
        (Body::Query { read: ours, query, .. }, Body::Query { read: theirs, query: other, .. }) => {
            (ours, query) == (theirs, other)
        }
        (Body::Prepare { txn, write, .. }, Body::Prepare { txn: other, write: theirs, .. }) => {
            (txn, write) == (other, theirs)
        }
        (Body::Ack { txns: ours, .. }, Body::Ack { txns: theirs, .. }) => {
            theirs.iter().all(|txn| ours.contains(txn))
        }
        _ => real == expected,
    }
}

#[cfg(test)]
mod tests {
    use system::protocol::{CommitMode, StoreId, TxnId};

    use super::*;

    #[test]
    fn messages_correspond_whatever_store_they_come_from() {
        let txn = TxnId::new(1, 1);
        assert!(corresponds(
            &Body::Ack { txns: vec![txn, TxnId::new(1, 2)], commits: 2 },
            &Body::Ack { txns: vec![txn], commits: 0 }
        ));
        assert!(!corresponds(&Body::VoteYes { txn }, &Body::Inquire { txn }));
        assert!(corresponds(&Body::Inquire { txn }, &Body::VoteYes { txn }));
        let force_age = Duration::ZERO;
        let alive = |incarnation, start| {
            let (promised, applied) = (None, 0);
            Body::Alive { incarnation, start, promised, force_age, applied }
        };
        assert!(corresponds(&alive(2, 0), &alive(6, 9)));
        let fence = |member| Body::Fence {
            member,
            commit: CommitMode::Logged,
            members: Vec::new(),
            supersedes: None,
            seen: None,
            decided: None,
        };
        assert!(corresponds(&fence(None), &fence(Some(StoreId(3)))));
    }
}
