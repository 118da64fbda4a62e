//! The effects of the machine: performs them in order. Forces and messages are gathered and handed
//! over together, one force to the store and one batch to each peer.

use std::{mem, time::Duration};

use proto::v1 as pb;
use tokio::time::{Instant, sleep};

use super::{
    NodeError,
    event_loop::{EventLoop, PendingCall},
};
use crate::{
    hooks::{Crossing, Hit, Side},
    protocol::{Body, CallId, Effect, Lsn, Message, Node, Reply},
    wire,
};

/// How long a node waits for the kernel to accept its messages before it stops, at a crash point or
/// for good.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(100);

/// What is handed over when all pending effects are performed.
pub(super) struct Outgoing {
    /// The greatest force, or 0.
    force: Lsn,
    /// The messages for each node, by wire number.
    messages: Vec<Vec<pb::Envelope>>,
}

impl Outgoing {
    pub(super) fn new(replicas: u8) -> Self {
        Outgoing { force: 0, messages: vec![Vec::new(); usize::from(replicas) + 1] }
    }
}

impl EventLoop<'_> {
    /// Performs every pending effect in order.
    pub(super) async fn perform_effects(&mut self) -> Result<(), NodeError> {
        self.hooks.before_effects()?;
        let mut effects = mem::take(&mut self.effects);
        let now = Instant::now();
        for effect in effects.drain(..) {
            match effect {
                Effect::Append(record) => {
                    self.store.append(record);
                }
                Effect::Force(lsn) => self.outgoing.force = self.outgoing.force.max(lsn),
                Effect::Send { to, message } => self.send(to, message).await,
                Effect::Reply { call, reply } => self.reply(call, reply).await,
                Effect::Serve { read, key } => {
                    let found = self.store.get(&key)?;
                    let message = self.machine.message(Body::Value { read, found });
                    self.send(Node::Master, message).await;
                }
                Effect::SetTimer { id, after } => self.timers.set(id, now, after),
                Effect::Warn(text) => tracing::warn!("{text}"),
                Effect::Halt { kind, why } => {
                    self.flush();
                    return Err(NodeError::Halted { kind, why });
                }
            }
        }
        self.effects = effects;
        self.flush();
        Ok(())
    }

    async fn send(&mut self, to: Node, message: Message) {
        let crossing = self.hooks.sending(&message);
        self.stop_if_hit(Side::Before, &crossing).await;
        match self.outgoing.messages.get_mut(wire::node_to_wire(to) as usize) {
            Some(messages) => messages.push(wire::to_wire(message)),
            None => tracing::error!("dropped a message for {to}, which is not a peer: {message:?}"),
        }
        self.stop_if_hit(Side::After, &crossing).await;
    }

    async fn reply(&mut self, call: CallId, reply: Reply) {
        let crossing = self.hooks.replying(&reply);
        self.stop_if_hit(Side::Before, &crossing).await;
        if let Some(PendingCall { handle, meter, _permit }) = self.pending_calls.remove(&call) {
            // A client that has disconnected does not get its answer; its transaction proceeded
            // without it.
            if handle.send(reply) {
                self.hooks.replied(meter);
            }
        }
        self.stop_if_hit(Side::After, &crossing).await;
    }

    /// Hands over what was gathered.
    fn flush(&mut self) {
        if self.outgoing.force > 0 {
            self.store.force(mem::take(&mut self.outgoing.force));
        }
        for (n, buffer) in self.peers.send_buffers() {
            buffer.send(&mut self.outgoing.messages[n]);
        }
    }

    async fn stop_if_hit(&mut self, side: Side, crossing: &Crossing) {
        if let Some(hit) = self.hooks.hit(side, crossing) {
            self.stop_at(hit).await;
        }
    }

    /// Stops the process at a crash point, once everything sent so far has left it.
    pub(super) async fn stop_at(&mut self, hit: Hit) {
        self.drain().await;
        hit.stop();
    }

    /// Waits, for a short time, until the kernel has accepted everything sent so far.
    pub(super) async fn drain(&mut self) {
        self.flush();
        let until = Instant::now() + DRAIN_TIMEOUT;
        let accepted = |this: &Self| {
            this.peers.send_buffers().all(|(_, buffer)| buffer.is_drained())
                && this.hooks.replies_accepted()
        };
        while !accepted(self) && Instant::now() < until {
            sleep(Duration::from_millis(1)).await;
        }
    }
}
