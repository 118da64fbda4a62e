//! The clients: each sends one request at a time to the master and waits for the reply.

use std::{mem, time::Duration};

use protocol::{AbortReason, CallId, Event, Key, Node, Query, Reply, Request, Write};
use rand::RngExt as _;

use super::{
    engine::Engine,
    plan::SimulationPlan,
    queue::SimEvent,
    run::{CompletionKind, MachineInput, RunEventKind},
};
use crate::schedule::Step;

/// An operation of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientOperation {
    /// Read a key.
    Get(Key),
    /// Read several keys, or a page of a range.
    Query(Query),
    /// Put or delete a key.
    Write(Write),
}

/// The operations of one client. They must be a function of the plan's seed, or a seed does not
/// determine its run.
pub trait ClientWorkload {
    /// The next operation of the client, which it invokes as this process.
    fn next(&mut self, process: u64) -> ClientOperation;

    /// How long the client waits before it contacts an unavailable system again.
    fn backoff(&mut self) -> Duration;
}

/// Makes the workload of each client of a plan, by number.
pub type Workload = dyn Fn(&SimulationPlan, u32) -> Box<dyn ClientWorkload> + Sync;

/// A client.
pub(super) struct Client {
    /// The process as which it invokes operations. A client whose operation ends as unknown goes on
    /// as another process, as in Jepsen.
    process: u64,
    workload: Box<dyn ClientWorkload>,
}

/// A client's call.
pub(super) struct Call {
    client: usize,
    process: u64,
    request: Request,
    /// It has reached the master.
    pub(super) arrived: bool,
    /// The client does not wait any more.
    pub(super) completed: bool,
    /// The master could not be reached.
    unreachable: bool,
}

impl Engine<'_> {
    pub(super) fn add_client(&mut self, number: u32, process: u64) {
        let workload = (self.workload)(self.plan, number);
        self.clients.push(Client { process, workload });
    }

    pub(super) fn next_request(&mut self, client: usize) {
        if !self.under_load {
            return;
        }
        let Client { process, workload } = &mut self.clients[client];
        let request = match workload.next(*process) {
            ClientOperation::Get(key) => self.get_request(key),
            ClientOperation::Query(query) => {
                let deadline = Duration::from_nanos(self.plan.client_timeout);
                Request::Snapshot { query, choice: self.rng.random(), deadline }
            }
            ClientOperation::Write(write) => Request::Write(write),
        };
        self.invoke(client, request);
    }

    pub(super) fn get_request(&mut self, key: Key) -> Request {
        let deadline = Duration::from_nanos(self.plan.client_timeout);
        Request::Get { key, choice: self.rng.random(), deadline }
    }

    /// Sends a request. Returns the number of the call.
    pub(super) fn invoke(&mut self, client: usize, request: Request) -> usize {
        let process = self.clients[client].process;
        self.counters.operations += 1;
        let index = self.calls.len();
        self.event(RunEventKind::Invoke { process, request: request.clone() });
        self.calls.push(Call {
            client,
            process,
            request,
            arrived: false,
            completed: false,
            unreachable: false,
        });
        self.open_calls += 1;
        let after = self.message_delay();
        let call = index as CallId;
        self.queue.schedule(after, SimEvent::Call { call });
        self.queue.schedule(self.plan.client_timeout, SimEvent::ClientTimeout { call });
        index
    }

    /// A call reaches the master.
    pub(super) fn call(&mut self, call: CallId) {
        let completed = self.calls[call as usize].completed;
        if completed && !self.chance(self.plan.late_calls, 1000) {
            return;
        }
        let known = &mut self.calls[call as usize];
        let request = known.request.clone();
        let master = &mut self.nodes[0];
        if !master.host.up() || master.paused.is_some() {
            known.unreachable = true;
            // The connection is refused, so the request certainly has no effect.
            let reply = match request {
                Request::Write(_) => {
                    Reply::Aborted(AbortReason::Unavailable { missing: Vec::new() })
                }
                Request::Get { .. } | Request::Snapshot { .. } => Reply::Unavailable,
            };
            return self.complete(call, Some(reply));
        }
        known.arrived = true;
        if let Some(step_effects) = master.host.call(&self.plan.setup, call, &request) {
            self.record_step(|| Step::Client { call, request: request.clone() });
            let input = MachineInput::Event(Event::Client { call, request });
            self.perform(Node::Master, false, Some(input), step_effects);
        }
    }

    /// A call completes at its client: with a reply, or without one when the client gives up or the
    /// connection is reset.
    pub(super) fn complete(&mut self, call: CallId, reply: Option<Reply>) {
        let Some(known) = self.calls.get_mut(call as usize) else { return };
        if mem::replace(&mut known.completed, true) {
            return;
        }
        self.open_calls -= 1;
        let (client, process, unreachable) = (known.client, known.process, known.unreachable);
        let request = known.request.clone();
        let kind = CompletionKind::of(&request, reply.as_ref());
        match kind {
            CompletionKind::Ok => self.counters.ok += 1,
            CompletionKind::Info => {
                self.counters.info += 1;
                self.clients[client].process += u64::from(self.plan.clients);
            }
            CompletionKind::Fail => {}
        }
        let unavailable = matches!(&reply, Some(Reply::Aborted(AbortReason::Unavailable { .. })));
        self.event(RunEventKind::Complete { process, request, reply });
        let mut after = self.draw(0, self.plan.think_time_max);
        if unreachable || unavailable {
            // As the clients of real runs do.
            let backoff = self.clients[client].workload.backoff();
            after = after.max(u64::try_from(backoff.as_nanos()).unwrap_or(u64::MAX));
        }
        self.queue.schedule(after, SimEvent::NextRequest { client });
    }
}
