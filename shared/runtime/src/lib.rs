//! What every long-running program of mtinet needs around its own logic: configuration layers, connections,
//! logging, signals, conversion between wire and domain, and the transfer of artifacts.
//!
//! It decides nothing about studies, trials or workers; that is the coordinator's and the agent's work.
#![warn(missing_docs)]

pub mod artifacts;
pub mod config;
pub mod convert;
pub mod cuda;
pub mod metrics;
pub mod net;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
