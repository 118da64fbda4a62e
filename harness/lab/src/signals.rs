//! Termination signals: the first one asks a run to end in order, the second one exits at once.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// The exit status after the second signal.
const EXIT_STATUS: i32 = 255;

/// Signals that come together are one request: timeout(1) and some shells signal the process and then
/// its group.
const ONE_REQUEST: Duration = Duration::from_millis(300);

/// Returns a flag that turns true at the first SIGINT, SIGTERM or SIGHUP. A later signal exits the
/// process at once; its supervised children die with it. Must be called within a runtime.
///
/// # Errors
/// A signal handler cannot be installed.
pub fn follow_signals() -> io::Result<watch::Receiver<bool>> {
    let (requested, interrupt) = watch::channel(false);
    let mut signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
        .into_iter()
        .map(signal)
        .collect::<io::Result<Vec<_>>>()?;
    tokio::spawn(async move {
        let mut first: Option<Instant> = None;
        loop {
            let next = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
            futures::future::select_all(next).await;
            match first {
                None => {
                    first = Some(Instant::now());
                    eprintln!("harness: stopping the run; repeat the signal to exit immediately");
                    requested.send_replace(true);
                }
                Some(first) if first.elapsed() < ONE_REQUEST => {}
                Some(_) => std::process::exit(EXIT_STATUS),
            }
        }
    });
    Ok(interrupt)
}
