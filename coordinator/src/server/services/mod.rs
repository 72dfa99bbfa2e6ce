//! The gRPC services: check what comes in, ask the driver, answer in words.

mod client;
mod views;
mod worker;

use mtinet_proto::PROTOCOL_VERSION;
use mtinet_proto::v1::ArtifactChunk;
use mtinet_runtime::convert::FromProto;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

pub use client::ClientService;
pub use worker::WorkerService;

use super::artifacts::Artifacts;

/// Chunks read ahead of the network.
const CHUNKS_AHEAD: usize = 4;

/// Peers of another version are refused before anything else is looked at.
pub fn check_version(theirs: u32) -> Result<(), Status> {
    if theirs == PROTOCOL_VERSION {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "you speak protocol version {theirs}, this coordinator {PROTOCOL_VERSION}; use the same release of mtinet on both sides"
    )))
}

/// A stored file in chunks.
async fn send_artifact(
    artifacts: &Artifacts,
    blake3: String,
) -> Result<ReceiverStream<Result<ArtifactChunk, Status>>, Status> {
    // Reads the hash as strictly as everywhere: it becomes a file's name.
    let reference = mtinet_proto::v1::Artifact { blake3, bytes: 0 };
    let hash = mtinet_domain::trial::ArtifactRef::from_proto(reference)?.blake3;
    let size = artifacts.size(&hash).await?;
    let (chunks, stream) = mpsc::channel(CHUNKS_AHEAD);
    let artifacts = artifacts.clone();
    tokio::spawn(async move {
        let mut from = 0;
        while from < size {
            let chunk = artifacts.chunk(&hash, from, size).await;
            let read = chunk.as_ref().map_or(0, bytes::Bytes::len) as u64;
            let chunk = chunk.map(|data| ArtifactChunk { data: data.to_vec() });
            // An error is the last thing said; a receiver that is gone wants no more.
            if chunks.send(chunk).await.is_err() || read == 0 {
                return;
            }
            from += read;
        }
    });
    Ok(ReceiverStream::new(stream))
}
