//! The command `soak`: runs of several systems for a long time, each with a workload and faults that are drawn. Each run is
//! a process of its own, so that what happens to one does not happen to the others. Seeds that have shown a violation are
//! kept, and come first the next time.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::anyhow;
use campaign::signature_of;
use checker::{Results, Validity};
use clap::{Args, builder::RangedU64ValueParser};
use lab::{
    clock, disk,
    duration::{duration_text, parse_duration},
    fault::{Fault, FaultAction},
    network,
    seeds::worker_rng,
    workloads,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rand::{RngExt as _, seq::IndexedRandom as _};
use serde::{Deserialize, Serialize};
use tokio::{runtime::Runtime, sync::watch};
use twopc::faults::FaultName;

use super::{
    Exit, Failure,
    described::own_program,
    output::first_finding,
    shards::{quoted, refused},
    stdout,
    subject::{Subject, SubjectOptions},
};
use crate::commands::remove_links;

/// What is kept of earlier soaks, in the directory of run records.
const KEPT: &str = ".soak.json";

/// After how many valid repeats in a row a seed is forgotten.
const FORGOTTEN_AFTER: u32 = 3;

/// The most faults of a run.
const FAULTS_MAX: usize = 3;

/// Of how many percent of the runs there is no fault: some violations need none.
const WITHOUT_FAULTS_PERCENT: u32 = 10;

/// The faults of other systems than twopc that runs are drawn from: those under which what a system claims is to hold. Others
/// take away what it relies on, such as synced data, and have to be asked for.
const FAULTS: [&str; 20] = [
    "kill",
    "kill:leader",
    "kill:minority",
    "kill:all",
    "pause",
    "pause:leader",
    "pause:followers",
    "restart",
    "restart:leader",
    "pause>kill:same",
    "power-loss",
    "power-loss:all",
    "disk-slow",
    "disk-stall",
    "partition",
    "partition:leader",
    "packet",
    "reset",
    "clock",
    "clock:leader",
];

/// Options of the command `soak`.
#[derive(Clone, Debug, Args)]
pub(super) struct SoakArgs {
    /// The systems, each as `--system` takes it, such as twopc,etcd,./mykv.toml.
    #[arg(long, value_name = "A,B", value_delimiter = ',', required = true)]
    systems: Vec<String>,

    /// How long new runs are begun.
    #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
    time: Duration,

    /// Make at most N runs.
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    count: Option<u64>,

    /// Duration of the load of each run.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = parse_duration)]
    time_limit: Duration,

    /// Only these workloads. Default: all that the system has; of a file, those that it claims something for.
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    workloads: Vec<String>,

    /// Draw from these faults. Default: those that the system is meant to stand and that are possible here, except such as
    /// take synced data away.
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    faults: Vec<String>,

    /// End at the first violation.
    #[arg(long)]
    stop_at_find: bool,

    /// What the runs are drawn from. Default: random, and printed.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Keep the records of valid runs too. By default they are removed, as their command repeats them.
    #[arg(long)]
    keep_valid: bool,

    /// Directory for run records.
    #[arg(long, value_name = "DIR", default_value = "histories")]
    store: PathBuf,
}

/// What runs of a system are drawn from.
struct Candidate {
    system: String,
    /// Nothing of twopc, which has one.
    workloads: Vec<String>,
    faults: Vec<String>,
}

/// A run to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Plan {
    system: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    workload: Option<String>,
    faults: String,
    time_limit: String,
    seed: u64,
}

impl Plan {
    fn arguments(&self) -> Vec<String> {
        let seed = self.seed.to_string();
        let mut words = vec!["--system", &self.system];
        if let Some(workload) = &self.workload {
            words.extend(["--workload", workload]);
        }
        words.extend(["--faults", &self.faults, "--time-limit", &self.time_limit, "--seed", &seed]);
        words.into_iter().map(str::to_owned).collect()
    }

    fn command(&self) -> String {
        let words: Vec<String> = self.arguments().iter().map(|word| quoted(word)).collect();
        format!("harness {}", words.join(" "))
    }
}

