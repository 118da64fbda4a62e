//! Explores a model within limits, and reports what was found and what was covered.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use stateright::{Checker, Expectation, HasDiscoveries, Model, Path};

use super::{Action, ClusterModel, ModelOptions, State};
use crate::schedule::{Property, Schedule, shrink};

/// How far to explore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExplorationLimits {
    /// Stop after this many states, duplicates included; `None` for no limit.
    pub states: Option<usize>,
    /// Stop after this time; `None` for no limit.
    pub time: Option<Duration>,
    /// The number of threads. With more than one the shortest counterexample may be missed.
    pub threads: usize,
    /// Search depth first: needs far less memory, but counterexamples are not the shortest.
    pub depth_first: bool,
}

impl Default for ExplorationLimits {
    fn default() -> Self {
        ExplorationLimits { states: None, time: None, threads: 1, depth_first: false }
    }
}

/// The result of an exploration.
#[derive(Clone, Debug)]
pub struct Exploration {
    /// Distinct states.
    pub unique: usize,
    /// States generated, duplicates included.
    pub states: usize,
    /// The number of steps of the longest path that was followed.
    pub depth: usize,
    /// Distinct hosts, messages and invariant checkers.
    pub distinct: [usize; 3],
    /// How long it took.
    pub elapsed: Duration,
    /// Every reachable state was explored.
    pub complete: bool,
    /// Properties that are violated, each with a counterexample: the shortest first.
    pub violations: Vec<(Property, Schedule)>,
    /// Situations to be reached, each with the number of steps it took; `None` if it was not reached.
    pub situations: Vec<(&'static str, Option<usize>)>,
}

/// Explores until a violation is found, all states are explored, or a limit is reached. `progress` is
/// called about once a second with the number of distinct states and the depth.
#[must_use]
pub fn explore(
    options: &ModelOptions,
    limits: ExplorationLimits,
    mut progress: impl FnMut(usize, usize),
) -> Exploration {
    let model = ClusterModel::new(options.clone());
    let stop = model.stop.clone();
    let enough = options.until.map_or(HasDiscoveries::AnyFailures, |property| {
        HasDiscoveries::AllOf(BTreeSet::from([property.name()]))
    });
    let mut builder = model.checker().threads(limits.threads).finish_when(enough);
    if let Some(states) = limits.states {
        builder = builder.target_state_count(states);
    }
    if limits.depth_first {
        wait_for(builder.spawn_dfs(), &stop, limits, &mut progress)
    } else {
        wait_for(builder.spawn_bfs(), &stop, limits, &mut progress)
    }
}

/// Serves stateright's Explorer, which shows the model in a browser, at an address such as
/// `localhost:3000`. Does not return.
pub fn serve_explorer(options: ModelOptions, address: &str) {
    ClusterModel::new(options).checker().serve(address);
}

fn wait_for(
    mut checker: impl Checker<ClusterModel>,
    stop: &AtomicBool,
    limits: ExplorationLimits,
    progress: &mut impl FnMut(usize, usize),
) -> Exploration {
    let start = Instant::now();
    let workers = checker.handles();
    let mut last_progress = Instant::now();
    while workers.iter().any(|worker| !worker.is_finished()) {
        thread::sleep(Duration::from_millis(5));
        // Stateright checks its own time limit only when a thread runs out of work.
        if limits.time.is_some_and(|limit| start.elapsed() >= limit) {
            stop.store(true, Ordering::Relaxed);
        }
        if last_progress.elapsed() > Duration::from_secs(1) {
            last_progress = Instant::now();
            progress(checker.unique_state_count(), checker.max_depth());
        }
    }
    for worker in workers {
        if let Err(panic) = worker.join() {
            std::panic::resume_unwind(panic);
        }
    }
    let elapsed = start.elapsed();
    let stopped = stop.swap(false, Ordering::Relaxed);
    let model = checker.model();
    let mut violations = Vec::new();
    let mut situations = Vec::new();
    let discoveries = checker.discoveries();
    for claim in model.properties() {
        let path = discoveries.get(claim.name);
        match claim.expectation {
            Expectation::Sometimes => {
                situations.push((claim.name, path.map(|path| path.clone().into_actions().len())));
            }
            Expectation::Always | Expectation::Eventually => {
                let property = Property::ALL.iter().find(|known| known.name() == claim.name);
                if let (Some(path), Some(property)) = (path, property) {
                    let counterexample = counterexample(model, path.clone(), *property);
                    violations.push((*property, counterexample));
                }
            }
        }
    }
    violations.sort_by_key(|(property, schedule)| (schedule.steps.len(), *property));
    let states = checker.state_count();
    let within_limit = limits.states.is_none_or(|limit| states < limit);
    Exploration {
        unique: checker.unique_state_count(),
        states,
        depth: checker.max_depth() - 1,
        distinct: model.distinct(),
        elapsed,
        complete: violations.is_empty() && within_limit && !stopped,
        violations,
        situations,
    }
}

/// The path as a schedule, minimized.
fn counterexample(model: &ClusterModel, path: Path<State, Action>, property: Property) -> Schedule {
    let steps = path.into_vec().into_iter().flat_map(|(state, action)| {
        action.map_or_else(Vec::new, |action| model.steps_of(&state, action))
    });
    let schedule = Schedule {
        setup: model.options().setup.clone(),
        steps: steps.collect(),
        violated: vec![property],
        origin: String::new(),
    };
    // Most of the implied steps did not contribute.
    shrink(schedule, property)
}
