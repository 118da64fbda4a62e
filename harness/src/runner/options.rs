//! All that a run is told: one value with defaults, from which `test.json` and the command that
//! repeats the run are made. Knows nothing of how options are typed.

use std::{path::PathBuf, time::Duration};

use serde_json::{Value as Json, json};
use system::protocol::CommitMode;

use super::worker::{GET_TIMEOUT, WRITE_TIMEOUT};
use crate::{
    generator::Mix,
    nemesis::{Faults, Injection, matrix::Part},
    systems::{Break, Timings},
};

/// After the last heal, everything is decided within this time.
pub const CONVERGENCE_DEADLINE: Duration = Duration::from_secs(10);

/// What a run does.
#[derive(Clone, Debug, PartialEq)]
pub struct RunOptions {
    /// The faults.
    pub faults: Faults,
    /// How long clients ask and faults strike.
    pub time_limit: Duration,
    /// How many clients ask at a time.
    pub concurrency: u32,
    /// Operations a second of all clients together, 0 for no limit.
    pub rate: f64,
    /// How many keys there are.
    pub keys: u32,
    /// How many replicas the system has.
    pub replicas: u8,
    /// What makes a commit in it.
    pub commit: CommitMode,
    /// What is asked how often.
    pub mix: Mix,
    /// What all random choices of the harness come from.
    pub seed: u64,
    /// Where runs are kept.
    pub store: PathBuf,
    /// The name of the system under test.
    pub system: String,
    /// Where the system's programs are, if not in the harness itself.
    pub system_bin: Option<PathBuf>,
    /// What is broken on purpose.
    pub broken: Vec<Break>,
    /// The nodes' data lie on disks that can lose power, which needs FUSE and root.
    pub disks: bool,
    /// The part of the crash matrix that is to be done.
    pub part: Part,
    /// The run ends as soon as what clients saw cannot become right any more.
    pub fail_fast: bool,
    /// Periods of the nodes that are not the usual ones.
    pub timing: Timings,
    /// Messages pass through the harness though no fault asks for it.
    pub relay: bool,
    /// The harness lies: it records an unknown outcome as a failure. To be found out.
    pub lie: bool,
    /// The schedule that is forced, instead of load and faults.
    pub schedule: Option<PathBuf>,
    /// These strikes, instead of what the seed draws of the faults.
    pub script: Option<Vec<Injection>>,
}

impl RunOptions {
    /// The name of the directory in which runs like this one lie.
    #[must_use]
    pub fn label(&self) -> String {
        let what = if self.schedule.is_some() { "schedule" } else { &self.faults.label() };
        let mut label = format!("{}-{what}", self.system);
        if !self.commit.is_logged() {
            label.push_str(&format!("-{}", self.commit));
        }
        for rule in &self.broken {
            label.push_str("-without-");
            label.push_str(rule.name());
        }
        label
    }

    /// The command that makes this run again, as far as it depends on the seed.
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
        if self.part != Part::WHOLE {
            command.push_str(&format!(" --part {}", self.part));
        }
        for rule in &self.broken {
            command.push_str(&format!(" --break {rule}"));
        }
        if self.fail_fast {
            command.push_str(" --fail-fast");
        }
        if self.timing != Timings::default() {
            command.push_str(&format!(" --timing {}", self.timing));
        }
        for (flag, given) in [("--relay", self.relay), ("--lie", self.lie)] {
            if given {
                command.push_str(&format!(" {flag}"));
            }
        }
        command
    }

    /// `test.json`. `clock_origin`: the monotonic clock at time 0 of the history, in nanoseconds.
    #[must_use]
    pub fn to_json(&self, started: &str, clock_origin: u64) -> Json {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        json!({
            "name": self.label(),
            "started": started,
            "command": self.command(),
            "faults": self.faults.names().iter().map(|fault| fault.name()).collect::<Vec<_>>(),
            "time_limit_ms": ms(self.time_limit),
            "concurrency": self.concurrency,
            "rate": self.rate,
            "keys": self.keys,
            "replicas": self.replicas,
            "commit": self.commit,
            "mix": self.mix.to_string(),
            "seed": self.seed,
            "system": self.system,
            "system_bin": self.system_bin,
            "script": self.script.as_ref().map(Vec::len),
            "broken": self.broken.iter().map(|rule| rule.name()).collect::<Vec<_>>(),
            "fail_fast": self.fail_fast,
            "timing": self.timing.to_string(),
            "relay": self.relay,
            "lie": self.lie,
            "write_timeout_ms": ms(WRITE_TIMEOUT),
            "get_timeout_ms": ms(GET_TIMEOUT),
            "convergence_deadline_ms": ms(CONVERGENCE_DEADLINE),
            "clock_origin": clock_origin,
            "disks": self.disks,
            "part": self.part.to_string(),
            "versions": {
                "harness": env!("CARGO_PKG_VERSION"),
                "build": if cfg!(debug_assertions) { "debug" } else { "release" },
                "os": std::env::consts::OS,
                "arch": std::env::consts::ARCH,
            },
        })
    }
}

/// Reads a time such as `20s`, `500ms`, `2m`, `1h`; a bare number counts seconds.
///
/// # Errors
/// In words: what would have been right.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is no time: want a number and ms, s, m or h, as in 20s");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit.trim() {
        "ms" => number / 1e3,
        "" | "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|time| *time <= Duration::from_secs(1_000_000))
        .ok_or_else(wrong)
}

/// Writes a time as [`parse_duration`] reads it.
#[must_use]
pub fn duration_text(time: Duration) -> String {
    match time.subsec_millis() {
        0 => format!("{}s", time.as_secs()),
        _ => format!("{}ms", time.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written() {
        for (text, ms) in
            [("20s", 20_000), ("500ms", 500), ("2m", 120_000), ("3", 3_000), ("1.5s", 1_500)]
        {
            let time = parse_duration(text).expect(text);
            assert_eq!(time, Duration::from_millis(ms));
            assert_eq!(parse_duration(&duration_text(time)), Ok(time));
        }
        for text in ["", "s", "20 parsecs", "-3s", "1e99h", "99999999h", "1..5s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
