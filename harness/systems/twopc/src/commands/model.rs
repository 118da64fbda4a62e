//! `harness model`: its options and its report.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use checker::Validity;
use clap::{ArgAction, Args};
use explore::{
    model::{
        Exploration, ExplorationLimits, ModelOptions, explore, script, serve_explorer, snapshot,
    },
    schedule::{Property, Schedule},
};
use system::protocol::{CommitMode, Rule, Rules};

use report::progress::Progress;

/// Explore every schedule of a small cluster exhaustively: the machines that run in production, under
/// stateright.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// What makes a commit: logged (the master's log) or votes.
    #[arg(long, value_name = "MODE", default_value_t)]
    pub commit: CommitMode,
    /// The number of replicas.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=4))]
    pub replicas: u8,
    /// The number of writes: puts, and a del as the last of several on one key.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=8))]
    pub transactions: u8,
    /// The number of gets, after the writes.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=4))]
    pub gets: u8,
    /// The number of snapshots of all keys as a list, after the gets.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub snapshots: u8,
    /// The number of pages of the range of all keys, after the snapshots.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub pages: u8,
    /// The number of keys.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub keys: u8,
    /// Crashes of the master. Each keeps any prefix of the unforced records.
    #[arg(long, default_value_t = 0)]
    pub master_crashes: u8,
    /// Crashes of replicas, in total.
    #[arg(long, default_value_t = 0)]
    pub replica_crashes: u8,
    /// Replicas that come back with an empty store.
    #[arg(long, default_value_t = 0)]
    pub wipes: u8,
    /// Entries that rot on replicas' disks, in total.
    #[arg(long, default_value_t = 0)]
    pub damages: u8,
    /// Second instances of the master on its store (with the rule `exclusive-store` broken).
    #[arg(long, default_value_t = 0)]
    pub second_instances: u8,
    /// Whether replicas in doubt inquire of each other.
    #[arg(long, default_value = "on", action = ArgAction::Set, value_parser = on_or_off)]
    pub peers: bool,
    /// Whether states that differ only by a permutation of the replicas count as one.
    #[arg(long, default_value = "on", action = ArgAction::Set, value_parser = on_or_off)]
    pub symmetry: bool,
    /// Whether messages that can change nothing any more are removed from a state. Changes the number
    /// of states and nothing else.
    #[arg(long, default_value = "on", action = ArgAction::Set, value_parser = on_or_off)]
    pub reduced: bool,
    /// Let the master suspect every replica at any time.
    #[arg(long)]
    pub heartbeats: bool,
    /// How many outcomes below the watermark a replica collects before it drops them.
    #[arg(long, default_value_t = 1)]
    pub watermark_batch: u32,
    /// Start with empty stores instead of a cluster that has handshaken.
    #[arg(long)]
    pub cold: bool,
    /// Also test the clients' history by stateright's linearizability tester.
    #[arg(long)]
    pub histories: bool,
    /// Break a rule of the protocol.
    #[arg(long = "break", value_name = "RULE")]
    pub broken: Vec<Rule>,
    /// The number of threads. With one thread, counterexamples are the shortest.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Search depth first: needs far less memory, but counterexamples are not the shortest.
    #[arg(long)]
    pub depth_first: bool,
    /// Continue past other violations until this property is violated.
    #[arg(long, value_name = "PROPERTY")]
    pub until: Option<Property>,
    /// Stop after this many states.
    #[arg(long)]
    pub max_states: Option<usize>,
    /// Stop after this many seconds.
    #[arg(long, value_name = "SECONDS")]
    pub time_limit: Option<u64>,
    /// Where to write the counterexample, a schedule for `harness replay`.
    #[arg(long, value_name = "FILE", default_value = "schedule.json")]
    pub schedule: PathBuf,
    /// Instead of an exhaustive search, serve stateright's Explorer at this address, such as
    /// localhost:3000.
    #[arg(long, value_name = "ADDR")]
    pub explore: Option<String>,
}

fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("'{text}': expected on or off")),
    }
}

impl ModelArgs {
    /// The options of the model.
    #[must_use]
    pub fn options(&self) -> ModelOptions {
        let rules = self.broken.iter().fold(Rules::ALL, |rules, rule| rules.without(*rule));
        let mut requests = script(self.transactions, self.gets, self.keys);
        requests.extend((0..self.snapshots).map(|_| snapshot(self.keys, false)));
        requests.extend((0..self.pages).map(|_| snapshot(self.keys, true)));
        let mut options = ModelOptions::of(self.replicas, requests);
        options.setup.commit = self.commit;
        options.setup.rules = rules;
        options.setup.timing.watermark_batch = self.watermark_batch;
        options.setup.peers = self.peers;
        options.setup.handshaken = !self.cold;
        ModelOptions {
            master_crashes: self.master_crashes,
            replica_crashes: self.replica_crashes,
            wipes: self.wipes,
            damages: self.damages,
            second_instances: self.second_instances,
            symmetry: self.symmetry,
            reduced: self.reduced,
            heartbeats: self.heartbeats,
            histories: self.histories,
            until: self.until,
            ..options
        }
    }

