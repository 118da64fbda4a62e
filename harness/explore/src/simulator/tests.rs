//! Healthy clusters under every fault that leaves their stores alone: no node refuses to run, and no
//! store is taken for a copy. The master's notes about the replicas are lazy, so crashes lose some.
//!
//! `SIMULATED_SEEDS=5000 cargo test -p explore healthy` for a long run.

use std::{env, time::Duration};

use protocol::{CommitMode, Effect, Key, Rules, Write};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{ClientOperation, ClientWorkload, MachineStep, SimulationPlan, run};

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
