//! Keeps a simulated run as a run directory of the same form as that of a real run, so that the same
//! commands show it. Does not know what is wrong with the run.

use std::{
    fs,
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{
    checks::{self, FinalState, JOURNAL, Run, RunParameters},
    page,
};
use anyhow::Context as _;
use explore::{
    schedule::Schedule,
    simulator::{SimulatedRun, SimulationPlan},
};
use history::RunDescription;
use lab::run_directory::{RunDirectory, utc};
use serde_json::json;
use system::{
    journal,
    protocol::{CommitMode, Rules},
};

use super::{SeedVerdict, record};

/// The command that runs a seed again.
pub fn command(seed: u64, commit: CommitMode, rules: Rules) -> String {
    let breaks: String = rules.broken().map(|rule| format!(" --break {rule}")).collect();
    format!("harness sim --commit {commit} --seeds {seed}..{}{breaks}", seed + 1)
}

/// Writes a run with its verdict, and the minimized schedule of a violation, to a new directory of
/// `store`. Returns the directory.
///
/// # Errors
/// A file cannot be written; the error names it.
pub fn keep(
    store: &Path,
    plan: &SimulationPlan,
    run: &SimulatedRun,
    verdict: &SeedVerdict,
    schedule: Option<&Schedule>,
) -> anyhow::Result<PathBuf> {
    let (commit, rules) = (plan.setup.commit, plan.setup.rules);
    let without: String = rules.broken().map(|rule| format!("-without-{rule}")).collect();
    let started = SystemTime::now();
    let name = format!("sim{without}");
    let directory = RunDirectory::create(store, &name, started)?;

    let path = directory.history();
    let mut history = Vec::new();
    for event in record::history(run) {
        serde_json::to_writer(&mut history, &event)?;
        history.push(b'\n');
    }
    fs::write(&path, history).with_context(|| path.display().to_string())?;
    for (node, steps) in &run.machine_steps {
        let path = directory.node(&node.to_string())?.join(JOURNAL);
        let write = || -> io::Result<()> {
            let mut writer = journal::Writer::open(&path)?;
            record::journal(steps).for_each(|entry| writer.add(&entry));
            writer.write()
        };
        write().with_context(|| path.display().to_string())?;
    }
    let violations =
        verdict.violations.iter().map(|property| format!("{property}: {}", property.claim()));
    let final_state =
        FinalState { invariant_violations: Some(violations.collect()), ..record::final_state(run) };
    write_json(&directory.final_state(), &final_state)?;
    let RunParameters { faults, replicas, clock_origin, convergence_deadline_ms } =
        record::parameters(plan);
    let options = [("commit", json!(commit)), ("plan", json!(plan))];
    let description = RunDescription {
        name: Some(name),
        system: Some("simulated".to_owned()),
        started: Some(utc(started)),
        command: Some(command(plan.seed, commit, rules)),
        seed: Some(plan.seed),
        faults,
        broken: rules.broken().map(|rule| rule.name().to_owned()).collect(),
        concurrency: Some(plan.clients.into()),
        replicas: Some(replicas),
        clock_origin: Some(clock_origin),
        convergence_deadline_ms: Some(convergence_deadline_ms),
        options: options.map(|(name, value)| (name.to_owned(), value)).into_iter().collect(),
        ..RunDescription::default()
    };
    write_json(&directory.test(), &description)?;
    if let Some(schedule) = schedule {
        let path = directory.path().join("schedule.json");
        schedule.write(&path).with_context(|| path.display().to_string())?;
    }

    // Judged from the files, as `harness check` will judge it again.
    let recorded = Run::load(directory.path())?;
    let results = checks::check(&recorded, &super::LIMITS);
    write_json(&directory.path().join("results.json"), &results)?;
    page::write(directory.path(), &recorded, &results)?;
    Ok(directory.path().to_owned())
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> anyhow::Result<()> {
    let write = || -> io::Result<()> {
        let mut file = BufWriter::new(fs::File::create(path)?);
        serde_json::to_writer_pretty(&mut file, value)?;
        file.write_all(b"\n")?;
        file.flush()
    };
    write().with_context(|| path.display().to_string())
}
