//! Files named by their content: checkpoints, weights, evaluations, predictions.
//!
//! An object appears under its name only when it is whole and its hash is checked, and never changes then.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use mtinet_domain::trial::ArtifactRef;
use mtinet_proto::CHUNK_BYTES;
use mtinet_runtime::metrics::Counter;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use tokio::sync::RwLock;
use tokio_stream::StreamExt as _;
use tonic::Status;

use super::error::ServerError;
use super::room::{Kept, Room, UploadLimits};

/// Parts of an upload; the smallest that every cloud store takes is 5 MiB.
const PART_BYTES: usize = 5 << 20;

/// The artifact store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Artifacts {
    store: Arc<dyn ObjectStore>,
    room: Room,
    /// Read by uploads that are about to appear, written by the sweep while it removes one file.
    appearing: Arc<RwLock<()>>,
    traffic: Traffic,
}

/// Bytes of content that went in and out; they count for as long as the store is open.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// Taken in.
    pub received: Counter,
    /// Given out.
    pub sent: Counter,
}

/// A stored file as it was listed.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its hash and name.
    pub hash: String,
    /// Its length.
    pub bytes: u64,
    at: Path,
    modified: SystemTime,
}

impl Artifacts {
    /// The store in a local directory, which is made where it is missing. What uploads to a former process left is
    /// removed: nobody goes on with them.
    ///
    /// # Errors
    /// A directory that cannot be made.
    pub fn local(dir: &FilePath, limits: UploadLimits) -> Result<Self, ServerError> {
        let failed = |source| ServerError::Artifacts { path: dir.to_owned(), source };
        std::fs::create_dir_all(dir)
            .map_err(|source| ServerError::DataDir { path: dir.to_owned(), source })?;
        let store = LocalFileSystem::new_with_prefix(dir).map_err(failed)?.with_fsync(true);
        remove_unfinished(dir);
        let (appearing, traffic) = (Arc::default(), Traffic::default());
        Ok(Self { store: Arc::new(store), room: Room::new(dir, limits), appearing, traffic })
    }

    /// What went in and out since the store was opened.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Length of all files together, in bytes.
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn stored_bytes(&self) -> Result<u64, Status> {
        let mut listing = self.store.list(None);
        let mut bytes = 0;
        while let Some(meta) = listing.next().await {
            bytes += meta.map_err(failed("list", "all"))?.size;
        }
        Ok(bytes)
    }

    /// Begins to take in a file; waits while too many others are under way.
    ///
    /// # Errors
    /// A file that is too long, a store that does not answer, or a disk that would be too full for the event log.
    pub async fn put(&self, artifact: ArtifactRef) -> Result<Incoming, Status> {
        let kept = self.room.keep(artifact.bytes).await.inspect_err(|status| {
            tracing::warn!("refusing a file: {}", status.message());
        })?;
        let upload = self
            .store
            .put_multipart(&key(&artifact.blake3))
            .await
            .map_err(failed("store", &artifact.blake3))?;
        let appearing = Arc::clone(&self.appearing);
        let (hasher, part, received) =
            (blake3::Hasher::new(), BytesMut::new(), self.traffic.received.clone());
        Ok(Incoming { artifact, upload, kept, appearing, hasher, part, received })
    }

    /// What uploads may take.
    pub fn room(&self) -> &Room {
        &self.room
    }

    /// Length of a stored file in bytes.
    ///
    /// # Errors
    /// `NOT_FOUND` in words.
    pub async fn size(&self, hash: &str) -> Result<u64, Status> {
        match self.store.head(&key(hash)).await {
            Ok(meta) => Ok(meta.size),
            Err(object_store::Error::NotFound { .. }) => Err(Status::not_found(format!(
                "artifact {hash} is not in the store; a checkpoint goes when it is superseded or its trial is done"
            ))),
            Err(error) => Err(failed("read", hash)(error)),
        }
    }

    /// The chunk of a stored file that begins at `from`, at most [`CHUNK_BYTES`] long.
    ///
    /// # Errors
    /// A store that does not answer, or a file that is gone meanwhile.
    pub async fn chunk(&self, hash: &str, from: u64, size: u64) -> Result<Bytes, Status> {
        let end = size.min(from + CHUNK_BYTES as u64);
        let chunk = self.store.get_range(&key(hash), from..end).await.map_err(failed("read", hash))?;
        self.traffic.sent.inc_by(chunk.len() as u64);
        Ok(chunk)
    }

    /// Deletes files that nothing refers to. One that stays costs only disk, so a failure is only logged.
    pub async fn discard(&self, artifacts: Vec<ArtifactRef>) {
        for artifact in artifacts {
            let _nothing_appears = self.appearing.write().await;
            match self.store.delete(&key(&artifact.blake3)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => {
                    tracing::warn!(%error, artifact = artifact.blake3, "could not delete an artifact");
                }
            }
        }
    }
}

impl Artifacts {
    /// The files that were stored before a time.
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn stored_before(&self, before: SystemTime) -> Result<Vec<Stored>, Status> {
        let mut listing = self.store.list(None);
        let mut found = Vec::new();
        while let Some(meta) = listing.next().await {
            let meta = meta.map_err(failed("list", "all"))?;
            let modified = SystemTime::from(meta.last_modified);
            if let (true, Some(name)) = (modified < before, meta.location.filename()) {
                let hash = name.to_owned();
                found.push(Stored { hash, bytes: meta.size, at: meta.location, modified });
            }
        }
        Ok(found)
    }

