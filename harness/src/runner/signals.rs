//! Ctrl-C and its like: the first asks a run to end in order, the second ends the harness at once.

use std::io;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// The exit status of a harness that was told twice to end.
const ENDED: i32 = 255;

/// Turns true at the first signal to end. The second one ends the harness at once; its nodes die
/// with it. Must be called within a runtime.
///
/// # Errors
/// Signals cannot be waited for.
pub fn follow_signals() -> io::Result<watch::Receiver<bool>> {
    let (wanted, interrupt) = watch::channel(false);
    let mut signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
        .into_iter()
        .map(signal)
        .collect::<io::Result<Vec<_>>>()?;
    tokio::spawn(async move {
        for first in [true, false] {
            let next = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
            futures::future::select_all(next).await;
            if !first {
                std::process::exit(ENDED);
            }
            eprintln!("harness: ending the run in order; once more to end it at once");
            wanted.send_replace(true);
        }
    });
    Ok(interrupt)
}
