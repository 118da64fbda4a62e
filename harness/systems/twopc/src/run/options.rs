//! The options of a run: one value, from which `test.json` and the command that repeats the run are
//! derived. Does not know the command line.

use std::{path::PathBuf, time::Duration};

use history::{RunDescription, Shard};
use lab::{duration::duration_text, worker::ClientTimeouts, workload::Mix};
use serde_json::{Map, Value as Json, json};
use system::protocol::CommitMode;

use super::Variation;
use crate::{
    Mutation, TLS_AVAILABLE, Timings,
    faults::{Faults, Injection},
};

/// How long clients wait for answers. Longer for a write than the vote timeout, so that the client
/// learns of an abort because of missing votes.
pub(super) const CLIENT_TIMEOUTS: ClientTimeouts =
    ClientTimeouts { write: Duration::from_millis(1_500), get: Duration::from_millis(1_000) };

/// How long the system has to decide every transaction after the last fault was healed.
pub const CONVERGENCE_DEADLINE: Duration = Duration::from_secs(10);

/// What ends a run before its time, besides a node that exits and a signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailFast {
    /// Nothing.
    #[default]
    Never,
    /// The history of the clients cannot become linearizable any more.
    ClientsSeeIt,
    /// That, or the journals of the nodes show a violation.
    AnyViolation,
}

/// The options of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunOptions {
    /// The faults to inject.
    pub faults: Faults,
    /// The duration of the load.
    pub time_limit: Duration,
    /// The number of concurrent clients.
    pub concurrency: u32,
    /// Operations per second of all clients together, 0 for no limit.
    pub rate: f64,
    /// The number of keys.
    pub keys: u32,
    /// The number of replicas.
    pub replicas: u8,
    /// What makes a commit.
    pub commit: CommitMode,
    /// The share of each operation.
    pub mix: Mix,
    /// The seed of every random choice of the harness.
    pub seed: u64,
    /// The directory of all runs.
    pub store: PathBuf,
    /// The name of the system under test.
    pub system: String,
    /// The directory of the system's programs; `None` for the nodes built into the harness.
    pub system_bin: Option<PathBuf>,
    /// Deliberate defects.
    pub mutations: Vec<Mutation>,
    /// Whether the nodes' data is on disks that can lose power. Needs root and FUSE.
    pub disks: bool,
    /// The shard of the crash matrix that the run covers.
    pub shard: Shard,
    /// What ends the run before its time.
    pub fail_fast: FailFast,
    /// Timing parameters that differ from the defaults.
    pub timings: Timings,
    /// Whether messages pass through relays even if no fault needs them.
    pub relay: bool,
    /// Whether all connections have TLS, with certificates of a CA that the run makes.
    pub tls: bool,
    /// The transactions of each epoch are numbered from the next number on.
    pub sequence_above: u64,
    /// Whether workers record unknown outcomes as failures: a defect of the harness, which the checks
    /// must find.
    pub misreport_unknown: bool,
    /// The schedule to replay, instead of load and faults.
    pub schedule: Option<PathBuf>,
    /// Injections to use instead of those that the seed draws.
    pub script: Option<Vec<Injection>>,
}

impl RunOptions {
    /// The name of the directory that groups runs like this one.
    #[must_use]
    pub fn label(&self) -> String {
        let what = if self.schedule.is_some() { "schedule" } else { &self.faults.label() };
        let mut label = format!("{}-{what}", self.system);
        if !self.commit.is_logged() {
            label.push_str(&format!("-{}", self.commit));
        }
        if self.tls {
            label.push_str("-tls");
        }
        for mutation in &self.mutations {
            label.push_str("-without-");
            label.push_str(mutation.name());
        }
        label
    }

    /// The same run with this load, and these parameters of the nodes.
    #[must_use]
    pub fn shaped(self, shape: Variation) -> Self {
        RunOptions {
            concurrency: shape.concurrency,
            rate: shape.rate,
            keys: shape.keys,
            timings: shape.timings(),
            sequence_above: shape.sequence_above,
            ..self
        }
    }

