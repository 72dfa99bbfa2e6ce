//! The gRPC services: check what comes in, ask the driver, answer in words.

mod client;
mod data;
mod feed;
mod log;
mod views;
mod worker;

use std::time::Duration;

use mtinet_proto::PROTOCOL_VERSION;
use mtinet_proto::v1::put_artifact_request::Part;
use mtinet_proto::v1::{Artifact, ArtifactChunk, PutArtifactRequest};
use mtinet_runtime::convert::{FromProto, ToProto, required};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

pub use client::ClientService;
pub use data::DataService;
pub use worker::WorkerService;

use super::artifacts::{Artifacts, Incoming};

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

/// Takes in a file that is announced with its hash and follows in parts. Whoever begins and sends no more is to keep
/// neither room nor one of the places for long.
async fn receive_artifact(
    artifacts: &Artifacts,
    mut parts: Streaming<PutArtifactRequest>,
) -> Result<Artifact, Status> {
    let silence = artifacts.room().limits().silence;
    let announced = match next_part(&mut parts, silence).await? {
        Some(Part::Announce(artifact)) => required("announce", Some(artifact))?,
        _ => return Err(Status::invalid_argument("the first part must announce the artifact")),
    };
    let mut incoming = artifacts.put(announced).await?;
    match take_in(&mut parts, silence, &mut incoming).await {
        Ok(()) => Ok(incoming.finish().await?.to_proto()),
        Err(status) => {
            incoming.abort().await;
            Err(status)
        }
    }
}

async fn take_in(
    parts: &mut Streaming<PutArtifactRequest>,
    silence: Duration,
    incoming: &mut Incoming,
) -> Result<(), Status> {
    while let Some(part) = next_part(parts, silence).await? {
        match part {
            Part::Data(data) => incoming.write(&data).await?,
            Part::Announce(_) => {
                return Err(Status::invalid_argument("only data may follow the announcement"));
            }
        }
    }
    Ok(())
}

/// The next part of a file; none at its end.
async fn next_part(
    parts: &mut Streaming<PutArtifactRequest>,
    silence: Duration,
) -> Result<Option<Part>, Status> {
    let message = tokio::time::timeout(silence, parts.message()).await.map_err(|_| {
        let seconds = silence.as_secs_f64();
        Status::deadline_exceeded(format!("nothing of the file arrived for {seconds} s; send it again"))
    })??;
    let Some(message) = message else { return Ok(None) };
    let part = message.part.ok_or_else(|| Status::invalid_argument("a part of a file holds nothing"))?;
    Ok(Some(part))
}
