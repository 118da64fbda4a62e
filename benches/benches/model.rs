//! The speed of exhaustive exploration, in states per second: `cargo bench -p benches --bench model`.
//! Every schedule of two writes of one key at two replicas.

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use explore::model::{ExplorationLimits, ModelOptions, explore, script};

fn states(criterion: &mut Criterion) {
    let options = ModelOptions::of(2, script(2, 0, 1));
    let unique = explore(&options, ExplorationLimits::default(), |_, _| {}).unique;
    let mut group = criterion.benchmark_group("model/states");
    group.throughput(Throughput::Elements(unique as u64));
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.bench_function("2 replicas, 2 writes", |bench| {
        bench.iter(|| {
            let exploration = explore(&options, ExplorationLimits::default(), |_, _| {});
            assert_eq!(exploration.unique, unique, "every exploration is complete");
        });
    });
    group.finish();
}

criterion_group!(benches, states);
criterion_main!(benches);
