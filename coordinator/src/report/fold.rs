//! Folds a study's events, one after another, into what a report needs.

use std::collections::BTreeMap;

use mtinet_domain::evaluation::HEALTHY_MINIMUM_PIXELS;
use mtinet_domain::event::{Event, MetricRecord, MetricScope, Recorded, StudyOutcome};
use mtinet_domain::trial::{AttemptEnd, CheckpointRef, Placement};
use mtinet_domain::{AttemptNumber, TrialKey};

use super::results::{Attempt, Evaluated, ResultsError, StudyResults, TrialOutcome, TrialResult};

/// Takes events in as they come; the memory that it needs does not grow with the number of measurements.
#[derive(Debug, Default)]
pub struct StudyFold {
    results: Option<StudyResults>,
    place: BTreeMap<TrialKey, usize>,
    evaluated: BTreeMap<TrialKey, Evaluated>,
}

impl StudyFold {
    /// Takes the next event in.
    ///
    /// # Errors
    /// [`ResultsError::NoSubmission`] where the first event is not the study's submission.
    pub fn apply(&mut self, recorded: &Recorded) -> Result<(), ResultsError> {
        let Some(results) = &mut self.results else { return self.begin(recorded) };
        results.last_event_ms = results.last_event_ms.max(recorded.time_ms);
        if let Event::StudyFinished { outcome } = &recorded.event {
            results.finish(*outcome, recorded.time_ms);
            return Ok(());
        }
        if let Event::TrialsRetried { trials, .. } = &recorded.event {
            results.retry(trials.iter().filter_map(|key| self.place.get(key)));
            return Ok(());
        }
        // A trial that the spec does not name can only come from a damaged log; there is no row for it.
        let place = recorded.event.trial().and_then(|key| self.place.get(&key));
        if let Some(trial) = place.and_then(|&place| results.trials.get_mut(place)) {
            apply_to(trial, &mut self.evaluated, recorded);
        }
        Ok(())
    }

    /// The study as far as its events told by now; absent before the first one.
    pub fn results(&self) -> Option<&StudyResults> {
        self.results.as_ref()
    }

    /// The study as far as its events tell.
    ///
    /// # Errors
    /// [`ResultsError::NoSubmission`] where there was no event.
    pub fn finish(self) -> Result<StudyResults, ResultsError> {
        self.results.ok_or(ResultsError::NoSubmission)
    }

    fn begin(&mut self, first: &Recorded) -> Result<(), ResultsError> {
        let Event::StudySubmitted { spec, spec_hash, dataset, .. } = &first.event else {
            return Err(ResultsError::NoSubmission);
        };
        let results = StudyResults {
            study: first.study,
            spec: (**spec).clone(),
            spec_hash: spec_hash.clone(),
            dataset: dataset.clone(),
            submitted_ms: first.time_ms,
            last_event_ms: first.time_ms,
            finished_ms: None,
            outcome: None,
            healthy_minimum_pixels: HEALTHY_MINIMUM_PIXELS,
            trials: spec.trials().into_iter().map(TrialResult::new).collect(),
        };
        self.place = results.trials.iter().enumerate().map(|(index, trial)| (trial.key, index)).collect();
        self.results = Some(results);
        Ok(())
    }
}

impl StudyResults {
    fn finish(&mut self, outcome: StudyOutcome, at_ms: u64) {
        self.outcome = Some(outcome);
        self.finished_ms = Some(at_ms);
        // Whatever neither finished nor failed was cancelled, by itself or with the study.
        for trial in &mut self.trials {
            if matches!(trial.outcome, TrialOutcome::Waiting | TrialOutcome::Running) {
                trial.outcome = TrialOutcome::Cancelled;
            }
        }
    }

    fn retry<'a>(&mut self, places: impl Iterator<Item = &'a usize>) {
        self.outcome = None;
        self.finished_ms = None;
        for place in places {
            self.trials[*place].outcome = TrialOutcome::Waiting;
            self.trials[*place].failures = 0;
        }
    }
}

fn apply_to(trial: &mut TrialResult, evaluated: &mut BTreeMap<TrialKey, Evaluated>, recorded: &Recorded) {
    match &recorded.event {
        Event::AttemptStarted { attempt, placements, resume, .. } => {
            start(trial, *attempt, placements, resume.as_ref(), recorded.time_ms);
        }
        Event::Metrics { attempt, records, .. } if attempt.0 >= trial.attempts => measure(trial, records),
        Event::TrialEvaluated { attempt, summary, evaluation, weights, predictions, .. } => {
            let result = Evaluated {
                attempt: *attempt,
                summary: (**summary).clone(),
                evaluation: evaluation.clone(),
                weights: weights.clone(),
                predictions: predictions.clone(),
            };
            evaluated.insert(trial.key, result);
        }
        Event::AttemptEnded { attempt, end, .. } => {
            if let Some(over) = trial.history.iter_mut().rfind(|past| past.number == *attempt) {
                over.ended_ms = Some(recorded.time_ms);
                over.end = Some(end.clone());
            }
            trial.ended_ms = Some(recorded.time_ms);
            close(trial, evaluated, end);
        }
        Event::TrialFailed { reason, .. } => trial.outcome = TrialOutcome::Failed(reason.clone()),
        _ => {}
    }
}

fn start(
    trial: &mut TrialResult,
    attempt: AttemptNumber,
    placements: &[Placement],
    resume: Option<&CheckpointRef>,
    at_ms: u64,
) {
    let resumed_at = resume.map(|checkpoint| checkpoint.step);
    trial.attempts = trial.attempts.max(attempt.0);
    trial.placements = placements.to_vec();
    trial.outcome = TrialOutcome::Running;
    trial.started_ms.get_or_insert(at_ms);
    trial.ended_ms = None;
    trial.curves.resume_at(resumed_at.unwrap_or(0));
    trial.history.push(Attempt {
        number: attempt,
        resumed_at,
        placements: placements.to_vec(),
        started_ms: at_ms,
        ended_ms: None,
        end: None,
    });
}

fn measure(trial: &mut TrialResult, records: &[MetricRecord]) {
    for record in records {
        trial.curves.add(record);
        // The held-out fold's figures of an epoch say nothing about steps and time.
        if record.scope != MetricScope::HeldOut {
            trial.steps = trial.steps.max(record.step);
            trial.train_seconds = Some(record.train_seconds);
        }
    }
}

/// An evaluation counts only once its attempt completed: one whose ranks were lost in between is done again.
fn close(trial: &mut TrialResult, evaluated: &BTreeMap<TrialKey, Evaluated>, end: &AttemptEnd) {
    match end {
        AttemptEnd::Completed => {
            if let Some(evaluated) = evaluated.get(&trial.key) {
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
