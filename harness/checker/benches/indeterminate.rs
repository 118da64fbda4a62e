//! How many histories with many operations of an unknown outcome are decided, and how fast:
//! `cargo bench -p checker --bench indeterminate`. Each verdict is compared with what the history is by
//! construction.
//!
//! `HISTORIES=20 SECONDS=10 MIB=512` set the number of histories of each kind and the limits of each.

use std::{
    env,
    time::{Duration, Instant},
};

use checker::{
    Limits, Observations, Verdict,
    linearizability::{decide, frontier::CONFIGURATION_BYTES, verify_order},
};
use history::synthetic::cas::{CasOptions, CasViolation, generate};

fn number(name: &str, otherwise: u64) -> u64 {
    env::var(name).map_or(otherwise, |text| {
        text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}"))
    })
}

/// The seconds and the verdicts of the histories of a kind.
#[derive(Default)]
struct Tally {
    seconds: Vec<f64>,
    valid: usize,
    invalid: usize,
    wrong: Vec<u64>,
}

fn measure(name: &str, options: &CasOptions, violations: &[Option<CasViolation>]) {
    let limits = Limits {
        configurations: usize::try_from(number("MIB", 512) << 20).expect("64 bits")
            / CONFIGURATION_BYTES,
        time: Duration::from_secs(number("SECONDS", 10)),
    };
    let mut tally = Tally::default();
    let histories = number("HISTORIES", 100);
    let first = number("SEED", 0);
    for seed in first..first + histories {
        let violation = violations[usize::try_from(seed).expect("64 bits") % violations.len()];
        let mut observations = Observations::default();
        let options = CasOptions { seed, violation, ..options.clone() };
        generate(&options, &mut observations).expect("well formed");
        let key = &observations.keys()[0];
        let mut packed = key.history(observations.spec());
        let start = Instant::now();
        let verdict = decide(&mut packed, &limits, true);
        let seconds = start.elapsed().as_secs_f64();
        tally.seconds.push(seconds);
        let decided = match verdict {
            Verdict::Valid(order) => {
                if let Some(order) = order {
                    verify_order(&packed, &order).expect("the certificate is right");
                }
                tally.valid += 1;
                Some(true)
            }
            Verdict::Invalid(_) => {
                tally.invalid += 1;
                Some(false)
            }
            Verdict::Unknown(_) => None,
        };
        if decided.is_some_and(|valid| valid == violation.is_some()) {
            tally.wrong.push(seed);
        }
        if env::var("VERBOSE").is_ok() {
            println!("  {seed} {violation:?}: {decided:?} {seconds:.3} s");
        }
    }
    let Tally { mut seconds, valid, invalid, wrong } = tally;
    seconds.sort_unstable_by(f64::total_cmp);
    println!(
        "{name}: {histories} histories, {valid} valid, {invalid} invalid, {} unknown, {} wrong; \
         median {:.3} s, worst {:.3} s",
        histories as usize - valid - invalid,
        wrong.len(),
        seconds[seconds.len() / 2],
        seconds[seconds.len() - 1]
    );
    assert!(wrong.is_empty(), "wrong verdicts on the seeds {wrong:?}");
}

fn main() {
    let violations = CasViolation::ALL.map(Some);
    for values in [5, 20] {
        let options = CasOptions { values, ..CasOptions::default() };
        measure(&format!("valid, {values} values"), &options, &[None]);
        measure(&format!("one violation, {values} values"), &options, &violations);
    }
    let options = CasOptions { ops: 150, values: 20, indeterminate: 0.45, ..CasOptions::default() };
    measure("valid, 150 operations, 45 % indeterminate", &options, &[None]);
    measure("one violation, 150 operations, 45 % indeterminate", &options, &violations);
}
