//! The wire format: what clients ask of the master, what nodes say to each other, what an observer
//! may read. The `.proto` files are in `proto/`; the code generated from them is in
//! `src/generated/` and checked by a test. Knows nothing of what any of it means.

/// Package `twopc.v1`.
pub mod v1 {
    #![allow(missing_docs, reason = "prost does not document what it adds to the files' own words")]
    #![allow(clippy::all, unreachable_pub, reason = "generated")]
    include!("generated/twopc.v1.rs");
}

/// The compiled descriptors of package `twopc.v1` (a serialised `FileDescriptorSet`), for server
/// reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/twopc.v1.bin");
