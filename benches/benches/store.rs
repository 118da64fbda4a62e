//! The cost of durability at a replica: a group of writes is prepared and forced together with the
//! commits of the previous group, in one group commit of the store:
//! `cargo bench -p benches --bench store`. The store is on the disk of the build directory.

use benches::{process, replica::Replica};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn groups(criterion: &mut Criterion) {
    let scratch = process::scratch().expect("a directory for the bench");
    let mut group = criterion.benchmark_group("store/group");
    for size in [1, 4, 16, 64, 256] {
        group.throughput(Throughput::Elements(size));
        let mut replica = Replica::open(&scratch.path().join(size.to_string()));
        group.bench_with_input(BenchmarkId::from_parameter(size), &size, |bench, size| {
            bench.iter(|| replica.group(*size));
        });
    }
    group.finish();
}

criterion_group!(benches, groups);
criterion_main!(benches);
