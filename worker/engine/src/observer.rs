//! What a trainer tells, and to whom it listens.

use std::path::PathBuf;

use mtinet_domain::evaluation::TrialEvaluation;
use mtinet_domain::event::MetricRecord;

use crate::{CheckpointFile, EngineError};

/// Receives what a trainer measures and writes. Rank 0 tells everything; the other ranks only ask whether to stop.
pub trait Observer {
    /// A measurement.
    ///
    /// # Errors
    /// [`EngineError::Observer`] when nobody listens any more; the trainer then ends.
    fn metrics(&mut self, record: MetricRecord) -> Result<(), EngineError>;

    /// A checkpoint is complete on disk.
    ///
    /// # Errors
    /// As [`Observer::metrics`].
    fn checkpoint(&mut self, checkpoint: CheckpointFile) -> Result<(), EngineError>;

    /// Whether the trial is to end at the next step boundary.
    fn stop_requested(&self) -> bool;

    /// The rank takes up its next piece of work: step `step` (from 1), or some slices of an evaluation after it. A
    /// rank that hangs stops saying so.
    fn working(&self, _step: u64) {}
}

/// How a trainer's run ended.
#[derive(Debug)]
pub enum Finish {
    /// All steps are done. Rank 0 has the results.
    Done(Option<Box<Results>>),
    /// Asked to stop; a checkpoint of the last step was handed to the observer.
    Stopped {
        /// Steps done.
        step: u64,
    },
}

/// What a finished trial leaves behind.
#[derive(Debug)]
pub struct Results {
    /// Per-slice results of the held-out fold.
    pub evaluation: TrialEvaluation,
    /// The trained weights (safetensors).
    pub weights: PathBuf,
    /// Predicted masks of the held-out cases, one NIfTI file each, where the study asks for them.
    pub predictions: Vec<PathBuf>,
}
