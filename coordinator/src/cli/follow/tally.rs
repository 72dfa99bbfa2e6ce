//! Where a study stands, and what a person is told of each event.

use std::collections::BTreeMap;
use std::time::Instant;

use mtinet_domain::evaluation::FoldSummary;
use mtinet_domain::event::{Event, MetricRecord, MetricScope, Recorded, StudyOutcome};
use mtinet_domain::trial::{AttemptEnd, Placement};
use mtinet_domain::{StudySpec, TrialKey};

use super::End;

/// Where a study stands, folded from its events.
#[derive(Debug, Default)]
pub struct Tally {
    spec: Option<StudySpec>,
    trials: BTreeMap<TrialKey, Trial>,
    pub(super) seq: u64,
    pub(super) outcome: Option<StudyOutcome>,
    // When the watching began, and how much was done by then: what the estimate is based on.
    began: Option<(Instant, f64)>,
}

#[derive(Debug, Default)]
struct Trial {
    state: State,
    step: u64,
    epoch: u32,
    steps_per_epoch: Option<f64>,
    loss: Option<f64>,
    summary: Option<FoldSummary>,
}

#[derive(Debug, Default, PartialEq)]
enum State {
    #[default]
    Waiting,
    Running,
    Done,
    Failed(String),
    Cancelled,
}

impl Tally {
    /// Takes an event in and returns what a person is told about it.
    pub fn apply(&mut self, recorded: &Recorded) -> Vec<String> {
        self.seq = recorded.seq;
        match &recorded.event {
            Event::StudySubmitted { spec, .. } => {
                self.trials = spec.trials().into_iter().map(|key| (key, Trial::default())).collect();
                self.spec = Some((**spec).clone());
                return Vec::new();
            }
            Event::StudyCancelled { .. } => return vec!["the study is being cancelled".to_owned()],
            Event::StudyPaused { .. } => return vec!["the study is paused".to_owned()],
            Event::StudyResumed { .. } => return vec!["the study goes on".to_owned()],
            Event::TrialsRetried { trials, .. } => {
                self.outcome = None;
                for key in trials {
                    self.trials.entry(*key).or_default().state = State::Waiting;
                }
                return vec![format!("{} trials are tried again", trials.len())];
            }
            Event::StudyFinished { outcome } => {
                self.outcome = Some(*outcome);
                return Vec::new();
            }
            _ => {}
        }
        let Some(key) = recorded.event.trial() else { return Vec::new() };
        let trial = self.trials.entry(key).or_default();
        let words = trial.apply(&recorded.event, recorded.time_ms);
        words.map(|words| format!("{key}: {words}")).into_iter().collect()
    }

    /// Starts the clock of the estimate.
    pub fn begin(&mut self, now: Instant) {
        self.began = Some((now, self.work_done()));
    }

    /// Trials of the study.
    pub fn trials(&self) -> usize {
        self.trials.len()
    }

    /// Trials that are done.
    pub fn done(&self) -> usize {
        self.trials.values().filter(|trial| trial.state == State::Done).count()
    }

    /// Share of all training that is done, 0 to 1.
    pub fn fraction(&self) -> f64 {
        if self.trials.is_empty() { 0.0 } else { self.work_done() / self.trials.len() as f64 }
    }

    /// Running trials with their share done and a few words.
    pub fn running(&self) -> impl Iterator<Item = (TrialKey, (f64, String))> {
        self.trials.iter().filter(|(_, trial)| trial.state == State::Running).map(|(key, trial)| {
            let loss = trial.loss.map(|loss| format!(" loss {loss:.4}")).unwrap_or_default();
            (*key, (self.fraction_of(trial), format!("step {}{loss}", trial.step)))
        })
    }

    /// Seconds left at the pace since the watching began; none while nothing is known of it.
    pub fn seconds_left(&self) -> Option<f64> {
        let (began, done_before) = self.began?;
        let gained = self.work_done() - done_before;
        let left = self.trials.len() as f64 - self.work_done();
        (gained > 0.02).then(|| began.elapsed().as_secs_f64() / gained * left)
    }

    /// How the study ended, where it has.
    pub fn end(&self) -> Option<End> {
        let failed = self.trials.iter().filter_map(|(key, trial)| match &trial.state {
            State::Failed(reason) => Some((*key, reason.clone())),
            _ => None,
        });
        self.outcome.map(|outcome| End { outcome, failed: failed.collect() })
    }

    fn work_done(&self) -> f64 {
        self.trials.values().map(|trial| self.fraction_of(trial)).sum()
    }

