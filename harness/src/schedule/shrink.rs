//! Makes a schedule smaller that shows something broken, until no step can be left out. Delta
//! debugging: large pieces first, then single steps.

use super::{Cluster, Property, Schedule, Step};

/// The smallest schedule that leaving out steps of this one leads to and that still breaks the
/// property; the schedule itself if it does not break it.
#[must_use]
pub fn shrink(schedule: Schedule, property: Property) -> Schedule {
    let Some(mut steps) = shows(&schedule, &schedule.steps, property) else { return schedule };
    let mut piece = steps.len().div_ceil(2);
    while piece > 0 {
        let mut before = usize::MAX;
        // Leaving out one step may make another superfluous that was needed when it was tried.
        while steps.len() < before {
            before = steps.len();
            let mut end = steps.len();
            while end > 0 {
                let start = end.saturating_sub(piece);
                let mut fewer = steps.clone();
                fewer.drain(start..end);
                if let Some(shorter) = shows(&schedule, &fewer, property) {
                    steps = shorter;
                }
                end = start.min(steps.len());
            }
        }
        piece /= 2;
    }
    Schedule { steps, broken: vec![property], ..schedule }
}

/// Runs these steps, leaving out those that are not possible. If the property is broken, the steps
/// that were taken until it was.
fn shows(schedule: &Schedule, steps: &[Step], property: Property) -> Option<Vec<Step>> {
    let mut cluster = Cluster::new(schedule.setup.clone());
    let mut taken = Vec::new();
    for step in steps {
        if cluster.apply(step).is_ok() {
            taken.push(step.clone());
            if cluster.judge().found(property) {
                return Some(taken);
            }
        }
    }
    cluster.breaks(property).then_some(taken)
}
