//! The one error type of the crate.

use std::io;
use std::path::{Path, PathBuf};

/// Result with this crate's error.
pub type Result<T, E = DataError> = std::result::Result<T, E>;

/// What can go wrong with data. Every message names the file or the case and says what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The operating system refused a file operation.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was tried, as a verb: `read`, `write`, `create`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A file is there, but its content cannot be used.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what to do.
        message: String,
    },
    /// A case of the data set cannot be used.
    #[error("case {case}: {message}")]
    Case {
        /// The case's id.
        case: String,
        /// What is wrong with it and what to do.
        message: String,
    },
    /// A file is not the one that was imported.
    #[error(
        "case {case}: {} has changed since the import (its BLAKE3 hash differs); restore the file or import the data set again",
        path.display()
    )]
    Changed {
        /// The case's id.
        case: String,
        /// The file.
        path: PathBuf,
    },
    /// An import was refused for several reasons, all of them listed.
    #[error("cannot import {}:\n  {}", path.display(), problems.join("\n  "))]
    Import {
        /// The source directory.
        path: PathBuf,
        /// One line a problem.
        problems: Vec<String>,
    },
    /// The splits do not fit the data set.
    #[error("splits: {0}")]
    Splits(String),
    /// The destination holds something already; nothing is ever overwritten.
    #[error("{} already exists and is not empty; choose another destination or remove it first", path.display())]
    DestinationExists {
        /// The destination.
        path: PathBuf,
    },
    /// An option has an impossible value.
    #[error("{0}")]
    Options(String),
}

impl DataError {
    /// The exit code that a command should end with: 2 for a wrong option or destination, 4 for bad input data.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Options(_) | Self::DestinationExists { .. } => 2,
            _ => 4,
        }
    }

    pub(crate) fn file(path: &Path, message: impl Into<String>) -> Self {
        Self::File { path: path.to_owned(), message: message.into() }
    }

    pub(crate) fn case(case: &str, message: impl Into<String>) -> Self {
        Self::Case { case: case.to_owned(), message: message.into() }
    }

    /// Adapter for `map_err` on an I/O result.
    pub(crate) fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}
