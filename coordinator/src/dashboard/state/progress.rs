//! How a trial's training stands at this moment: what the report's fold does not keep.

use mtinet_domain::event::{Event, MetricRecord, MetricScope, Recorded};
use mtinet_domain::spec::TrainConfig;
use mtinet_domain::trial::{AttemptEnd, TrialStatus};

use super::pace::Pace;

/// A trial's present state.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Where it stands.
    pub status: TrialStatus,
    /// A person paused it.
    pub is_paused: bool,
    /// Optimiser steps done by the attempt that runs, or by the last one.
    pub step: u64,
    /// Epochs begun.
    pub epoch: u32,
    /// Steps of an epoch, once one is over.
    pub steps_per_epoch: Option<f64>,
    /// The training loss reported last.
    pub loss: Option<f64>,
    /// The learning rate of the last epoch.
    pub learning_rate: Option<f64>,
    /// The newest stored checkpoint: its step, and when it was stored (ms since the Unix epoch).
    pub checkpoint: Option<(u64, u64)>,
    /// When the next attempt may start, after a failure.
    pub retry_at_ms: Option<u64>,
    /// How fast it trains.
    pub pace: Pace,
    /// When it last reported anything.
    pub heard_ms: Option<u64>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            status: TrialStatus::Waiting,
            is_paused: false,
            step: 0,
            epoch: 0,
            steps_per_epoch: None,
            loss: None,
            learning_rate: None,
            checkpoint: None,
            retry_at_ms: None,
            pace: Pace::default(),
            heard_ms: None,
        }
    }
}

impl Progress {
    /// Takes in an event about this trial.
    pub fn apply(&mut self, recorded: &Recorded) {
        match &recorded.event {
            Event::AttemptStarted { resume, .. } => {
                self.status = TrialStatus::Running;
                self.retry_at_ms = None;
                self.step = resume.as_ref().map_or(0, |checkpoint| checkpoint.step);
                self.heard_ms = Some(recorded.time_ms);
            }
            Event::Metrics { records, .. } => {
                self.heard_ms = Some(recorded.time_ms);
                records.iter().for_each(|record| self.measure(record));
            }
            Event::CheckpointStored { checkpoint, .. } => {
                self.checkpoint = Some((checkpoint.step, recorded.time_ms));
            }
            Event::AttemptStopping { .. } => self.status = TrialStatus::Stopping,
            Event::AttemptEnded { end, retry_at_ms, .. } => {
                self.retry_at_ms = *retry_at_ms;
                self.status = match end {
                    AttemptEnd::Completed => TrialStatus::Done,
                    AttemptEnd::Cancelled => TrialStatus::Cancelled,
                    _ => TrialStatus::Waiting,
                };
            }
            Event::TrialFailed { .. } => self.status = TrialStatus::Failed,
            Event::TrialCancelled { .. } => self.cancel(),
            Event::TrialPaused { .. } => self.is_paused = true,
            Event::TrialResumed { .. } => self.is_paused = false,
            _ => {}
        }
    }

    /// Nothing runs of it: it is over at once. What runs is stopped first, and says so itself.
    pub fn cancel(&mut self) {
        if self.status == TrialStatus::Waiting {
            self.status = TrialStatus::Cancelled;
        }
    }

    /// It is tried again.
    pub fn retry(&mut self) {
        self.status = TrialStatus::Waiting;
        self.retry_at_ms = None;
        self.is_paused = false;
    }

    /// Share of its training that is done, 0 to 1. Evaluation follows the last step, so that only what is done is 1.
    pub fn fraction(&self, train: &TrainConfig, elsewhere: Option<f64>) -> f64 {
        if self.status == TrialStatus::Done {
            return 1.0;
        }
        match self.total_steps(train, elsewhere) {
            Some(all) if all > 0.0 => (self.step as f64 / all).min(0.99),
            _ => 0.0,
        }
    }

    /// Steps of the whole training. Where a study counts epochs, their length shows once one is over: in this trial, or
    /// `elsewhere`, in another one of the study.
    pub fn total_steps(&self, train: &TrainConfig, elsewhere: Option<f64>) -> Option<f64> {
        match train.steps {
            Some(steps) => Some(steps as f64),
            // With one slice `total_steps` counts epochs.
            None => Some(self.steps_per_epoch.or(elsewhere)? * train.total_steps(1) as f64),
        }
    }

    /// Seconds of training left at the present pace; none where that is not known.
    pub fn seconds_left(&self, train: &TrainConfig, elsewhere: Option<f64>) -> Option<f64> {
        let left = self.total_steps(train, elsewhere)? - self.step as f64;
        (self.status == TrialStatus::Running).then_some(self.pace.step_seconds()? * left.max(0.0))
    }

    fn measure(&mut self, record: &MetricRecord) {
        if record.scope == MetricScope::HeldOut {
            return;
        }
        self.step = record.step;
        self.epoch = record.epoch;
        if record.scope == MetricScope::Step {
            self.pace.add(record.step, record.train_seconds);
        } else if record.epoch > 0 {
            self.steps_per_epoch = Some(record.step as f64 / f64::from(record.epoch));
        }
        let value = |name: &str| record.values.get(name).copied();
        self.loss = value("loss").or_else(|| value("total")).or(self.loss);
        self.learning_rate = value("learning_rate").or(self.learning_rate);
    }
}
