//! What workers tell the coordinator.

use mtinet_domain::evaluation::FoldSummary;
use mtinet_domain::event::MetricRecord;
use mtinet_domain::trial::{ArtifactRef, CheckpointRef, Device, ProcessExit};
use mtinet_domain::{AttemptId, Rank, SlotIndex, WorkerId};

/// A worker introduces itself at the start of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The worker.
    pub worker: WorkerId,
    /// Its host name, for people.
    pub name: String,
    /// Its devices.
    pub slots: Vec<Slot>,
    /// Every rank that it was told to start and whose exit is not acknowledged yet.
    pub running: Vec<RunningRank>,
}

/// One device of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its number.
    pub index: SlotIndex,
    /// What is behind it.
    pub device: Device,
}

/// A rank that a worker knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunningRank {
    /// The execution.
    pub attempt: AttemptId,
    /// The rank.
    pub rank: Rank,
    /// The slot that it occupies.
    pub slot: SlotIndex,
    /// Its process is over; the report of it follows unless it is recorded.
    pub exited: bool,
}

/// A fact with its number among the worker's reports.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// From 1, ascending over the worker's life.
    pub seq: u64,
    /// The execution that it is about.
    pub attempt: AttemptId,
    /// The rank that it is about.
    pub rank: Rank,
    /// What happened.
    pub fact: Fact,
}

/// What happened to a rank.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// Its process runs.
    Started,
    /// Rank 0's store listens.
    Rendezvous {
        /// Host of the store.
        host: String,
        /// TCP port of the store.
        port: u16,
    },
    /// Measurements.
    Metrics(Vec<MetricRecord>),
    /// A checkpoint is in the artifact store.
    Checkpoint(CheckpointRef),
    /// The held-out fold is evaluated.
    Evaluated {
        /// The fold's metrics.
        summary: Box<FoldSummary>,
        /// Per-slice results.
        evaluation: ArtifactRef,
        /// Trained weights.
        weights: Option<ArtifactRef>,
        /// Predicted masks.
        predictions: Option<ArtifactRef>,
    },
    /// Its process is over.
    Exited {
        /// How it ended.
        exit: ProcessExit,
        /// Whether it said that it finished all its work.
        finished: bool,
        /// The last optimiser step that it reported.
        step: Option<u64>,
        /// Its own words, or the end of its log.
        message: String,
        /// Its agent told it to stop before its process was over.
        stopped: bool,
        /// Of a hang: the ranks that did not arrive, ascending. They are to blame, and not this one, which waited.
        missing: Vec<Rank>,
    },
}