    /// The command that repeats this exploration.
    fn command(&self) -> String {
        let on = |on: bool| if on { "on" } else { "off" };
        let mut text = format!(
            "harness model --commit {} --replicas {} --transactions {} --gets {} --keys {} --master-crashes {} \
             --replica-crashes {} --wipes {} --damages {} --second-instances {} --peers {} --symmetry {} --reduced {} \
             --watermark-batch {}",
            self.commit,
            self.replicas,
            self.transactions,
            self.gets,
            self.keys,
            self.master_crashes,
            self.replica_crashes,
            self.wipes,
            self.damages,
            self.second_instances,
            on(self.peers),
            on(self.symmetry),
            on(self.reduced),
            self.watermark_batch,
        );
        for (flag, set) in [
            (" --heartbeats", self.heartbeats),
            (" --cold", self.cold),
            (" --histories", self.histories),
        ] {
            text += if set { flag } else { "" };
        }
        if let Some(property) = self.until {
            text += &format!(" --until {property}");
        }
        for rule in &self.broken {
            text += &format!(" --break {rule}");
        }
        text
    }
}

/// Explores the model and prints the report: valid if every property holds and all states were
/// explored, invalid if a property is violated, unknown if a limit was reached first.
///
/// # Errors
/// The counterexample cannot be written, or standard output is closed.
pub fn run(args: &ModelArgs) -> anyhow::Result<Validity> {
    let options = args.options();
    if let Some(address) = &args.explore {
        println!("stateright's Explorer: http://{address}");
        serve_explorer(options, address);
        return Ok(Validity::Valid);
    }
    let limits = ExplorationLimits {
        states: args.max_states,
        time: args.time_limit.map(Duration::from_secs),
        threads: args.threads,
        depth_first: args.depth_first,
    };
    let counts = Arc::new([const { AtomicUsize::new(0) }; 2]);
    let shown = counts.clone();
    let progress = Progress::show(move |elapsed| {
        let [unique, depth] = [&shown[0], &shown[1]].map(|count| count.load(Ordering::Relaxed));
        format!("{:.0} s: {unique} states, depth {depth}", elapsed.as_secs_f64())
    });
    let exploration = explore(&options, limits, |unique, depth| {
        counts[0].store(unique, Ordering::Relaxed);
        counts[1].store(depth, Ordering::Relaxed);
    });
    drop(progress);
    report(&exploration, args)
}

fn report(exploration: &Exploration, args: &ModelArgs) -> anyhow::Result<Validity> {
    let Exploration { unique, states, depth, distinct, elapsed, complete, violations, situations } =
        exploration;
    let seconds = elapsed.as_secs_f64();
    println!(
        "{unique} distinct states of {states} generated, depth {depth}, {seconds:.1} s, {:.0} \
         states/s; distinct hosts: {}, messages: {}, invariant checkers: {}",
        *unique as f64 / seconds.max(0.001),
        distinct[0],
        distinct[1],
        distinct[2],
    );
    for (name, steps) in situations {
        match steps {
            Some(steps) => println!("  reached in {steps:>2} steps: {name}"),
            None => println!("  not reached: {name}"),
        }
    }
    let sought = violations.iter().find(|(property, _)| Some(*property) == args.until);
    let Some((property, counterexample)) = sought.or(violations.first()) else {
        return Ok(if *complete {
            println!("every property holds in every state");
            Validity::Valid
        } else {
            println!("every property holds in the states explored; a limit was reached first");
            Validity::Unknown
        });
    };
    for (property, counterexample) in violations {
        let steps = counterexample.steps.len();
        println!("✗ {property}: counterexample of {steps} steps: {}", property.claim());
    }
    println!("\n{property}: {}", property.claim());
    let counterexample = Schedule { origin: args.command(), ..counterexample.clone() };
    let (lines, _) = counterexample.trace().context("the counterexample cannot be replayed")?;
    lines.iter().for_each(|line| println!("{line}"));
    let path = &args.schedule;
    counterexample.write(path).with_context(|| format!("cannot write {}", path.display()))?;
    println!("\ncounterexample: harness replay {}", path.display());
    Ok(Validity::Invalid)
}
