//! A consistent copy of a coordinator's data while it serves.
//!
//! The event log is copied by another process than the one that writes it: SQLite's backup interface reads one snapshot
//! of the database, WAL included, and holds nobody up. Artifacts are named by their content and never change, so those
//! that the snapshot refers to are copied file by file. The marks of workers (drained, set aside) are a log of their own
//! and get a copy beside that of the event log, `NAME.fleet.db` beside `NAME.db`. To restore, put the copies as `events.db`
//! and `fleet.db` into a new data directory, and the copied artifacts as `artifacts` beside them.

use std::path::{Path, PathBuf};

use mtinet_core::{Core, CoreConfig};

use super::artifacts::local_path;
use super::data_dir::{DATABASE, FLEET};
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
    /// Where the marks of workers were copied to; none where no worker was ever marked by this release or one before.
    pub fleet: Option<PathBuf>,
    /// Artifacts that were copied now.
    pub copied: usize,
    /// Artifacts that an earlier backup to the same directory had copied.
    pub present: usize,
    /// Artifacts that the log refers to and that the store does not have, by hash.
    pub missing: Vec<String>,
}

/// Copies the event log in `data_dir` to `file`, and with `artifacts` everything that it refers to into that directory.
/// `file` appears whole or not at all. The marks of workers go beside it.
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
    let fleet = fleet_beside(file);
    for target in [file, fleet.as_path()] {
        if target.exists() {
            return Err(refused(target)(std::io::ErrorKind::AlreadyExists.into()));
        }
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
            // After the event log: a mark that is known too early is made up for, a forgotten one is not. And before the
            // event log's copy appears, with which the backup is whole.
            found.fleet = copy_fleet(&data_dir.join(FLEET), &fleet, parent)?;
            keep(snapshot, file).map_err(refused(file))?;
            let directory = std::fs::File::open(parent).and_then(|dir| dir.sync_all());
            directory.map_err(refused(parent))?;
            break;
        }
    }
    Ok(found)
}

/// Where the marks of workers go, beside the copy of the event log.
fn fleet_beside(file: &Path) -> PathBuf {
    file.with_extension(FLEET)
}

fn copy_fleet(log: &Path, target: &Path, parent: &Path) -> Result<Option<PathBuf>, ServerError> {
    if !log.is_file() {
        return Ok(None);
    }
    let refused = |source| ServerError::Backup { path: target.to_owned(), source };
    let copy = tempfile::Builder::new().prefix(".backup-").tempfile_in(parent).map_err(refused)?;
    store::copy_database(log, copy.path())?;
    keep(copy, target).map_err(refused)?;
    Ok(Some(target.to_owned()))
}

fn keep(copy: tempfile::NamedTempFile, target: &Path) -> std::io::Result<()> {
    copy.as_file().sync_all()?;
    copy.persist_noclobber(target).map_err(|error| error.error)?;
    Ok(())
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
