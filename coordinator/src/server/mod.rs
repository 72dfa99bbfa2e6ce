//! The coordinator as a server: the event log, the artifact store, the task that owns the scheduler, and the gRPC
//! services in front of it.
//!
//! All decisions are `mtinet-core`'s; here is only what it leaves out: disk, network and the clock.

mod artifacts;
pub mod auth;
mod backup;
mod convert;
mod data_dir;
mod datasets;
mod driver;
mod error;
mod fleet_log;
mod logs;
mod metrics;
mod options;
mod questions;
mod recording;
mod room;
mod serve;
mod services;
mod store;
mod sweep;
mod usage;

#[cfg(test)]
mod tests;

pub use backup::{Backup, backup};
pub use data_dir::DATABASE;
pub use error::ServerError;
pub use logs::Piece;
pub use metrics::Export;
pub use options::ServerOptions;
pub use recording::{RecordedStudy, Recording};
pub use room::UploadLimits;
pub use serve::{Ready, offline_token, serve, serve_and_tell};
