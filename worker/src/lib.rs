//! The agent of one machine: it joins a coordinator, holds the machine's devices as slots, and starts, watches and
//! ends one trainer process per rank.
//!
//! It schedules nothing and trains nothing; it never links libtorch. Whatever a trainer says is repeated to the
//! coordinator until that acknowledges it, in order and once. Trainers go on while the coordinator is away.
#![warn(missing_docs)]

mod access;
mod agent;
mod confinement;
mod conversation;
mod data_cache;
mod dataset;
pub mod devices;
mod estate;
mod frames;
mod link;
mod log_copy;
mod logs;
mod metrics;
mod options;
mod outbox;
mod prepare;
mod process;
mod rank;
mod rank_dir;
mod rank_log;
mod retrieval;
mod session;
pub mod settings;
pub mod shell;
mod signs;
mod spool;
mod uplink;
mod uploads;
mod usage;

pub use agent::{AgentError, run};
pub use options::{Options, Timings};
