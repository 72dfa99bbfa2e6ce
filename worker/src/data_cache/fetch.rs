//! Gathers one data set: what is here of it already, then the rest from the coordinator's store.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use mtinet_data::PortableDataset;
use mtinet_data::manifest::hash_file;
use mtinet_data::portable::FILES;
use mtinet_domain::trial::ArtifactRef;
use nix::sys::statvfs::statvfs;

use super::Tell;
use super::shelf::{Claim, Shelf, gb};

/// Files on their way at once: enough that small ones do not wait for each other's answers.
const AT_ONCE: usize = 4;

/// Lines about progress come no faster than this.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// The machine's owner has use for this much of the disk, or for a fiftieth of a small one.
const RESERVE_BYTES: u64 = 1 << 30;

/// Where data sets come from. What is merely away is waited for there.
pub trait Source: Sync {
    /// The list of a data set's files ([`PortableDataset`]).
    ///
    /// # Errors
    /// In words.
    fn list(&self, hash: &str) -> impl Future<Output = Result<Vec<u8>, String>> + Send;

    /// Brings a file to `dest`, whole and checked, or not at all.
    ///
    /// # Errors
    /// In words.
    fn bring(&self, file: ArtifactRef, dest: &Path) -> impl Future<Output = Result<(), String>> + Send;
}

/// Gathers the claimed data set. When this breaks off, what was gathered stays.
///
/// # Errors
/// In words: nobody has it, it does not fit, the disk fails.
pub async fn fetch(shelf: &Shelf, claim: Claim, source: &impl Source, tell: Tell<'_>) -> Result<(), String> {
    // Held by work on files too, which goes on for a while when this future is dropped.
    let claim = Arc::new(claim);
    let document = source.list(claim.hash()).await?;
    let dataset = PortableDataset::from_json(&document, claim.hash()).map_err(|error| error.to_string())?;
    let on = (shelf.clone(), Arc::clone(&claim), dataset.clone());
    let missing = blocking(on, |(shelf, claim, dataset)| gather(shelf, claim.part(), dataset)).await?;
    let bytes = missing.iter().fold(0, |sum: u64, file| sum.saturating_add(file.bytes));
    blocking((shelf.clone(), Arc::clone(&claim)), move |(shelf, claim)| {
        shelf.make_room(claim.hash(), bytes)?;
        check_disk(shelf.root(), bytes)
    })
    .await?;
    let progress = Progress::begin(tell, missing.len(), bytes, dataset.files().len());
    // Boxed, because the compiler cannot see that the futures of borrowed files may change threads.
    let fetches = missing.into_iter().map(|file| bring(source, &claim, file, &progress).boxed());
    let fetches: Vec<_> = fetches.collect();
    futures::stream::iter(fetches).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    blocking((claim, dataset), |(claim, dataset)| {
        dataset.write_manifest(claim.part()).map_err(|error| error.to_string())?;
        claim.complete().map_err(|error| format!("could not complete {}: {error}", claim.part().display()))
    })
    .await?;
    progress.end();
    Ok(())
}

async fn bring(
    source: &impl Source,
    claim: &Claim,
    file: ArtifactRef,
    progress: &Progress<'_>,
) -> Result<(), String> {
    let bytes = file.bytes;
    let dest = claim.part().join(PortableDataset::place(&file.blake3));
    source.bring(file, &dest).await?;
    progress.add(bytes);
    Ok(())
}

/// What the rank's log says of it.
struct Progress<'a> {
    tell: Tell<'a>,
    files: usize,
    bytes: u64,
    begun: Instant,
    done: Mutex<Done>,
}

struct Done {
    files: usize,
    bytes: u64,
    told: Instant,
}

impl<'a> Progress<'a> {
    fn begin(tell: Tell<'a>, files: usize, bytes: u64, all: usize) -> Self {
        let (total, here, begun) = (gb(bytes), all - files, Instant::now());
        tell(&format!(
            "fetching the data set from the coordinator: {files} files of {total} GB, {here} are here"
        ));
        Self { tell, files, bytes, begun, done: Mutex::new(Done { files: 0, bytes: 0, told: begun }) }
    }

    fn add(&self, bytes: u64) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.files += 1;
        done.bytes += bytes;
        if done.told.elapsed() >= TELL_EVERY {
            done.told = Instant::now();
            let (files, total) = (self.files, gb(self.bytes));
            (self.tell)(&format!(
                "fetched {} of {files} files, {} of {total} GB",
                done.files,
                gb(done.bytes)
            ));
        }
    }

    fn end(&self) {
        let seconds = self.begun.elapsed().as_secs_f64();
        (self.tell)(&format!("the data set is here: {} GB in {seconds:.1} s", gb(self.bytes)));
    }
}

/// Keeps what is whole of what is here, links what other data sets have, removes the rest; answers what is missing.
fn gather(shelf: &Shelf, part: &Path, dataset: &PortableDataset) -> Result<Vec<ArtifactRef>, String> {
    let files = part.join(FILES);
    let failed = |error: std::io::Error| format!("could not write {}: {error}", files.display());
    std::fs::create_dir_all(&files).map_err(failed)?;
    for entry in std::fs::read_dir(&files).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // A file that was being written when its process was killed has a name of its own.
        if !dataset.files().contains_key(&name) {
            std::fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    let mut missing = Vec::new();
    for (hash, &bytes) in dataset.files() {
        let path = part.join(PortableDataset::place(hash));
        if !path.exists() && !shelf.link(hash, &path) {
            missing.push(ArtifactRef { blake3: hash.clone(), bytes });
        } else if hash_file(&path).ok().as_ref() != Some(hash) {
            tracing::warn!(file = %path.display(), "a file of a data set is damaged");
            std::fs::remove_file(&path).map_err(failed)?;
            missing.push(ArtifactRef { blake3: hash.clone(), bytes });
        }
    }
    Ok(missing)
}

fn check_disk(root: &Path, bytes: u64) -> Result<(), String> {
    // Where the system does not say, the disk does, in time.
    let Ok(disk) = statvfs(root) else { return Ok(()) };
    let free = disk.blocks_available() * disk.fragment_size();
    let reserve = RESERVE_BYTES.min(disk.blocks() * disk.fragment_size() / 50);
    if free.saturating_sub(reserve) >= bytes {
        return Ok(());
    }
    Err(format!(
        "{} GB of it are to be fetched to {}, and {} GB are free there, {} of them kept; free space, or give this worker \
         another --work-dir",
        gb(bytes),
        root.display(),
        gb(free),
        gb(reserve)
    ))
}

/// Work on files that may take long, beside the async runtime.
pub async fn blocking<A: Send + 'static, T: Send + 'static>(
    on: A,
    work: impl FnOnce(&A) -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let work = tokio::task::spawn_blocking(move || work(&on));
    work.await.unwrap_or_else(|error| Err(format!("work on files broke off: {error}")))
}
