//! The facts of a study that a report needs, folded from its events.

use std::collections::BTreeMap;

use mtinet_domain::evaluation::{FoldDetails, FoldSummary, ReferenceLines, TrialEvaluation};
use mtinet_domain::event::{Recorded, StudyOutcome};
use mtinet_domain::metrics::mean;
use mtinet_domain::trial::{ArtifactRef, AttemptEnd, DatasetRef, Placement};
use mtinet_domain::{Arm, AttemptNumber, StudyId, StudySpec, TrialKey};

use super::curves::{Curve, LearningCurves};
use super::fold::StudyFold;

/// A study with all that is known of each of its trials.
#[derive(Clone, Debug)]
pub struct StudyResults {
    /// The study's number.
    pub study: StudyId,
    /// What was asked for.
    pub spec: StudySpec,
    /// BLAKE3 of the spec.
    pub spec_hash: String,
    /// The data set that it is pinned to.
    pub dataset: DatasetRef,
    /// When it was submitted, milliseconds since the Unix epoch.
    pub submitted_ms: u64,
    /// When its last event was recorded: what the report knows is as old as that.
    pub last_event_ms: u64,
    /// When its last trial was over.
    pub finished_ms: Option<u64>,
    /// How it ended; absent while trials wait or run.
    pub outcome: Option<StudyOutcome>,
    /// Predicted pixels that make a slice without tumour a false positive.
    pub healthy_minimum_pixels: u64,
    /// Every trial that the spec asks for, in its order.
    pub trials: Vec<TrialResult>,
}

/// A trial with its results, or why it has none.
#[derive(Clone, Debug)]
pub struct TrialResult {
    /// Arm, fold and seed.
    pub key: TrialKey,
    /// How it stands.
    pub outcome: TrialOutcome,
    /// Attempts begun.
    pub attempts: u32,
    /// Attempts in which a trainer failed.
    pub failures: u32,
    /// Attempts that ended with the loss of a worker.
    pub workers_lost: u32,
    /// Where the latest attempt ran.
    pub placements: Vec<Placement>,
    /// Optimiser steps done, as far as reported.
    pub steps: u64,
    /// Seconds of training over all attempts that the result builds on.
    pub train_seconds: Option<f64>,
    /// When its first attempt started, milliseconds since the Unix epoch.
    pub started_ms: Option<u64>,
    /// When its latest attempt ended; absent while it runs.
    pub ended_ms: Option<u64>,
    /// Every attempt, in order.
    pub history: Vec<Attempt>,
    /// Losses and held-out metrics over training.
    pub curves: LearningCurves,
    /// Results per slice, where they have been fetched.
    pub evaluation: Option<TrialEvaluation>,
    /// Metrics that are computed from these.
    pub details: Option<FoldDetails>,
}

/// An execution of a trial.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The how-manieth.
    pub number: AttemptNumber,
    /// Steps that the checkpoint it went on from holds; absent where it began anew.
    pub resumed_at: Option<u64>,
    /// Where its ranks ran.
    pub placements: Vec<Placement>,
    /// When it was placed, milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// When its last rank was over.
    pub ended_ms: Option<u64>,
    /// How it ended.
    pub end: Option<AttemptEnd>,
}

/// How a trial stands.
#[derive(Clone, Debug)]
pub enum TrialOutcome {
    /// Finished and evaluated.
    Done(Box<Evaluated>),
    /// Given up, with the reason.
    Failed(String),
    /// Its study was cancelled before it finished.
    Cancelled,
    /// Has an attempt that has not ended.
    Running,
    /// Has not begun, or waits for its next attempt.
    Waiting,
}

/// What a finished trial left behind.
#[derive(Clone, Debug)]
pub struct Evaluated {
    /// The attempt that finished.
    pub attempt: AttemptNumber,
    /// Metrics of the held-out fold.
    pub summary: FoldSummary,
    /// Results per slice in the artifact store.
    pub evaluation: ArtifactRef,
    /// The trained weights.
    pub weights: Option<ArtifactRef>,
    /// Predicted masks.
    pub predictions: Option<ArtifactRef>,
}

/// Why events do not make a study.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// The log holds nothing or begins with something else.
    #[error("the study's events do not begin with its submission; ask the coordinator for all of them")]
    NoSubmission,
}