/// A seed that has shown a violation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KeptSeed {
    #[serde(flatten)]
    plan: Plan,
    /// In how many runs.
    failed: u32,
    /// How many repeats in a row were valid since.
    valid_since: u32,
    /// The first violation of the last of them.
    why: String,
}

/// What a child says of its run.
#[derive(Deserialize)]
struct ChildRun {
    directory: PathBuf,
    #[serde(flatten)]
    results: Results,
}

/// What was found so far.
#[derive(Default)]
struct Tally {
    /// By system: valid, unknown or without a verdict, invalid.
    systems: BTreeMap<String, [u64; 3]>,
    /// By signature: how often, and the first command.
    finds: BTreeMap<String, (u64, String)>,
    made: u64,
}

/// Makes the runs.
pub(super) fn soak(
    args: &SoakArgs,
    runtime: &Runtime,
    interrupt: &watch::Receiver<bool>,
) -> Result<Exit, Failure> {
    let candidates = candidates(args)?;
    let mut kept = load(&args.store)?;
    fs::create_dir_all(&args.store).map_err(|error| {
        Failure::arguments(anyhow!("--store {}: {error}", args.store.display()))
    })?;
    let seed = args.seed.unwrap_or_else(|| rand::random::<u32>().into());
    writeln!(stdout(), "soak of {}, seed {seed}", duration_text(args.time))?;
    let first: Vec<Plan> = kept.iter().map(|kept| kept.plan.clone()).collect();
    let first = first.into_iter().filter(|plan| args.systems.contains(&plan.system));
    let drawn = (0..).map(|number| draw(&candidates, seed, number, args.time_limit));
    let end = Instant::now() + args.time;
    let mut tally = Tally::default();
    for plan in first.chain(drawn) {
        let is_enough = args.count.is_some_and(|count| tally.made >= count);
        if is_enough || Instant::now() >= end || *interrupt.borrow() {
            break;
        }
        let started = Instant::now();
        let output = runtime.block_on(run_child(&plan, &args.store, interrupt))?;
        if *interrupt.borrow() {
            eprintln!("harness: a signal ended it after {} runs", tally.made);
            break;
        }
        tally.made += 1;
        let verdict = tell(args, &plan, &output, started.elapsed(), &mut tally, &mut kept)?;
        save(&args.store, &kept)?;
        if args.stop_at_find && verdict == Some(Validity::Invalid) {
            break;
        }
    }
    tally.print()?;
    Ok(tally.exit(*interrupt.borrow()))
}

/// Tells of a run, in a line, and takes note of it. Returns the verdict, if there is one.
fn tell(
    args: &SoakArgs,
    plan: &Plan,
    output: &Output,
    elapsed: Duration,
    tally: &mut Tally,
    kept: &mut Vec<KeptSeed>,
) -> Result<Option<Validity>, Failure> {
    let printed = String::from_utf8_lossy(&output.stdout);
    let run = printed.lines().last().and_then(|line| serde_json::from_str::<ChildRun>(line).ok());
    let counts = tally.systems.entry(plan.system.clone()).or_default();
    let (number, seconds) = (tally.made, elapsed.as_secs_f64());
    let command = plan.command();
    let Some(ChildRun { directory, results }) = run else {
        counts[1] += 1;
        let said = String::from_utf8_lossy(&output.stderr);
        let why = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        writeln!(
            stdout(),
            "run {number}: no verdict ({}), {seconds:.1} s, {command}: {why}",
            output.status
        )?;
        return Ok(None);
    };
    let verdict = results.verdict;
    counts[verdict as usize] += 1;
    let finding = first_finding(&results);
    let why = finding
        .map(|(check, text)| format!("{check}: {}", text.lines().next().unwrap_or_default()));
    let why = why.unwrap_or_default();
    match verdict {
        Validity::Valid => writeln!(stdout(), "run {number}: valid, {seconds:.1} s, {command}")?,
        _ => writeln!(
            stdout(),
            "run {number}: {verdict}, {seconds:.1} s, {command}\n  {why}\n  {}",
            directory.display()
        )?,
    }
    let before = kept.iter().position(|kept| kept.plan == *plan);
    match (verdict, before) {
        (Validity::Invalid, before) => {
            let (check, text) = finding.unwrap_or_default();
            let signature = format!("{}: {check}: {}", plan.system, signature_of(text));
            tally.finds.entry(signature).or_insert((0, command)).0 += 1;
            let failed = before.map_or(0, |at| kept.remove(at).failed) + 1;
            // The last one that failed comes first.
            kept.insert(0, KeptSeed { plan: plan.clone(), failed, valid_since: 0, why });
        }
        (Validity::Valid, Some(at)) => {
            kept[at].valid_since += 1;
            if kept[at].valid_since >= FORGOTTEN_AFTER {
                kept.remove(at);
                writeln!(
                    stdout(),
                    "  seed {} is forgotten: valid {FORGOTTEN_AFTER} times",
                    plan.seed
                )?;
            }
        }
        _ => {}
    }
    if verdict == Validity::Valid && !args.keep_valid {
        let group = directory.parent().unwrap_or(&args.store);
        let removed =
            fs::remove_dir_all(&directory).and_then(|()| remove_links(&args.store, group));
        if let Err(error) = removed {
            eprintln!("harness: {} cannot be removed: {error}", directory.display());
        }
    }
    Ok(Some(verdict))
}

