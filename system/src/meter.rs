//! Counts what passes a connection's socket: what the kernel has accepted, and what the other side has sent. Data
//! in a buffer above the socket does not count. Parses the HTTP/2 frames that pass just enough for that, and changes
//! nothing. A connection on which many frames arrive yields to other tasks.

use std::{
    io::{self, IoSlice},
    mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::SetOnce,
    task::coop,
    time::Instant,
};

/// A task may read this many frames for each unit of its cooperative budget, of which tokio gives it 128 at each
/// poll. A read of the socket alone takes one unit, and may bring hundreds of small frames: a connection that sends
/// nothing else would otherwise keep its thread for tens of milliseconds.
const FRAMES_PER_UNIT: usize = 4;

/// The counters of a connection.
#[derive(Debug)]
pub(crate) struct Meter {
    data: AtomicU64,
    ended: AtomicU64,
    resets: AtomicU64,
    heard: SetOnce<()>,
    begun: Instant,
    /// When the other side last sent something, in milliseconds since `begun`.
    last_heard: AtomicU64,
}

impl Default for Meter {
    fn default() -> Self {
        Meter {
            data: AtomicU64::default(),
            ended: AtomicU64::default(),
            resets: AtomicU64::default(),
            heard: SetOnce::new(),
            begun: Instant::now(),
            last_heard: AtomicU64::default(),
        }
    }
}

impl Meter {
    /// Bytes of message data (the payload of DATA frames) that the kernel has accepted.
    pub(crate) fn data(&self) -> u64 {
        self.data.load(Ordering::Acquire)
    }

    /// The kernel has accepted message data.
    pub(crate) fn count_data(&self, bytes: u64) {
        self.data.fetch_add(bytes, Ordering::Release);
    }

    /// Streams ended by this side. On a server: complete answers that the kernel has accepted.
    #[cfg_attr(not(feature = "test-hooks"), allow(dead_code, reason = "only the hooks read it"))]
    pub(crate) fn ended(&self) -> u64 {
        self.ended.load(Ordering::Acquire)
    }

    /// Streams that the other side of an accepted connection has reset.
    pub(crate) fn resets(&self) -> u64 {
        self.resets.load(Ordering::Relaxed)
    }

    /// When the other side last sent something, or when the connection was made.
    pub(crate) fn last_heard(&self) -> Instant {
        self.begun + Duration::from_millis(self.last_heard.load(Ordering::Relaxed))
    }

    /// The other side has sent something.
    pub(crate) fn set_heard(&self) {
        let ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_heard.store(ms, Ordering::Relaxed);
        if !self.heard.initialized() {
            // Only the connection's reader sets it, so it is not set twice.
            let _ = self.heard.set(());
        }
    }

    /// Waits until the other side has sent anything.
    pub(crate) async fn heard(&self) {
        self.heard.wait().await;
    }
}

/// What a connection is made of: a socket, or one with TLS on it.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// Whether the kernel has accepted everything that was written.
    fn has_sent_all(&self) -> bool;
}

impl Transport for TcpStream {
    fn has_sent_all(&self) -> bool {
        true
    }
}

/// A connection with a meter.
#[derive(Debug)]
pub(crate) struct Metered<T> {
    io: T,
    meter: Arc<Meter>,
    sent: Frames,
    /// What was written, and the kernel may not have accepted: TLS has a buffer of its own.
    unsent: Unsent,
    /// None on a dialed connection: nodes trust those that they dial.
    received: Option<Frames>,
    /// Whether a dialed connection has brought nothing yet.
    is_silent: bool,
}

impl<T> Metered<T> {
    /// Meters an accepted connection.
    pub(crate) fn server(io: T, meter: Arc<Meter>) -> Self {
        let received = Some(Frames::after_preface());
        Metered {
            io,
            meter,
            sent: Frames::default(),
            unsent: Unsent::default(),
            received,
            is_silent: false,
        }
    }

    /// Meters a dialed connection.
    pub(crate) fn client(io: T) -> Self {
        let (meter, sent) = (Arc::default(), Frames::after_preface());
        Metered { io, meter, sent, unsent: Unsent::default(), received: None, is_silent: true }
    }

    /// The meter.
    pub(crate) fn meter(&self) -> Arc<Meter> {
        self.meter.clone()
    }
}

