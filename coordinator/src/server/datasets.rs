//! Data sets that were brought to the store, so that workers without them can fetch them.
//!
//! The files are artifacts, each once however many data sets share it. What says that they belong together is a document per
//! data set in a directory of its own: the list of its files, under the data set's hash. No event and no backup holds it,
//! because whoever has the data set can bring it again. The sweep keeps what a study names, and what was offered not long ago.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures::{StreamExt as _, TryStreamExt as _};
use mtinet_data::PortableDataset;
use mtinet_data::portable::{MOST_DOCUMENT_BYTES, is_hash};
use tokio::sync::RwLock;
use tonic::{Code, Status};

use super::artifacts::Artifacts;
use super::error::ServerError;

/// What is brought for a study that is not submitted yet is kept this long: an upload of a night that broke off goes on.
pub const KEPT: Duration = Duration::from_secs(24 * 3600);

/// Files that are asked for at once.
const AT_ONCE: usize = 32;

/// The data sets. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Datasets {
    dir: Arc<Path>,
    artifacts: Artifacts,
    known: Arc<Mutex<BTreeMap<String, Known>>>,
    /// Read while it is looked which files are there, written while the sweep removes one.
    pub looking: Arc<RwLock<()>>,
}

/// A data set whose files are known.
#[derive(Debug)]
struct Known {
    files: Arc<BTreeMap<String, u64>>,
    offered: SystemTime,
}

/// How far a data set is in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// All of it.
    Whole,
    /// So many of so many files.
    Part(usize, usize),
    /// Nobody offered it.
    Not,
}

impl Datasets {
    /// The data sets in a directory, which is made where it is missing.
    ///
    /// # Errors
    /// A directory that cannot be read.
    pub fn open(dir: &Path, artifacts: Artifacts) -> Result<Self, ServerError> {
        let failed = |source| ServerError::DataDir { path: dir.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(failed)?;
        let mut known = BTreeMap::new();
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let Some(hash) = path.file_name().and_then(|name| name.to_str()).filter(|name| is_hash(name))
            else {
                continue;
            };
            let read = std::fs::read(&path).map_err(failed)?;
            let offered = path.metadata().and_then(|meta| meta.modified()).map_err(failed)?;
            match PortableDataset::from_json(&read, hash) {
                Ok(dataset) => {
                    let files = Arc::new(dataset.files().clone());
                    known.insert(hash.to_owned(), Known { files, offered });
                }
                // It can be offered again; that it is not here is said to whoever asks.
                Err(error) => tracing::warn!(%error, path = %path.display(), "leaving out a data set"),
            }
        }
        let (known, looking) = (Arc::new(Mutex::new(known)), Arc::default());
        Ok(Self { dir: dir.into(), artifacts, known, looking })
    }

    /// Takes the list of a data set's files in; which of them the store lacks, in order.
    ///
    /// # Errors
    /// A list that is not this data set's, a disk that cannot be written, a store that does not answer.
    pub async fn offer(&self, hash: &str, document: Vec<u8>) -> Result<Vec<String>, Status> {
        check_hash(hash)?;
        self.artifacts.room().check(document.len() as u64)?;
        let _nothing_goes = self.looking.read().await;
        let (path, name) = (self.path(hash), hash.to_owned());
        let written = tokio::task::spawn_blocking(move || {
            let dataset = PortableDataset::from_json(&document, &name)
                .map_err(|error| Status::invalid_argument(error.to_string()))?;
            mtinet_data::write_durably(&path, &document).map_err(|error| {
                Status::unavailable(format!("could not write {}: {error}", path.display()))
            })?;
            Ok::<_, Status>(dataset.files().clone())
        });
        let files = written.await.map_err(|error| Status::internal(error.to_string()))??;
        let files = Arc::new(files);
        let known = Known { files: Arc::clone(&files), offered: SystemTime::now() };
        self.known().insert(hash.to_owned(), known);
        self.missing(&files).await
    }

