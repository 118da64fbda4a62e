//! The command `serve`: shows recorded runs as web pages.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::anyhow;
use clap::Args;
use report::serve::{ServeError, serve as serve_runs};
use twopc::page;

/// Arguments of `serve`.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// The address to listen on, as ADDRESS:PORT. Every client that can connect can read all runs.
    /// Port 0 selects a free port.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub addr: SocketAddr,

    /// A further name that the server goes by, for use behind a proxy or with a name of this machine. It
    /// answers to its address and to localhost; requests for any other name are refused, since the name
    /// may be that of a web site that leads browsers here. May be repeated.
    #[arg(long, value_name = "NAME")]
    pub host: Vec<String>,

    /// The directory of recorded runs.
    #[arg(long, value_name = "DIR", default_value = "histories")]
    pub store: PathBuf,
}

/// Why `serve` failed.
#[derive(Debug)]
pub enum ServeFailure {
    /// An argument cannot be used.
    Argument(anyhow::Error),
    /// The server failed.
    Server(anyhow::Error),
}

/// Serves until Ctrl-C.
///
/// # Errors
/// The store cannot be opened, the address cannot be bound, or the server fails.
pub async fn serve(args: &ServeArgs) -> Result<(), ServeFailure> {
    let on_listening = |addr: SocketAddr| {
        println!("Serving {} on http://{addr}/ until Ctrl-C.", args.store.display());
        if !addr.ip().is_loopback() {
            println!(
                "Warning: every client that can connect to {addr} can read all runs, with keys and values \
                 and the nodes' logs. Runs that were made with --redact have digests instead."
            );
        }
    };
    let served =
        serve_runs(&args.store, args.addr, &args.host, page::check_property, on_listening).await;
    served.map_err(|error| match error {
        ServeError::Store { .. } => ServeFailure::Argument(anyhow!("--store {error}")),
        ServeError::Listen { .. } => ServeFailure::Argument(anyhow!("--addr {error}")),
        ServeError::Ended(_) => ServeFailure::Server(error.into()),
    })
}
