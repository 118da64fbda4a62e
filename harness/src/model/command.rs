//! `harness model`: what is asked for, and what is said about it.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use clap::{ArgAction, Args};
use stateright::Model as _;
use system::protocol::{CommitMode, Key, Request, Rule, Rules, Value, Write};

use super::{
    ModelOptions, TwoPhase,
    explore::{Bounds, Explored, explore},
};
use crate::{
    checker::Validity,
    progress::Progress,
    schedule::{Property, Schedule},
};

/// Explore every schedule of a small cluster: the very machines that run, by stateright.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// What makes a commit: logged (the master's log) or votes.
    #[arg(long, value_name = "MODE", default_value_t)]
    pub commit: CommitMode,
    /// Replicas.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=4))]
    pub replicas: u8,
    /// Writes that clients ask for: puts, and a del as the last of several on one key.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=8))]
    pub transactions: u8,
    /// Gets that clients ask for, after the writes.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=4))]
    pub gets: u8,
    /// Keys that the writes are spread over.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub keys: u8,
    /// Crashes of the master: each keeps any prefix of what was not forced.
    #[arg(long, default_value_t = 0)]
    pub master_crashes: u8,
    /// Crashes of replicas, all together.
    #[arg(long, default_value_t = 0)]
    pub replica_crashes: u8,
    /// Replicas that come back with an empty store.
    #[arg(long, default_value_t = 0)]
    pub wipes: u8,
    /// Second instances of the master on its store (where the rule `exclusive-store` is broken).
    #[arg(long, default_value_t = 0)]
    pub second_instances: u8,
    /// Whether replicas in doubt ask each other.
    #[arg(long, default_value = "on", action = ArgAction::Set, value_parser = on_or_off)]
    pub peers: bool,
    /// Whether clusters that differ in the names of the replicas alone count as one.
    #[arg(long, default_value = "on", action = ArgAction::Set, value_parser = on_or_off)]
    pub symmetry: bool,
    /// Whether messages that can change nothing any more are left out. It changes how many states
    /// there are, and nothing else.
    #[arg(long, default_value = "on", action = ArgAction::Set, value_parser = on_or_off)]
    pub reduced: bool,
    /// Whether the master may suspect every replica at any time.
    #[arg(long)]
    pub heartbeats: bool,
    /// Replicas drop outcomes below the watermark when they have this many of them.
    #[arg(long, default_value_t = 1)]
    pub watermark_batch: u32,
    /// Begin with empty stores, not with a cluster that has handshaken.
    #[arg(long)]
    pub cold: bool,
    /// Judge the clients' history by stateright's linearizability tester as well.
    #[arg(long)]
    pub histories: bool,
    /// Break a rule of the protocol.
    #[arg(long = "break", value_name = "RULE")]
    pub broken: Vec<Rule>,
    /// Threads; with one the schedules are the shortest.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Go deep first: far less memory, and no shortest schedules.
    #[arg(long)]
    pub depth_first: bool,
    /// Go on until this property is found broken, whatever else is found before.
    #[arg(long, value_name = "PROPERTY")]
    pub until: Option<Property>,
    /// Stop when so many states were reached.
    #[arg(long)]
    pub max_states: Option<usize>,
    /// Stop after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    pub time_limit: Option<u64>,
    /// Write the schedule of a broken property here, to be replayed.
    #[arg(long, value_name = "FILE", default_value = "schedule.json")]
    pub schedule: PathBuf,
    /// Do not explore all; open stateright's Explorer at this address, such as localhost:3000.
    #[arg(long, value_name = "ADDR")]
    pub explore: Option<String>,
}

fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("'{text}': want on or off")),
    }
}

impl ModelArgs {
    /// The model that was asked for.
    #[must_use]
    pub fn options(&self) -> ModelOptions {
        let rules = self.broken.iter().fold(Rules::ALL, |rules, rule| rules.without(*rule));
        let mut options =
            ModelOptions::of(self.replicas, script(self.transactions, self.gets, self.keys));
        options.setup.commit = self.commit;
        options.setup.rules = rules;
        options.setup.timing.watermark_batch = self.watermark_batch;
        options.setup.peers = self.peers;
        options.setup.settled = !self.cold;
        ModelOptions {
            master_crashes: self.master_crashes,
            replica_crashes: self.replica_crashes,
            wipes: self.wipes,
            second_instances: self.second_instances,
            symmetry: self.symmetry,
            reduced: self.reduced,
            heartbeats: self.heartbeats,
            histories: self.histories,
            until: self.until,
            ..options
        }
    }

