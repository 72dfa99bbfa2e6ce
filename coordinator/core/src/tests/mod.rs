//! Scenarios on a simulated fleet: every handler call is followed by the sanity check.

mod env;
mod faults;
mod placement;
mod properties;
mod recovery;