    /// The command that repeats this run, as far as it is determined by the seed.
    #[must_use]
    pub fn command(&self) -> String {
        if let Some(schedule) = &self.schedule {
            return format!("harness replay --real {}", schedule.display());
        }
        let mut command = format!(
            "harness test --faults {} --time-limit {} --concurrency {} --rate {} --keys {} \
             --replicas {} --commit {} --mix {} --seed {} --system {}",
            self.faults,
            duration_text(self.time_limit),
            self.concurrency,
            self.rate,
            self.keys,
            self.replicas,
            self.commit,
            self.mix,
            self.seed,
            self.system,
        );
        if let Some(directory) = &self.system_bin {
            command.push_str(&format!(" --system-bin {}", directory.display()));
        }
        if self.shard != Shard::WHOLE {
            command.push_str(&format!(" --shard {}", self.shard));
        }
        for mutation in &self.mutations {
            command.push_str(&format!(" --break {mutation}"));
        }
        if TLS_AVAILABLE {
            command.push_str(if self.tls { " --tls yes" } else { " --tls no" });
        }
        // What the seed would vary otherwise is always named.
        let varies = self.faults.are_all();
        if varies || self.sequence_above > 0 {
            command.push_str(&format!(" --sequence-above {}", self.sequence_above));
        }
        if self.fail_fast == FailFast::AnyViolation {
            command.push_str(" --fail-fast");
        }
        if self.timings != Timings::default() {
            command.push_str(&format!(" --timing {}", self.timings));
        } else if varies {
            command.push_str(" --timing ''");
        }
        let flags = [("--relay", self.relay), ("--misreport-unknown", self.misreport_unknown)];
        for (flag, given) in flags {
            if given {
                command.push_str(&format!(" {flag}"));
            }
        }
        command
    }

    /// The content of `test.json`. `clock_origin` is the monotonic clock at time 0 of the history, in
    /// nanoseconds.
    #[must_use]
    pub fn describe(&self, started: String, clock_origin: u64) -> RunDescription {
        RunDescription {
            name: Some(self.label()),
            system: Some(self.system.clone()),
            started: Some(started),
            command: Some(self.command()),
            seed: Some(self.seed),
            faults: self.faults.names().iter().map(|fault| fault.name().to_owned()).collect(),
            broken: self.mutations.iter().map(|mutation| mutation.name().to_owned()).collect(),
            concurrency: Some(self.concurrency.into()),
            replicas: Some(self.replicas),
            workload: None,
            claim: None,
            nodes: Vec::new(),
            clock_origin: Some(clock_origin),
            convergence_deadline_ms: Some(ms(CONVERGENCE_DEADLINE)),
            options: self.named(),
        }
    }

    /// The other options, by name.
    fn named(&self) -> Map<String, Json> {
        let versions = json!({
            "harness": env!("CARGO_PKG_VERSION"),
            "build": if cfg!(debug_assertions) { "debug" } else { "release" },
            "os": std::env::consts::OS,
            "arch": std::env::consts::ARCH,
        });
        let options = [
            ("time_limit_ms", json!(ms(self.time_limit))),
            ("rate", json!(self.rate)),
            ("keys", json!(self.keys)),
            ("commit", json!(self.commit)),
            ("mix", json!(self.mix.to_string())),
            ("system_bin", json!(self.system_bin)),
            ("script", json!(self.script.as_ref().map(Vec::len))),
            ("fail_fast", json!(self.fail_fast != FailFast::Never)),
            ("timing", json!(self.timings.to_string())),
            ("relay", json!(self.relay)),
            ("tls", json!(self.tls)),
            ("sequence_above", json!(self.sequence_above)),
            ("misreport_unknown", json!(self.misreport_unknown)),
            ("write_timeout_ms", json!(ms(CLIENT_TIMEOUTS.write))),
            ("get_timeout_ms", json!(ms(CLIENT_TIMEOUTS.get))),
            ("disks", json!(self.disks)),
            ("shard", json!(self.shard.to_string())),
            ("versions", versions),
        ];
        options.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()
    }
}

/// A time in milliseconds.
fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