    /// The command that explores this again.
    fn command(&self) -> String {
        let on = |on: bool| if on { "on" } else { "off" };
        let mut text = format!(
            "harness model --commit {} --replicas {} --transactions {} --gets {} --keys {} --master-crashes {} \
             --replica-crashes {} --wipes {} --second-instances {} --peers {} --symmetry {} --reduced {} \
             --watermark-batch {}",
            self.commit,
            self.replicas,
            self.transactions,
            self.gets,
            self.keys,
            self.master_crashes,
            self.replica_crashes,
            self.wipes,
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

/// What clients ask: puts, spread over the keys, and a del as the last of several writes of one
/// key; then gets.
#[must_use]
pub fn script(transactions: u8, gets: u8, keys: u8) -> Vec<Request> {
    let key = |n: u8| Key::from(format!("k{}", n % keys + 1).as_str());
    let write = |n: u8| {
        let last = n >= keys && n + keys >= transactions;
        let value = (!last).then(|| Value::from(format!("v{}", n + 1).as_str()));
        Request::Write(Write { key: key(n), value })
    };
    // One attempt: the model has no deadline to fill with more.
    let get = |n| Request::Get { key: key(n), choice: 0, deadline: Duration::from_millis(1) };
    (0..transactions).map(write).chain((0..gets).map(get)).collect()
}

/// Explores what was asked for and says what was found: valid if everything holds and all was seen,
/// invalid if something is broken, unknown if a bound was met first.
///
/// # Errors
/// The schedule cannot be written, or standard output is closed.
pub fn run(args: &ModelArgs) -> anyhow::Result<Validity> {
    let options = args.options();
    if let Some(address) = &args.explore {
        println!("stateright's Explorer: http://{address}");
        let _checker = TwoPhase::new(options).checker().serve(address.as_str());
        return Ok(Validity::Valid);
    }
    let bounds = Bounds {
        states: args.max_states,
        time: args.time_limit.map(Duration::from_secs),
        threads: args.threads,
        depth_first: args.depth_first,
    };
    let seen = Arc::new([const { AtomicUsize::new(0) }; 2]);
    let far = seen.clone();
    let progress = Progress::show(move |elapsed| {
        let [unique, depth] = [&far[0], &far[1]].map(|count| count.load(Ordering::Relaxed));
        format!("{:.0} s: {unique} states, depth {depth}", elapsed.as_secs_f64())
    });
    let explored = explore(&options, bounds, |unique, depth| {
        seen[0].store(unique, Ordering::Relaxed);
        seen[1].store(depth, Ordering::Relaxed);
    });
    drop(progress);
    report(&explored, args)
}

fn report(explored: &Explored, args: &ModelArgs) -> anyhow::Result<Validity> {
    let Explored { unique, states, depth, met, elapsed, complete, broken, situations } = explored;
    let seconds = elapsed.as_secs_f64();
    println!(
        "{unique} states ({states} with repeats), depth {depth}, {seconds:.1} s, {:.0} states/s; \
         {} different hosts, {} messages, {} judges",
        *unique as f64 / seconds.max(0.001),
        met[0],
        met[1],
        met[2],
    );
    for (name, steps) in situations {
        match steps {
            Some(steps) => println!("  reached in {steps:>2} steps: {name}"),
            None => println!("  not reached: {name}"),
        }
    }
    let sought = broken.iter().find(|(property, _)| Some(*property) == args.until);
    let Some((property, schedule)) = sought.or(broken.first()) else {
        return Ok(if *complete {
            println!("every property holds in every state");
            Validity::Valid
        } else {
            println!(
                "every property holds in these states; the bound was met before all were seen"
            );
            Validity::Unknown
        });
    };
    for (property, schedule) in broken {
        println!("✗ {property} in {} steps: {}", schedule.steps.len(), property.claim());
    }
    println!("\n{property}: {}", property.claim());
    let schedule = Schedule { origin: args.command(), ..schedule.clone() };
    let (lines, _) = schedule.tell().context("the schedule that was found cannot be run again")?;
    lines.iter().for_each(|line| println!("{line}"));
    let path = &args.schedule;
    schedule.write(path).with_context(|| format!("cannot write {}", path.display()))?;
    println!("\nschedule: {}", path.display());
    Ok(Validity::Invalid)
}
