//! A consistent copy of a coordinator's data while it serves.
//!
//! The event log is copied by another process than the one that writes it: SQLite's backup interface reads one snapshot
//! of the database, WAL included, and holds nobody up. Artifacts are named by their content and never change, so those
//! that the snapshot refers to are copied file by file. To restore, put the copy of the log as `events.db` into a new
//! data directory, and the copied artifacts as `artifacts` beside it.

use std::path::{Path, PathBuf};

use mtinet_core::{Core, CoreConfig};

use super::artifacts::local_path;
use super::data_dir::DATABASE;
use super::error::ServerError;
use super::store;

/// Snapshots taken until one is found all of whose artifacts are there: the coordinator may delete a superseded
/// checkpoint between the snapshot and the copy.
const TRIES: usize = 5;

/// What a backup holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backup {
    /// Studies in the log.
    pub studies: usize,
    /// Events that a restart replays.
    pub events: usize,
    /// Artifacts that were copied now.
    pub copied: usize,
    /// Artifacts that an earlier backup to the same directory had copied.
    pub present: usize,
    /// Artifacts that the log refers to and that the store does not have, by hash.
    pub missing: Vec<String>,
}

/// Copies the event log in `data_dir` to `file`, and with `artifacts` everything that it refers to into that directory.
/// `file` appears whole or not at all.
///
/// # Errors
/// A data directory without a log, a log that cannot be read or replayed, a file that exists or cannot be written.
pub fn backup(data_dir: &Path, file: &Path, artifacts: Option<&Path>) -> Result<Backup, ServerError> {
    let database = data_dir.join(DATABASE);
    let refused = |path: &Path| {
        let path = path.to_owned();
        move |source| ServerError::Backup { path, source }
    };
    if !database.is_file() {
        return Err(refused(&database)(std::io::ErrorKind::NotFound.into()));
    }
    if file.exists() {
        return Err(refused(file)(std::io::ErrorKind::AlreadyExists.into()));
    }
    let parent = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(refused(parent))?;
    let mut found = Backup::default();
    for attempt in 1..=TRIES {
        let snapshot =
            tempfile::Builder::new().prefix(".backup-").tempfile_in(parent).map_err(refused(parent))?;
        store::copy(&database, snapshot.path())?;
        let core = replayed(snapshot.path(), data_dir, &mut found)?;
        if let Some(target) = artifacts {
            copy_artifacts(&core, &data_dir.join("artifacts"), target, &mut found)?;
        }
        if found.missing.is_empty() || attempt == TRIES {
            snapshot.as_file().sync_all().map_err(refused(file))?;
            snapshot.persist_noclobber(file).map_err(|error| refused(file)(error.error))?;
            let directory = std::fs::File::open(parent).and_then(|dir| dir.sync_all());
            directory.map_err(refused(parent))?;
            break;
        }
    }
    Ok(found)
}

fn replayed(snapshot: &Path, data_dir: &Path, found: &mut Backup) -> Result<Core, ServerError> {
    let replay = store::replay_of(snapshot)?;
    let mut core = Core::new(CoreConfig::default());
    for recorded in &replay {
        let applied = core.apply(recorded);
        applied.map_err(|source| ServerError::Replay { path: data_dir.to_owned(), source })?;
    }
    found.events = replay.len();
    found.studies = core.studies().count();
    Ok(core)
}

fn copy_artifacts(core: &Core, from: &Path, to: &Path, found: &mut Backup) -> Result<(), ServerError> {
    let copied_before = found.copied;
    found.missing.clear();
    found.present = 0;
    for hash in core.artifacts() {
        let (source, target) = (local_path(from, hash), local_path(to, hash));
        if target.is_file() {
            found.present += 1;
            continue;
        }
        match copy_checked(&source, &target, hash) {
            Ok(true) => found.copied += 1,
            Ok(false) => found.missing.push(hash.to_owned()),
            Err(source) => return Err(ServerError::Backup { path: target, source }),
        }
    }
    found.present = found.present.saturating_sub(copied_before);
    Ok(())
}

/// Copies one file so that it is whole or absent; `false` where it is not there or not what its name says.
fn copy_checked(source: &PathBuf, target: &Path, hash: &str) -> std::io::Result<bool> {
    let mut content = match std::fs::File::open(source) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        opened => opened?,
    };
    let parent = target.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent)?;
    let copy = tempfile::Builder::new().prefix(".copy-").tempfile_in(parent)?;
    std::io::copy(&mut content, &mut copy.as_file())?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(copy.reopen()?)?;
    if hasher.finalize().to_hex().as_str() != hash {
        tracing::warn!(hash, "an artifact in the store is damaged and is left out of the backup");
        return Ok(false);
    }
    copy.as_file().sync_all()?;
    copy.persist(target).map_err(|error| error.error)?;
    std::fs::File::open(parent)?.sync_all()?;
    Ok(true)
}
