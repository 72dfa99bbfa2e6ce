//! Why a coordinator does not start, or ends.

use std::path::PathBuf;

use mtinet_core::FoldError;

use mtinet_runtime::tls::TlsError;

use super::auth::RegistryError;
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
    /// The authority's files.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Tokens and identities.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Without TLS, where others could listen in.
    #[error(
        "--insecure serves without TLS and therefore only to this machine, and {listen} is not its loopback; listen on \
         127.0.0.1, leave --insecure out, or give --insecure-anywhere on a network where everyone may do everything"
    )]
    PlaintextAbroad {
        /// The address.
        listen: std::net::SocketAddr,
    },
    /// The listener does not know its address.
    #[error("cannot tell the address that is listened on")]
    Listener(#[source] std::io::Error),
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
