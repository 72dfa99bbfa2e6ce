//! A trial's history as lines of text: what whoever comes from nnU-Net looks for in `training_log.txt`.

use mtinet_domain::TrialKey;
use mtinet_domain::event::{Event, MetricRecord, MetricScope};
use mtinet_domain::trial::{AttemptEnd, FailureCause};

/// Of a training whose epochs are long, a step is told after this many seconds of training without a line.
const SILENCE_SECONDS: f64 = 10.0;

/// Turns a trial's events into lines. It holds none itself.
#[derive(Clone, Debug, Default)]
pub struct TrainingLog {
    /// Seconds of training at the last line that told some.
    told: f64,
    /// Epoch and seconds of training at the last epoch's end.
    epoch: Option<(u32, f64)>,
}

impl TrainingLog {
    /// The first lines.
    pub fn begin(time_ms: u64, study: &str, key: TrialKey) -> String {
        line(time_ms, &format!("trial {key} of study {study}"))
    }

    /// The lines of an event of the trial; empty where there is nothing to tell.
    pub fn apply(&mut self, time_ms: u64, event: &Event) -> String {
        let words = match event {
            Event::AttemptStarted { attempt, placements, resume, .. } => {
                let places: Vec<String> = placements
                    .iter()
                    .map(|place| format!("worker {} slot {} ({})", place.worker, place.slot, place.device))
                    .collect();
                let from = resume.as_ref().map_or_else(
                    || "from the start".to_owned(),
                    |checkpoint| format!("from the checkpoint of step {}", checkpoint.step),
                );
                self.epoch = None;
                let ranks = if places.len() == 1 { "rank" } else { "ranks" };
                format!("attempt {attempt} begins {from}, {} {ranks}: {}", places.len(), places.join(", "))
            }
            Event::Metrics { records, .. } => {
                return records
                    .iter()
                    .filter_map(|record| self.measured(record))
                    .map(|w| line(time_ms, &w))
                    .collect();
            }
            Event::CheckpointStored { checkpoint, .. } => {
                format!("checkpoint of step {} stored, {} bytes", checkpoint.step, checkpoint.artifact.bytes)
            }
            Event::TrialEvaluated { summary, .. } => {
                let percent = |name: &str, value: Option<f64>| value.map(|v| format!("{name} {v:.2} %"));
                let parts = [
                    percent("DSC", summary.dsc),
                    percent("IoU", summary.iou),
                    summary.mae.map(|mae| format!("MAE {mae:.3}")),
                    percent("accuracy", summary.accuracy),
                ];
                let parts: Vec<String> = parts.into_iter().flatten().collect();
                format!(
                    "held-out fold evaluated on {} slices of {} subjects: {}",
                    summary.n_slices,
                    summary.n_subjects,
                    parts.join(", ")
                )
            }
            Event::RankExited { attempt, rank, exit, finished: false, message, .. } => {
                format!("attempt {attempt}: rank {rank} ended with {exit}: {}", one_line(message))
            }
            Event::RankLost { attempt, rank, worker, reason, .. } => {
                format!("attempt {attempt}: rank {rank} on worker {worker} is lost: {}", one_line(reason))
            }
            Event::AttemptStopping { attempt, end, .. } => {
                format!("attempt {attempt} is being stopped: {}", how(end))
            }
            Event::AttemptEnded { attempt, end, .. } => format!("attempt {attempt} ended: {}", how(end)),
            Event::TrialFailed { reason, .. } => format!("given up: {}", one_line(reason)),
            Event::TrialCancelled { .. } => "cancelled".to_owned(),
            Event::TrialPaused { .. } => "paused".to_owned(),
            Event::TrialResumed { .. } => "resumed".to_owned(),
            _ => return String::new(),
        };
        line(time_ms, &words)
    }

    fn measured(&mut self, record: &MetricRecord) -> Option<String> {
        let step = record.step;
        let values: Vec<String> = record
            .values
            .iter()
            .map(|(name, value)| format!("{} {}", name.replace('_', " "), short(*value)))
            .collect();
        let values = values.join(", ");
        match record.scope {
            MetricScope::Step if record.train_seconds - self.told < SILENCE_SECONDS => None,
            MetricScope::Step => {
                self.told = record.train_seconds;
                Some(format!("step {step} (epoch {}): {values}", record.epoch))
            }
            MetricScope::Epoch => {
                self.told = record.train_seconds;
                let before = self.epoch.replace((record.epoch, record.train_seconds));
                let took = before
                    .filter(|(epoch, _)| epoch + 1 == record.epoch)
                    .map(|(_, seconds)| format!(", {:.1} s", record.train_seconds - seconds))
                    .unwrap_or_default();
                Some(format!("epoch {} (step {step}{took}): {values}", record.epoch))
            }
            MetricScope::HeldOut => Some(format!("held-out fold after step {step}: {values}")),
        }
    }
}

/// Four significant digits at least, without the noise of the rest.
fn short(value: f64) -> String {
    match value.abs() {
        magnitude if magnitude != 0.0 && magnitude < 1e-3 => format!("{value:.3e}"),
        magnitude if magnitude < 10.0 => format!("{value:.4}"),
        _ => format!("{value:.2}"),
    }
}

fn how(end: &AttemptEnd) -> String {
    match end {
        AttemptEnd::Completed => "completed".to_owned(),
        AttemptEnd::Failed(cause) => format!("failed{}", why(cause)),
        AttemptEnd::WorkerLost { worker, reason } => {
            format!("worker {worker} was lost: {}", one_line(reason))
        }
        AttemptEnd::Cancelled => "cancelled".to_owned(),
        AttemptEnd::Paused => "it is paused".to_owned(),
        AttemptEnd::Drained { worker } => format!("worker {worker} is being drained"),
        AttemptEnd::Unfit { worker, cause } => format!("put down to worker {worker}{}", why(cause)),
        AttemptEnd::Widened => "to go on with more ranks".to_owned(),
    }
}

fn why(cause: &FailureCause) -> String {
    let rank = cause.rank.map(|rank| format!(", rank {rank}")).unwrap_or_default();
    let step = cause.step.map(|step| format!(" at step {step}")).unwrap_or_default();
    format!("{rank}{step}, {}: {}", cause.exit, one_line(&cause.message))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn line(time_ms: u64, words: &str) -> String {
    let time = i64::try_from(time_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let time = time.map(|time| time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()).unwrap_or_default();
    format!("{time}  {words}\n")
}
