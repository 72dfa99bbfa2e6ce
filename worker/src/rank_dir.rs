//! A rank's own directory, which goes with the rank: what is worth keeping is stored by then, or in the cache.
//!
//! An agent that is killed cannot remove it, and it holds gigabytes of checkpoints: later agents on the same work directory
//! do. Several agents may share a work directory, so each directory is held by a lock on the log beside it, which the
//! trainer has open too: what nobody holds belongs to no process that lives.

use std::fs::{self, DirEntry, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::logs;
use crate::rank_log::RankLog;
use crate::uplink::unhurried;

/// The directory; removed when this is dropped.
#[derive(Debug)]
pub struct RankDir {
    path: PathBuf,
    /// The log that the trainer writes to, locked.
    log: File,
}

impl RankDir {
    /// A new and empty directory for a rank of the attempt whose directory is `attempt`, and the rank's log.
    ///
    /// # Errors
    /// A disk that cannot be written, a directory that another process holds.
    pub fn create(attempt: &Path, rank: u32) -> io::Result<(Self, RankLog)> {
        // Again, where it was empty and has just been tidied away.
        fs::create_dir_all(attempt).or_else(|_| fs::create_dir_all(attempt))?;
        let log_path = attempt.join(format!("rank{rank}.log"));
        let log = lock(&log_path)?.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::ResourceBusy,
                format!("{} is held by another process", log_path.display()),
            )
        })?;
        let path = attempt.join(format!("rank{rank}"));
        // Left over where this attempt's number was used before, by an agent of another coordinator.
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir(&path)?,
        }
        Ok((Self { path, log }, RankLog::new(log_path)))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The log, for the trainer to write to. The directory is held for as long as the trainer has it open.
    ///
    /// # Errors
    /// Too many open files.
    pub fn log(&self) -> io::Result<File> {
        self.log.try_clone()
    }
}

impl Drop for RankDir {
    fn drop(&mut self) {
        // Gigabytes of checkpoints, on a disk that may be slow.
        if let Err(error) = unhurried(|| fs::remove_dir_all(&self.path)) {
            tracing::warn!(%error, dir = %self.path.display(), "could not remove the rank's directory");
        }
    }
}

/// Removes the ranks' directories under `work_dir` that belong to no living process.
pub fn remove_abandoned(work_dir: &Path) {
    let attempts = logs::trials(work_dir).flat_map(|trial| logs::directories(&trial.path()));
    for dir in attempts.flat_map(|attempt| logs::directories(&attempt.path())).filter(is_rank) {
        let path = dir.path();
        match remove_where_free(&path) {
            Ok(false) => {}
            Ok(true) => tracing::info!(dir = %path.display(), "removed what a killed agent's trainer left"),
            Err(error) => {
                tracing::warn!(%error, dir = %path.display(), "could not remove what a killed agent's trainer left");
            }
        }
    }
}

fn is_rank(dir: &DirEntry) -> bool {
    let name = dir.file_name();
    name.to_str()
        .and_then(|name| name.strip_prefix("rank"))
        .is_some_and(|rank| rank.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether nobody held it.
fn remove_where_free(dir: &Path) -> io::Result<bool> {
    let Some(_log) = lock(&dir.with_extension("log"))? else { return Ok(false) };
    match fs::remove_dir_all(dir) {
        // Its owner has just done so.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        removed => removed.map(|()| true),
    }
}

/// The log, locked until every copy of it is closed; nothing where another process holds it.
fn lock(log: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().create(true).append(true).open(log)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn attempt(work_dir: &Path) -> PathBuf {
        work_dir.join("study-1-tiny/mti-net-0-0/1")
    }

    /// As after `kill -9`: the locks are gone, the files are not.
    fn kill(dir: RankDir) -> PathBuf {
        let path = dir.path().to_owned();
        let kept = path.with_extension("kept");
        fs::rename(&path, &kept).unwrap();
        drop(dir);
        fs::rename(kept, &path).unwrap();
        path
    }

    #[test]
    fn it_goes_with_its_rank_and_the_log_stays() {
        let work_dir = tempfile::tempdir().unwrap();
        let (dir, log) = RankDir::create(&attempt(work_dir.path()), 3).unwrap();
        fs::write(dir.path().join("step-1.safetensors"), "weights").unwrap();
        let path = dir.path().to_owned();
        drop(dir);
        assert!(!path.exists() && log.path().exists());
    }

    #[test]
    fn what_killed_agents_left_goes_and_what_others_hold_stays() {
        let work_dir = tempfile::tempdir().unwrap();
        let [(left, left_log), (held, _)] =
            [0, 1].map(|rank| RankDir::create(&attempt(work_dir.path()), rank).unwrap());
        for dir in [&left, &held] {
            fs::write(dir.path().join("step-1.safetensors"), "weights").unwrap();
        }
        let left = kill(left);
        let cache = work_dir.path().join("cache/slices/rank0");
        fs::create_dir_all(&cache).unwrap();
        assert!(left.join("step-1.safetensors").exists(), "it is left over");
        remove_abandoned(work_dir.path());
        assert!(!left.exists() && left_log.path().exists(), "its log says why");
        assert!(held.path().join("step-1.safetensors").exists() && cache.exists());
        // Nobody else takes what is held; what is left over is taken over empty.
        assert!(RankDir::create(&attempt(work_dir.path()), 1).is_err());
        let again = kill(held);
        let (taken, _) = RankDir::create(&attempt(work_dir.path()), 1).unwrap();
        assert_eq!((taken.path(), fs::read_dir(&again).unwrap().count()), (again.as_path(), 0));
    }

    #[test]
    fn a_trainer_that_outlives_its_agent_keeps_it_until_it_ends() {
        let work_dir = tempfile::tempdir().unwrap();
        let (dir, _) = RankDir::create(&attempt(work_dir.path()), 0).unwrap();
        let log = dir.log().unwrap();
        let mut trainer =
            Command::new("cat").stdin(Stdio::piped()).stdout(log).stderr(Stdio::null()).spawn().unwrap();
        let left = kill(dir);
        remove_abandoned(work_dir.path());
        assert!(left.exists(), "its trainer writes there");
        drop(trainer.stdin.take());
        trainer.wait().unwrap();
        remove_abandoned(work_dir.path());
        assert!(!left.exists());
    }
}
