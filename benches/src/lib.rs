//! What the benchmarks of whole clusters have in common: clusters of ours and of etcd as real
//! processes on loopback, one load for both, and what it cost. Knows nothing of what is concluded.

pub mod cluster;
pub mod etcd;
pub mod line;
pub mod load;
pub mod ours;
pub mod process;
pub mod replica;
pub mod table;
