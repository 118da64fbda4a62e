//! The wire format: the services for clients, for nodes and for inspection. The `.proto` files are
//! in `proto/`. The generated code is in `src/generated/`, and a test compares it. Does not know
//! what the messages mean.

/// Package `twopc.v1`.
pub mod v1 {
    #![allow(missing_docs, reason = "prost does not document what it adds to the files' own words")]
    #![allow(clippy::all, unreachable_pub, reason = "generated")]
    include!("generated/twopc.v1.rs");
}

/// The compiled descriptors of package `twopc.v1` (a serialised `FileDescriptorSet`), for server
/// reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/twopc.v1.bin");
