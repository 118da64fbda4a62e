//! A run directory as one compressed file, made while it is sent. Knows nothing of what is in it.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use axum::body::Body;
use flate2::{Compression, write::GzEncoder};
use futures::stream;
use tokio::{sync::mpsc, task::spawn_blocking};

/// Pieces that may wait to be sent.
const WAITING: usize = 8;

/// Bytes of a piece.
const PIECE: usize = 1 << 16;

/// Hands what is written on in pieces; fails when nobody wants them any more.
struct Pieces {
    sender: mpsc::Sender<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        self.sender
            .blocking_send(Ok(std::mem::take(&mut self.piece)))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

/// The directory as `.tar.gz`; everything in it lies under this name. Links are kept as links.
pub(super) fn archive(directory: PathBuf, name: String) -> Body {
    let (sender, receiver) = mpsc::channel(WAITING);
    spawn_blocking(move || {
        let pieces = Pieces { sender: sender.clone(), piece: Vec::new() };
        let mut tar = tar::Builder::new(GzEncoder::new(pieces, Compression::fast()));
        tar.follow_symlinks(false);
        let made = tar
            .append_dir_all(&name, &directory)
            .and_then(|()| tar.into_inner()?.finish()?.flush());
        if let Err(error) = made {
            // The reader sees that the file breaks off; if there is no reader, nobody need know.
            let _ = sender.blocking_send(Err(error));
        }
    });
    Body::from_stream(stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (piece, receiver))
    }))
}
