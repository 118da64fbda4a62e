//! Progress of long checks.

use std::io::{self, Read};

/// Notified of the progress of a check, from several threads.
pub trait ProgressObserver: Sync {
    /// Bytes of the history were read.
    fn bytes_read(&self, _count: usize) {}

    /// Keys were found that will be decided.
    fn keys_found(&self, _count: usize) {}

    /// A key was decided.
    fn key_decided(&self) {}
}

/// Counts the bytes that are read.
pub(crate) struct CountingReader<'p, R> {
    pub(crate) input: R,
    pub(crate) progress: &'p dyn ProgressObserver,
}

impl<R: Read> Read for CountingReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.progress.bytes_read(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    #[derive(Default)]
    struct Bytes(AtomicUsize);

    impl ProgressObserver for Bytes {
        fn bytes_read(&self, count: usize) {
            self.0.fetch_add(count, Relaxed);
        }
    }

    #[test]
    fn bytes_are_counted_as_they_are_read() {
        let progress = Bytes::default();
        let mut reader = CountingReader { input: &[0_u8; 1500][..], progress: &progress };
        let copied = io::copy(&mut reader, &mut io::sink()).expect("memory can be read");
        assert_eq!((copied, progress.0.into_inner()), (1500, 1500));
    }
}
