//! The scheduler as a pure state machine: facts and time in, events to record and commands to send out.
//!
//! The state is a fold over the recorded events of [`mtinet_domain::event`]. A handler (`Core::on_…`) decides, folds
//! its decision into the state through the same code that replays a log after a restart, and returns [`Effects`].
//! What it leaves to its driver:
//!
//! - the clock: every handler takes `now_ms`, milliseconds since the Unix epoch;
//! - durability: `Effects::fleet` and `Effects::record` must be stored before anything of `Effects::send` is sent and before a report is
//!   acknowledged;
//! - delivery: commands to a worker without a session are dropped. [`Core::on_worker_connected`] says again whatever
//!   still counts, so a driver may cut a session at any time and lose nothing.
//!
//! There is no tokio, tonic, disk, clock or randomness here, on purpose.
#![warn(missing_docs)]

#[macro_use]
mod planted;

mod artifacts;
mod effects;
mod explain;
mod fact;
mod fold;
mod handlers;
mod health;
mod pool;
mod reason;
mod retry;
mod room;
mod sanity;
mod schedule;
mod state;
mod study;
mod trial;
mod widen;

#[cfg(test)]
mod tests;

pub use effects::{Command, Effects};
pub use explain::Explanation;
pub use fact::{Fact, Hello, Report, RunningRank, Slot};
pub use fold::FoldError;
pub use handlers::request::{Refusal, Request};
#[cfg(mtinet_mutations)]
pub use planted::Bug;
pub use pool::{DeviceKind, Held, Link, SlotState, Worker};
pub use reason::WaitReason;
pub use state::{Core, CoreConfig, Durable};
pub use study::Study;
pub use trial::{Gang, Outputs, Phase, RankState, Rendezvous, Trial, TrialState};