impl<T: Transport> Metered<T> {
    /// Counts what was written, once the kernel has accepted it.
    fn count_sent(&mut self) {
        if self.io.has_sent_all() {
            self.unsent.count(&self.meter);
        }
    }
}

/// The first byte of what a node with TLS answers to a caller without. No HTTP/2 connection begins with it.
const TLS_ALERT: u8 = 21;
const SPEAKS_TLS: &str =
    "the other side speaks TLS, and this side does not: it needs a CA, a certificate and a key";

const PREFACE_LEN: usize = 24;
const HEADER_LEN: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;

/// Tracks the frames in a byte stream (RFC 9113, section 4.1).
#[derive(Debug, Default)]
struct Frames {
    /// Bytes to skip before the first frame.
    skip: usize,
    header: [u8; HEADER_LEN],
    /// The number of header bytes received.
    filled: usize,
    /// The number of payload bytes still to come.
    payload: usize,
}

/// What is counted of the frames that pass in one direction.
trait Counted {
    /// Bytes of the payload of a DATA frame.
    fn data(&mut self, _bytes: usize) {}
    /// A frame has passed.
    fn frame(&mut self, kind: u8, flags: u8);
}

/// What was written and is not counted yet.
#[derive(Debug, Default)]
struct Unsent {
    data: u64,
    ended: u64,
}

impl Unsent {
    fn count(&mut self, meter: &Meter) {
        let Unsent { data, ended } = mem::take(self);
        if data > 0 {
            meter.count_data(data);
        }
        if ended > 0 {
            meter.ended.fetch_add(ended, Ordering::Release);
        }
    }
}

impl Counted for Unsent {
    fn data(&mut self, bytes: usize) {
        self.data += bytes as u64;
    }

    fn frame(&mut self, kind: u8, flags: u8) {
        let ends = matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0;
        if ends || kind == RST_STREAM {
            self.ended += 1;
        }
    }
}

struct Received<'a> {
    meter: &'a Meter,
    frames: usize,
}

impl Counted for Received<'_> {
    fn frame(&mut self, kind: u8, _: u8) {
        self.frames += 1;
        if kind == RST_STREAM {
            self.meter.resets.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Frames {
    /// A client first sends the preface, which is not a frame.
    fn after_preface() -> Self {
        Frames { skip: PREFACE_LEN, ..Frames::default() }
    }

    fn track(&mut self, mut bytes: &[u8], counted: &mut impl Counted) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let n = self.skip.min(bytes.len());
                self.skip -= n;
                bytes = &bytes[n..];
            } else if self.filled < HEADER_LEN {
                let n = (HEADER_LEN - self.filled).min(bytes.len());
                self.header[self.filled..self.filled + n].copy_from_slice(&bytes[..n]);
                self.filled += n;
                bytes = &bytes[n..];
                if self.filled == HEADER_LEN {
                    let [a, b, c, ..] = self.header;
                    self.payload = u32::from_be_bytes([0, a, b, c]) as usize;
                    self.finish_if_complete(counted);
                }
            } else {
                let n = self.payload.min(bytes.len());
                if self.header[3] == DATA {
                    counted.data(n);
                }
                self.payload -= n;
                bytes = &bytes[n..];
                self.finish_if_complete(counted);
            }
        }
    }

    fn finish_if_complete(&mut self, counted: &mut impl Counted) {
        if self.payload > 0 {
            return;
        }
        let [.., kind, flags, _, _, _, _] = self.header;
        counted.frame(kind, flags);
        self.filled = 0;
    }
}

/// Takes units of the task's cooperative budget for frames that have arrived. Once it is used up, the socket appears
/// to have nothing more until other tasks had their turn.
fn pay_for_frames(frames: usize, cx: &mut Context<'_>) {
    for _ in 0..frames / FRAMES_PER_UNIT {
        match coop::poll_proceed(cx) {
            Poll::Ready(unit) => unit.made_progress(),
            Poll::Pending => return,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Metered<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        let arrived = &buf.filled()[before..];
        if !arrived.is_empty() {
            let Metered { meter, received, is_silent, .. } = &mut *self;
            if mem::take(is_silent) && arrived[0] == TLS_ALERT {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, SPEAKS_TLS)));
            }
            meter.set_heard();
            if let Some(received) = received {
                let mut counted = Received { meter, frames: 0 };
                received.track(arrived, &mut counted);
                pay_for_frames(counted.frames, cx);
            }
        }
        read
    }
}

