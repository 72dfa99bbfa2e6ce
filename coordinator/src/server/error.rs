//! Why a coordinator does not start, or ends.

use std::path::PathBuf;

use mtinet_core::FoldError;

use super::store::StoreError;

/// Why a coordinator does not start, or ends.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The data directory cannot be made or written.
    #[error("cannot write the data directory {}; give another with --data-dir", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Another coordinator serves the data directory.
    #[error(
        "the data directory {} is in use by another coordinator; end that one or give another directory with --data-dir",
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// SQLite's write-ahead log is not safe on a network file system.
    #[error(
        "the data directory {} is on NFS, where the event log is not safe; give one on a local disk with --data-dir",
        path.display()
    )]
    NetworkFileSystem {
        /// The directory.
        path: PathBuf,
    },
    /// The event log cannot be read or written.
    #[error("the event log failed")]
    Store(#[from] StoreError),
    /// The event log does not fit together.
    #[error("the event log in {} cannot be replayed", path.display())]
    Replay {
        /// The data directory.
        path: PathBuf,
        /// Where it does not fit.
        source: FoldError,
    },
    /// The artifact store cannot be opened.
    #[error("cannot open the artifact store in {}", path.display())]
    Artifacts {
        /// Its directory.
        path: PathBuf,
        /// What it said.
        source: object_store::Error,
    },
    /// A copy of the data could not be made.
    #[error("cannot back up to or from {}", path.display())]
    Backup {
        /// The file that was to be read or written.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The network side ended.
    #[error("serving gRPC failed")]
    Serve(#[from] tonic::transport::Error),
    /// The reflection service rejects the protocol's description.
    #[error("the protocol's description cannot be served")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The scheduler's task broke off.
    #[error("the scheduler broke off; this is a bug")]
    Driver(#[from] tokio::task::JoinError),
}
