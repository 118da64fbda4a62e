use checker::{
    Limits, Observations, Verdict,
    linearizability::{decide, frontier::CONFIGURATION_BYTES, verify_order},
};
use history::synthetic::cas::{CasOptions, CasViolation, generate};
use history::{Completion, Invocation, MalformedHistory, Sink};
use std::{
    env,
    time::{Duration, Instant},
};
fn number(name: &str, otherwise: u64) -> u64 {
    env::var(name).map_or(otherwise, |t| t.parse().unwrap())
}
struct Alter {
    inner: Observations,
    gets: std::collections::HashSet<u64>,
    at: u64,
    values: u64,
    seed: u64,
}
impl Sink for Alter {
    fn invoke(&mut self, p: u64, k: &str, i: Invocation<'_>) -> Result<(), MalformedHistory> {
        if matches!(i, Invocation::Get) {
            self.gets.insert(p);
        }
        self.inner.invoke(p, k, i)
    }
    fn complete(&mut self, p: u64, c: Completion<'_>) -> Result<(), MalformedHistory> {
        if self.gets.remove(&p)
            && let Completion::Ok(Some(v)) = c
            && self.at > 0
        {
            self.at -= 1;
            if self.at == 0 {
                let v: u64 = v.parse().unwrap();
                let w = ((v + 1 + self.seed % (self.values - 1).max(1)) % self.values).to_string();
                return self.inner.complete(p, Completion::Ok(Some(&w)));
            }
        }
        self.inner.complete(p, c)
    }
}
fn main() {
    let limits = Limits {
        configurations: (number("MIB", 512) << 20) as usize / CONFIGURATION_BYTES,
        time: Duration::from_secs(number("SECONDS", 10)),
    };
    let base = CasOptions {
        ops: number("OPS", 2000) as u32,
        clients: number("CLIENTS", 10) as u32,
        values: number("VALUES", 5) as u32,
        gets: number("GETS", 34) as u32,
        cas: number("CAS", 33) as u32,
        indeterminate: number("INFO", 10) as f64 / 100.0,
        seed: 0,
        violation: None,
    };
    let alter = number("ALTER", 0);
    let first = number("SEED", 0);
    let mut secs = vec![];
    let (mut v, mut i, mut u) = (0, 0, 0);
    for seed in first..first + number("HISTORIES", 20) {
        let violation = if env::var("VIOLATE").is_ok() {
            Some(CasViolation::ALL[(seed % 5) as usize])
        } else {
            None
        };
        let mut sink = Alter {
            inner: Observations::default(),
            gets: Default::default(),
            at: alter,
            values: base.values as u64,
            seed,
        };
        generate(&CasOptions { seed, violation, ..base.clone() }, &mut sink).unwrap();
        let key = &sink.inner.keys()[0];
        let mut packed = key.history(sink.inner.spec());
        let start = Instant::now();
        let verdict = decide(&mut packed, &limits, false);
        let s = start.elapsed().as_secs_f64();
        secs.push(s);
        if env::var("VERBOSE").is_ok() {
            println!(
                "  {seed} {violation:?} {:.3} {}",
                s,
                match &verdict {
                    Verdict::Valid(_) => "valid",
                    Verdict::Invalid(_) => "invalid",
                    _ => "unknown",
                }
            );
        }
        match verdict {
            Verdict::Valid(o) => {
                if let Some(o) = o {
                    verify_order(&packed, &o).unwrap();
                }
                v += 1;
                assert!(violation.is_none())
            }
            Verdict::Invalid(_) => {
                i += 1;
                assert!(violation.is_some() || alter > 0)
            }
            Verdict::Unknown(_) => u += 1,
        }
    }
    secs.sort_by(f64::total_cmp);
    println!(
        "{v} valid {i} invalid {u} unknown; median {:.3} worst {:.3}",
        secs[secs.len() / 2],
        secs[secs.len() - 1]
    );
}
