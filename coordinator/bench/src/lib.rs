//! Loads a coordinator with simulated agents over real gRPC and measures it: what `make bench-coordinator` runs.
//!
//! The coordinator is a process of its own, so that its memory and processor time are its own. The agents here speak
//! the protocol and train nothing; what they cost is told beside every figure.
#![warn(missing_docs)]

pub mod agent;
pub mod coordinator;
pub mod decide;
pub mod dispatch;
pub mod figure;
pub mod fleet;
pub mod ingest;
pub mod kills;
pub mod study;
pub mod subscriber;
pub mod watchers;
