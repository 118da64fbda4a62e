//! Nothing of its own: the benchmarks are in `benches/`, one file for each part that is measured.
