//! What a trial runs on, what it leaves behind and how it ends.

use serde::{Deserialize, Serialize};

use crate::ids::{AttemptId, Rank, SlotIndex, WorkerId};

/// One device of a worker that can hold a rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind", content = "index")]
pub enum Device {
    /// A share of the machine's CPU cores.
    Cpu,
    /// The CUDA device of this ordinal.
    Cuda(u32),
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// Where one rank of an attempt runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The rank placed.
    pub rank: Rank,
    /// The worker that holds it.
    pub worker: WorkerId,
    /// The slot of the worker that it occupies.
    pub slot: SlotIndex,
    /// The device behind the slot.
    pub device: Device,
}

/// A file in the artifact store, addressed by its content.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ArtifactRef {
    /// BLAKE3 of the content, as hex; also its key in the store.
    pub blake3: String,
    /// Length in bytes.
    pub bytes: u64,
}

/// A checkpoint that the artifact store holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointRef {
    /// Optimiser steps done when it was written.
    pub step: u64,
    /// The file.
    pub artifact: ArtifactRef,
}

/// The data set of a study, pinned by content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetRef {
    /// The data set's name from its header.
    pub name: String,
    /// Absolute directory where the submitter saw it; a worker looks there and under its own data root.
    pub path: String,
    /// Hash of its manifest and split.
    pub hash: String,
    /// Phases in order.
    pub phases: Vec<String>,
    /// Lesion classes in order of their index.
    pub classes: Vec<String>,
}

/// Everything a worker needs to start one rank of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct RankAssignment {
    /// The execution that this rank belongs to.
    pub attempt: AttemptId,
    /// The study's name, for logs and paths.
    pub study_name: String,
    /// The study's immutable spec.
    pub spec: std::sync::Arc<crate::spec::StudySpec>,
    /// The data set to train on.
    pub dataset: DatasetRef,
    /// This rank.
    pub rank: Rank,
    /// Ranks in the process group.
    pub world_size: u32,
    /// The slot that it occupies.
    pub slot: SlotIndex,
    /// Where to go on from; from the start where absent.
    pub resume: Option<CheckpointRef>,
    /// The checkpoint before that one, for when `resume` turns out damaged.
    pub fallback: Option<CheckpointRef>,
}

/// Why a trainer stopped without finishing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureCause {
    /// The rank that failed first.
    pub rank: Option<Rank>,
    /// What happened to its process.
    pub exit: ProcessExit,
    /// The last optimiser step that it reported.
    pub step: Option<u64>,
    /// Its own words: the error it reported, or the end of its log.
    pub message: String,
    /// Where the gang hung: whether it is known which rank did not arrive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hang: Option<Hang>,
}

/// Who did not arrive, of a gang that waited in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hang {
    /// The rank of the cause is the first that others waited for.
    Named,
    /// The rank of the cause waited, and does not know for whom.
    Unnamed,
}

/// How a process ended, as the operating system tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "how", content = "value")]
pub enum ProcessExit {
    /// It called exit with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// It could not be started, or its preparation failed before it was.
    NotStarted,
}

impl std::fmt::Display for ProcessExit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::NotStarted => f.write_str("not started"),
        }
    }
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "end")]
pub enum AttemptEnd {
    /// All ranks finished and the held-out fold is evaluated.
    Completed,
    /// A trainer failed; counts against `retry.max_attempts`.
    Failed(FailureCause),
    /// A worker that held one of its ranks was lost; does not count.
    WorkerLost {
        /// The worker.
        worker: WorkerId,
        /// How that was noticed.
        reason: String,
    },
    /// It or its study was cancelled.
    Cancelled,
    /// Its study was paused; does not count.
    Paused,
    /// A worker that held one of its ranks is being drained; does not count.
    Drained {
        /// The worker.
        worker: WorkerId,
    },
    /// It failed in a way that is put down to the worker, because another one can take the trial; does not count.
    Unfit {
        /// The worker that the trial is not given to again while another one can take it.
        worker: WorkerId,
        /// What went wrong there.
        cause: FailureCause,
    },
    /// It was stopped at a step boundary to go on with more ranks; does not count.
    Widened,
}

/// Where a trial stands, as people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrialStatus {
    /// Waits for slots, or for the pause after a failure.
    Waiting,
    /// Has an attempt that is starting or training.
    Running,
    /// Its attempt is being ended.
    Stopping,
    /// Finished, with results.
    Done,
    /// Given up after repeated failures.
    Failed,
    /// Its study was cancelled first.
    Cancelled,
}

impl TrialStatus {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 6] =
        [Self::Waiting, Self::Running, Self::Stopping, Self::Done, Self::Failed, Self::Cancelled];

    /// Whether it will never run again.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }

    /// The word shown to people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}
