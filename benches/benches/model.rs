//! How fast the model is explored, in states a second: `cargo bench -p benches --bench model`. Two
//! writes of one key at two replicas, every schedule of them.

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use harness::model::{
    ModelOptions,
    command::script,
    explore::{ExplorationLimits, explore},
};

fn states(criterion: &mut Criterion) {
    let options = ModelOptions::of(2, script(2, 0, 1));
    let unique = explore(&options, ExplorationLimits::default(), |_, _| {}).unique;
    let mut group = criterion.benchmark_group("model/states");
    group.throughput(Throughput::Elements(unique as u64));
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.bench_function("2 replicas, 2 writes", |bench| {
        bench.iter(|| {
            let explored = explore(&options, ExplorationLimits::default(), |_, _| {});
            assert_eq!(explored.unique, unique, "every exploration sees every state");
        });
    });
    group.finish();
}

criterion_group!(benches, states);
criterion_main!(benches);
