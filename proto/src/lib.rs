//! What goes over the wire: the generated messages and services, and the version that peers compare.
//!
//! Nothing here is a domain type; `mtinet-runtime` converts, and refuses what does not convert.

/// Peers exchange this when they connect and refuse another in words.
pub const PROTOCOL_VERSION: u32 = 1;

/// Largest message that either side accepts, in bytes. Files travel in chunks well below it.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Largest answer to a person's command, in bytes: a listing of a hundred thousand trials, each with its reason.
pub const MAX_LISTING_BYTES: usize = 128 << 20;

/// Size of an artifact's chunk, in bytes.
pub const CHUNK_BYTES: usize = 1 << 20;

/// The encoded `FileDescriptorSet` of everything below, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Package `mtinet.v1`.
pub mod v1 {
    #![expect(missing_docs, reason = "generated; the comments are in the .proto files")]
    #![expect(clippy::all, reason = "generated")]
    tonic::include_proto!("mtinet.v1");
}
