//! Streams a directory as a `.tar.gz` archive.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use axum::body::Body;
use flate2::{Compression, write::GzEncoder};
use futures::stream;
use tokio::{sync::mpsc, task::spawn_blocking};

/// The number of chunks buffered for a slow client.
const BUFFERED_CHUNKS: usize = 8;

/// The size of a chunk in bytes.
const CHUNK_BYTES: usize = 1 << 16;

/// Sends what is written in chunks. A write fails once the client has disconnected.
struct ChunkWriter {
    sender: mpsc::Sender<io::Result<Vec<u8>>>,
    chunk: Vec<u8>,
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        self.sender
            .blocking_send(Ok(std::mem::take(&mut self.chunk)))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

/// Archives a directory under the given name. Symbolic links are stored as links.
pub(super) fn archive(directory: PathBuf, name: String) -> Body {
    let (sender, receiver) = mpsc::channel(BUFFERED_CHUNKS);
    spawn_blocking(move || {
        let chunks = ChunkWriter { sender: sender.clone(), chunk: Vec::new() };
        let mut tar = tar::Builder::new(GzEncoder::new(chunks, Compression::fast()));
        tar.follow_symlinks(false);
        let archived = tar
            .append_dir_all(&name, &directory)
            .and_then(|()| tar.into_inner()?.finish()?.flush());
        if let Err(error) = archived {
            // The error aborts the response, so the client sees a truncated archive. If the client has
            // disconnected, there is nobody to notify.
            let _ = sender.blocking_send(Err(error));
        }
    });
    Body::from_stream(stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|chunk| (chunk, receiver))
    }))
}
