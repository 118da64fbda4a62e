//! What the cluster benchmarks share: clusters of this store, of etcd and of Redis as real processes on
//! loopback, the same load for all, and its resource usage.

pub mod chart;
pub mod cluster;
pub mod connection;
pub mod etcd;
pub mod load;
pub mod process;
pub mod redis;
pub mod replica;
pub mod table;
pub mod twopc;