    /// The list of a data set's files, once the store has all of them.
    ///
    /// # Errors
    /// `NOT_FOUND` in words that say what to do.
    pub async fn document(&self, hash: &str) -> Result<Vec<u8>, Status> {
        check_hash(hash)?;
        match self.stored(hash).await? {
            Stored::Whole => {}
            Stored::Part(there, all) => {
                return Err(Status::not_found(format!(
                    "the coordinator has {there} of its {all} files so far; let `mtinet data upload` bring the rest, from \
                     where the data set is"
                )));
            }
            Stored::Not => {
                return Err(Status::not_found(
                    "the coordinator does not have it either; bring it with `mtinet data upload DATASET` from where it is, \
                     or copy it under the worker's data root",
                ));
            }
        }
        let path = self.path(hash);
        tokio::fs::read(&path)
            .await
            .map_err(|error| Status::unavailable(format!("could not read {}: {error}", path.display())))
    }

    /// How far a data set is in the store.
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn stored(&self, hash: &str) -> Result<Stored, Status> {
        let files = self.known().get(hash).map(|known| Arc::clone(&known.files));
        let Some(files) = files else { return Ok(Stored::Not) };
        let missing = self.missing(&files).await?.len();
        Ok(if missing == 0 { Stored::Whole } else { Stored::Part(files.len() - missing, files.len()) })
    }

    /// Forgets what no study names and nobody offered lately: its files are then nobody's.
    pub fn forget(&self, named: &BTreeSet<String>, now: SystemTime) {
        // One that was offered in the future was offered before the clock was set.
        let young = |known: &Known| now.duration_since(known.offered).map_or(true, |age| age < KEPT);
        self.known().retain(|hash, known| {
            let stays = named.contains(hash) || young(known);
            if !stays && let Err(error) = std::fs::remove_file(self.path(hash)) {
                tracing::warn!(%error, hash, "could not remove the list of a data set's files");
            }
            stays
        });
    }

    /// Whether a file belongs to a data set that is known now.
    pub fn refers_to(&self, file: &str) -> bool {
        self.known().values().any(|known| known.files.contains_key(file))
    }

    async fn missing(&self, files: &BTreeMap<String, u64>) -> Result<Vec<String>, Status> {
        let look = |(hash, &bytes): (&String, &u64)| missing(self.artifacts.clone(), hash.clone(), bytes);
        let looks: Vec<_> = files.iter().map(look).collect();
        let looked: Vec<Option<String>> =
            futures::stream::iter(looks).buffered(AT_ONCE).try_collect().await?;
        Ok(looked.into_iter().flatten().collect())
    }

    fn path(&self, hash: &str) -> PathBuf {
        self.dir.join(hash)
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The file's hash where the store does not have it.
async fn missing(artifacts: Artifacts, hash: String, bytes: u64) -> Result<Option<String>, Status> {
    match artifacts.size(&hash).await {
        Ok(size) if size == bytes => Ok(None),
        Ok(_) => Ok(Some(hash)),
        Err(status) if status.code() == Code::NotFound => Ok(Some(hash)),
        Err(status) => Err(status),
    }
}

/// Takes in the parts of a document.
///
/// # Errors
/// One that is longer than any is.
pub fn extend(document: &mut Vec<u8>, data: &[u8]) -> Result<(), Status> {
    if document.len() + data.len() > MOST_DOCUMENT_BYTES {
        let problem = format!("a list of files has at most {MOST_DOCUMENT_BYTES} bytes");
        return Err(Status::invalid_argument(problem));
    }
    document.extend_from_slice(data);
    Ok(())
}

/// The hash becomes a file's name.
fn check_hash(hash: &str) -> Result<(), Status> {
    if is_hash(hash) {
        return Ok(());
    }
    Err(Status::invalid_argument("the hash of a data set has 64 lower-case hex digits"))
}
