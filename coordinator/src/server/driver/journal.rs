//! What of the events is told in the coordinator's log, once they are stored: how attempts and studies go.

use mtinet_domain::event::Event;
use mtinet_domain::trial::AttemptEnd;
use mtinet_domain::{StudyId, TrialKey};
use tracing::Level;

/// A line of the log.
#[derive(Debug)]
pub struct Line {
    study: u64,
    trial: Option<TrialKey>,
    attempt: Option<u32>,
    words: String,
    is_bad: bool,
}

/// The lines of events that are about to be stored; none is made that nobody would see.
pub fn lines(events: &[(StudyId, Event)]) -> Vec<Line> {
    let is_seen = |event: &Event| tracing::enabled!(Level::INFO) || may_be_bad(event);
    let told = events.iter().filter(|(_, event)| is_seen(event));
    told.filter_map(|(study, event)| line(*study, event)).collect()
}

fn may_be_bad(event: &Event) -> bool {
    match event {
        Event::AttemptEnded { end, .. } => *end != AttemptEnd::Completed,
        Event::TrialFailed { .. } => true,
        _ => false,
    }
}

fn line(study: StudyId, event: &Event) -> Option<Line> {
    let mut is_bad = false;
    let words = match event {
        Event::AttemptStarted { placements, resume, .. } => {
            let workers: Vec<&str> = placements.iter().map(|place| place.worker.0.as_str()).collect();
            let from = resume.as_ref().map_or(0, |checkpoint| checkpoint.step);
            format!("attempt begins after step {from} on {}", workers.join(", "))
        }
        Event::AttemptEnded { end, .. } => match end {
            AttemptEnd::Completed => "attempt completed".to_owned(),
            AttemptEnd::Failed(cause) => {
                is_bad = true;
                format!("attempt failed ({}): {}", cause.exit, cause.message)
            }
            AttemptEnd::WorkerLost { worker, reason } => {
                is_bad = true;
                format!("attempt ended: worker {worker} was lost: {reason}")
            }
            AttemptEnd::Unfit { worker, cause } => {
                is_bad = true;
                format!("attempt failed on worker {worker} ({}): {}", cause.exit, cause.message)
            }
            AttemptEnd::Cancelled => "attempt cancelled".to_owned(),
            AttemptEnd::Paused => "attempt stopped: the study is paused".to_owned(),
            AttemptEnd::Drained { worker } => format!("attempt stopped: worker {worker} is drained"),
            AttemptEnd::Widened => "attempt stopped to go on with more ranks".to_owned(),
        },
        Event::TrialFailed { reason, .. } => {
            is_bad = true;
            format!("trial given up: {reason}")
        }
        Event::StudyFinished { outcome } => format!("study is over: {outcome:?}"),
        _ => return None,
    };
    let attempt = event.attempt().map(|attempt| attempt.0);
    Some(Line { study: study.0, trial: event.trial(), attempt, words, is_bad })
}

impl Line {
    /// Writes it to the log.
    pub fn tell(self) {
        let Self { study, trial, attempt, words, is_bad } = self;
        let trial = trial.map(|trial| trial.to_string());
        if is_bad {
            tracing::warn!(study, trial, attempt, "{words}");
        } else {
            tracing::info!(study, trial, attempt, "{words}");
        }
    }
}
