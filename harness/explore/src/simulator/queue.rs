//! The event queue of a run: virtual time and what is scheduled to happen.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

use protocol::{CallId, Lsn, Message, Node, Reply, TimerId};

use super::plan::Fault;

/// Something that is scheduled to happen. Events of a process carry its generation: they are void
/// once the process has ended.
#[derive(Clone, Debug)]
pub(super) enum SimEvent {
    /// A message arrives.
    Arrival {
        from: Node,
        to: Node,
        /// The generations of sender and receiver when it was sent; `None` for a message that the
        /// network holds independently of both.
        generations: Option<(u64, u64)>,
        message: Box<Message>,
    },
    /// A timer expires, unless it was set again since.
    Timer { node: Node, second_instance: bool, id: TimerId, generation: u64, set: u64 },
    /// A force completes.
    Forced { node: Node, second_instance: bool, generation: u64, upto: Lsn },
    /// Records that nobody waits for have waited long enough for a force.
    LazyForce { node: Node, second_instance: bool, generation: u64 },
    /// A client sends its next request.
    NextRequest { client: usize },
    /// A call reaches the master.
    Call { call: CallId },
    /// A reply reaches its client; `None` if the connection is reset.
    Reply { call: CallId, reply: Option<Reply> },
    /// A client gives up waiting for a reply.
    ClientTimeout { call: CallId },
    /// A fault is injected.
    Inject(Fault),
    /// A process that has just started loses power.
    EarlyPowerLoss { node: Node, generation: u64 },
    /// A process restarts.
    Restart { node: Node },
    /// A paused process resumes.
    Resume { node: Node, pause: u64 },
    /// A partition ends.
    Heal { from: Node, to: Node },
}

/// The queue. Events at the same time happen in the order in which they were scheduled.
#[derive(Default)]
pub(super) struct EventQueue {
    /// The current time, in nanoseconds.
    pub(super) now: u64,
    /// The number of events scheduled so far.
    pub(super) sequence: u64,
    heap: BinaryHeap<Reverse<QueuedEvent>>,
}

impl EventQueue {
    pub(super) fn schedule(&mut self, after: u64, event: SimEvent) {
        self.sequence += 1;
        let time = self.now.saturating_add(after);
        self.heap.push(Reverse(QueuedEvent { time, sequence: self.sequence, event }));
    }

    /// Advances the time to the next event and takes it.
    pub(super) fn pop(&mut self) -> Option<SimEvent> {
        let Reverse(QueuedEvent { time, event, .. }) = self.heap.pop()?;
        self.now = self.now.max(time);
        Some(event)
    }
}

#[derive(Clone, Debug)]
struct QueuedEvent {
    time: u64,
    sequence: u64,
    event: SimEvent,
}

impl PartialEq for QueuedEvent {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}

impl Eq for QueuedEvent {}

impl PartialOrd for QueuedEvent {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for QueuedEvent {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.time, self.sequence).cmp(&(other.time, other.sequence))
    }
}
