//! What stays of attempts on this machine: the logs of their trainers, bounded in number and size.
//!
//! Under the work directory, `study-ID-NAME/TRIAL/ATTEMPT/rankN.log`. A failed attempt is marked by an empty file `failed`
//! and keeps its logs longer: they say why. What is measured and stored is the coordinator's; nothing here is.

use std::ffi::OsStr;
use std::fs::{self, DirEntry, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Marks the directory of an attempt that failed here.
const FAILED: &str = "failed";

/// What is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Attempts of one trial that did not fail.
    pub attempts: usize,
    /// Bytes of one log; what is older within it goes.
    pub log_bytes: u64,
    /// Of a log that was too large its last bytes.
    pub kept_bytes: u64,
    /// Attempts of all studies.
    pub all_attempts: usize,
    /// Bytes of all studies.
    pub all_bytes: u64,
    /// Younger attempts stay when all of them are counted: another worker may be writing them.
    pub age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            attempts: 20,
            log_bytes: 64 << 20,
            kept_bytes: 1 << 20,
            all_attempts: 10_000,
            all_bytes: 2 << 30,
            age: Duration::from_secs(24 * 3600),
        }
    }
}

/// Marks an attempt's directory, so that its logs stay longer.
pub fn mark_failed(attempt: &Path) {
    if let Err(error) = fs::write(attempt.join(FAILED), []) {
        tracing::debug!(%error, dir = %attempt.display(), "could not mark a failed attempt");
    }
}

/// Removes the older attempts of a trial but for those that failed or are under way.
pub fn tidy_trial(trial: &Path, limits: Limits) {
    let mut attempts: Vec<(u64, PathBuf)> = directories(trial)
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .filter(|(_, path)| !path.join(FAILED).exists() && !is_under_way(path))
        .collect();
    attempts.sort();
    for (_, path) in attempts.iter().rev().skip(limits.attempts) {
        remove(path);
    }
}

/// Removes the oldest attempts of all studies while they are more, or larger, than the limits say; failed ones last, those
/// under way not at all. Then the directories that are empty.
pub fn tidy_all(work_dir: &Path, limits: Limits) {
    let mut attempts: Vec<Attempt> =
        trials(work_dir).flat_map(|trial| directories(&trial.path())).filter_map(attempt).collect();
    attempts.sort_by_key(|attempt| (!attempt.failed, std::cmp::Reverse(attempt.changed)));
    // From here on: failed ones first, then the newest.
    let (mut count, mut bytes, now) = (0, 0, SystemTime::now());
    for attempt in attempts {
        count += 1;
        bytes += attempt.bytes;
        let is_young = now.duration_since(attempt.changed).is_ok_and(|age| age < limits.age);
        if !is_young && (count > limits.all_attempts || bytes > limits.all_bytes) {
            remove(&attempt.path);
        }
    }
    trials(work_dir).chain(studies(work_dir)).for_each(|dir| remove_empty(&dir.path()));
}

/// Cuts a log that has become too large: its last bytes stay. Its writer appends, so it goes on behind them.
///
/// # Errors
/// A log that cannot be read or written.
pub fn cap(log: &Path, limits: Limits) -> io::Result<()> {
    let length = match fs::metadata(log) {
        Ok(metadata) if metadata.len() > limits.log_bytes => metadata.len(),
        _ => return Ok(()),
    };
    let mut file = OpenOptions::new().read(true).append(true).open(log)?;
    file.seek(SeekFrom::Start(length - limits.kept_bytes.min(length)))?;
    let mut tail = Vec::new();
    (&mut file).take(limits.kept_bytes).read_to_end(&mut tail)?;
    file.set_len(0)?;
    let note =
        format!("mtinet-worker: this log grew to {length} bytes; what was before the following is gone\n");
    file.write_all(&[note.as_bytes(), &tail].concat())
}

struct Attempt {
    path: PathBuf,
    failed: bool,
    bytes: u64,
    changed: SystemTime,
}

/// An attempt that is over.
fn attempt(entry: DirEntry) -> Option<Attempt> {
    let path = entry.path();
    if is_under_way(&path) {
        return None;
    }
    let mut found = Attempt { failed: false, bytes: 0, changed: SystemTime::UNIX_EPOCH, path };
    for entry in entries(&found.path).chain([entry]) {
        let Ok(metadata) = entry.metadata() else { continue };
        found.failed |= entry.file_name() == OsStr::new(FAILED);
        found.bytes += metadata.len();
        found.changed = found.changed.max(metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH));
    }
    Some(found)
}

/// Whether a rank's directory is there: those that nobody holds are removed elsewhere.
fn is_under_way(attempt: &Path) -> bool {
    directories(attempt).next().is_some()
}

/// The directories of trials of all studies.
pub fn trials(work_dir: &Path) -> impl Iterator<Item = DirEntry> {
    studies(work_dir).flat_map(|study| directories(&study.path()))
}

fn studies(work_dir: &Path) -> impl Iterator<Item = DirEntry> {
    directories(work_dir).filter(|entry| entry.file_name().to_string_lossy().starts_with("study-"))
}