    /// Removes a file that was listed, unless it was stored anew meanwhile; whether it did.
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn remove_unchanged(&self, file: &Stored) -> Result<bool, Status> {
        let _nothing_appears = self.appearing.write().await;
        match self.store.head(&file.at).await {
            Ok(meta) if SystemTime::from(meta.last_modified) == file.modified => {}
            Ok(_) | Err(object_store::Error::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(failed("look at", &file.hash)(error)),
        }
        self.store.delete(&file.at).await.map_err(failed("delete", &file.hash))?;
        Ok(true)
    }
}

/// Where a local store keeps a file.
pub fn local_path(dir: &FilePath, hash: &str) -> PathBuf {
    dir.join(prefix(hash)).join(hash)
}

/// The local store writes to `NAME#N` until a file is whole.
fn remove_unfinished(dir: &FilePath) {
    let entries = |dir: &FilePath| std::fs::read_dir(dir).into_iter().flatten().flatten();
    let unfinished = entries(dir)
        .flat_map(|prefix| entries(&prefix.path()).collect::<Vec<_>>())
        .filter(|file| file.file_name().to_string_lossy().contains('#'));
    let mut removed = 0;
    for file in unfinished {
        match std::fs::remove_file(file.path()) {
            Ok(()) => removed += 1,
            Err(error) => {
                tracing::warn!(%error, path = %file.path().display(), "could not remove an unfinished upload");
            }
        }
    }
    if removed > 0 {
        tracing::info!(removed, "removed uploads that were not finished");
    }
}

/// A file on its way in. Dropping it leaves nothing under its name.
#[derive(Debug)]
pub struct Incoming {
    artifact: ArtifactRef,
    upload: Box<dyn MultipartUpload>,
    kept: Kept,
    appearing: Arc<RwLock<()>>,
    hasher: blake3::Hasher,
    part: BytesMut,
    received: Counter,
}

impl Incoming {
    /// Takes in the next bytes.
    ///
    /// # Errors
    /// More bytes than announced, a full disk.
    pub async fn write(&mut self, data: &[u8]) -> Result<(), Status> {
        self.hasher.update(data);
        self.received.inc_by(data.len() as u64);
        if self.hasher.count() > self.artifact.bytes {
            let problem = format!("more than the announced {} bytes arrived", self.artifact.bytes);
            return Err(self.refuse(&problem).await);
        }
        self.part.extend_from_slice(data);
        if self.part.len() >= PART_BYTES { self.send_part().await } else { Ok(()) }
    }

    /// Checks length and hash, and makes the file appear.
    ///
    /// # Errors
    /// Another content than announced.
    pub async fn finish(mut self) -> Result<ArtifactRef, Status> {
        let (bytes, hash) = (self.hasher.count(), self.hasher.finalize().to_hex());
        if bytes != self.artifact.bytes {
            let problem = format!("{bytes} bytes arrived instead of {}", self.artifact.bytes);
            return Err(self.refuse(&problem).await);
        }
        if hash.as_str() != self.artifact.blake3 {
            return Err(self.refuse(&format!("the content has the hash {hash}")).await);
        }
        self.send_part().await?;
        let _appearing = self.appearing.read().await;
        match self.upload.complete().await {
            Ok(_) => Ok(self.artifact),
            Err(error) => Err(failed("store", &self.artifact.blake3)(error)),
        }
    }

    /// Gives the upload up, for example because its sender broke off.
    pub async fn abort(mut self) {
        self.clean().await;
    }

    async fn send_part(&mut self) -> Result<(), Status> {
        let part = self.part.split().freeze();
        let bytes = part.len() as u64;
        if let Err(error) = self.upload.put_part(PutPayload::from_bytes(part)).await {
            let status = failed("store", &self.artifact.blake3)(error);
            self.clean().await;
            return Err(status);
        }
        self.kept.use_up(bytes);
        Ok(())
    }

    async fn refuse(&mut self, problem: &str) -> Status {
        self.clean().await;
        Status::invalid_argument(format!(
            "artifact {} is damaged: {problem}; send it again",
            self.artifact.blake3
        ))
    }

    async fn clean(&mut self) {
        if let Err(error) = self.upload.abort().await {
            tracing::debug!(%error, artifact = self.artifact.blake3, "could not remove an unfinished upload");
        }
    }
}

/// Two digits of the hash as a directory keep directories small.
fn key(hash: &str) -> Path {
    Path::from_iter([prefix(hash), hash])
}

fn prefix(hash: &str) -> &str {
    hash.get(..2).unwrap_or("short")
}

fn failed(doing: &'static str, hash: &str) -> impl FnOnce(object_store::Error) -> Status {
    let hash = hash.to_owned();
    move |error| {
        tracing::error!(%error, artifact = hash, "could not {doing} an artifact");
        Status::unavailable(format!("the artifact store could not {doing} {hash}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_would_fill_the_disk_is_refused_before_its_first_byte() {
        let dir = tempfile::tempdir().unwrap();
        let limits = UploadLimits { file_bytes: u64::MAX, ..UploadLimits::default() };
        let artifacts = Artifacts::local(dir.path(), limits).unwrap();
        let artifact = ArtifactRef { blake3: "0".repeat(64), bytes: u64::MAX };
        let refused = artifacts.put(artifact).await.unwrap_err();
        // Agents try again after this code, and only after this code.
        assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
        assert!(refused.message().contains("kept for the event log"), "{refused}");
        assert!(refused.message().contains(&dir.path().display().to_string()), "{refused}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was begun");
        let small = ArtifactRef { blake3: blake3::hash(b"x").to_hex().to_string(), bytes: 1 };
        let mut incoming = artifacts.put(small.clone()).await.unwrap();
        incoming.write(b"x").await.unwrap();
        assert_eq!(incoming.finish().await.unwrap(), small);
    }
}
