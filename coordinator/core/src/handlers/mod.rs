//! What the driver calls: each handler decides on one input and returns what has to be done about it.

mod attempt;
mod report;
pub(crate) mod request;
mod study;
pub(crate) mod watch;
mod worker;
