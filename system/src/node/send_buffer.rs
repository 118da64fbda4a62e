//! The messages that wait to be sent to one peer. The buffer is bounded whatever the peer does, and
//! the latest connection to the peer drains it. Knows how much the connection's socket has
//! accepted, but not what the messages mean.

use std::{
    collections::VecDeque,
    mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use futures::Stream;
use prost::Message as _;
use proto::v1 as pb;

use crate::{meter::Meter, wire};

/// The prefix that gRPC puts before each message of a stream.
const GRPC_PREFIX_BYTES: u64 = 5;
/// A batch is closed at this size, so that none is refused as too large.
const BATCH_BYTES: usize = 1 << 20;
/// Messages that waited for a connection longer than this are dropped when one is attached: the
/// protocol has retransmitted those that still matter.
const STALE_AFTER: Duration = Duration::from_millis(500);

/// The messages for one peer.
#[derive(Debug)]
pub(crate) struct SendBuffer {
    /// The fields of each batch besides its messages.
    head: pb::Batch,
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Queued>,
    /// The size of all queued batches.
    bytes: usize,
    /// The number of the latest connection; only that one gets messages.
    connection: u64,
    attached: Option<Attachment>,
    dropping: bool,
}

#[derive(Debug)]
struct Queued {
    batch: pb::Batch,
    bytes: usize,
    since: Instant,
}

/// The connection that drains the buffer.
#[derive(Debug)]
struct Attachment {
    meter: Arc<Meter>,
    /// The meter's value once the socket has accepted everything handed over so far.
    target: u64,
    waker: Option<Waker>,
}

impl SendBuffer {
    /// Creates the buffer from one node to another, given by their wire numbers.
    pub(crate) fn new(from: u32, to: u32, cluster: String, bytes_max: usize) -> Self {
        let head = pb::Batch { from, to, cluster, ..pb::Batch::default() };
        SendBuffer { head, bytes_max, state: Mutex::default() }
    }

    /// Queues messages in order. If the buffer is full, drops the oldest ones. Never waits.
    pub(crate) fn send(&self, envelopes: &mut Vec<pb::Envelope>) {
        if envelopes.is_empty() {
            return;
        }
        let mut state = self.lock();
        let since = Instant::now();
        let mut part = Vec::with_capacity(envelopes.len());
        let mut bytes = 0;
        let mut push = |mut envelopes: Vec<pb::Envelope>| {
            wire::compress(&mut envelopes);
            let batch = pb::Batch { envelopes, ..self.head.clone() };
            let bytes = batch.encoded_len();
            state.bytes += bytes;
            state.queue.push_back(Queued { batch, bytes, since });
        };
        for envelope in envelopes.drain(..) {
            bytes += envelope.encoded_len();
            part.push(envelope);
            if bytes >= BATCH_BYTES {
                push(mem::take(&mut part));
                bytes = 0;
            }
        }
        if !part.is_empty() {
            push(part);
        }
        let mut dropped = 0;
        while state.bytes > self.bytes_max {
            let Some(oldest) = state.queue.pop_front() else { break };
            state.bytes -= oldest.bytes;
            dropped += oldest.batch.envelopes.len();
        }
        if dropped > 0 && !mem::replace(&mut state.dropping, true) {
            let to = self.head.to;
            tracing::warn!(
                "the send buffer for peer {to} is full: dropped {dropped} messages, and more may follow"
            );
        }
        state.wake();
    }

    /// The batch that begins a stream: it has no messages and identifies the sender.
    pub(crate) fn greeting(&self, greeting: pb::Greeting) -> pb::Batch {
        pb::Batch { greeting: Some(greeting), ..self.head.clone() }
    }

    /// Whether a connection drains the buffer.
    pub(crate) fn is_attached(&self) -> bool {
        self.lock().attached.is_some()
    }

    /// Attaches a new connection in place of any older one, whose stream ends. The caller has made
    /// sure who is at the other end. The stream begins with `first`, if there is one.
    pub(crate) fn attach(
        self: &Arc<Self>,
        meter: Arc<Meter>,
        first: Option<pb::Batch>,
    ) -> BatchStream {
        let mut state = self.lock();
        state.wake();
        let now = Instant::now();
        while let Some(queued) = state.queue.front()
            && now.duration_since(queued.since) > STALE_AFTER
        {
            state.bytes -= queued.bytes;
            state.queue.pop_front();
        }
        if let Some(batch) = first {
            let bytes = batch.encoded_len();
            state.bytes += bytes;
            state.queue.push_front(Queued { batch, bytes, since: now });
        }
        state.connection += 1;
        let target = meter.data();
        state.attached = Some(Attachment { meter, target, waker: None });
        BatchStream { buffer: self.clone(), connection: state.connection }
    }

    /// The size of what waits for the connection.
    pub(crate) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Whether the socket has accepted every message. Also true if there is no connection.
    pub(crate) fn is_drained(&self) -> bool {
        let state = self.lock();
        state.attached.as_ref().is_none_or(|attached| {
            state.queue.is_empty() && attached.meter.data() >= attached.target
        })
    }

    /// Ends the current stream, if any.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.wake();
        state.attached = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while the state is inconsistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn detach(&self, connection: u64) {
        let mut state = self.lock();
        if state.connection == connection {
            state.wake();
            state.attached = None;
        }
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(waker) = self.attached.as_mut().and_then(|attached| attached.waker.take()) {
            waker.wake();
        }
    }
}

/// The messages for one connection, as a stream of batches.
#[derive(Debug)]
pub(crate) struct BatchStream {
    buffer: Arc<SendBuffer>,
    connection: u64,
}

impl BatchStream {
    /// A guard that ends this stream when dropped, for the task that sees the other half of the
    /// connection end.
    pub(crate) fn detach_guard(&self) -> DetachGuard {
        DetachGuard { buffer: self.buffer.clone(), connection: self.connection }
    }

    fn poll_batch(&self, cx: &Context<'_>) -> Poll<Option<pb::Batch>> {
        let mut guard = self.buffer.lock();
        let state = &mut *guard;
        let Some(attached) =
            state.attached.as_mut().filter(|_| state.connection == self.connection)
        else {
            return Poll::Ready(None);
        };
        let Some(queued) = state.queue.pop_front() else {
            attached.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        state.bytes -= queued.bytes;
        state.dropping = false;
        attached.target += queued.bytes as u64 + GRPC_PREFIX_BYTES;
        Poll::Ready(Some(queued.batch))
    }
}

impl Drop for BatchStream {
    fn drop(&mut self) {
        self.buffer.detach(self.connection);
    }
}

/// As the body of a streaming request.
impl Stream for BatchStream {
    type Item = pb::Batch;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<pb::Batch>> {
        self.poll_batch(cx)
    }
}

/// Ends a stream when dropped.
#[derive(Debug)]
pub(crate) struct DetachGuard {
    buffer: Arc<SendBuffer>,
    connection: u64,
}

impl Drop for DetachGuard {
    fn drop(&mut self) {
        self.buffer.detach(self.connection);
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, StreamExt as _};

    use super::*;

    fn envelope(size: usize) -> pb::Envelope {
        let read = pb::Read { key: vec![0; size].into(), ..pb::Read::default() };
        let body = Some(pb::envelope::Body::Read(read));
        pb::Envelope { body, ..pb::Envelope::default() }
    }

    fn buffer(bytes_max: usize) -> Arc<SendBuffer> {
        Arc::new(SendBuffer::new(0, 1, "demo".into(), bytes_max))
    }

    fn attach(buffer: &Arc<SendBuffer>) -> BatchStream {
        buffer.attach(Arc::default(), Some(buffer.greeting(pb::Greeting::default())))
    }

    /// The sizes of the batches that are ready.
    fn take_ready(stream: &mut BatchStream) -> Vec<usize> {
        std::iter::from_fn(|| stream.next().now_or_never().flatten())
            .map(|batch| batch.envelopes.len())
            .collect()
    }

    #[test]
    fn a_connection_gets_a_greeting_and_then_the_messages() {
        let buffer = buffer(1 << 20);
        assert!(buffer.is_drained());
        let mut stream = attach(&buffer);
        assert!(!buffer.is_drained());
        assert_eq!(take_ready(&mut stream), [0]);
        buffer.send(&mut vec![envelope(1), envelope(1)]);
        buffer.send(&mut vec![envelope(1)]);
        assert_eq!(take_ready(&mut stream), [2, 1]);
        assert!(!buffer.is_drained(), "the meter has counted nothing");
    }

    #[test]
    fn the_buffer_is_bounded() {
        let buffer = buffer(10_000);
        let mut stream = attach(&buffer);
        for _ in 0..1000 {
            buffer.send(&mut vec![envelope(100)]);
        }
        assert!(buffer.lock().bytes <= 10_000);
        let kept = take_ready(&mut stream).len();
        assert!((50..100).contains(&kept), "{kept}");
        assert_eq!(buffer.lock().bytes, 0);
    }

    #[test]
    fn large_messages_are_split_into_batches() {
        let buffer = buffer(64 << 20);
        let mut stream = attach(&buffer);
        let large = envelope(BATCH_BYTES);
        buffer.send(&mut vec![envelope(1), large.clone(), large, envelope(1), envelope(1)]);
        assert_eq!(take_ready(&mut stream), [0, 2, 1, 2]);
    }

    #[test]
    fn only_the_latest_connection_gets_messages() {
        let buffer = buffer(1 << 20);
        let mut old = attach(&buffer);
        let mut new = attach(&buffer);
        buffer.send(&mut vec![envelope(1)]);
        assert_eq!(old.next().now_or_never(), Some(None));
        drop(old);
        assert_eq!(take_ready(&mut new).last(), Some(&1));
        drop(new.detach_guard());
        assert_eq!(new.next().now_or_never(), Some(None));
        assert!(buffer.is_drained());
    }
}
