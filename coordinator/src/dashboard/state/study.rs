//! A study folded from its events: the report's fold, and beside it how each trial stands at this moment.

use std::collections::HashMap;

use mtinet_domain::event::{Event, Recorded, StudyOutcome};
use mtinet_domain::spec::TrainConfig;
use mtinet_domain::trial::TrialStatus;
use mtinet_domain::{StudySpec, TrialKey};

use super::journal::Journal;
use super::progress::Progress;
use crate::report::{ResultsError, StudyFold, StudyResults, TrialResult};

/// A study as far as its events told by now.
#[derive(Debug, Default)]
pub struct StudyState {
    fold: StudyFold,
    // In the order of the fold's trials.
    progress: Vec<Progress>,
    place: HashMap<TrialKey, usize>,
    seq: u64,
    is_paused: bool,
    is_cancelling: bool,
    journal: Journal,
}

/// A trial's results and its present state.
#[derive(Clone, Copy, Debug)]
pub struct Trial<'a> {
    /// What the report would say of it.
    pub result: &'a TrialResult,
    /// How it stands.
    pub progress: &'a Progress,
}

/// Trials by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Finished with results.
    pub done: usize,
    /// Training, or being started or evaluated.
    pub running: usize,
    /// Being ended.
    pub stopping: usize,
    /// Not begun, or before their next attempt.
    pub waiting: usize,
    /// Given up.
    pub failed: usize,
    /// Ended by a person.
    pub cancelled: usize,
}

impl Counts {
    /// All trials.
    pub fn all(self) -> usize {
        self.done + self.running + self.stopping + self.waiting + self.failed + self.cancelled
    }
}

impl Trial<'_> {
    /// Milliseconds for which its attempts ran, the one that runs until now.
    pub fn running_ms(&self, now_ms: u64) -> u64 {
        let spans = self.result.history.iter().map(|attempt| {
            let end = attempt.ended_ms.unwrap_or_else(|| now_ms.max(attempt.started_ms));
            end.saturating_sub(attempt.started_ms)
        });
        spans.sum()
    }
}

impl StudyState {
    /// Takes the next event in; one that was already taken in changes nothing.
    ///
    /// # Errors
    /// [`ResultsError::NoSubmission`] where the first event is not the study's submission.
    pub fn apply(&mut self, recorded: &Recorded) -> Result<(), ResultsError> {
        if recorded.seq <= self.seq {
            return Ok(());
        }
        self.fold.apply(recorded)?;
        self.seq = recorded.seq;
        self.journal.apply(recorded);
        match &recorded.event {
            Event::StudySubmitted { spec, .. } => {
                let keys = spec.trials();
                self.progress = keys.iter().map(|_| Progress::default()).collect();
                self.place = keys.into_iter().enumerate().map(|(index, key)| (key, index)).collect();
            }
            Event::StudyPaused { .. } => self.is_paused = true,
            Event::StudyResumed { .. } => self.is_paused = false,
            Event::StudyCancelled { .. } => {
                self.is_cancelling = true;
                self.progress.iter_mut().for_each(Progress::cancel);
            }
            Event::StudyFinished { .. } => {
                self.is_cancelling = false;
                self.progress.iter_mut().for_each(Progress::cancel);
            }
            Event::TrialsRetried { trials, .. } => {
                self.is_cancelling = false;
                for place in trials.iter().filter_map(|key| self.place.get(key)) {
                    self.progress[*place].retry();
                }
            }
            event => {
                let place = event.trial().and_then(|key| self.place.get(&key));
                if let Some(progress) = place.and_then(|&place| self.progress.get_mut(place)) {
                    progress.apply(recorded);
                }
            }
        }
        Ok(())
    }

    /// Number of the last event.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// What the report would be made of; absent before the first event.
    pub fn results(&self) -> Option<&StudyResults> {
        self.fold.results()
    }

    /// What was asked for.
    pub fn spec(&self) -> Option<&StudySpec> {
        self.results().map(|results| &results.spec)
    }

    /// How it trains.
    pub fn train(&self) -> Option<&TrainConfig> {
        self.spec().map(|spec| &spec.train)
    }

    /// What happened, for people.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// All trials, in the spec's order.
    pub fn trials(&self) -> impl Iterator<Item = Trial<'_>> {
        let results = self.results().map(|results| results.trials.as_slice()).unwrap_or_default();
        results.iter().zip(&self.progress).map(|(result, progress)| Trial { result, progress })
    }

    /// The trial at a place of the spec's order.
    pub fn trial(&self, index: usize) -> Option<Trial<'_>> {
        Some(Trial { result: self.results()?.trials.get(index)?, progress: self.progress.get(index)? })
    }

    /// The place of a trial in the spec's order.
    pub fn index_of(&self, key: TrialKey) -> Option<usize> {
        self.place.get(&key).copied()
    }

    /// Trials by state.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for progress in &self.progress {
            match progress.status {
                TrialStatus::Done => counts.done += 1,
                TrialStatus::Running => counts.running += 1,
                TrialStatus::Stopping => counts.stopping += 1,
                TrialStatus::Waiting => counts.waiting += 1,
                TrialStatus::Failed => counts.failed += 1,
                TrialStatus::Cancelled => counts.cancelled += 1,
            }
        }
        counts
    }

    /// How it ended, where it has.
    pub fn outcome(&self) -> Option<StudyOutcome> {
        self.results().and_then(|results| results.outcome)
    }

    /// Whether a person has paused it.
    pub fn is_paused(&self) -> bool {
        self.is_paused && self.outcome().is_none()
    }

    /// Where it stands, in a word.
    pub fn status(&self) -> &'static str {
        match self.outcome() {
            Some(StudyOutcome::Complete) => "complete",
            Some(StudyOutcome::Incomplete) => "incomplete",
            Some(StudyOutcome::Cancelled) => "cancelled",
            None if self.is_cancelling => "cancelling",
            None if self.is_paused => "paused",
            None => "running",
        }
    }

    /// Steps of an epoch in some trial that has finished one: folds differ by a few slices only.
    pub fn steps_per_epoch(&self) -> Option<f64> {
        self.progress.iter().find_map(|progress| progress.steps_per_epoch)
    }

    /// Share of a trial's training that is done, 0 to 1.
    pub fn fraction(&self, progress: &Progress) -> f64 {
        self.train().map_or(0.0, |train| progress.fraction(train, self.steps_per_epoch()))
    }

    /// Share of all training that is done, 0 to 1; what was given up counts as done.
    pub fn share_done(&self) -> f64 {
        if self.progress.is_empty() {
            return 0.0;
        }
        let of = |progress: &Progress| match progress.status {
            TrialStatus::Failed | TrialStatus::Cancelled => 1.0,
            _ => self.fraction(progress),
        };
        self.progress.iter().map(of).sum::<f64>() / self.progress.len() as f64
    }
}
