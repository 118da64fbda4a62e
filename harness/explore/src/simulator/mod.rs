//! The simulator: the protocol's machines in virtual time, with clients and faults that a seed
//! selects. A seed determines its run bit for bit. Does not know about files, and does not judge the
//! clients' history: it records what a run did, for the checks that judge real runs.

mod clients;
mod engine;
mod faults;
mod network;
mod node;
mod plan;
mod queue;
mod run;
#[cfg(test)]
mod tests;

pub use clients::{ClientOperation, ClientWorkload, Workload};
pub use plan::{Fault, SimulationPlan};
pub use run::{
    CompletionKind, Counters, FaultEvent, MachineInput, MachineStep, RunEvent, RunEventKind,
    SimulatedRun,
};

use crate::schedule::{Property, Schedule};

/// Runs a plan. With `record`, the steps of the machines and the schedule are recorded as well.
#[must_use]
pub fn run(plan: &SimulationPlan, workload: &Workload, record: bool) -> SimulatedRun {
    engine::Engine::new(plan, workload, record).run()
}

/// A recorded run as a schedule that violates a property. `origin` is the command that repeats it.
#[must_use]
pub fn schedule(
    plan: &SimulationPlan,
    run: &SimulatedRun,
    property: Property,
    origin: String,
) -> Schedule {
    Schedule {
        setup: plan.setup.clone(),
        steps: run.steps.clone(),
        violated: vec![property],
        origin,
    }
}