impl Tally {
    fn print(&self) -> Result<(), Failure> {
        for (system, [valid, unknown, invalid]) in &self.systems {
            writeln!(stdout(), "{system}: {valid} valid, {unknown} unknown, {invalid} invalid")?;
        }
        for (signature, (count, command)) in &self.finds {
            writeln!(stdout(), "found {count} times: {signature}\n  {command}")?;
        }
        Ok(())
    }

    /// Invalid outranks unknown, and nothing was shown where nothing was run.
    fn exit(&self, interrupted: bool) -> Exit {
        let count = |at: usize| self.systems.values().map(|counts| counts[at]).sum::<u64>();
        match (count(2), count(1)) {
            (1.., _) => Exit::Invalid,
            (0, 0) if self.made > 0 && !interrupted => Exit::Valid,
            _ => Exit::Unknown,
        }
    }
}

/// Makes a run in a process of its own. A signal is passed on to it, so that it ends in order.
async fn run_child(
    plan: &Plan,
    store: &Path,
    interrupt: &watch::Receiver<bool>,
) -> Result<Output, Failure> {
    let program = own_program()?;
    let mut command = tokio::process::Command::new(&program);
    command.args(plan.arguments()).arg("--store").arg(store).arg("--json");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let cannot = |error: io::Error| {
        Failure::harness(anyhow!(error).context(format!("cannot run {}", program.display())))
    };
    let child = command.spawn().map_err(cannot)?;
    let pid = child.id();
    let mut interrupt = interrupt.clone();
    let passing_on = async {
        // Without a sender it is pending for ever, and so is this after the signal.
        if interrupt.wait_for(|interrupt| *interrupt).await.is_ok()
            && let Some(pid) = pid
        {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM);
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        output = child.wait_with_output() => output.map_err(cannot),
        () = passing_on => unreachable!("it is pending"),
    }
}

/// The run of this number.
fn draw(candidates: &[Candidate], seed: u64, number: u64, time_limit: Duration) -> Plan {
    let mut rng = worker_rng(seed, number);
    // In turn: a short soak meets every system.
    let Candidate { system, workloads, faults } = &candidates[number as usize % candidates.len()];
    let workload = workloads.choose(&mut rng).cloned();
    let count = match rng.random_range(0..100) < WITHOUT_FAULTS_PERCENT {
        true => 0,
        false => rng.random_range(1..=FAULTS_MAX.min(faults.len().max(1))),
    };
    let drawn: Vec<&str> = faults.sample(&mut rng, count).map(String::as_str).collect();
    Plan {
        system: system.clone(),
        workload,
        faults: if drawn.is_empty() { "none".to_owned() } else { drawn.join(",") },
        time_limit: duration_text(time_limit),
        seed: rng.random::<u32>().into(),
    }
}

