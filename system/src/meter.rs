//! Counts what the kernel has accepted on a connection's socket. Data in a buffer above the socket
//! does not count. Parses the HTTP/2 frames that pass just enough for that, and changes nothing.

use std::{
    io::{self, IoSlice},
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
    sync::SetOnce,
    time::Instant,
};

/// The counters of a connection.
#[derive(Debug)]
pub(crate) struct Meter {
    data: AtomicU64,
    ended: AtomicU64,
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

    /// Streams ended by this side. On a server: complete answers that the kernel has accepted.
    #[cfg_attr(not(feature = "test-hooks"), allow(dead_code, reason = "only the hooks read it"))]
    pub(crate) fn ended(&self) -> u64 {
        self.ended.load(Ordering::Acquire)
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

/// A connection with a meter.
#[derive(Debug)]
pub(crate) struct Metered<T> {
    io: T,
    meter: Arc<Meter>,
    frames: Frames,
}

impl<T> Metered<T> {
    /// Meters an accepted connection.
    pub(crate) fn server(io: T) -> Self {
        Metered { io, meter: Arc::default(), frames: Frames::default() }
    }

    /// Meters a dialed connection.
    pub(crate) fn client(io: T) -> Self {
        // A client first sends the preface, which is not a frame.
        let frames = Frames { skip: PREFACE_LEN, ..Frames::default() };
        Metered { io, meter: Arc::default(), frames }
    }

    /// The meter.
    pub(crate) fn meter(&self) -> Arc<Meter> {
        self.meter.clone()
    }
}

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

impl Frames {
    fn track(&mut self, mut bytes: &[u8], meter: &Meter) {
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
                    self.finish_if_complete(meter);
                }
            } else {
                let n = self.payload.min(bytes.len());
                if self.header[3] == DATA {
                    meter.data.fetch_add(n as u64, Ordering::Release);
                }
                self.payload -= n;
                bytes = &bytes[n..];
                self.finish_if_complete(meter);
            }
        }
    }

    fn finish_if_complete(&mut self, meter: &Meter) {
        if self.payload > 0 {
            return;
        }
        let [.., kind, flags, _, _, _, _] = self.header;
        let ends = matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0;
        if ends || kind == RST_STREAM {
            meter.ended.fetch_add(1, Ordering::Release);
        }
        self.filled = 0;
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
        if buf.filled().len() > before {
            self.meter.set_heard();
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Metered<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(n)) = wrote {
            let Metered { meter, frames, .. } = &mut *self;
            frames.track(&buf[..n], meter);
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
            let Metered { meter, frames, .. } = &mut *self;
            for buf in bufs {
                let n = left.min(buf.len());
                frames.track(&buf[..n], meter);
                left -= n;
            }
        }
        wrote
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
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
            let mut frames = Frames { skip: PREFACE_LEN, ..Frames::default() };
            for piece in bytes.chunks(size) {
                frames.track(piece, &meter);
            }
            assert_eq!((meter.data(), meter.ended()), (13, 3), "in pieces of {size}");
        }
    }
}
