//! Simulated runs judged: seeds are run by the [`simulator`], and the checks of real runs judge what
//! it recorded.

pub mod keep;
mod record;
mod seeds;
#[cfg(test)]
mod tests;

use std::time::Duration;

use checker::{
    CheckResult, Results, Validity,
    linearizability::{self, Limits},
    statistics,
};
use explore::{
    schedule::{Property, Schedule},
    simulator::{self, ClientOperation, ClientWorkload, Counters, SimulatedRun, SimulationPlan},
};
use lab::{
    seeds::payload_rng,
    workload::{ClientRequest, Generator, Mix},
};
use rand_chacha::ChaCha8Rng;
use system::protocol::{CommitMode, Rules};

pub use self::seeds::{FirstFailure, SeedRange, SeedResults, run_seeds};
use crate::{
    checks,
    snapshots::{SnapshotValue, on_registers},
};

/// The verdict on a seed.
#[derive(Debug)]
pub struct SeedVerdict {
    /// The properties that were violated during the run, by the invariant checker that the model uses
    /// too.
    pub violations: Vec<Property>,
    /// Whether the clients' history is linearizable.
    pub linearizability: CheckResult,
    /// The results of the other checks of recorded runs, if they were requested.
    pub checks: Option<Results>,
    /// How often what happened.
    pub counters: Counters,
}

impl SeedVerdict {
    /// The verdict. The check of statistics is ignored: it never finds a violation, and reports a run
    /// in which no operation succeeded as unknown, which some seeds cannot avoid.
    #[must_use]
    pub fn validity(&self) -> Validity {
        let checks = self.checks.iter().flat_map(|results| &results.checks);
        let checks = checks.filter(|result| result.check != statistics::NAME);
        let checks = checks.map(|result| result.verdict).max().unwrap_or(Validity::Valid);
        let invariants =
            if self.violations.is_empty() { Validity::Valid } else { Validity::Invalid };
        invariants.max(self.linearizability.verdict).max(checks)
    }

    /// The names of the properties and checks that are violated.
    #[must_use]
    pub fn violated(&self) -> Vec<String> {
        let mut names: Vec<_> =
            self.violations.iter().map(|property| property.name().to_owned()).collect();
        for result in self.check_results() {
            if result.verdict == Validity::Invalid && !names.contains(&result.check) {
                names.push(result.check.clone());
            }
        }
        names
    }

    /// Linearizability, then the other checks.
    pub fn check_results(&self) -> impl Iterator<Item = &CheckResult> {
        let checks = self.checks.iter().flat_map(|results| &results.checks);
        std::iter::once(&self.linearizability).chain(checks)
    }
}

/// What checking the history of one key may cost. The histories are short.
const LIMITS: Limits = Limits { configurations: 1 << 20, time: Duration::from_secs(10) };

/// The requests of real runs, for a simulated client.
struct GeneratorWorkload {
    generator: Generator,
    /// Chooses which gets become snapshots of several keys.
    rng: ChaCha8Rng,
    keys: u32,
}

impl ClientWorkload for GeneratorWorkload {
    fn next(&mut self, process: u64) -> ClientOperation {
        let write = |key: String, value: Option<String>| {
            ClientOperation::Write(system::protocol::Write {
                key: key.as_str().into(),
                value: value.as_deref().map(Into::into),
            })
        };
        match self.generator.next(process) {
            ClientRequest::Get { key } => {
                match SnapshotValue::instead_of_get(self.keys, |n| format!("k{n}"), &mut self.rng) {
                    Some(snapshot) => ClientOperation::Query(snapshot.query()),
                    None => ClientOperation::Get(key.as_str().into()),
                }
            }
            ClientRequest::Put { key, value } => write(key, Some(value)),
            ClientRequest::Del { key } => write(key, None),
        }
    }

    fn backoff(&mut self) -> Duration {
        self.generator.backoff()
    }
}

fn workload(plan: &SimulationPlan, client: u32) -> Box<dyn ClientWorkload> {
    let SimulationPlan { seed, clients, keys, mix: (get, put, del), .. } = *plan;
    let mix = Mix { get, put, del };
    let generator = Generator::new(seed, client, clients, mix, keys, 0.0);
    Box::new(GeneratorWorkload { generator, rng: payload_rng(seed, client), keys })
}

/// Runs a plan with the requests of real runs.
#[must_use]
pub fn run(plan: &SimulationPlan, record: bool) -> SimulatedRun {
    simulator::run(plan, &workload, record)
}

/// Runs a seed and checks it: the invariants during the run, and the linearizability of the clients'
/// history. With `thorough` also by every other check of recorded runs, which costs more than the run
/// itself.
#[must_use]
pub fn check_seed(seed: u64, commit: CommitMode, rules: Rules, thorough: bool) -> SeedVerdict {
    let plan = SimulationPlan::of(seed, commit, rules);
    let run = run(&plan, thorough);
    let events = record::history(&run);
    let operations = history::pair(&events).expect("the simulator records whole operations");
    let linearizability = linearizability::check(&on_registers(&operations), &LIMITS);
    let (violations, counters) = (run.violations.clone(), run.counters);
    let checks = thorough.then(|| {
        let recorded = record::recorded_run(&plan, run, events, operations);
        let mut checks = checks::check(&recorded, &LIMITS).checks;
        // One run of many may have shown little, which says nothing against the system.
        checks.retain(|result| result.check != statistics::NAME);
        Results::new(checks)
    });
    SeedVerdict { violations, linearizability, checks, counters }
}

/// A recorded run as a schedule that violates a property.
#[must_use]
pub fn schedule(plan: &SimulationPlan, run: &SimulatedRun, property: Property) -> Schedule {
    let command = keep::command(plan.seed, plan.setup.commit, plan.setup.rules);
    simulator::schedule(plan, run, property, command)
}
