//! The words of mtinet as types: studies, arms, trials, attempts, events, metrics.
//!
//! Everything here is pure: no files, no sockets, no clock, no randomness, no async. Whatever reads or writes
//! is in another crate and hands its bytes to this one.
#![warn(missing_docs)]

pub mod evaluation;
pub mod event;
pub mod fleet;
pub mod ids;
pub mod metrics;
pub mod model;
pub mod prediction;
pub mod spec;
pub mod statistics;
pub mod suggest;
pub mod trial;
pub mod usage;

pub use ids::{AttemptId, AttemptNumber, Rank, SlotIndex, StudyId, TrialId, TrialKey, WorkerId};
pub use model::Arm;
pub use spec::StudySpec;