/// What can be drawn for each system.
fn candidates(args: &SoakArgs) -> Result<Vec<Candidate>, Failure> {
    for name in &args.workloads {
        if workloads::find(name).is_none() {
            let names = workloads::names();
            return Err(Failure::arguments(anyhow!(
                "--workloads: there is no workload '{name}'; the workloads are {names}"
            )));
        }
    }
    for name in &args.faults {
        if let Err(why) = name.parse::<Fault>()
            && FaultName::find(name).is_none()
        {
            return Err(Failure::arguments(anyhow!(
                "--faults: {why}; other faults are those of twopc"
            )));
        }
    }
    let possible = Possible::find()?;
    let each = args.systems.iter().map(|system| match system.as_str() {
        "twopc" => possible.of_twopc(args),
        _ => possible.of_other(args, system),
    });
    each.collect()
}

/// Which faults this machine allows.
struct Possible {
    disks: bool,
    network: bool,
    clocks: bool,
}

impl Possible {
    fn find() -> Result<Possible, Failure> {
        let program = own_program()?;
        let told = |what: &str, result: Result<(), String>| {
            if let Err(why) = &result {
                eprintln!("harness: no faults of {what}: {why}");
            }
            result.is_ok()
        };
        Ok(Possible {
            disks: told("disks", disk::available()),
            network: told("the network", network::available(&program).map_err(|e| e.to_string())),
            clocks: told("clocks", clock::available(&program).map_err(|e| e.to_string())),
        })
    }

    fn of_twopc(&self, args: &SoakArgs) -> Result<Candidate, Failure> {
        if !args.workloads.is_empty() && args.workloads.iter().all(|name| name != "register") {
            return Err(Failure::arguments(anyhow!("--workloads: twopc has only register")));
        }
        let mut faults = Vec::new();
        for fault in FaultName::ALL.iter().filter(|fault| {
            args.faults.is_empty() || args.faults.iter().any(|name| name == fault.name())
        }) {
            // The matrix is work of its own, of many runs.
            let is_left_out = *fault == FaultName::CrashMatrix && args.faults.is_empty();
            if !is_left_out && (self.disks || !fault.needs_disks()) {
                faults.push(fault.name().to_owned());
            }
        }
        none_left(args, "twopc", &faults)?;
        Ok(Candidate { system: "twopc".to_owned(), workloads: Vec::new(), faults })
    }

    fn of_other(&self, args: &SoakArgs, system: &str) -> Result<Candidate, Failure> {
        let subject = Subject::find(&SubjectOptions { system, ..SubjectOptions::default() })?;
        let mut names = subject.workloads();
        names.retain(|name| args.workloads.is_empty() || args.workloads.contains(name));
        if names.is_empty() {
            return Err(Failure::arguments(anyhow!(
                "--systems {system}: no workload is left; a file needs a claim for each in its table [claims]"
            )));
        }
        let asked: Vec<&str> = match args.faults.is_empty() {
            true => FAULTS.to_vec(),
            false => args.faults.iter().map(String::as_str).collect(),
        };
        let mut faults = Vec::new();
        for name in asked {
            // One of twopc's may be in the list for that.
            let Ok(fault) = name.parse::<Fault>() else { continue };
            let stands = |(action, _): (FaultAction, _)| subject.excluded(action).is_none();
            if self.allows(&fault) && fault.parts().all(stands) {
                faults.push(name.to_owned());
            }
        }
        none_left(args, system, &faults)?;
        Ok(Candidate { system: system.to_owned(), workloads: names, faults })
    }

    fn allows(&self, fault: &Fault) -> bool {
        (self.disks || !fault.needs_disk())
            && (self.network || !fault.needs_network())
            && (self.clocks || !fault.needs_clock())
    }
}

