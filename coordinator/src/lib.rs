//! The library behind the `mtinet` binary: the coordinator's server, the command line, and reports.
//!
//! Nothing here links libtorch: the head node only plans, records and shows.
#![warn(missing_docs)]

pub mod cli;
mod dashboard;
pub mod report;
pub mod server;
