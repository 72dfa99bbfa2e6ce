//! Files that are never seen half-written: temporary neighbour, fsync, rename.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{DataError, Result};

/// Writes `bytes` to `path` so that a reader sees the old content or the new one, nothing between.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_durably(path, bytes).map_err(|source| DataError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

/// Writes `bytes` to `path`: to a temporary file beside it, synchronised, renamed, the directory synchronised. Whoever
/// is killed meanwhile leaves the old content or the new one; what is written when this returns survives a power cut.
///
/// # Errors
/// What the operating system says: a full disk, a directory that cannot be written. `path` is as it was then.
pub fn write_durably(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = neighbour(path);
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_parent(path)
    };
    write().inspect_err(|_| {
        // The first failure is the one to report; the leftover is removed as well as possible.
        let _ = fs::remove_file(&temporary);
    })
}

/// A directory that is built beside its destination and then renamed into place; dropped unfinished, it is removed.
pub(crate) struct Staging {
    directory: PathBuf,
    destination: PathBuf,
    committed: bool,
}

impl Staging {
    /// Starts to build `destination`, which must not exist or must be an empty directory.
    pub(crate) fn new(destination: &Path) -> Result<Self> {
        refuse_occupied(destination)?;
        let directory = neighbour(destination);
        fs::create_dir_all(&directory).map_err(DataError::io("create", &directory))?;
        Ok(Self { directory, destination: destination.to_owned(), committed: false })
    }

    /// Where to write.
    pub(crate) fn path(&self) -> &Path {
        &self.directory
    }

    /// Renames the finished directory into place.
    pub(crate) fn commit(mut self) -> Result<()> {
        // A rename replaces an empty directory, and fails if someone has filled it meanwhile.
        fs::rename(&self.directory, &self.destination).map_err(DataError::io("create", &self.destination))?;
        self.committed = true;
        sync_parent(&self.destination).map_err(DataError::io("write", &self.destination))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

fn refuse_occupied(destination: &Path) -> Result<()> {
    let occupied = match fs::read_dir(destination) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        // A file, or a directory that cannot be looked into.
        Err(_) => true,
    };
    if occupied { Err(DataError::DestinationExists { path: destination.to_owned() }) } else { Ok(()) }
}

/// Makes a rename durable.
fn sync_parent(path: &Path) -> std::io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

/// A fresh hidden name in the same directory, on the same file system.
pub(crate) fn neighbour(path: &Path) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!("{}{}-{count}", temporary_prefix(path), std::process::id()))
}

/// Removes what processes that were killed had begun to write for `path`. Only for whoever holds a lock on it: what a
/// living process writes looks the same.
pub(crate) fn remove_leftovers(path: &Path) {
    remove_begun(path, &temporary_prefix(path));
}

/// Removes what this process has begun to write for `path`, for an end in the middle of an import or of a phantom. The
/// thread that writes it then fails.
pub fn abandon(path: &Path) {
    let prefix = format!("{}{}-", temporary_prefix(path), std::process::id());
    // A file that is made while its directory is emptied stops the removal; its writer finds no directory afterwards.
    for _ in 0..ABANDON_TRIES {
        if remove_begun(path, &prefix) {
            return;
        }
    }
}

const ABANDON_TRIES: usize = 100;

fn temporary_prefix(path: &Path) -> String {
    let name = path.file_name().map_or_else(|| "out".into(), |n| n.to_string_lossy());
    format!(".{name}.tmp-")
}

/// Whether nothing with the prefix is left beside `path`.
fn remove_begun(path: &Path, prefix: &str) -> bool {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let begun = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    begun.fold(true, |all, entry| {
        let path = entry.path();
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        all && removed.is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let mine = Staging::new(&path).unwrap();
        fs::write(mine.path().join("image"), "half").unwrap();
        let (killed, other) = (dir.path().join(".data.tmp-0-7"), dir.path().join(".data2.tmp-0-7"));
        fs::create_dir_all(killed.join("images")).unwrap();
        fs::create_dir(&other).unwrap();
        abandon(&path);
        assert!(!mine.path().exists() && killed.exists());
        remove_leftovers(&path);
        assert!(!killed.exists() && other.exists());
    }
}
