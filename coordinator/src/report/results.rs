//! The facts of a study that a report needs, folded from its events.

use std::collections::BTreeMap;

use mtinet_domain::evaluation::{FoldSummary, ReferenceLines, TrialEvaluation};
use mtinet_domain::event::{Event, MetricScope, Recorded, StudyOutcome};
use mtinet_domain::trial::{ArtifactRef, AttemptEnd, DatasetRef, Placement};
use mtinet_domain::{Arm, AttemptNumber, StudyId, StudySpec, TrialKey};

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
    /// When its last trial was over.
    pub finished_ms: Option<u64>,
    /// How it ended; absent while trials wait or run.
    pub outcome: Option<StudyOutcome>,
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
    /// Results per slice, where they have been fetched.
    pub evaluation: Option<TrialEvaluation>,
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
    fn new(key: TrialKey) -> Self {
        Self {
            key,
            outcome: TrialOutcome::Waiting,
            attempts: 0,
            failures: 0,
            workers_lost: 0,
            placements: Vec::new(),
            steps: 0,
            train_seconds: None,
            evaluation: None,
        }
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
        let mut events = events.into_iter();
        let first = events.next().ok_or(ResultsError::NoSubmission)?;
        let Event::StudySubmitted { spec, spec_hash, dataset } = &first.event else {
            return Err(ResultsError::NoSubmission);
        };
        let mut results = Self {
            study: first.study,
            spec: (**spec).clone(),
            spec_hash: spec_hash.clone(),
            dataset: dataset.clone(),
            submitted_ms: first.time_ms,
            finished_ms: None,
            outcome: None,
            trials: spec.trials().into_iter().map(TrialResult::new).collect(),
        };
        let mut fold = Fold::new(&results.trials);
        for recorded in events {
            fold.apply(&mut results, recorded);
        }
        Ok(results)
    }

    /// Adds a trial's results per slice.
    pub fn set_evaluation(&mut self, key: TrialKey, evaluation: TrialEvaluation) {
        if let Some(trial) = self.trials.iter_mut().find(|trial| trial.key == key) {
            trial.evaluation = Some(evaluation);
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

/// What is remembered between events, beyond the results themselves.
struct Fold {
    place: BTreeMap<TrialKey, usize>,
    evaluated: BTreeMap<TrialKey, Evaluated>,
}

impl Fold {
    fn new(trials: &[TrialResult]) -> Self {
        let place = trials.iter().enumerate().map(|(index, trial)| (trial.key, index)).collect();
        Self { place, evaluated: BTreeMap::new() }
    }

    fn apply(&mut self, results: &mut StudyResults, recorded: &Recorded) {
        if let Event::StudyFinished { outcome } = &recorded.event {
            results.outcome = Some(*outcome);
            results.finished_ms = Some(recorded.time_ms);
            // Whatever neither finished nor failed was cancelled, by itself or with the study.
            for trial in &mut results.trials {
                if matches!(trial.outcome, TrialOutcome::Waiting | TrialOutcome::Running) {
                    trial.outcome = TrialOutcome::Cancelled;
                }
            }
            return;
        }
        if let Event::TrialsRetried { trials, .. } = &recorded.event {
            results.outcome = None;
            results.finished_ms = None;
            for place in trials.iter().filter_map(|key| self.place.get(key)) {
                results.trials[*place].outcome = TrialOutcome::Waiting;
                results.trials[*place].failures = 0;
            }
            return;
        }
        // A trial that the spec does not name can only come from a damaged log; there is no row for it.
        let Some(&place) = recorded.event.trial().and_then(|key| self.place.get(&key)) else { return };
        self.apply_to(&mut results.trials[place], &recorded.event);
    }

    fn apply_to(&mut self, trial: &mut TrialResult, event: &Event) {
        match event {
            Event::AttemptStarted { attempt, placements, .. } => {
                trial.attempts = trial.attempts.max(attempt.0);
                trial.placements.clone_from(placements);
                trial.outcome = TrialOutcome::Running;
            }
            Event::Metrics { records, .. } => {
                for record in records.iter().filter(|record| record.scope != MetricScope::HeldOut) {
                    trial.steps = trial.steps.max(record.step);
                    trial.train_seconds = Some(record.train_seconds);
                }
            }
            Event::TrialEvaluated { attempt, summary, evaluation, weights, predictions, .. } => {
                let evaluated = Evaluated {
                    attempt: *attempt,
                    summary: (**summary).clone(),
                    evaluation: evaluation.clone(),
                    weights: weights.clone(),
                    predictions: predictions.clone(),
                };
                self.evaluated.insert(trial.key, evaluated);
            }
            Event::AttemptEnded { end, .. } => self.end(trial, end),
            Event::TrialFailed { reason, .. } => trial.outcome = TrialOutcome::Failed(reason.clone()),
            _ => {}
        }
    }

    /// An evaluation counts only once its attempt completed: one whose ranks were lost in between is done again.
    fn end(&self, trial: &mut TrialResult, end: &AttemptEnd) {
        match end {
            AttemptEnd::Completed => {
                if let Some(evaluated) = self.evaluated.get(&trial.key) {
                    trial.outcome = TrialOutcome::Done(Box::new(evaluated.clone()));
                }
                return;
            }
            AttemptEnd::Failed(_) => trial.failures += 1,
            AttemptEnd::WorkerLost { .. } => trial.workers_lost += 1,
            AttemptEnd::Cancelled
            | AttemptEnd::Paused
            | AttemptEnd::Drained { .. }
            | AttemptEnd::Unfit { .. }
            | AttemptEnd::Widened => {}
        }
        trial.outcome = match end {
            AttemptEnd::Cancelled => TrialOutcome::Cancelled,
            _ => TrialOutcome::Waiting,
        };
    }
}