    fn fraction_of(&self, trial: &Trial) -> f64 {
        if matches!(trial.state, State::Done | State::Failed(_) | State::Cancelled) {
            return 1.0;
        }
        let Some(train) = self.spec.as_ref().map(|spec| &spec.train) else { return 0.0 };
        // With one slice per batch `total_steps` counts epochs; their length shows once one is over.
        let per_epoch = |steps: f64| steps * train.total_steps(1) as f64;
        let all = match (train.steps, trial.steps_per_epoch) {
            (Some(steps), _) => steps as f64,
            (None, Some(steps)) => per_epoch(steps),
            (None, None) => return f64::from(trial.epoch.saturating_sub(1)) / per_epoch(1.0),
        };
        // Evaluation follows the last step.
        (trial.step as f64 / all).min(0.99)
    }
}

impl Trial {
    fn apply(&mut self, event: &Event, time_ms: u64) -> Option<String> {
        match event {
            Event::AttemptStarted { attempt, placements, resume, .. } => {
                self.state = State::Running;
                let from = resume.as_ref().map(|checkpoint| format!(" from step {}", checkpoint.step));
                Some(format!("attempt {attempt} starts{} on {}", from.unwrap_or_default(), ranks(placements)))
            }
            Event::Metrics { records, .. } => {
                records.iter().for_each(|record| self.measure(record));
                None
            }
            Event::TrialEvaluated { summary, .. } => {
                self.summary = Some((**summary).clone());
                None
            }
            Event::AttemptEnded { end, retry_at_ms, attempt, .. } => {
                let pause = retry_at_ms.map(|at| at.saturating_sub(time_ms) as f64 / 1000.0);
                self.end(end, pause).map(|words| match end {
                    AttemptEnd::Completed => words,
                    _ => format!("attempt {attempt} {words}"),
                })
            }
            Event::TrialCancelled { .. } => {
                if self.state == State::Waiting {
                    self.state = State::Cancelled;
                }
                Some("is being cancelled".to_owned())
            }
            Event::TrialPaused { .. } => Some("is paused".to_owned()),
            Event::TrialResumed { .. } => Some("goes on when a slot is free".to_owned()),
            Event::TrialFailed { reason, .. } => {
                self.state = State::Failed(reason.clone());
                Some(format!("given up: {reason}"))
            }
            _ => None,
        }
    }

    fn measure(&mut self, record: &MetricRecord) {
        if record.scope == MetricScope::HeldOut {
            return;
        }
        self.step = record.step;
        self.epoch = record.epoch;
        if record.scope == MetricScope::Epoch && record.epoch > 0 {
            self.steps_per_epoch = Some(record.step as f64 / f64::from(record.epoch));
        }
        self.loss = record.values.get("loss").or_else(|| record.values.get("total")).copied().or(self.loss);
    }

    fn end(&mut self, end: &AttemptEnd, pause: Option<f64>) -> Option<String> {
        self.state = State::Waiting;
        match end {
            AttemptEnd::Completed => {
                self.state = State::Done;
                let summary = self.summary.clone().unwrap_or_default();
                Some(format!("done{}", figures(&summary)))
            }
            AttemptEnd::Failed(cause) => {
                let step = cause.step.map(|step| format!(" at step {step}")).unwrap_or_default();
                let again = pause.map(|pause| format!("; again in {pause:.1} s")).unwrap_or_default();
                Some(format!("failed ({}{step}): {}{again}", cause.exit, cause.message.trim_end()))
            }
            AttemptEnd::WorkerLost { reason, .. } => {
                Some(format!("lost a worker ({reason}); goes on elsewhere"))
            }
            AttemptEnd::Paused => Some("stopped: it is paused".to_owned()),
            AttemptEnd::Drained { worker } => {
                Some(format!("stopped: worker {worker} is drained; goes on elsewhere"))
            }
            AttemptEnd::Unfit { worker, cause } => Some(format!(
                "failed on worker {worker} ({}): {}; goes to another one",
                cause.exit,
                cause.message.trim_end()
            )),
            AttemptEnd::Widened => Some("stopped to go on with more ranks".to_owned()),
            AttemptEnd::Cancelled => {
                self.state = State::Cancelled;
                Some("cancelled".to_owned())
            }
        }
    }
}

fn ranks(placements: &[Placement]) -> String {
    let mut devices: Vec<String> = placements.iter().map(|placement| placement.device.to_string()).collect();
    devices.dedup();
    match placements.len() {
        1 => devices.join(", "),
        n => format!("{n} ranks ({})", devices.join(", ")),
    }
}

fn figures(summary: &FoldSummary) -> String {
    let named = [
        ("DSC", summary.dsc, " %"),
        ("IoU", summary.iou, " %"),
        ("MAE", summary.mae, ""),
        ("accuracy", summary.accuracy, " %"),
    ];
    let words: Vec<String> = named
        .into_iter()
        .filter_map(|(name, value, unit)| Some(format!("{name} {:.2}{unit}", value?)))
        .collect();
    if words.is_empty() { String::new() } else { format!(": {}", words.join(", ")) }
}