impl TrialOutcome {
    /// The word shown to people.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Done(_) => "done",
            Self::Failed(_) => "failed",
            Self::Cancelled => "cancelled",
            Self::Running => "running",
            Self::Waiting => "waiting",
        }
    }

    /// Why there is no result, where more is known than the word.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Failed(reason) => Some(reason),
            _ => None,
        }
    }
}

impl TrialResult {
    pub(super) fn new(key: TrialKey) -> Self {
        Self {
            key,
            outcome: TrialOutcome::Waiting,
            attempts: 0,
            failures: 0,
            workers_lost: 0,
            placements: Vec::new(),
            steps: 0,
            train_seconds: None,
            started_ms: None,
            ended_ms: None,
            history: Vec::new(),
            curves: LearningCurves::default(),
            evaluation: None,
            details: None,
        }
    }

    /// Seconds from the first attempt's start to the last one's end, waiting in between included.
    pub fn wall_seconds(&self) -> Option<f64> {
        Some(self.ended_ms?.saturating_sub(self.started_ms?) as f64 / 1000.0)
    }

    /// How fast it trained, one of [`SPEED`](mtinet_domain::event::SPEED): the mean over its epochs, or what it told meanwhile
    /// where it is shorter than one.
    pub fn speed(&self, name: &str) -> Option<f64> {
        let of = |curve: &Curve| {
            let series = curve.series(name);
            mean(series.iter().map(|point| point.value))
        };
        of(&self.curves.epochs).or_else(|| of(&self.curves.steps))
    }

    /// The metrics of its held-out fold, where it is done.
    pub fn summary(&self) -> Option<&FoldSummary> {
        match &self.outcome {
            TrialOutcome::Done(evaluated) => Some(&evaluated.summary),
            _ => None,
        }
    }
}

impl StudyResults {
    /// Folds a study's events, in order, from the first on. Evaluations per slice are added afterwards with
    /// [`StudyResults::set_evaluation`].
    ///
    /// # Errors
    /// [`ResultsError::NoSubmission`] where the first event is not the study's submission.
    pub fn from_events<'a>(events: impl IntoIterator<Item = &'a Recorded>) -> Result<Self, ResultsError> {
        let mut fold = StudyFold::default();
        for recorded in events {
            fold.apply(recorded)?;
        }
        fold.finish()
    }

    /// Adds a trial's results per slice.
    pub fn set_evaluation(&mut self, key: TrialKey, evaluation: TrialEvaluation) {
        if let Some(trial) = self.trials.iter_mut().find(|trial| trial.key == key) {
            trial.details = Some(evaluation.details());
            trial.evaluation = Some(evaluation);
        }
    }

    /// Counts a prediction in a slice without tumour as a false positive from `pixels` on, instead of
    /// [`mtinet_domain::evaluation::HEALTHY_MINIMUM_PIXELS`]. Takes the results per slice; a trial without them has no such rate then.
    pub fn set_healthy_minimum(&mut self, pixels: u64) {
        self.healthy_minimum_pixels = pixels;
        for trial in &mut self.trials {
            let rate = trial.evaluation.as_ref().and_then(|evaluation| evaluation.healthy_fp_rate(pixels));
            if let TrialOutcome::Done(evaluated) = &mut trial.outcome {
                evaluated.summary.healthy_fp_rate = rate;
            }
        }
    }

    /// Whether every trial is done: only then are the tables those of the whole study.
    pub fn is_complete(&self) -> bool {
        self.trials.iter().all(|trial| trial.summary().is_some())
    }

    /// The trials of an arm, in the order of the spec.
    pub fn of_arm(&self, arm: Arm) -> impl Iterator<Item = &TrialResult> {
        self.trials.iter().filter(move |trial| trial.key.arm == arm)
    }

    /// What the regression has to beat, per fold. It depends on the data alone, so any trial of a fold tells it.
    pub fn reference_lines(&self) -> BTreeMap<u32, ReferenceLines> {
        let mut lines = BTreeMap::new();
        for trial in &self.trials {
            if let Some(reference) = trial.summary().and_then(|summary| summary.reference) {
                lines.entry(trial.key.fold).or_insert(reference);
            }
        }
        lines
    }
}
