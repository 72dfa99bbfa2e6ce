//! Artifacts on their way between a local disk and the coordinator's store, checked at both ends.
//!
//! The store itself is the coordinator's; nothing here retries, that is for the caller who knows how long it may.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use mtinet_domain::trial::ArtifactRef;
use mtinet_proto::CHUNK_BYTES;
use mtinet_proto::v1::client_client::ClientClient;
use mtinet_proto::v1::worker_client::WorkerClient;
use mtinet_proto::v1::{self, ArtifactChunk, PutArtifactRequest, put_artifact_request::Part};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use crate::convert::{ConvertError, FromProto, ToProto};
use crate::net::Channel;

/// Chunks read ahead of the network.
const CHUNKS_AHEAD: usize = 4;

/// An artifact that could not be transferred.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// A local file could not be read or written.
    #[error("could not {doing} {}", path.display())]
    File {
        /// `read`, `write` and so on.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The coordinator could not be asked, or refused.
    #[error("artifact {hash}: the coordinator answered: {}", source.message())]
    Rpc {
        /// The artifact.
        hash: String,
        /// Its answer.
        source: Box<Status>,
    },
    /// What arrived, or what lies on disk, is not the artifact.
    #[error("artifact {hash} is damaged: {problem}")]
    Damaged {
        /// The artifact.
        hash: String,
        /// How that shows.
        problem: String,
    },
    /// An answer that makes no sense.
    #[error("the coordinator's answer makes no sense")]
    Answer(#[from] ConvertError),
}

impl ArtifactError {
    /// Whether trying again later can help: the coordinator was away or overloaded, nothing was wrong with the file.
    pub fn is_transient(&self) -> bool {
        use tonic::Code;
        match self {
            // A connection that breaks in the middle of a stream shows as Unknown, Internal or Cancelled.
            Self::Rpc { source, .. } => matches!(
                source.code(),
                Code::Unavailable
                    | Code::DeadlineExceeded
                    | Code::Cancelled
                    | Code::Aborted
                    | Code::ResourceExhausted
                    | Code::Unknown
                    | Code::Internal
            ),
            Self::File { .. } | Self::Damaged { .. } | Self::Answer(_) => false,
        }
    }

    /// Whether the coordinator does not take this program's certificate: with another one it may answer.
    pub fn is_unauthenticated(&self) -> bool {
        matches!(self, Self::Rpc { source, .. } if source.code() == tonic::Code::Unauthenticated)
    }

    fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { doing, path, source }
    }

    fn rpc(artifact: &ArtifactRef) -> impl FnOnce(Status) -> Self {
        let hash = artifact.blake3.clone();
        move |source| Self::Rpc { hash, source: Box::new(source) }
    }

    fn damaged(artifact: &ArtifactRef, problem: String) -> Self {
        Self::Damaged { hash: artifact.blake3.clone(), problem }
    }
}

/// The reference of a local file: its hash and length.
///
/// # Errors
/// [`ArtifactError::File`] where it cannot be read.
pub async fn describe(path: &Path) -> Result<ArtifactRef, ArtifactError> {
    let mut file = tokio::fs::File::open(path).await.map_err(ArtifactError::file("open", path))?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let read = file.read(&mut buffer).await.map_err(ArtifactError::file("read", path))?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
    }
    Ok(ArtifactRef { blake3: hasher.finalize().to_hex().to_string(), bytes: hasher.count() })
}

/// Stores a file at the coordinator.
///
/// # Errors
/// A file that cannot be read, a coordinator that cannot be reached or refuses.
pub async fn put_file(client: &mut WorkerClient<Channel>, path: &Path) -> Result<ArtifactRef, ArtifactError> {
    let artifact = describe(path).await?;
    put_known(client, path, &artifact).await?;
    Ok(artifact)
}

/// Stores a file whose reference is known; the coordinator refuses it where the content is another.
///
/// # Errors
/// As [`put_file`], and [`ArtifactError::Damaged`] where the file does not have the announced length.
pub async fn put_known(
    client: &mut WorkerClient<Channel>,
    path: &Path,
    artifact: &ArtifactRef,
) -> Result<(), ArtifactError> {
    send_file(path, artifact, async |parts| client.put_artifact(parts).await).await
}

/// The same for a person's command, which brings files that a study names.
///
/// # Errors
/// As [`put_known`].
pub async fn put_as_client(
    client: &mut ClientClient<Channel>,
    path: &Path,
    artifact: &ArtifactRef,
) -> Result<(), ArtifactError> {
    send_file(path, artifact, async |parts| client.put_artifact(parts).await).await
}

