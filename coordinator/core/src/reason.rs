//! Why a trial is not running, computed with the decision not to start it.

use std::fmt;

use mtinet_domain::{TrialId, WorkerId};

use crate::pool::DeviceKind;

/// Why a trial is not running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitReason {
    /// No worker is connected.
    NoWorkers,
    /// Not enough free slots.
    Slots {
        /// Slots that it needs at once; of a gang on CUDA, devices.
        needed: u32,
        /// Of this kind.
        kind: DeviceKind,
        /// Free ones.
        free: u32,
        /// All of the kind in the fleet.
        total: u32,
    },
    /// Workers are here, but none may be given trials.
    NoUsableWorkers {
        /// Drained by a person.
        drained: u32,
        /// Set aside because attempts kept failing on them.
        set_aside: u32,
    },
    /// A person paused its study.
    Paused,
    /// A person paused it.
    TrialPaused,
    /// It failed on a worker and waits for another one.
    Elsewhere {
        /// Slots that it needs at once; of a gang on CUDA, devices.
        needed: u32,
        /// Of this kind.
        kind: DeviceKind,
        /// Free ones on other workers.
        free: u32,
        /// All of the kind on other workers.
        total: u32,
        /// Where it failed.
        avoids: Vec<WorkerId>,
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
                write!(f, "needs {}, the fleet has {total}", places(*needed, *kind))
            }
            Self::Slots { needed, kind, free, total } => {
                write!(f, "needs {}, {free} of {total} free", places(*needed, *kind))
            }
            Self::NoUsableWorkers { drained, set_aside } => write!(
                f,
                "no worker takes trials: {drained} drained, {set_aside} set aside; `mtinet workers` says why"
            ),
            Self::Paused => f.write_str("the study is paused"),
            Self::TrialPaused => f.write_str("the trial is paused"),
            Self::Elsewhere { needed, kind, free, total, avoids } => {
                let avoids: Vec<&str> = avoids.iter().map(|worker| worker.0.as_str()).collect();
                let (places, avoids) = (places(*needed, *kind), avoids.join(", "));
                write!(f, "needs {places} on another worker than {avoids}, where it failed; ")?;
                write!(f, "{free} of {total} free")
            }
            Self::Behind(trial) => write!(f, "behind {trial}"),
            Self::RetryPause { until_ms, failure } => {
                write!(f, "retries at {}: {failure}", time_of_day(*until_ms))
            }
            Self::Stopping { reason } => write!(f, "it saves and ends: {reason}"),
        }
    }
}

/// What ranks that start together need, in words: of a gang on CUDA each takes another device.
pub(crate) fn places(ranks: u32, kind: DeviceKind) -> String {
    match (ranks, kind) {
        (1, _) => format!("1 {kind} slot"),
        (_, DeviceKind::Cpu) => format!("{ranks} {kind} slots"),
        (_, DeviceKind::Cuda) => format!("{ranks} {kind} devices"),
    }
}

fn time_of_day(ms: u64) -> String {
    let seconds = ms / 1000;
    format!("{:02}:{:02}:{:02} UTC", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}
