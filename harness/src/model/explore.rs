//! Explores a model within bounds, and says what was found and what was covered.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use stateright::{Checker, Expectation, HasDiscoveries, Model, Path};

use super::{Action, ModelOptions, State, TwoPhase};
use crate::schedule::{Property, Schedule, shrink};

/// How far to explore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Stop when this many states were reached, repeats included; none for no bound.
    pub states: Option<usize>,
    /// Stop after this time; none for no bound.
    pub time: Option<Duration>,
    /// Threads to explore with. With more than one the shortest schedule may be missed.
    pub threads: usize,
    /// Go deep first: far less memory, and schedules that are not the shortest.
    pub depth_first: bool,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { states: None, time: None, threads: 1, depth_first: false }
    }
}

/// What an exploration found.
#[derive(Clone, Debug)]
pub struct Explored {
    /// States that differ.
    pub unique: usize,
    /// States reached, repeats included.
    pub states: usize,
    /// Steps of the longest of the paths that were followed.
    pub depth: usize,
    /// Different hosts, messages and judges among them.
    pub met: [usize; 3],
    /// How long it took.
    pub elapsed: Duration,
    /// Nothing was left out.
    pub complete: bool,
    /// Properties that do not hold, each with a schedule that shows it: the shortest first.
    pub broken: Vec<(Property, Schedule)>,
    /// Situations that were to be reached, each with the steps it took; none if it was not.
    pub situations: Vec<(&'static str, Option<usize>)>,
}

/// Explores until something is found broken, everything is seen, or a bound is met. Now and then
/// `progress` is told the states that differ, and the depth.
#[must_use]
pub fn explore(
    options: &ModelOptions,
    bounds: Bounds,
    mut progress: impl FnMut(usize, usize),
) -> Explored {
    let model = TwoPhase::new(options.clone());
    let stop = model.stop.clone();
    let enough = options.until.map_or(HasDiscoveries::AnyFailures, |property| {
        HasDiscoveries::AllOf(BTreeSet::from([property.name()]))
    });
    let mut builder = model.checker().threads(bounds.threads).finish_when(enough);
    if let Some(states) = bounds.states {
        builder = builder.target_state_count(states);
    }
    if bounds.depth_first {
        follow(builder.spawn_dfs(), &stop, bounds, &mut progress)
    } else {
        follow(builder.spawn_bfs(), &stop, bounds, &mut progress)
    }
}

fn follow(
    mut checker: impl Checker<TwoPhase>,
    stop: &AtomicBool,
    bounds: Bounds,
    progress: &mut impl FnMut(usize, usize),
) -> Explored {
    let start = Instant::now();
    let workers = checker.handles();
    let mut told = Instant::now();
    while workers.iter().any(|worker| !worker.is_finished()) {
        thread::sleep(Duration::from_millis(5));
        // Stateright minds its own time limit only when a thread runs out of work.
        if bounds.time.is_some_and(|bound| start.elapsed() >= bound) {
            stop.store(true, Ordering::Relaxed);
        }
        if told.elapsed() > Duration::from_secs(1) {
            told = Instant::now();
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
    let mut broken = Vec::new();
    let mut situations = Vec::new();
    let discoveries = checker.discoveries();
    for claim in model.properties() {
        let path = discoveries.get(claim.name);
        match claim.expectation {
            Expectation::Sometimes => {
                situations.push((claim.name, path.map(|path| path.clone().into_actions().len())));
            }
            Expectation::Always | Expectation::Eventually => {
                let property = Property::ALL.iter().find(|it| it.name() == claim.name);
                if let (Some(path), Some(property)) = (path, property) {
                    broken.push((*property, schedule(model, path.clone(), *property)));
                }
            }
        }
    }
    broken.sort_by_key(|(property, schedule)| (schedule.steps.len(), *property));
    let states = checker.state_count();
    Explored {
        unique: checker.unique_state_count(),
        states,
        depth: checker.max_depth() - 1,
        met: model.met(),
        elapsed,
        complete: broken.is_empty() && bounds.states.is_none_or(|bound| states < bound) && !stopped,
        broken,
        situations,
    }
}

fn schedule(model: &TwoPhase, path: Path<State, Action>, property: Property) -> Schedule {
    let steps = path
        .into_vec()
        .into_iter()
        .flat_map(|(state, action)| action.map_or_else(Vec::new, |it| model.steps_of(&state, it)));
    let schedule = Schedule {
        setup: model.options().setup.clone(),
        steps: steps.collect(),
        broken: vec![property],
        origin: String::new(),
    };
    // Most of what followed by itself was of no consequence.
    shrink(schedule, property)
}