async fn send_file(
    path: &Path,
    artifact: &ArtifactRef,
    put: impl AsyncFnOnce(ReceiverStream<PutArtifactRequest>) -> Result<tonic::Response<v1::Artifact>, Status>,
) -> Result<(), ArtifactError> {
    let mut file = tokio::fs::File::open(path).await.map_err(ArtifactError::file("open", path))?;
    let found = file.metadata().await.map_err(ArtifactError::file("read", path))?.len();
    if found != artifact.bytes {
        let problem = format!("{} has {found} bytes, not {}", path.display(), artifact.bytes);
        return Err(ArtifactError::damaged(artifact, problem));
    }
    let (chunks, stream) = tokio::sync::mpsc::channel(CHUNKS_AHEAD);
    let announce = Part::Announce(artifact.to_proto());
    let feed = async move {
        let mut part = announce;
        // A closed channel means that the coordinator answered early; its answer tells why.
        while chunks.send(PutArtifactRequest { part: Some(part) }).await.is_ok() {
            let mut data = Vec::with_capacity(CHUNK_BYTES);
            (&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut data).await?;
            if data.is_empty() {
                break;
            }
            part = Part::Data(data);
        }
        Ok(())
    };
    let call = put(ReceiverStream::new(stream));
    let (fed, answered) = tokio::join!(feed, call);
    fed.map_err(ArtifactError::file("read", path))?;
    let stored = ArtifactRef::from_proto(answered.map_err(ArtifactError::rpc(artifact))?.into_inner())?;
    if stored != *artifact {
        return Err(ArtifactError::damaged(artifact, format!("the coordinator stored {}", stored.blake3)));
    }
    Ok(())
}

/// Writes the chunks of `artifact` to `dest`: to a temporary file beside it, checked, synced, renamed. `dest` is
/// either whole or untouched.
///
/// # Errors
/// [`ArtifactError::Damaged`] where length or hash differ, a failing stream, a disk that cannot be written.
pub async fn fetch_to<S>(mut stream: S, artifact: &ArtifactRef, dest: &Path) -> Result<(), ArtifactError>
where
    S: Stream<Item = Result<ArtifactChunk, Status>> + Unpin,
{
    let parent = dest.parent().unwrap_or(Path::new("."));
    tokio::fs::create_dir_all(parent).await.map_err(ArtifactError::file("create", parent))?;
    let temporary = tempfile::Builder::new()
        .prefix(".fetch-")
        .tempfile_in(parent)
        .map_err(ArtifactError::file("write into", parent))?;
    let handle = temporary.reopen().map_err(ArtifactError::file("write", temporary.path()))?;
    let mut file = tokio::fs::File::from_std(handle);
    let mut hasher = blake3::Hasher::new();
    while let Some(chunk) = stream.next().await {
        let data = chunk.map_err(ArtifactError::rpc(artifact))?.data;
        hasher.update(&data);
        // A peer that sends without end must not fill the disk.
        if hasher.count() > artifact.bytes {
            return Err(ArtifactError::damaged(
                artifact,
                format!("more than {} bytes arrived", artifact.bytes),
            ));
        }
        file.write_all(&data).await.map_err(ArtifactError::file("write", dest))?;
    }
    check(artifact, &hasher)?;
    file.sync_all().await.map_err(ArtifactError::file("sync", dest))?;
    temporary.persist(dest).map_err(|error| ArtifactError::file("rename to", dest)(error.error))?;
    let directory = tokio::fs::File::open(parent).await.map_err(ArtifactError::file("open", parent))?;
    directory.sync_all().await.map_err(ArtifactError::file("sync", parent))
}

fn check(artifact: &ArtifactRef, hasher: &blake3::Hasher) -> Result<(), ArtifactError> {
    let found = hasher.finalize().to_hex();
    if hasher.count() != artifact.bytes {
        let problem = format!("{} bytes arrived instead of {}", hasher.count(), artifact.bytes);
        return Err(ArtifactError::damaged(artifact, problem));
    }
    if found.as_str() != artifact.blake3 {
        return Err(ArtifactError::damaged(artifact, format!("its content has the hash {found}")));
    }
    Ok(())
}

/// Artifacts kept on a local disk under their hash, up to a size.
#[derive(Clone, Debug)]
pub struct Cache {
    dir: PathBuf,
    limit_bytes: u64,
}

impl Cache {
    /// A cache in `dir`, which is made when needed. `limit_bytes` holds after each fetch, except for the one file
    /// that was just fetched.
    pub fn new(dir: impl Into<PathBuf>, limit_bytes: u64) -> Self {
        Self { dir: dir.into(), limit_bytes }
    }

    /// Where the artifact lies or would lie.
    pub fn path(&self, artifact: &ArtifactRef) -> PathBuf {
        self.dir.join(&artifact.blake3)
    }

