//! What the cluster benchmarks share: clusters of this store and of etcd as real processes on
//! loopback, the same load for both, and its resource usage.

pub mod cluster;
pub mod connection;
pub mod etcd;
pub mod load;
pub mod process;
pub mod replica;
pub mod table;
pub mod twopc;
