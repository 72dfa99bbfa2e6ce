//! What the tests with real processes share: the programs, a small data set, a cluster on this machine, its events.
//!
//! The programs are those that lie beside the test binary's folder; `make test` builds them first.

pub mod chaos;
pub mod clock;
pub mod cluster;
pub mod disk;
pub mod guide;
pub mod hosts;
pub mod memory;
pub mod processes;
pub mod proxy;
pub mod studies;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use mtinet_data::phantom::{self, PhantomOptions};

/// One of the workspace's programs.
///
/// # Panics
/// Where it is not built.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a test knows its own path");
    // A program of this crate lies beside the others, a test in the folder `deps` there.
    let folders = own.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is missing beside {}: run `make test`", own.display()))
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
