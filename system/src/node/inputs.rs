//! The inputs of the event loop: turns reports, messages, calls and expired timers into events.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};

use super::{
    NodeError, environment::PendingCall, event_loop::EventLoop, kv_service::Call,
    metrics::Snapshot, peers::InboundBatch, server::InspectRequest,
};
use crate::{
    protocol::{Event, Lsn},
    store::StoreError,
};

/// The maximum number of events in an iteration, so that effects are not delayed indefinitely.
const ITERATION_EVENTS_MAX: usize = 1024;

/// How long messages that have arrived come before timers that have expired.
const MESSAGES_FIRST: Duration = Duration::from_millis(100);

/// The sources of events, besides timers.
pub(super) struct Inputs {
    pub(super) persisted: mpsc::UnboundedReceiver<Result<Lsn, Arc<StoreError>>>,
    pub(super) inbound: mpsc::Receiver<InboundBatch>,
    pub(super) calls: mpsc::Receiver<Call>,
    pub(super) inspections: mpsc::Receiver<InspectRequest>,
}

impl EventLoop<'_> {
    /// Gathers the events that are already available, up to the maximum. Those that others wait for
    /// come first. Timers come last: a node that was not scheduled for a while finds both the votes that arrived
    /// meanwhile and the end of the time that they had, and the votes were in time.
    pub(super) fn gather(&mut self, inputs: &mut Inputs) -> Result<(), NodeError> {
        if let Ok(report) = inputs.persisted.try_recv() {
            self.on_persisted(report, inputs)?;
        }
        let now = Instant::now();
        if let Some(age) = self.environment.forces.new_age(now) {
            self.report_force_age(age);
            self.events.push(Event::ForceAge(age));
        }
        while self.events.len() < ITERATION_EVENTS_MAX {
            let Ok(batch) = inputs.inbound.try_recv() else { break };
            self.on_inbound(batch);
        }
        while self.events.len() < ITERATION_EVENTS_MAX {
            let Ok(call) = inputs.calls.try_recv() else { break };
            self.on_call(call);
        }
        // More messages than fit: their turn comes first, unless they never end.
        if inputs.inbound.is_empty() {
            self.timers_wait = None;
        } else if now < *self.timers_wait.get_or_insert(now) + MESSAGES_FIRST {
            return Ok(());
        }
        while let Some(timer) = self.environment.timers.take(now) {
            self.events.push(Event::Timer(timer));
        }
        Ok(())
    }

    /// Handles a report of the store. Of several, the last one covers the others.
    pub(super) fn on_persisted(
        &mut self,
        mut report: Result<Lsn, Arc<StoreError>>,
        inputs: &mut Inputs,
    ) -> Result<(), NodeError> {
        while report.is_ok()
            && let Ok(later) = inputs.persisted.try_recv()
        {
            report = later;
        }
        let lsn = report.map_err(NodeError::Store)?;
        self.environment.forces.persisted(lsn, Instant::now());
        self.events.push(Event::Persisted(lsn));
        Ok(())
    }

    pub(super) fn on_inbound(&mut self, (from, messages): InboundBatch) {
        self.events.extend(messages.into_iter().map(|message| Event::Message { from, message }));
    }

    pub(super) fn on_call(&mut self, call: Call) {
        if call.is_expired(Instant::now()) {
            call.refuse_expired();
            return;
        }
        let Call { request, handle, account, held, deadline: _ } = call;
        self.last_call += 1;
        self.repeat_write(&request);
        let pending = PendingCall { handle, account, held };
        self.environment.pending_calls.insert(self.last_call, pending);
        self.events.push(Event::Client { call: self.last_call, request });
    }

    /// Answers a request for inspection immediately: it does not concern the machine.
    pub(super) fn on_inspection(&mut self, request: InspectRequest, inputs: &Inputs) {
        // The caller may have disconnected.
        match request {
            InspectRequest::Status(reply) => {
                let _ = reply.send(self.machine.status());
            }
            InspectRequest::Metrics(reply) => {
                let _ = reply.send(Snapshot {
                    status: self.machine.status(),
                    replies: self.environment.replies.clone(),
                    forces: self.environment.forces.done(),
                    checkpoints: self.environment.store.checkpoints(),
                    damage: self.environment.damage,
                    calls_queued: inputs.calls.len(),
                    batches_queued: inputs.inbound.len(),
                });
            }
            InspectRequest::Dump { after, reply } => {
                let entries = match &after {
                    None => self.environment.store.entries(),
                    Some(after) => self.environment.store.entries_after(after),
                };
                let watermark = self.machine.status().watermark;
                let _ = reply.send(entries.map(|entries| (watermark, entries)));
            }
        }
    }
}
