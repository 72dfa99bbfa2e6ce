//! Where fetched data sets lie, who uses them, and which go when there is no room.
//!
//! `HASH/` is a whole data set, `HASH.part/` one on its way, `HASH.lock` is locked by whoever uses (shared) or changes (alone)
//! them, and its time says when that was last. The system lets go of a lock when its process ends, however it ends, and two
//! agents in one work directory respect each other's. A file that two data sets share is on the disk once.

use std::collections::HashSet;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use mtinet_data::portable::{FILES, PortableDataset, is_hash};

/// The file that a data set gets last.
const HEADER: &str = "dataset.toml";

const PART: &str = "part";

/// The directory of all fetched data sets.
#[derive(Clone, Debug)]
pub struct Shelf {
    root: PathBuf,
    limit_bytes: u64,
}

/// What there is of a data set.
#[derive(Debug)]
pub enum Found {
    /// All of it.
    Here(Lease),
    /// Nothing, or a part.
    Missing,
    /// Somebody is at work on it.
    Busy,
}

/// A data set in use: it stays as it is while this lives.
#[derive(Debug)]
pub struct Lease {
    dir: PathBuf,
    lock: File,
}

impl Lease {
    /// The data set's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where trainers keep its slices: they count as its own, and go with it.
    pub fn slices(&self) -> PathBuf {
        self.dir.join("slices")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        touch(&self.lock);
    }
}

/// A data set that nobody else uses or changes while this lives.
#[derive(Debug)]
pub struct Claim {
    hash: String,
    dir: PathBuf,
    part: PathBuf,
    _lock: File,
}

impl Claim {
    /// The data set's hash.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Where it is gathered.
    pub fn part(&self) -> &Path {
        &self.part
    }

    /// Takes a data set that is here for one on its way: what is whole of it need not be fetched again.
    pub fn reopen(&self) -> io::Result<()> {
        if self.part.exists() {
            std::fs::remove_dir_all(&self.part)?;
        }
        std::fs::rename(&self.dir, &self.part)?;
        sync_parent(&self.dir)
    }

    /// What was gathered is the data set.
    pub fn complete(&self) -> io::Result<()> {
        File::open(self.part.join(FILES))?.sync_all()?;
        std::fs::rename(&self.part, &self.dir)?;
        sync_parent(&self.dir)
    }

    fn remove(&self) -> io::Result<()> {
        // One that is removed in part must not pass for one that is here.
        if self.dir.exists() {
            self.reopen()?;
        }
        if self.part.exists() { std::fs::remove_dir_all(&self.part) } else { Ok(()) }
    }
}

impl Shelf {
    pub fn new(root: PathBuf, limit_bytes: u64) -> Self {
        Self { root, limit_bytes }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether all of a data set is here.
    pub fn is_here(&self, hash: &str) -> bool {
        self.root.join(hash).join(HEADER).is_file()
    }

    /// Takes a data set into use where it is here.
    pub fn find(&self, hash: &str) -> io::Result<Found> {
        let lock = self.lock_file(hash)?;
        match lock.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Found::Busy),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        if !self.is_here(hash) {
            return Ok(Found::Missing);
        }
        touch(&lock);
        Ok(Found::Here(Lease { dir: self.root.join(hash), lock }))
    }

    /// Keeps everybody else from a data set; none where somebody has it.
    pub fn claim(&self, hash: &str) -> io::Result<Option<Claim>> {
        let lock = self.lock_file(hash)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let (dir, part) = (self.root.join(hash), self.root.join(format!("{hash}.{PART}")));
        Ok(Some(Claim { hash: hash.to_owned(), dir, part, _lock: lock }))
    }

    /// Removes what was not used for longest until so many bytes more fit.
    ///
    /// # Errors
    /// In words, where they do not.
    pub fn make_room(&self, hash: &str, bytes: u64) -> Result<(), String> {
        let mut used = self.used_bytes();
        for other in self.by_age().into_iter().filter(|other| other != hash) {
            if used.saturating_add(bytes) <= self.limit_bytes {
                break;
            }
            self.remove_unused(&other);
            used = self.used_bytes();
        }
        if used.saturating_add(bytes) <= self.limit_bytes {
            return Ok(());
        }
        Err(format!(
            "it needs {} GB more in this worker's cache of data sets, which holds {} of at most {} GB that cannot go, \
             because running trials use them or it has them already; raise worker.data_cache_gb, or copy the data set \
             under the worker's data root",
            gb(bytes),
            gb(used),
            gb(self.limit_bytes)
        ))
    }

    /// Removes what was not used for longest while there is more than the limit: slices have been made since.
    pub fn trim(&self, hash: &str) {
        if let Err(words) = self.make_room(hash, 0) {
            tracing::warn!(words, "the cache of data sets is larger than its limit");
        }
    }

    fn remove_unused(&self, hash: &str) {
        let removed = match self.claim(hash) {
            Ok(Some(claim)) => claim.remove(),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        match removed {
            Ok(()) => tracing::info!(hash, "removed a data set from the cache"),
            Err(error) => tracing::warn!(hash, %error, "could not remove a data set from the cache"),
        }
    }

    /// Brings a file that another data set has to `dest`; whether one did.
    pub fn link(&self, file: &str, dest: &Path) -> bool {
        let place = PortableDataset::place(file);
        self.names().iter().any(|hash| std::fs::hard_link(self.root.join(hash).join(&place), dest).is_ok())
    }

    /// Names of data sets of which something is here, each once.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter(|entry| entry.path().is_dir())
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let hash = name.strip_suffix(&format!(".{PART}")).unwrap_or(&name);
                is_hash(hash).then(|| hash.to_owned())
            })
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// What was not used for longest first.
    fn by_age(&self) -> Vec<String> {
        let used = |hash: &String| {
            let lock = self.root.join(format!("{hash}.lock"));
            lock.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
        };
        let mut names = self.names();
        names.sort_by_cached_key(used);
        names
    }

    /// Length of all files, those with several names once.
    fn used_bytes(&self) -> u64 {
        let mut seen = HashSet::new();
        let mut bytes = 0;
        let mut dirs = vec![self.root.clone()];
        while let Some(dir) = dirs.pop() {
            // What goes meanwhile takes no room.
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let Ok(meta) = entry.metadata() else { continue };
                if meta.is_dir() {
                    dirs.push(entry.path());
                } else if seen.insert((meta.dev(), meta.ino())) {
                    bytes += meta.len();
                }
            }
        }
        bytes
    }

    fn lock_file(&self, hash: &str) -> io::Result<File> {
        std::fs::create_dir_all(&self.root)?;
        let path = self.root.join(format!("{hash}.lock"));
        File::options().create(true).truncate(false).write(true).open(path)
    }
}

/// A size for people.
pub fn gb(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e9)
}

fn touch(lock: &File) {
    if let Err(error) = lock.set_modified(SystemTime::now()) {
        tracing::debug!(%error, "could not note the use of a data set");
    }
}

/// Makes a rename durable.
fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}
