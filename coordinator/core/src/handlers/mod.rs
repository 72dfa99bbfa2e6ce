//! What the driver calls: each handler decides on one input and returns what has to be done about it.

mod attempt;
mod report;
mod study;
mod worker;
