//! Immutable facts about a study. Everything shown anywhere is folded from them.
//!
//! Events are stored as JSON and are readable forever: a variant or field is added, never renamed or removed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::evaluation::FoldSummary;
use crate::ids::{AttemptNumber, Rank, StudyId, TrialKey, WorkerId};
use crate::spec::StudySpec;
use crate::trial::{ArtifactRef, AttemptEnd, CheckpointRef, DatasetRef, Placement, ProcessExit};

/// An event in its place in the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// The study it is about.
    pub study: StudyId,
    /// Its number within the study, from 1, without gaps.
    pub seq: u64,
    /// When the coordinator recorded it, milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// What happened.
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Event {
    /// A study was accepted; its trials wait from now on.
    StudySubmitted {
        /// The immutable spec.
        spec: Box<StudySpec>,
        /// BLAKE3 of the spec.
        spec_hash: String,
        /// The data set that it is pinned to.
        dataset: DatasetRef,
        /// Who submitted it, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// A gang was placed and its ranks are told to start.
    AttemptStarted {
        /// The trial.
        trial: TrialKey,
        /// Which execution of it.
        attempt: AttemptNumber,
        /// Where each rank runs.
        placements: Vec<Placement>,
        /// Where it goes on from.
        resume: Option<CheckpointRef>,
    },
    /// Measurements of a running attempt.
    Metrics {
        /// The trial.
        trial: TrialKey,
        /// Which execution of it.
        attempt: AttemptNumber,
        /// Which report of which worker this was.
        report: ReportId,
        /// The measurements, in order of step.
        records: Vec<MetricRecord>,
    },
    /// A checkpoint is in the artifact store; the trial may go on from it.
    CheckpointStored {
        /// The trial.
        trial: TrialKey,
        /// Which execution of it.
        attempt: AttemptNumber,
        /// Which report of which worker this was.
        report: ReportId,
        /// The checkpoint.
        checkpoint: CheckpointRef,
    },
    /// The held-out fold is evaluated.
    TrialEvaluated {
        /// The trial.
        trial: TrialKey,
        /// Which execution of it.
        attempt: AttemptNumber,
        /// Which report of which worker this was.
        report: ReportId,
        /// The fold's metrics.
        summary: Box<FoldSummary>,
        /// Per-slice results ([`crate::evaluation::TrialEvaluation`] as JSON).
        evaluation: ArtifactRef,
        /// The trained weights (safetensors).
        weights: Option<ArtifactRef>,
        /// Predicted masks of the held-out cases (a tar of NIfTI files).
        predictions: Option<ArtifactRef>,
    },
    /// Rank 0's store listens; the other ranks may connect.
    RendezvousReady {
        /// The trial.
        trial: TrialKey,
        /// Which execution of it.
        attempt: AttemptNumber,
        /// Which report of which worker this was.
        report: ReportId,
        /// Where the store listens.
        host: String,
        /// Its TCP port.
        port: u16,
    },
    /// The process of a rank is over.
    RankExited {
        /// The trial.
        trial: TrialKey,
        /// Which execution of it.
        attempt: AttemptNumber,
        /// Which report of which worker this was.
        report: ReportId,
        /// The rank.
        rank: Rank,
        /// How its process ended.
        exit: ProcessExit,
        /// Whether it said that it finished all its work.
        finished: bool,
        /// The last optimiser step that it reported.
        step: Option<u64>,
        /// Its own words: the error it reported, or the end of its log.
        message: String,
    },
    /// A rank is given up without a word from it, because its worker is lost or no longer knows it.
    RankLost {
        /// The trial.
        trial: TrialKey,
        /// Which execution of it.
        attempt: AttemptNumber,
        /// The rank.
        rank: Rank,
        /// The worker that held it.
        worker: WorkerId,
        /// How that was noticed, in words.
        reason: String,
        /// How that was noticed; absent in events of releases that said it in words alone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        how: Option<RankLoss>,
    },
    /// The ranks of an attempt that are left are told to stop; when all are over it will have ended so.
    AttemptStopping {
        /// The trial.
        trial: TrialKey,
        /// Which execution of it.
        attempt: AttemptNumber,
        /// How the attempt will have ended.
        end: AttemptEnd,
    },
    /// All ranks of an attempt are over.
    AttemptEnded {
        /// The trial.
        trial: TrialKey,
        /// Which execution of it.
        attempt: AttemptNumber,
        /// How.
        end: AttemptEnd,
        /// Earliest time of the next attempt, milliseconds since the Unix epoch, after a failure.
        #[serde(default)]
        retry_at_ms: Option<u64>,
    },
    /// A trial is given up.
    TrialFailed {
        /// The trial.
        trial: TrialKey,
        /// Why, in words.
        reason: String,
    },
    /// A person asked for the study's end; attempts that run are being stopped.
    StudyCancelled {
        /// Who asked, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// No trial of the study will run any more.
    StudyFinished {
        /// With which outcome.
        outcome: StudyOutcome,
    },
    /// A person paused the study; attempts that run are asked to save and stop.
    StudyPaused {
        /// Who asked, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// A person let a paused study go on.
    StudyResumed {
        /// Who asked, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// A person asked for the end of one trial; its attempt, where it has one, is being stopped.
    TrialCancelled {
        /// The trial.
        trial: TrialKey,
        /// Who asked, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// A person paused one trial; its attempt, where it has one, is asked to save and stop.
    TrialPaused {
        /// The trial.
        trial: TrialKey,
        /// Who asked, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// A person let a paused trial go on.
    TrialResumed {
        /// The trial.
        trial: TrialKey,
        /// Who asked, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// A person had trials that failed or were cancelled tried again, from their last checkpoints and with their
    /// failures forgotten. A study that was over goes on.
    TrialsRetried {
        /// The trials.
        trials: Vec<TrialKey>,
        /// Who asked, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
}

/// How it was noticed that a rank is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RankLoss {
    /// Its worker was silent for longer than its lease.
    Silence,
    /// Its worker came back and does not know it.
    Forgotten,
    /// Its process was to be killed and does not go; its worker is well.
    Unkillable,
}

/// Identifies a worker's report, so that it is applied exactly once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportId {
    /// The reporting worker.
    pub worker: WorkerId,
    /// Its number among the worker's reports, from 1, ascending.
    pub seq: u64,
}

/// The outcome of a study whose trials are all over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StudyOutcome {
    /// Every trial is done.
    Complete,
    /// At least one trial was given up.
    Incomplete,
    /// It was cancelled.
    Cancelled,
}

/// Measurements at one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricRecord {
    /// What the values are about.
    pub scope: MetricScope,
    /// Optimiser steps done, from 1.
    pub step: u64,
    /// Epochs begun, from 1.
    pub epoch: u32,
    /// Seconds of training so far, over all attempts that this one builds on.
    pub train_seconds: f64,
    /// Values by name: losses without unit, `dsc`, `iou` and `accuracy` in percent, `mae` in raw intensity, and [`SPEED`].
    pub values: BTreeMap<String, f64>,
}

/// Values that say how fast a training goes: seconds of a step, the share of them (0 to 1) that rank 0 waited for samples,
/// and samples a second over all ranks. An epoch has their means; of steps one has them every minute.
pub const SPEED: [&str; 3] = ["step_seconds", "data_wait", "samples_per_second"];

/// The value of an epoch that says how much of its CUDA device's memory rank 0's tensors held at most, in bytes, with what is
/// kept for the next ones.
pub const DEVICE_MEMORY: &str = "device_memory_bytes";

impl MetricRecord {
    /// The same without what differs between two runs of the same computation.
    #[must_use]
    pub fn without_time(mut self) -> Self {
        self.train_seconds = 0.0;
        self.values.retain(|name, _| !SPEED.contains(&name.as_str()) && name != DEVICE_MEMORY);
        self
    }
}

/// What the values of a [`MetricRecord`] are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricScope {
    /// One optimiser step.
    Step,
    /// The mean over an epoch's steps.
    Epoch,
    /// The held-out fold.
    HeldOut,
}

impl Event {
    /// The variant's name as stored: the log is filtered by it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::StudySubmitted { .. } => "study_submitted",
            Self::AttemptStarted { .. } => "attempt_started",
            Self::Metrics { .. } => "metrics",
            Self::CheckpointStored { .. } => "checkpoint_stored",
            Self::TrialEvaluated { .. } => "trial_evaluated",
            Self::RendezvousReady { .. } => "rendezvous_ready",
            Self::RankExited { .. } => "rank_exited",
            Self::RankLost { .. } => "rank_lost",
            Self::AttemptStopping { .. } => "attempt_stopping",
            Self::AttemptEnded { .. } => "attempt_ended",
            Self::TrialFailed { .. } => "trial_failed",
            Self::StudyCancelled { .. } => "study_cancelled",
            Self::StudyFinished { .. } => "study_finished",
            Self::StudyPaused { .. } => "study_paused",
            Self::StudyResumed { .. } => "study_resumed",
            Self::TrialCancelled { .. } => "trial_cancelled",
            Self::TrialsRetried { .. } => "trials_retried",
            Self::TrialPaused { .. } => "trial_paused",
            Self::TrialResumed { .. } => "trial_resumed",
        }
    }

    /// The trial it is about, where it is about one.
    pub fn trial(&self) -> Option<TrialKey> {
        match self {
            Self::AttemptStarted { trial, .. }
            | Self::Metrics { trial, .. }
            | Self::CheckpointStored { trial, .. }
            | Self::TrialEvaluated { trial, .. }
            | Self::RendezvousReady { trial, .. }
            | Self::RankExited { trial, .. }
            | Self::RankLost { trial, .. }
            | Self::AttemptStopping { trial, .. }
            | Self::AttemptEnded { trial, .. }
            | Self::TrialFailed { trial, .. }
            | Self::TrialCancelled { trial, .. }
            | Self::TrialPaused { trial, .. }
            | Self::TrialResumed { trial, .. } => Some(*trial),
            Self::StudySubmitted { .. }
            | Self::StudyCancelled { .. }
            | Self::StudyFinished { .. }
            | Self::StudyPaused { .. }
            | Self::StudyResumed { .. }
            | Self::TrialsRetried { .. } => None,
        }
    }

    /// The execution that it is about, where it is about one.
    pub fn attempt(&self) -> Option<AttemptNumber> {
        match self {
            Self::AttemptStarted { attempt, .. }
            | Self::Metrics { attempt, .. }
            | Self::CheckpointStored { attempt, .. }
            | Self::TrialEvaluated { attempt, .. }
            | Self::RendezvousReady { attempt, .. }
            | Self::RankExited { attempt, .. }
            | Self::RankLost { attempt, .. }
            | Self::AttemptStopping { attempt, .. }
            | Self::AttemptEnded { attempt, .. } => Some(*attempt),
            Self::TrialFailed { .. }
            | Self::StudySubmitted { .. }
            | Self::StudyCancelled { .. }
            | Self::StudyFinished { .. }
            | Self::StudyPaused { .. }
            | Self::StudyResumed { .. }
            | Self::TrialCancelled { .. }
            | Self::TrialPaused { .. }
            | Self::TrialResumed { .. }
            | Self::TrialsRetried { .. } => None,
        }
    }

    /// The worker's report that brought it, where one did.
    pub fn report(&self) -> Option<&ReportId> {
        match self {
            Self::Metrics { report, .. }
            | Self::CheckpointStored { report, .. }
            | Self::TrialEvaluated { report, .. }
            | Self::RendezvousReady { report, .. }
            | Self::RankExited { report, .. } => Some(report),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trial::FailureCause;

    #[test]
    fn events_that_earlier_releases_stored_read_back() {
        let stored = [
            (r#"{"type":"study_cancelled"}"#, Event::StudyCancelled { by: None }),
            (
                r#"{"type":"study_finished","outcome":"complete"}"#,
                Event::StudyFinished { outcome: StudyOutcome::Complete },
            ),
            (
                r#"{"type":"attempt_ended","trial":"mti-net/0/0","attempt":1,"end":{"end":"cancelled"}}"#,
                Event::AttemptEnded {
                    trial: "mti-net/0/0".parse().unwrap(),
                    attempt: AttemptNumber(1),
                    end: AttemptEnd::Cancelled,
                    retry_at_ms: None,
                },
            ),
            (
                r#"{"type":"rank_lost","trial":"mti-net/0/0","attempt":1,"rank":1,"worker":"w","reason":"silent"}"#,
                Event::RankLost {
                    trial: "mti-net/0/0".parse().unwrap(),
                    attempt: AttemptNumber(1),
                    rank: Rank(1),
                    worker: WorkerId("w".into()),
                    reason: "silent".into(),
                    how: None,
                },
            ),
            (
                r#"{"type":"attempt_stopping","trial":"mti-net/0/0","attempt":1,"end":{"end":"failed","rank":0,"exit":{"how":"code","value":1},"step":null,"message":"timed out"}}"#,
                Event::AttemptStopping {
                    trial: "mti-net/0/0".parse().unwrap(),
                    attempt: AttemptNumber(1),
                    end: AttemptEnd::Failed(FailureCause {
                        rank: Some(Rank(0)),
                        exit: ProcessExit::Code(1),
                        step: None,
                        message: "timed out".into(),
                        hang: None,
                    }),
                },
            ),
        ];
        for (json, event) in stored {
            assert_eq!(serde_json::from_str::<Event>(json).unwrap(), event, "{json}");
        }
        let named = Event::StudyPaused { by: Some("ada".into()) };
        let json = serde_json::to_string(&named).unwrap();
        assert_eq!(json, r#"{"type":"study_paused","by":"ada"}"#);
        assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), named);
    }
}
