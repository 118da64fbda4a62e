//! The runs of a store as web pages: a list, each run, two runs side by side, a run while it goes
//! on, and a run to take away. Reads; changes nothing.

mod archive;
mod live;
mod pages;
mod store;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    Router,
    extract::{Path as Address, Query, State},
    http::{HeaderName, StatusCode, header},
    response::{Html, IntoResponse, Redirect, Response, Sse, sse::KeepAlive},
    routing::get,
};
use clap::Args;
use serde::Deserialize;
use tokio::{net::TcpListener, task::spawn_blocking};

use self::store::{RunId, Store};

/// What to serve, and where.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// Where to listen, as ADDRESS:PORT. Whoever can reach it can read every run; port 0 takes any
    /// free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub addr: SocketAddr,

    /// Where runs are kept.
    #[arg(long, value_name = "DIR", default_value = "histories")]
    pub store: PathBuf,
}

/// Why the runs cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is no store.
    #[error("--store {}: {source}", path.display())]
    Store {
        /// Where it should be.
        path: PathBuf,
        /// Why it is none.
        source: io::Error,
    },
    /// The address cannot be had.
    #[error("--addr {addr}: {source}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The server broke down.
    #[error("the server ended: {0}")]
    Ended(#[from] io::Error),
}

/// Serves until somebody wants an end (Ctrl-C).
///
/// # Errors
/// There is no store, or the address cannot be had.
pub async fn serve(args: &ServeArgs) -> Result<(), ServeError> {
    let path = args.store.clone();
    let store = Store::open(&path).map_err(|source| ServeError::Store { path, source })?;
    let addr = args.addr;
    let listen = |source| ServeError::Listen { addr, source };
    let listener = TcpListener::bind(addr).await.map_err(listen)?;
    let addr = listener.local_addr()?;
    println!("Serving {} on http://{addr}/ until Ctrl-C.", args.store.display());
    if !addr.ip().is_loopback() {
        println!("Everybody who can reach {addr} can read every run.");
    }
    let served = axum::serve(listener, router(store));
    tokio::select! {
        ended = served => Ok(ended?),
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
    }
}

type Shared = State<Arc<Store>>;

fn router(store: Store) -> Router {
    Router::new()
        .route("/", get(list))
        .route("/compare", get(compare))
        .route("/run/{group}/{name}/", get(whole))
        .route("/run/{group}/{name}/{*path}", get(part))
        .route("/live/{group}/{name}", get(watch))
        .route("/live/{group}/{name}/events", get(events))
        .route("/archive/{group}/{file}", get(download))
        .fallback(|| async { nothing("There is no such page.") })
        .with_state(Arc::new(store))
}

fn nothing(why: &str) -> Response {
    (StatusCode::NOT_FOUND, Html(pages::nothing(why))).into_response()
}

/// Does what may take long, beside the server.
async fn blocking<T: Send + 'static>(
    store: Arc<Store>,
    work: impl FnOnce(&Store) -> T + Send + 'static,
) -> T {
    let done = spawn_blocking(move || work(&store)).await;
    done.unwrap_or_else(|why| std::panic::resume_unwind(why.into_panic()))
}

async fn list(State(store): Shared) -> Html<String> {
    Html(blocking(store, |store| pages::list(&store.runs())).await)
}

#[derive(Deserialize)]
struct Two {
    a: String,
    b: String,
}

async fn compare(State(store): Shared, Query(two): Query<Two>) -> Response {
    let page = blocking(store, move |store| {
        let run = |path: &str| {
            let (group, name) = path.split_once('/')?;
            store.run(&RunId { group: group.to_owned(), name: name.to_owned() })
        };
        Some(pages::compare(&run(&two.a)?, &run(&two.b)?))
    });
    match page.await {
        Some(page) => Html(page).into_response(),
        None => {
            nothing("Want two runs of this store to compare: /compare?a=GROUP/TIME&b=GROUP/TIME")
        }
    }
}

/// A run's page; a run that goes on is watched, and one that was not judged says so.
async fn whole(
    State(store): Shared,
    Address((group, name)): Address<(String, String)>,
) -> Response {
    let id = RunId { group, name };
    let path = id.path();
    let found = blocking(store, move |store| {
        let run = store.run(&id)?;
        let page = store.file(&id, crate::report::PAGE).is_some();
        Some((run, page))
    });
    match found.await {
        None => nothing("There is no such run."),
        Some((_, true)) => {
            Redirect::temporary(&format!("/run/{path}/{}", crate::report::PAGE)).into_response()
        }
        Some((run, false)) if run.running => {
            Redirect::temporary(&format!("/live/{path}")).into_response()
        }
        Some((run, false)) => Html(pages::unjudged(&run)).into_response(),
    }
}

async fn part(
    State(store): Shared,
    Address((group, name, path)): Address<(String, String, String)>,
) -> Response {
    let id = RunId { group, name };
    let wanted = path.clone();
    let read = blocking(store, move |store| {
        let file = store.file(&id, &wanted)?;
        if file.is_dir() {
            return Some(Read::Directory(pages::directory(&wanted, &listed(&file))));
        }
        std::fs::read(&file).ok().map(Read::File)
    });
    match read.await {
        None => nothing("There is no such file in this run."),
        Some(Read::Directory(_)) if !path.ends_with('/') => {
            let name = path.rsplit('/').next().unwrap_or_default();
            Redirect::temporary(&format!("{name}/")).into_response()
        }
        Some(Read::Directory(page)) => Html(page).into_response(),
        Some(Read::File(bytes)) => (
            [
                (header::CONTENT_TYPE, kind(&path)),
                (HeaderName::from_static("x-content-type-options"), "nosniff"),
            ],
            bytes,
        )
            .into_response(),
    }
}

/// What lies at a path.
enum Read {
    Directory(String),
    File(Vec<u8>),
}

fn listed(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let slash = if entry.file_type().ok()?.is_dir() { "/" } else { "" };
            Some(name + slash)
        })
        .collect();
    names.sort();
    names
}

/// What a file is, by its name.
fn kind(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json") => "application/json",
        _ => "text/plain; charset=utf-8",
    }
}

async fn watch(
    State(store): Shared,
    Address((group, name)): Address<(String, String)>,
) -> Response {
    let id = RunId { group, name };
    match blocking(store, move |store| store.run(&id)).await {
        Some(run) => Html(pages::live(&run)).into_response(),
        None => nothing("There is no such run."),
    }
}

async fn events(
    State(store): Shared,
    Address((group, name)): Address<(String, String)>,
) -> Response {
    let id = RunId { group, name };
    match blocking(store, move |store| store.directory(&id)).await {
        Some(directory) => {
            Sse::new(live::follow(&directory)).keep_alive(KeepAlive::default()).into_response()
        }
        None => nothing("There is no such run."),
    }
}

async fn download(
    State(store): Shared,
    Address((group, file)): Address<(String, String)>,
) -> Response {
    let Some(name) = file.strip_suffix(".tar.gz") else {
        return nothing("Runs are to be had as .tar.gz.");
    };
    let id = RunId { group, name: name.to_owned() };
    let called = format!("{}-{}", id.group, id.name);
    match blocking(store, move |store| store.directory(&id)).await {
        Some(directory) => {
            let attached = format!("attachment; filename=\"{called}.tar.gz\"");
            let kind = "application/gzip".to_owned();
            let head = [(header::CONTENT_TYPE, kind), (header::CONTENT_DISPOSITION, attached)];
            (head, archive::archive(directory, called)).into_response()
        }
        None => nothing("There is no such run."),
    }
}
