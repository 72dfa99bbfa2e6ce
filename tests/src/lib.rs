//! What the tests with real processes share: the programs, a small data set, a cluster on this machine, its events.
//!
//! The programs are those that lie beside the test binary's folder; `make test` builds them first.

pub mod cluster;
pub mod processes;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use mtinet_data::phantom::{self, PhantomOptions};

/// One of the workspace's programs.
///
/// # Panics
/// Where it is not built.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let path = test.parent().and_then(Path::parent).expect("tests lie in target/PROFILE/deps").join(name);
    assert!(path.exists(), "{} is missing: run the tests with `make test`", path.display());
    path
}

/// Runs `mtinet` with these arguments to its end.
///
/// # Panics
/// Where it cannot be started.
pub fn mtinet(arguments: &[&str]) -> Output {
    Command::new(program("mtinet")).args(arguments).output().expect("mtinet starts")
}

/// Standard error of a finished program.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A phantom data set of 12 subjects at 64 pixels, written once a test process.
///
/// # Panics
/// Where it cannot be written.
pub fn phantom_dataset() -> &'static Path {
    static DATASET: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = DATASET.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("phantom");
        let options = PhantomOptions { subjects: 12, size: 64, seed: 1, ..PhantomOptions::default() };
        phantom::write(&path, &options, &|_, _| {}).expect("the phantom is written");
        (dir, path)
    });
    path
}
