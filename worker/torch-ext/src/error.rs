//! The one error type of the crate.

use std::time::Duration;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, TorchExtError>;

/// What libtorch, or a peer behind it, refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TorchExtError {
    /// libtorch threw: wrong shapes or types, no memory, an operation without a deterministic form.
    #[error("{operation}: {message}")]
    Torch {
        /// What was being done.
        operation: &'static str,
        /// libtorch's own words.
        message: String,
    },
    /// A peer or the store did not answer in time. The process group is of no use any more: end the attempt.
    #[error("{operation}: no answer from a peer in time: {message}")]
    Timeout {
        /// What was being done.
        operation: &'static str,
        /// libtorch's own words.
        message: String,
    },
    /// A peer or the store is gone or cannot be reached. The process group is of no use any more: end the attempt.
    #[error("{operation}: the connection to a peer is lost: {message}")]
    Connection {
        /// What was being done.
        operation: &'static str,
        /// libtorch's own words.
        message: String,
    },
    /// Ranks that did not come to a [monitored barrier](crate::ProcessGroup::monitored_barrier) in time.
    #[error("ranks {ranks:?} did not reach the barrier within {waited:?}; see their logs")]
    MissingRanks {
        /// The ranks that did not arrive, ascending.
        ranks: Vec<usize>,
        /// How long this rank waited for them.
        waited: Duration,
    },
    /// This build of libtorch, or this machine, cannot do it.
    #[error("{what} is not available: {reason}")]
    Unavailable {
        /// What was asked for.
        what: &'static str,
        /// Why it cannot be had.
        reason: String,
    },
    /// An argument that cannot be meant.
    #[error("{operation}: {problem}")]
    Argument {
        /// What was being done.
        operation: &'static str,
        /// What is wrong with which argument.
        problem: String,
    },
}

impl TorchExtError {
    /// Whether a peer was lost or late, rather than something wrong on this rank.
    #[must_use]
    pub fn is_peer(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Connection { .. } | Self::MissingRanks { .. })
    }
}

/// An [`TorchExtError::Argument`].
pub(crate) fn argument(operation: &'static str, problem: impl Into<String>) -> TorchExtError {
    TorchExtError::Argument { operation, problem: problem.into() }
}
