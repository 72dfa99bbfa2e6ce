//! Data sets that are not under this machine's data root: fetched from the coordinator's store, checked, and kept within
//! a bound.
//!
//! Of several ranks that need one at once, one fetches and the others wait. What a killed agent had fetched of it counts: every
//! file is checked again and kept where it is whole. A data set is checked as a whole when an agent uses it for the first time.

mod fetch;
mod shelf;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mtinet_data::portable::is_hash;

pub use fetch::Source;
pub use shelf::Lease;
use shelf::{Found, Shelf};

/// Between two looks at what another rank is fetching.
const LOOK: Duration = Duration::from_millis(200);

/// Hears how it goes, in words for the rank's log.
pub type Tell<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// The cache. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DataCache {
    shelf: Shelf,
    /// Data sets that this process has seen to be whole.
    checked: Arc<Mutex<HashSet<String>>>,
}

impl DataCache {
    /// A cache in `root`, which is made when needed. `limit_bytes` holds before and after each fetch, slices included that
    /// trainers make beside the files.
    pub fn new(root: impl Into<PathBuf>, limit_bytes: u64) -> Self {
        Self { shelf: Shelf::new(root.into(), limit_bytes), checked: Arc::default() }
    }

    /// Whether the data set is here already.
    pub fn has(&self, hash: &str) -> bool {
        is_hash(hash) && self.shelf.is_here(hash)
    }

    /// The data set, for as long as what is returned lives; fetched first where it is not here.
    ///
    /// # Errors
    /// In words: nobody has it, it does not fit, the disk fails.
    pub async fn acquire(&self, hash: &str, source: &impl Source, tell: Tell<'_>) -> Result<Lease, String> {
        if !is_hash(hash) {
            return Err(format!("`{hash}` is no hash of a data set"));
        }
        let mut told = false;
        loop {
            match self.shelf.find(hash).map_err(|error| self.failed(&error))? {
                Found::Here(lease) if self.is_whole(hash, lease.dir()).await => {
                    let on = (self.shelf.clone(), hash.to_owned());
                    fetch::blocking(on, |(shelf, hash)| {
                        shelf.trim(hash);
                        Ok(())
                    })
                    .await?;
                    return Ok(lease);
                }
                Found::Here(lease) => {
                    drop(lease);
                    if let Some(claim) = self.shelf.claim(hash).map_err(|error| self.failed(&error))? {
                        tell(
                            "the data set in this worker's cache is damaged: fetching what is wrong with it",
                        );
                        claim.reopen().map_err(|error| self.failed(&error))?;
                        continue;
                    }
                }
                Found::Missing => {
                    if let Some(claim) = self.shelf.claim(hash).map_err(|error| self.failed(&error))? {
                        if !self.shelf.is_here(hash) {
                            fetch::fetch(&self.shelf, claim, source, tell).await?;
                            self.checked().insert(hash.to_owned());
                        }
                        continue;
                    }
                }
                Found::Busy => {}
            }
            if !std::mem::replace(&mut told, true) {
                tell("another rank on this worker is fetching the data set: waiting for it");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Reads all of it the first time that this process sees it; what was removed since is not here.
    async fn is_whole(&self, hash: &str, dir: &Path) -> bool {
        if self.checked().contains(hash) {
            return true;
        }
        let (wanted, dir) = (hash.to_owned(), dir.to_owned());
        let check = move || match mtinet_data::Dataset::open(&dir) {
            Ok(dataset) if dataset.hash() == wanted => dataset.verify_files(&|_, _| {}),
            Ok(dataset) => {
                Err(mtinet_data::DataError::Options(format!("it has the hash {}", dataset.hash())))
            }
            Err(error) => Err(error),
        };
        let checked = match tokio::task::spawn_blocking(check).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!(hash, %error, "a data set in the cache is damaged");
                false
            }
            Err(error) => {
                tracing::warn!(hash, %error, "checking a data set of the cache broke off");
                false
            }
        };
        if checked {
            self.checked().insert(hash.to_owned());
        }
        checked
    }

    fn checked(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, error: &std::io::Error) -> String {
        format!("the cache of data sets in {} cannot be used: {error}", self.shelf.root().display())
    }
}
