//! Why a trial is not running, computed with the decision not to start it.

use std::fmt;

use mtinet_domain::TrialId;

use crate::pool::DeviceKind;

/// Why a trial is not running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitReason {
    /// No worker is connected.
    NoWorkers,
    /// Not enough free slots.
    Slots {
        /// Slots that it needs at once.
        needed: u32,
        /// Of this kind.
        kind: DeviceKind,
        /// Free ones.
        free: u32,
        /// All of the kind in the fleet.
        total: u32,
    },
    /// Another trial comes first.
    Behind(TrialId),
    /// It failed and pauses before the next attempt.
    RetryPause {
        /// Until then, milliseconds since the Unix epoch.
        until_ms: u64,
        /// How it failed.
        failure: String,
    },
    /// Its attempt is being ended.
    Stopping {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoWorkers => f.write_str("no workers are connected"),
            Self::Slots { needed, kind, free: _, total } if total < needed => {
                write!(f, "needs {needed} {kind} slot{}, the fleet has {total}", plural(*needed))
            }
            Self::Slots { needed, kind, free, total } => {
                write!(f, "needs {needed} {kind} slot{}, {free} of {total} free", plural(*needed))
            }
            Self::Behind(trial) => write!(f, "behind {trial}"),
            Self::RetryPause { until_ms, failure } => {
                write!(f, "retries at {}: {failure}", time_of_day(*until_ms))
            }
            Self::Stopping { reason } => write!(f, "stopping: {reason}"),
        }
    }
}

fn plural(count: u32) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn time_of_day(ms: u64) -> String {
    let seconds = ms / 1000;
    format!("{:02}:{:02}:{:02} UTC", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}