/// Refuses a list of faults of which none can be injected into a system.
fn none_left(args: &SoakArgs, system: &str, faults: &[String]) -> Result<(), Failure> {
    match faults.is_empty() && !args.faults.is_empty() {
        true => Err(Failure::arguments(anyhow!(
            "--faults: none of these is possible here and one that {system} is meant to stand"
        ))),
        false => Ok(()),
    }
}

fn load(store: &Path) -> Result<Vec<KeptSeed>, Failure> {
    let path = store.join(KEPT);
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|error| {
            Failure::arguments(anyhow!(
                "{}: {error}; remove the file to forget the seeds that failed",
                path.display()
            ))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Failure::arguments(anyhow!("{}: {error}", path.display()))),
    }
}

fn save(store: &Path, kept: &[KeptSeed]) -> Result<(), Failure> {
    let mut text = serde_json::to_vec_pretty(kept).map_err(Failure::harness)?;
    text.push(b'\n');
    campaign::write_whole(&store.join(KEPT), &text).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates() -> Vec<Candidate> {
        let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        vec![
            Candidate { system: "a".to_owned(), workloads: Vec::new(), faults: texts(&["x", "y"]) },
            Candidate { system: "b".to_owned(), workloads: texts(&["set"]), faults: Vec::new() },
        ]
    }

    #[test]
    fn a_seed_draws_the_same_runs_and_every_system_is_met() {
        let all = candidates();
        let runs = |seed| {
            let runs = (0..40).map(|number| draw(&all, seed, number, Duration::from_secs(5)));
            runs.collect::<Vec<Plan>>()
        };
        assert_eq!(runs(7), runs(7));
        assert_ne!(runs(7), runs(8));
        let drawn = runs(7);
        assert!(drawn.iter().step_by(2).all(|plan| plan.system == "a" && plan.workload.is_none()));
        let of_b = drawn.iter().skip(1).step_by(2);
        assert!(of_b.clone().all(|plan| plan.workload.as_deref() == Some("set")));
        assert!(of_b.clone().all(|plan| plan.faults == "none"));
        for faults in ["x", "y", "none"] {
            assert!(drawn.iter().any(|plan| plan.system == "a" && plan.faults == faults));
        }
        assert_eq!(
            Plan { faults: "pause>kill:same".to_owned(), ..drawn[1].clone() }.command(),
            format!(
                "harness --system b --workload set --faults 'pause>kill:same' --time-limit 5s --seed {}",
                drawn[1].seed
            )
        );
    }

    #[test]
    fn a_violation_outranks_what_is_unknown_and_no_run_is_not_valid() {
        let exit = |counts, interrupted| {
            let systems = [("a".to_owned(), counts)].into_iter().collect();
            Tally { systems, made: 1, ..Tally::default() }.exit(interrupted)
        };
        assert_eq!(exit([3, 0, 0], false), Exit::Valid);
        assert_eq!(exit([3, 0, 0], true), Exit::Unknown);
        assert_eq!(exit([3, 1, 0], false), Exit::Unknown);
        assert_eq!(exit([3, 1, 1], true), Exit::Invalid);
        assert_eq!(Tally::default().exit(false), Exit::Unknown);
    }

    #[test]
    fn every_fault_that_is_drawn_is_one() {
        for name in FAULTS {
            assert!(name.parse::<Fault>().is_ok(), "{name}");
        }
    }

    #[test]
    fn kept_seeds_come_back_as_they_were_written() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        assert_eq!(load(directory.path()).ok(), Some(Vec::new()));
        let plan = draw(&candidates(), 1, 0, Duration::from_secs(5));
        let kept = vec![KeptSeed { plan, failed: 2, valid_since: 1, why: "lost".to_owned() }];
        assert!(save(directory.path(), &kept).is_ok());
        assert_eq!(load(directory.path()).ok(), Some(kept));
        fs::write(directory.path().join(KEPT), "[{}]").expect("the disk has room");
        let error = load(directory.path()).err().and_then(|failure| failure.error);
        assert!(error.is_some_and(|error| error.to_string().contains("remove the file")));
    }
}
