//! The wire format: what clients ask of the master, what nodes say to each other, what onlookers
//! may see. Generated from the files under `proto/`; knows nothing of what any of it means.

/// Package `twopc.v1`.
pub mod v1 {
    #![allow(missing_docs, reason = "prost does not document what it adds to the files' own words")]
    tonic::include_proto!("twopc.v1");
}

/// The compiled descriptors of package `twopc.v1` (a serialised `FileDescriptorSet`), for server
/// reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/twopc.v1.bin"));
