//! The directory of a run: what lies where, and that only one process uses it at a time.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use super::error::CliError;

/// Most bytes of a directory's name; file systems allow 255.
const LONGEST_NAME: usize = 200;

/// A run's directory, held by this process until it is dropped.
#[derive(Debug)]
pub struct RunDir {
    root: PathBuf,
    // The lock is the system's and ends with the process, however it ends.
    _lock: File,
}

impl RunDir {
    /// Makes the directory where it is missing and takes hold of it.
    ///
    /// # Errors
    /// Where it cannot be made, or another `mtinet` holds it.
    pub fn open(root: &Path) -> Result<Self, CliError> {
        let refused =
            |error| CliError::failed(format_args!("cannot use the run directory {}", root.display()), &error);
        for directory in [root.to_owned(), root.join("logs"), root.join("coordinator")] {
            std::fs::create_dir_all(directory).map_err(refused)?;
        }
        // Children get it as their working directory's neighbour: a relative path would not survive.
        let root = root.canonicalize().map_err(refused)?;
        let lock = File::create(root.join(".lock")).map_err(refused)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(CliError::Usage(format!(
                "{} is in use by another mtinet; wait for it, or give another directory with --out",
                root.display()
            ))),
            Err(TryLockError::Error(error)) => Err(refused(error)),
        }
    }

    /// The directory itself, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The coordinator's data directory.
    pub fn coordinator(&self) -> PathBuf {
        self.root.join("coordinator")
    }

    /// Logs of the coordinator and of each worker.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The report's files.
    pub fn report(&self) -> PathBuf {
        self.root.join("report")
    }

    /// Predicted masks.
    pub fn predictions(&self) -> PathBuf {
        self.root.join("predictions")
    }

    /// A worker's own directory: caches, spools, checkpoints on their way.
    pub fn work(&self, worker: &str) -> PathBuf {
        self.root.join("work").join(worker)
    }
}

/// A study's name as that of a directory: letters, digits, `-`, `_` and `.` stay, all else becomes `-`.
pub fn directory_name(study: &str) -> String {
    let mut name = String::new();
    for c in study.trim().chars() {
        let c = if c.is_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' };
        if name.len() + c.len_utf8() > LONGEST_NAME {
            break;
        }
        // No leading dot or dash: neither hidden, nor `..`, nor taken for an option.
        let leading = name.is_empty() && matches!(c, '.' | '-');
        let doubled = c == '-' && name.ends_with('-');
        if !leading && !doubled {
            name.push(c);
        }
    }
    let name = name.trim_end_matches(['-', '.']);
    if name.is_empty() { "study".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_directories_below_runs() {
        for (study, directory) in [
            ("ablation", "ablation"),
            ("Table 3 / final", "Table-3-final"),
            ("../../etc", "etc"),
            ("..", "study"),
            ("-rf", "rf"),
            ("a_b-1.5", "a_b-1.5"),
            ("Übung", "Übung"),
            ("   ", "study"),
            ("x\u{0}y", "x-y"),
        ] {
            assert_eq!(directory_name(study), directory, "{study}");
        }
        assert!(directory_name(&"ü".repeat(300)).len() <= LONGEST_NAME);
    }

    #[test]
    fn a_run_directory_has_one_user() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("runs/x");
        let held = RunDir::open(&root).unwrap();
        assert!(held.logs().is_dir() && held.root().is_absolute());
        let second = RunDir::open(&root).unwrap_err();
        assert_eq!(second.exit_code(), 2);
        assert!(second.to_string().contains("in use"), "{second}");
        drop(held);
        RunDir::open(&root).unwrap();
    }
}
