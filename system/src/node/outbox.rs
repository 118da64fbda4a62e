//! What waits to be sent to one peer: bounded, whatever the peer does, and emptied by whichever
//! connection is the latest. Knows how far the connection's socket has come; nothing of what the
//! messages say.

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

/// What gRPC puts before each message of a stream.
const GRPC_PREFIX_BYTES: u64 = 5;
/// A batch is closed when it has grown to this, so that none is refused for its size.
const BATCH_BYTES: usize = 1 << 20;
/// What has waited for a connection longer than this is not worth sending on it: the protocol has
/// repeated what still matters.
const STALE: Duration = Duration::from_millis(500);

/// The messages for one peer.
#[derive(Debug)]
pub(crate) struct Outbox {
    /// What each batch says besides its messages.
    head: pb::Batch,
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Queued>,
    /// Of all that is queued.
    bytes: usize,
    /// Counts the connections; only the last one is fed.
    link: u64,
    feed: Option<Feed>,
    dropping: bool,
}

#[derive(Debug)]
struct Queued {
    batch: pb::Batch,
    bytes: usize,
    since: Instant,
}

/// The connection that empties the outbox.
#[derive(Debug)]
struct Feed {
    meter: Arc<Meter>,
    /// What the meter will show when the socket has taken all that was handed over.
    target: u64,
    waker: Option<Waker>,
}

impl Outbox {
    /// An outbox from one node to another, as their wire numbers, of a cluster.
    pub(crate) fn new(from: u32, to: u32, cluster: String, bytes_max: usize) -> Self {
        let head = pb::Batch { from, to, cluster, envelopes: Vec::new() };
        Outbox { head, bytes_max, state: Mutex::default() }
    }

    /// Queues messages, in order. What overflows is dropped, the oldest first. Never waits.
    pub(crate) fn send(&self, envelopes: &mut Vec<pb::Envelope>) {
        if envelopes.is_empty() {
            return;
        }
        let mut state = self.lock();
        let since = Instant::now();
        let mut part = Vec::with_capacity(envelopes.len());
        let mut bytes = 0;
        let mut push = |mut envelopes: Vec<pb::Envelope>| {
            wire::condense(&mut envelopes);
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
            tracing::warn!("peer {to} takes no messages: {dropped} dropped, and more may follow");
        }
        state.wake();
    }

    /// Feeds a new connection, and no older one any more. The stream ends when a newer one takes
    /// its place. The first batch is empty: it says who speaks.
    pub(crate) fn attach(self: &Arc<Self>, meter: Arc<Meter>) -> Link {
        let mut state = self.lock();
        state.wake();
        let now = Instant::now();
        while let Some(queued) = state.queue.front()
            && now.duration_since(queued.since) > STALE
        {
            state.bytes -= queued.bytes;
            state.queue.pop_front();
        }
        let hello = self.head.clone();
        let bytes = hello.encoded_len();
        state.bytes += bytes;
        state.queue.push_front(Queued { batch: hello, bytes, since: now });
        state.link += 1;
        let target = meter.data();
        state.feed = Some(Feed { meter, target, waker: None });
        Link { outbox: self.clone(), link: state.link }
    }

    /// Whether the socket has taken all that there is to send; true also when no connection is
    /// there to take it.
    pub(crate) fn drained(&self) -> bool {
        let state = self.lock();
        state
            .feed
            .as_ref()
            .is_none_or(|feed| state.queue.is_empty() && feed.meter.data() >= feed.target)
    }

    /// Ends the stream that is fed, if any.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.wake();
        state.feed = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock panics half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn detach(&self, link: u64) {
        let mut state = self.lock();
        if state.link == link {
            state.wake();
            state.feed = None;
        }
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(waker) = self.feed.as_mut().and_then(|feed| feed.waker.take()) {
            waker.wake();
        }
    }
}

/// The outbox as one connection sees it: a stream of batches.
#[derive(Debug)]
pub(crate) struct Link {
    outbox: Arc<Outbox>,
    link: u64,
}

impl Link {
    /// Ends this link when dropped, from wherever the connection's other half is seen to end.
    pub(crate) fn hook(&self) -> Unlink {
        Unlink { outbox: self.outbox.clone(), link: self.link }
    }

    fn poll_batch(&self, cx: &Context<'_>) -> Poll<Option<pb::Batch>> {
        let mut guard = self.outbox.lock();
        let state = &mut *guard;
        let Some(feed) = state.feed.as_mut().filter(|_| state.link == self.link) else {
            return Poll::Ready(None);
        };
        let Some(queued) = state.queue.pop_front() else {
            feed.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        state.bytes -= queued.bytes;
        state.dropping = false;
        feed.target += queued.bytes as u64 + GRPC_PREFIX_BYTES;
        Poll::Ready(Some(queued.batch))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.outbox.detach(self.link);
    }
}

/// As a request's stream.
impl Stream for Link {
    type Item = pb::Batch;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<pb::Batch>> {
        self.poll_batch(cx)
    }
}

/// Ends a link when dropped.
#[derive(Debug)]
pub(crate) struct Unlink {
    outbox: Arc<Outbox>,
    link: u64,
}

impl Drop for Unlink {
    fn drop(&mut self) {
        self.outbox.detach(self.link);
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

    fn outbox(bytes_max: usize) -> Arc<Outbox> {
        Arc::new(Outbox::new(0, 1, "demo".into(), bytes_max))
    }

    /// The sizes of the batches that are there at once.
    fn taken(link: &mut Link) -> Vec<usize> {
        std::iter::from_fn(|| link.next().now_or_never().flatten())
            .map(|batch| batch.envelopes.len())
            .collect()
    }

    #[test]
    fn a_connection_gets_a_greeting_and_then_what_is_sent() {
        let outbox = outbox(1 << 20);
        assert!(outbox.drained());
        let mut link = outbox.attach(Arc::default());
        assert!(!outbox.drained());
        assert_eq!(taken(&mut link), [0]);
        outbox.send(&mut vec![envelope(1), envelope(1)]);
        outbox.send(&mut vec![envelope(1)]);
        assert_eq!(taken(&mut link), [2, 1]);
        assert!(!outbox.drained(), "the meter has seen nothing of it");
    }

    #[test]
    fn a_peer_that_takes_nothing_costs_no_more_than_the_bound() {
        let outbox = outbox(10_000);
        let mut link = outbox.attach(Arc::default());
        for _ in 0..1000 {
            outbox.send(&mut vec![envelope(100)]);
        }
        assert!(outbox.lock().bytes <= 10_000);
        let kept = taken(&mut link).len();
        assert!((50..100).contains(&kept), "{kept}");
        assert_eq!(outbox.lock().bytes, 0);
    }

    #[test]
    fn large_messages_go_in_batches_of_their_own() {
        let outbox = outbox(64 << 20);
        let mut link = outbox.attach(Arc::default());
        let large = envelope(BATCH_BYTES);
        outbox.send(&mut vec![envelope(1), large.clone(), large, envelope(1), envelope(1)]);
        assert_eq!(taken(&mut link), [0, 2, 1, 2]);
    }

    #[test]
    fn the_latest_connection_is_the_one() {
        let outbox = outbox(1 << 20);
        let mut old = outbox.attach(Arc::default());
        let mut new = outbox.attach(Arc::default());
        outbox.send(&mut vec![envelope(1)]);
        assert_eq!(old.next().now_or_never(), Some(None));
        drop(old);
        assert_eq!(taken(&mut new).last(), Some(&1));
        drop(new.hook());
        assert_eq!(new.next().now_or_never(), Some(None));
        assert!(outbox.drained());
    }
}