    /// The artifact's file where it is here and whole; a damaged one is removed.
    pub async fn get(&self, artifact: &ArtifactRef) -> Option<PathBuf> {
        let path = self.path(artifact);
        let found = describe(&path).await.ok()?;
        if found == *artifact {
            // Its age decides what goes first when the cache is full.
            let touched = std::fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
            if let Err(error) = touched {
                tracing::debug!(%error, path = %path.display(), "could not mark the artifact as used");
            }
            return Some(path);
        }
        tracing::warn!(path = %path.display(), "removing a damaged artifact from the cache");
        if let Err(error) = tokio::fs::remove_file(&path).await {
            tracing::warn!(%error, path = %path.display(), "could not remove it");
        }
        None
    }

    /// The artifact's file: the one here, or fetched from the coordinator, checked.
    ///
    /// # Errors
    /// As [`fetch_to`].
    pub async fn get_or_fetch(
        &self,
        client: &mut WorkerClient<Channel>,
        artifact: &ArtifactRef,
    ) -> Result<PathBuf, ArtifactError> {
        if let Some(path) = self.get(artifact).await {
            return Ok(path);
        }
        let request = mtinet_proto::v1::GetArtifactRequest { blake3: artifact.blake3.clone() };
        let stream = client.get_artifact(request).await.map_err(ArtifactError::rpc(artifact))?.into_inner();
        let path = self.path(artifact);
        fetch_to(stream, artifact, &path).await?;
        self.evict(&path);
        Ok(path)
    }

    /// Moves a local file that is `artifact` into the cache, so that it need not be fetched. It is checked when it is
    /// taken out, as everything here is.
    ///
    /// # Errors
    /// [`ArtifactError::File`], for example where `file` is on another file system.
    pub async fn adopt(&self, file: &Path, artifact: &ArtifactRef) -> Result<(), ArtifactError> {
        tokio::fs::create_dir_all(&self.dir).await.map_err(ArtifactError::file("create", &self.dir))?;
        let path = self.path(artifact);
        tokio::fs::rename(file, &path).await.map_err(ArtifactError::file("rename to", &path))?;
        self.evict(&path);
        Ok(())
    }

    /// Removes the least recently used files until the limit holds; `keep` stays.
    fn evict(&self, keep: &Path) {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return };
        let mut files: Vec<(SystemTime, u64, PathBuf)> = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let meta = entry.metadata().ok()?;
                Some((meta.modified().ok()?, meta.len(), entry.path()))
            })
            .collect();
        files.sort();
        let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in files {
            if total <= self.limit_bytes {
                break;
            }
            // A trainer that has the file open keeps its content; only the name goes.
            if path != keep && std::fs::remove_file(&path).is_ok() {
                total -= bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(content: &[u8]) -> ArtifactRef {
        ArtifactRef { blake3: blake3::hash(content).to_hex().to_string(), bytes: content.len() as u64 }
    }

    fn chunks(content: &[u8]) -> impl Stream<Item = Result<ArtifactChunk, Status>> + Unpin + use<> {
        let chunks: Vec<_> =
            content.chunks(7).map(|data| Ok(ArtifactChunk { data: data.to_vec() })).collect();
        tokio_stream::iter(chunks)
    }

    #[tokio::test]
    async fn what_arrives_whole_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("a/b");
        let content = b"a checkpoint of some length";
        fetch_to(chunks(content), &artifact(content), &dest).await.unwrap();
        assert_eq!(std::fs::read(&dest).unwrap(), content);
        assert_eq!(describe(&dest).await.unwrap(), artifact(content));
    }

    #[tokio::test]
    async fn what_arrives_damaged_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("a");
        let wanted = artifact(b"the right content");
        for wrong in [&b"the wrong content"[..], b"the right", b"the right content and more"] {
            let error = fetch_to(chunks(wrong), &wanted, &dest).await.unwrap_err();
            assert!(matches!(error, ArtifactError::Damaged { .. }), "{error:?}");
        }
        let lost = tokio_stream::iter([Err(Status::unavailable("gone"))]);
        assert!(fetch_to(lost, &wanted, &dest).await.unwrap_err().is_transient());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_damaged_file_of_the_cache_is_not_given_out() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path(), 1 << 20);
        let wanted = artifact(b"content");
        std::fs::write(cache.path(&wanted), b"content").unwrap();
        assert_eq!(cache.get(&wanted).await, Some(cache.path(&wanted)));
        std::fs::write(cache.path(&wanted), b"c0ntent").unwrap();
        assert_eq!(cache.get(&wanted).await, None);
        assert!(!cache.path(&wanted).exists());
    }

    #[test]
    fn the_cache_stays_below_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            std::fs::write(dir.path().join(name), [0; 10]).unwrap();
        }
        Cache::new(dir.path(), 10).evict(&dir.path().join("b"));
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["b"]);
    }
}
