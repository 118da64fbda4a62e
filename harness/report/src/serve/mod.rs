//! A read-only web server for recorded runs. It lists runs, serves their pages and files,
//! compares two runs, follows a running test, and offers runs as archives.

mod archive;
mod guard;
mod live;
mod pages;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    Router,
    extract::{Path as Address, Query, State},
    http::{StatusCode, header},
    middleware::from_fn_with_state,
    response::{Html, IntoResponse, Redirect, Response, Sse, sse::KeepAlive},
    routing::get,
};
use serde::Deserialize;
use tokio::{net::TcpListener, task::spawn_blocking};

use self::pages::ComparedRun;
use crate::{
    PAGE, plots,
    store::{RunId, Store},
};

/// Describes the property that a check of the system under test verifies.
pub type CheckProperty = fn(&str) -> Option<&'static str>;

/// Why the server failed.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The store cannot be opened.
    #[error("{}: {source}", path.display())]
    Store {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The address cannot be bound.
    #[error("{addr}: {source}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The server failed.
    #[error("the server failed: {0}")]
    Ended(#[from] io::Error),
}

/// Serves the runs in a directory until Ctrl-C. Port 0 selects a free port; `on_listening` receives the
/// address with the actual port. Every client that can connect can read all runs, if it names the server by an
/// address, `localhost` or one of `names`: a name that somebody else controls is refused.
///
/// # Errors
/// The store cannot be opened, or the address cannot be bound.
pub async fn serve(
    store: &Path,
    addr: SocketAddr,
    names: &[String],
    check_property: CheckProperty,
    on_listening: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    let path = store.to_owned();
    let store = Store::open(&path).map_err(|source| ServeError::Store { path, source })?;
    let listen = |source| ServeError::Listen { addr, source };
    let listener = TcpListener::bind(addr).await.map_err(listen)?;
    on_listening(listener.local_addr()?);
    let server = axum::serve(listener, router(store, names, check_property));
    tokio::select! {
        result = server => Ok(result?),
        signal = tokio::signal::ctrl_c() => Ok(signal?),
    }
}

type Shared = State<Arc<Store>>;

fn router(store: Store, names: &[String], check_property: CheckProperty) -> Router {
    Router::new()
        .route("/", get(list))
        .route("/compare", get(move |store, runs| compare(store, runs, check_property)))
        .route("/run/{group}/{name}/", get(run_page))
        .route("/run/{group}/{name}/{*path}", get(run_file))
        .route("/plot/{group}/{name}/{file}", get(plot))
        .route("/live/{group}/{name}", get(live_page))
        .route("/live/{group}/{name}/events", get(live_events))
        .route("/archive/{group}/{file}", get(download))
        .route("/web.js", get(asset("text/javascript; charset=utf-8", pages::SCRIPT)))
        .route("/web.css", get(asset("text/css; charset=utf-8", pages::STYLE)))
        .fallback(|| async { not_found("There is no such page.") })
        .layer(from_fn_with_state(Arc::from(names), guard::guard))
        .with_state(Arc::new(store))
}

/// Answers with a constant text.
fn asset(
    content_type: &'static str,
    text: &'static str,
) -> impl Fn() -> std::future::Ready<([(header::HeaderName, &'static str); 1], &'static str)> + Clone
{
    move || std::future::ready(([(header::CONTENT_TYPE, content_type)], text))
}

fn not_found(reason: &str) -> Response {
    (StatusCode::NOT_FOUND, Html(pages::not_found(reason))).into_response()
}

/// Runs file system work on the blocking thread pool.
async fn blocking<T: Send + 'static>(
    store: Arc<Store>,
    work: impl FnOnce(&Store) -> T + Send + 'static,
) -> T {
    let result = spawn_blocking(move || work(&store)).await;
    result.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

async fn list(State(store): Shared) -> Html<String> {
    Html(blocking(store, |store| pages::list(&store.runs())).await)
}

#[derive(Deserialize)]
struct ComparedPaths {
    a: String,
    b: String,
}

async fn compare(
    State(store): Shared,
    Query(paths): Query<ComparedPaths>,
    check_property: CheckProperty,
) -> Response {
    let page = blocking(store, move |store| {
        let run = |path: &str| {
            let (group, name) = path.split_once('/')?;
            let id = RunId { group: group.to_owned(), name: name.to_owned() };
            Some(ComparedRun { run: store.run(&id)?, plots: store.plots(&id) })
        };
        Some(pages::comparison(&[run(&paths.a)?, run(&paths.b)?], check_property))
    });
    match page.await {
        Some(page) => Html(page).into_response(),
        None => not_found("Name two runs of this store: /compare?a=GROUP/TIME&b=GROUP/TIME"),
    }
}

#[derive(Deserialize)]
struct PlotAxes {
    axes: String,
}

/// A plot of a run with the axes that it has in common with another one. One that only its system can draw comes as
/// it is.
async fn plot(
    State(store): Shared,
    Address((group, name, file)): Address<(String, String, String)>,
    Query(PlotAxes { axes }): Query<PlotAxes>,
) -> Response {
    let drawn = blocking(store, move |store| {
        let directory = store.directory(&RunId { group: group.clone(), name: name.clone() })?;
        let (other_group, other_name) = axes.split_once('/')?;
        let other = RunId { group: other_group.to_owned(), name: other_name.to_owned() };
        let other = store.directory(&other)?;
        if let Ok(Some(svg)) = plots::plot_beside(&directory, &other, &file) {
            return Some(svg);
        }
        let file = store.file(&RunId { group, name }, &file)?;
        std::fs::read_to_string(file).ok()
    });
    match drawn.await {
        Some(svg) => {
            let headers = [
                (header::CONTENT_TYPE, content_type("plot.svg")),
                (header::CONTENT_SECURITY_POLICY, guard::RUN_POLICY),
            ];
            (headers, svg).into_response()
        }
        None => not_found("There is no such plot."),
    }
}

/// Redirects to the page of a run, or to its live page while it is running. A run that was not checked
/// has no page.
async fn run_page(
    State(store): Shared,
    Address((group, name)): Address<(String, String)>,
) -> Response {
    let id = RunId { group, name };
    let path = id.path();
    let found = blocking(store, move |store| {
        let run = store.run(&id)?;
        let page = store.file(&id, PAGE).is_some();
        Some((run, page, last_log_lines(store, &id)))
    });
    match found.await {
        None => not_found("There is no such run."),
        Some((_, true, _)) => Redirect::temporary(&format!("/run/{path}/{PAGE}")).into_response(),
        Some((run, false, _)) if run.running || run.judging => {
            Redirect::temporary(&format!("/live/{path}")).into_response()
        }
        Some((run, false, logs)) => Html(pages::unchecked(&run, &logs)).into_response(),
    }
}

/// The last line of the log of each node of a run.
fn last_log_lines(store: &Store, id: &RunId) -> Vec<(String, String)> {
    let nodes = store.file(id, "nodes").map_or_else(Vec::new, |nodes| entries(&nodes));
    let nodes = nodes.iter().filter_map(|name| name.strip_suffix('/'));
    let last = |node: &str| {
        let log = std::fs::read(store.file(id, &format!("nodes/{node}/log"))?).ok()?;
        let log = String::from_utf8_lossy(&log);
        let line = log.lines().rev().find(|line| !line.trim().is_empty())?;
        Some((node.to_owned(), line.to_owned()))
    };
    nodes.filter_map(last).collect()
}

/// A file or a directory listing of a run.
async fn run_file(
    State(store): Shared,
    Address((group, name, path)): Address<(String, String, String)>,
) -> Response {
    let id = RunId { group, name };
    let requested = path.clone();
    let content = blocking(store, move |store| {
        let file = store.file(&id, &requested)?;
        if file.is_dir() {
            return Some(Content::Directory(pages::directory(&id, &requested, &entries(&file))));
        }
        std::fs::read(&file).ok().map(Content::File)
    });
    match content.await {
        None => not_found("There is no such file in this run."),
        Some(Content::Directory(_)) if !path.ends_with('/') => {
            let name = path.rsplit('/').next().unwrap_or_default();
            Redirect::temporary(&format!("{name}/")).into_response()
        }
        Some(Content::Directory(page)) => Html(page).into_response(),
        Some(Content::File(bytes)) => {
            let headers = [
                (header::CONTENT_TYPE, content_type(&path)),
                (header::CONTENT_SECURITY_POLICY, guard::RUN_POLICY),
            ];
            (headers, bytes).into_response()
        }
    }
}

/// The content of a path in a run.
enum Content {
    Directory(String),
    File(Vec<u8>),
}

fn entries(directory: &Path) -> Vec<String> {
    let Ok(listing) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> = listing
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

/// The content type of a file, by its extension.
fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json") => "application/json",
        _ => "text/plain; charset=utf-8",
    }
}

async fn live_page(
    State(store): Shared,
    Address((group, name)): Address<(String, String)>,
) -> Response {
    let id = RunId { group, name };
    match blocking(store, move |store| store.run(&id)).await {
        Some(run) => Html(pages::live(&run)).into_response(),
        None => not_found("There is no such run."),
    }
}

async fn live_events(
    State(store): Shared,
    Address((group, name)): Address<(String, String)>,
) -> Response {
    let id = RunId { group, name };
    match blocking(store, move |store| store.directory(&id)).await {
        Some(directory) => {
            Sse::new(live::snapshots(&directory)).keep_alive(KeepAlive::default()).into_response()
        }
        None => not_found("There is no such run."),
    }
}

async fn download(
    State(store): Shared,
    Address((group, file)): Address<(String, String)>,
) -> Response {
    let Some(name) = file.strip_suffix(".tar.gz") else {
        return not_found("Archives are named RUN.tar.gz.");
    };
    let id = RunId { group, name: name.to_owned() };
    let archive_name = format!("{}-{}", id.group, id.name);
    match blocking(store, move |store| store.directory(&id)).await {
        Some(directory) => {
            let disposition = format!("attachment; filename=\"{archive_name}.tar.gz\"");
            let content_type = "application/gzip".to_owned();
            let headers =
                [(header::CONTENT_TYPE, content_type), (header::CONTENT_DISPOSITION, disposition)];
            (headers, archive::archive(directory, archive_name)).into_response()
        }
        None => not_found("There is no such run."),
    }
}
