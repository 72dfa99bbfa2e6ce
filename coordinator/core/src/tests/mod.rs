//! Scenarios on a simulated fleet: every handler call is followed by the sanity check.

mod ends;
mod env;
mod faults;
mod health;
mod placement;
mod properties;
mod recovery;
mod requests;