impl<T: Transport> AsyncWrite for Metered<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(n)) = wrote {
            let Metered { sent, unsent, .. } = &mut *self;
            sent.track(&buf[..n], unsent);
            self.count_sent();
        }
        wrote
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(mut left)) = wrote {
            let Metered { sent, unsent, .. } = &mut *self;
            for buf in bufs {
                let n = left.min(buf.len());
                sent.track(&buf[..n], unsent);
                left -= n;
            }
            self.count_sent();
        }
        wrote
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.count_sent();
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt as _;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).expect("short").to_be_bytes();
        let mut bytes = len[1..].to_vec();
        bytes.extend([kind, flags, 0, 0, 0, 1]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn frames_are_tracked_across_any_split() {
        let mut bytes = vec![b'P'; PREFACE_LEN];
        bytes.extend(frame(4, 0, b"settings"));
        bytes.extend(frame(HEADERS, 4, b"headers"));
        bytes.extend(frame(DATA, 0, b"0123456789"));
        bytes.extend(frame(4, END_STREAM, b""));
        bytes.extend(frame(DATA, END_STREAM, b""));
        bytes.extend(frame(HEADERS, END_STREAM, b"trailers"));
        bytes.extend(frame(RST_STREAM, 0, b"code"));
        bytes.extend(frame(DATA, 0, b"abc"));
        for size in 1..bytes.len() {
            let meter = Meter::default();
            let (mut sent, mut received) = (Frames::after_preface(), Frames::after_preface());
            let mut counted = Received { meter: &meter, frames: 0 };
            let mut unsent = Unsent::default();
            for piece in bytes.chunks(size) {
                sent.track(piece, &mut unsent);
                received.track(piece, &mut counted);
            }
            let frames = counted.frames;
            assert_eq!((meter.data(), meter.ended()), (0, 0), "the kernel has accepted nothing");
            unsent.count(&meter);
            assert_eq!((meter.data(), meter.ended()), (13, 3), "in pieces of {size}");
            assert_eq!((frames, meter.resets()), (8, 1), "in pieces of {size}");
        }
    }

    /// A transport with a buffer that is sent when it is flushed.
    struct Buffering {
        is_flushed: bool,
    }

    impl AsyncRead for Buffering {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Buffering {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.is_flushed = false;
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.is_flushed = true;
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl Transport for Buffering {
        fn has_sent_all(&self) -> bool {
            self.is_flushed
        }
    }

    #[tokio::test]
    async fn what_waits_in_a_buffer_is_not_sent() {
        let mut metered = Metered::server(Buffering { is_flushed: true }, Arc::default());
        let meter = metered.meter();
        for round in 0..2 {
            metered.write_all(&frame(DATA, END_STREAM, b"abc")).await.expect("is taken");
            assert_eq!((meter.data(), meter.ended()), (3 * round, round), "not flushed");
            metered.flush().await.expect("is flushed");
            assert_eq!((meter.data(), meter.ended()), (3 * round + 3, round + 1));
        }
    }

    #[tokio::test]
    async fn a_connection_with_many_small_frames_yields() {
        let (mut far, near) = tokio::io::duplex(1 << 20);
        let frames = 4096;
        let bytes =
            [vec![b'P'; PREFACE_LEN], frame(RST_STREAM, 0, b"code").repeat(frames)].concat();
        far.write_all(&bytes).await.expect("there is room");
        let mut near = Metered::server(near, Arc::default());
        let mut buffer = vec![0; bytes.len()];
        let mut read = 0;
        let mut yields = 0;
        poll_fn(|cx| {
            // Another task of the thread would run now.
            yields += 1;
            // A real reader asks for some kilobytes at a time.
            while read < bytes.len() {
                let mut part = ReadBuf::new(&mut buffer[read..bytes.len().min(read + 1024)]);
                match Pin::new(&mut near).poll_read(cx, &mut part) {
                    Poll::Ready(done) => done.expect("it reads"),
                    Poll::Pending => return Poll::Pending,
                }
                read += part.filled().len();
            }
            Poll::Ready(())
        })
        .await;
        assert_eq!(near.meter().resets(), 4096);
        assert!((4..100).contains(&yields), "{yields}");
    }
}