/// The directories in `dir`. Links are not followed: what they name is not ours.
pub fn directories(dir: &Path) -> impl Iterator<Item = DirEntry> + use<> {
    entries(dir).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
}

fn entries(dir: &Path) -> impl Iterator<Item = DirEntry> + use<> {
    fs::read_dir(dir).into_iter().flatten().flatten()
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path) {
        tracing::warn!(%error, dir = %path.display(), "could not remove what an old attempt left");
    }
}

/// One that is not empty stays, also where it has just come to be so.
fn remove_empty(dir: &Path) {
    if let Err(error) = fs::remove_dir(dir)
        && error.kind() != io::ErrorKind::DirectoryNotEmpty
    {
        tracing::debug!(%error, dir = %dir.display(), "could not remove an empty directory");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        attempts: 3,
        log_bytes: 100,
        kept_bytes: 10,
        all_attempts: 4,
        all_bytes: 1000,
        age: Duration::ZERO,
    };

    fn logged(work_dir: &Path, trial: &str, number: u64, bytes: usize) -> PathBuf {
        let dir = work_dir.join("study-1-tiny").join(trial).join(number.to_string());
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("rank0.log"), vec![b'x'; bytes]).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(number * 1000);
        for path in [dir.join("rank0.log"), dir.clone()] {
            fs::File::open(path).unwrap().set_modified(time).unwrap();
        }
        dir
    }

    fn left(trial: &Path) -> Vec<u64> {
        let mut left: Vec<u64> =
            directories(trial).map(|entry| entry.file_name().to_str().unwrap().parse().unwrap()).collect();
        left.sort_unstable();
        left
    }

    #[test]
    fn a_trial_keeps_its_newest_attempts_and_the_failed_ones() {
        let dir = tempfile::tempdir().unwrap();
        for number in 1..=12 {
            logged(dir.path(), "a-0-0", number, 1);
        }
        let trial = dir.path().join("study-1-tiny/a-0-0");
        mark_failed(&trial.join("2"));
        fs::create_dir(trial.join("4/rank1")).unwrap();
        tidy_trial(&trial, LIMITS);
        assert_eq!(left(&trial), [2, 4, 10, 11, 12], "2 failed, 4 is under way");
    }

    #[test]
    fn all_of_them_are_bounded_in_number_and_size_the_oldest_go_first() {
        let dir = tempfile::tempdir().unwrap();
        for (trial, number) in
            [("a-0-0", 1), ("b-0-0", 2), ("a-0-0", 3), ("c-0-0", 4), ("a-0-0", 5), ("c-0-0", 6)]
        {
            logged(dir.path(), trial, number, 1);
        }
        let study = dir.path().join("study-1-tiny");
        mark_failed(&study.join("a-0-0/1"));
        fs::create_dir_all(dir.path().join("cache/slices/1")).unwrap();
        // Directories have a size of their own.
        tidy_all(dir.path(), Limits { all_bytes: u64::MAX, ..LIMITS });
        assert_eq!((left(&study.join("a-0-0")), left(&study.join("c-0-0"))), (vec![1, 5], vec![4, 6]));
        assert!(!study.join("b-0-0").exists() && dir.path().join("cache/slices/1").exists());
        logged(dir.path(), "c-0-0", 7, 1 << 20);
        let young = Limits { all_bytes: 0, age: Duration::from_secs(u64::MAX / 2), ..LIMITS };
        tidy_all(dir.path(), young);
        assert_eq!(left(&study.join("c-0-0")), [4, 6, 7], "another worker may be at it");
        let running = logged(dir.path(), "d-0-0", 1, 1).join("rank0");
        fs::create_dir(&running).unwrap();
        fs::write(running.join("step-1.safetensors"), vec![0; 1 << 20]).unwrap();
        tidy_all(dir.path(), Limits { all_bytes: 1 << 20, ..LIMITS });
        assert!(running.exists(), "it is under way, and its checkpoints push no log out");
        assert_eq!(left(&study.join("a-0-0")), [1], "why it failed is told for longest");
        assert!(!study.join("c-0-0").exists());
    }

    #[test]
    fn a_log_that_grows_without_end_keeps_its_last_words_and_its_writer() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("rank0.log");
        let mut writer = OpenOptions::new().create(true).append(true).open(&log).unwrap();
        writer.write_all(&[b'x'; 90]).unwrap();
        cap(&log, LIMITS).unwrap();
        assert_eq!(fs::metadata(&log).unwrap().len(), 90);
        writer.write_all(b"0123456789abcdefghij").unwrap();
        cap(&log, LIMITS).unwrap();
        writer.write_all(b"!").unwrap();
        let text = fs::read_to_string(&log).unwrap();
        assert!(text.starts_with("mtinet-worker: this log grew to 110 bytes"), "{text}");
        assert!(text.ends_with("gone\nabcdefghij!"), "{text}");
        cap(&dir.path().join("none"), LIMITS).unwrap();
    }
}
