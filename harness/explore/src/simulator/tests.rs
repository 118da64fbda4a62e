//! Healthy clusters under every fault that leaves their stores alone: no node refuses to run, and no
//! store is taken for a copy. The master's notes about the replicas are lazy, so crashes lose some.
//!
//! `SIMULATED_SEEDS=5000 cargo test -p explore healthy` for a long run.

use std::{env, time::Duration};

use protocol::{CommitMode, Effect, Key, Rule, Rules, Write};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{ClientOperation, ClientWorkload, Fault, MachineStep, SimulationPlan, run};
use crate::schedule::Property;

/// Reads and writes of random keys.
struct Random {
    rng: ChaCha8Rng,
    keys: u32,
}

impl ClientWorkload for Random {
    fn next(&mut self, process: u64) -> ClientOperation {
        let key = Key::from(format!("k{}", self.rng.random_range(0..self.keys)).as_str());
        match self.rng.random_range(0..3) {
            0 => ClientOperation::Get(key),
            _ => {
                let value = self.rng.random_bool(0.8).then(|| process.to_string().as_str().into());
                ClientOperation::Write(Write { key, value })
            }
        }
    }

    fn backoff(&mut self) -> Duration {
        Duration::from_millis(5)
    }
}

#[test]
fn a_healthy_store_is_never_refused() {
    let seeds: u64 = env::var("SIMULATED_SEEDS")
        .map_or(60, |text| text.parse().expect("SIMULATED_SEEDS is a number"));
    let workload = |plan: &SimulationPlan, client| -> Box<dyn ClientWorkload> {
        let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
        rng.set_stream(u64::from(client));
        Box::new(Random { rng, keys: plan.keys })
    };
    let (mut crashes, mut commits) = (0, 0);
    for seed in 0..seeds {
        for commit in CommitMode::ALL {
            let plan = SimulationPlan::of(seed, commit, Rules::ALL);
            let run = run(&plan, &workload, true);
            let steps = run.machine_steps.values().flatten();
            for effect in steps.flat_map(|MachineStep { effects, .. }| effects) {
                let stopped = match effect {
                    // What a replica said before it knew the cluster may arrive late.
                    Effect::Refuse { why, .. } => why != "it is of another cluster",
                    effect => matches!(effect, Effect::Halt { .. }),
                };
                assert!(!stopped, "seed {seed}, {commit}: {effect}");
            }
            assert_eq!(run.violations, [], "seed {seed}, {commit}");
            crashes += run.counters.crashes;
            commits += run.counters.ok;
        }
    }
    assert!(crashes > seeds && commits > 100 * seeds, "{crashes} crashes, {commits} operations");
}

/// Entries that rot, and that nobody reads: all are found by the scrub and healed, whatever else happens, and
/// no entry is taken for damaged or lost that is not. The engine checks the first when the load has ended, and
/// the environment of a host the second.
#[test]
fn the_scrub_finds_what_has_rotted() {
    let workload = |plan: &SimulationPlan, client| -> Box<dyn ClientWorkload> {
        let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
        rng.set_stream(u64::from(client));
        Box::new(Random { rng, keys: plan.keys })
    };
    let scrubbed = |seed, commit, rules| {
        let mut plan = SimulationPlan::of(seed, commit, rules);
        plan.setup.peers = true;
        plan.setup.scrub_interval = Duration::from_millis(2);
        // Many, so that some are written seldom: what was written since the round began is not compared.
        plan.keys = 100;
        plan.faults.retain(|(fault, _)| *fault != Fault::Damage);
        plan.faults.push((Fault::Damage, 30_000_000));
        run(&plan, &workload, false)
    };
    let mut damages = 0;
    for seed in 0..12 {
        for commit in CommitMode::ALL {
            let run = scrubbed(seed, commit, Rules::ALL);
            assert_eq!(run.violations, [], "seed {seed}, {commit}");
            damages += run.counters.damages;
        }
    }
    assert!(damages > 200, "{damages} damaged entries");
    let broken = Rules::ALL.without(Rule::ScrubComparesSettled);
    let caught = (0..100).find(|seed| {
        let run = scrubbed(*seed, CommitMode::Logged, broken);
        run.violations.contains(&Property::MachineInvariants)
    });
    assert!(
        caught.is_some(),
        "an entry that is written is taken for a lost one, and nobody notices"
    );
}
