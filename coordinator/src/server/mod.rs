//! The coordinator as a server: the event log, the artifact store, the task that owns the scheduler, and the gRPC
//! services in front of it.
//!
//! All decisions are `mtinet-core`'s; here is only what it leaves out: disk, network and the clock.

mod artifacts;
pub mod auth;
mod convert;
mod data_dir;
mod driver;
mod error;
mod options;
mod serve;
mod services;
mod store;

#[cfg(test)]
mod tests;

pub use data_dir::DATABASE;
pub use error::ServerError;
pub use options::ServerOptions;
pub use serve::{Ready, offline_token, serve, serve_and_tell};
