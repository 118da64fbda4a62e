//! What people look at after a run: counts in a terminal, a page, plots. Shows what was recorded and
//! what the checks found; judges nothing.

mod cite;
mod columns;
mod figure;
pub mod inspect;
mod journals;
mod page;
mod plots;
mod scene;
pub mod summary;
mod tenures;
pub mod windows;

use std::{fs, io, path::Path};

pub(crate) use self::page::{THEME, about, cited, mark};
use system::protocol::Node;

use self::{scene::Scene, windows::Window};
use crate::{
    checker::Results,
    twopc::{LoadError, Run},
};

/// A lock that a replica held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Which replica.
    pub node: Node,
    /// Since when it was in doubt about the transaction that took the lock; none if it never was.
    /// Nanoseconds of the history, as all times here.
    pub doubt: Option<i64>,
    /// When it was let go, or the replica went down.
    pub to: i64,
}

/// When faults were in force in a run, and every lock of every replica.
#[must_use]
pub fn locks(run: &Run) -> (Vec<Window>, Vec<Lock>) {
    let windows = windows::windows(&run.events);
    let mut locks = Vec::new();
    for (node, tenures) in tenures::tenures(&run.evidence, &windows) {
        locks.extend(tenures.into_iter().map(|t| Lock { node, doubt: t.voted, to: t.to }));
    }
    (windows, locks)
}

/// The page's name in a run directory.
pub const PAGE: &str = "report.html";

/// Writes the page and the plots of a run into its directory, anew if they are there.
///
/// # Errors
/// A file of the run cannot be read, or one of these cannot be written.
pub fn write(directory: &Path, run: &Run, results: &Results) -> Result<(), LoadError> {
    let scene = Scene::of(directory, run, results)?;
    let file = |name: &str| {
        let path = directory.join(name);
        move |source| LoadError::File { path: path.clone(), source }
    };
    let ends = scene.ends();
    let last = run.events.last().map_or(0, |event| event.time);
    let plots = plots::plots(&run.operations, &ends, &scene.windows, &scene.tenures, last)
        .map_err(|error| file("latency.svg")(io::Error::other(error.to_string())))?;
    for plot in &plots {
        fs::write(directory.join(plot.file), &plot.svg).map_err(file(plot.file))?;
    }
    fs::write(directory.join(PAGE), page::page(&scene, &plots)).map_err(file(PAGE))
}
