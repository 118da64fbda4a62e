//! The simulator: the machines of the protocol in virtual time, under weather that a seed draws.
//! One seed, one run, bit for bit. What it records is of the same form as the record of a real run,
//! and the same checks judge it.

pub mod command;
mod engine;
mod keep;
mod plan;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, io, time::Duration};

use system::protocol::{CommitMode, Rules};

pub use engine::{Count, Ran};
pub use plan::{Fault, Plan};

use crate::{
    checker::{
        CheckResult, Results, Validity,
        linearizability::{self, Limits},
        statistics,
    },
    history,
    schedule::{Property, Schedule, ScheduleSetup},
    twopc::{
        self, FinalReplicaState, FinalState, Run, RunDescription,
        evidence::{self, Evidence},
    },
};

/// What a seed came to.
#[derive(Debug)]
pub struct Verdict {
    /// The properties that the simulator found broken on the way, by the same judge as the model's.
    pub broken: Vec<Property>,
    /// Whether the clients' history is linearizable, by the check of recorded runs.
    pub history: CheckResult,
    /// What every other check of recorded runs found, where they were asked.
    pub checks: Option<Results>,
    /// What happened how often.
    pub count: Count,
}

impl Verdict {
    /// Whether nothing is wrong, as far as can be said. Statistics never finds anything wrong: it
    /// unknown_because a run in which nothing worked, and some seeds draw such weather.
    #[must_use]
    pub fn validity(&self) -> Validity {
        let checks = self.checks.iter().flat_map(|results| &results.checks);
        let judges = checks.filter(|check_result| check_result.check != statistics::NAME);
        let checks =
            judges.map(|check_result| check_result.verdict).max().unwrap_or(Validity::Valid);
        let judged = if self.broken.is_empty() { Validity::Valid } else { Validity::Invalid };
        judged.max(self.history.verdict).max(checks)
    }

    /// Who found something wrong.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.broken.iter().map(|it| it.name().to_owned()).collect();
        let checks = self.checks.iter().flat_map(|results| &results.checks);
        for check_result in std::iter::once(&self.history).chain(checks) {
            if check_result.verdict == Validity::Invalid && !names.contains(&check_result.check) {
                names.push(check_result.check.clone());
            }
        }
        names
    }
}

/// How much a key's history may cost: they are short.
const LIMITS: Limits = Limits { configurations: 1 << 20, time: Duration::from_secs(10) };

/// Runs a seed.
#[must_use]
pub fn run(plan: &Plan, record: bool) -> Ran {
    engine::Engine::new(plan, record).run()
}

/// Runs a seed and judges it: by the judge that watches as it runs and by linearizability of the
/// clients' history; with `thorough` by every check of recorded runs as well, which costs more than
/// the run itself.
#[must_use]
pub fn try_seed(seed: u64, commit: CommitMode, rules: Rules, thorough: bool) -> Verdict {
    let plan = Plan::of(seed, commit, rules);
    let ran = run(&plan, thorough);
    let operations = history::pair(&ran.history).expect("the simulator records whole operations");
    let history = linearizability::check(&operations, &LIMITS);
    let (broken, count) = (ran.broken.clone(), ran.count);
    let checks = thorough.then(|| {
        let mut checks = twopc::check(&recorded(&plan, ran, operations), &LIMITS).checks;
        // One run of many may show little: that is no fault of its own.
        checks.retain(|check_result| check_result.check != statistics::NAME);
        Results::new(checks)
    });
    Verdict { broken, history, checks, count }
}

/// The run as the checks of recorded runs see one.
fn recorded(plan: &Plan, ran: Ran, operations: Vec<history::Operation>) -> Run {
    let ScheduleSetup { replicas, .. } = plan.setup;
    let remained = remained(&ran);
    let nodes = ran.journals.into_iter().map(|(node, entries)| {
        let entries = entries.into_iter().map(io::Result::Ok);
        let facts = evidence::collect(node, entries, replicas, 0);
        (node, facts.expect("entries in memory can be read"))
    });
    Run {
        description: run_setup(plan),
        events: ran.history,
        torn: false,
        operations,
        evidence: Evidence::of(nodes.collect::<BTreeMap<_, _>>(), replicas),
        final_state: Some(remained),
    }
}

/// What the checks of recorded runs are told of it.
fn run_setup(plan: &Plan) -> RunDescription {
    RunDescription {
        faults: Vec::new(),
        replicas: plan.setup.replicas,
        clock_origin: 0,
        convergence_deadline_ms: 30_000,
    }
}

/// What the nodes held at the end.
fn remained(ran: &Ran) -> FinalState {
    FinalState {
        time: ran.ended,
        replicas: ran.hosts.iter().skip(1).map(|host| (host.node(), remains(host))).collect(),
        master_unsettled: ran.hosts[0].machine().map(|machine| machine.status().unsettled),
        invariant_violations: None,
    }
}

fn remains(host: &crate::schedule::Host) -> FinalReplicaState {
    let entries = host.store().entries();
    FinalReplicaState {
        entries: entries
            .map(|(key, (version, value))| (key.clone(), *version, value.clone()))
            .collect(),
        in_doubt: host.machine().map(|machine| machine.status().unsettled).unwrap_or_default(),
    }
}

/// A run, as recorded, as a schedule that breaks a property.
#[must_use]
pub fn schedule(plan: &Plan, ran: &Ran, property: Property) -> Schedule {
    Schedule {
        setup: plan.setup.clone(),
        steps: ran.steps.clone(),
        broken: vec![property],
        origin: keep::command(plan.seed, plan.setup.commit, plan.setup.rules),
    }
}
