//! What is told in the coordinator's log, once it is stored: how attempts and studies go, and who asked for what.

use mtinet_core::{Refusal, Request};
use mtinet_domain::event::Event;
use mtinet_domain::trial::AttemptEnd;
use mtinet_domain::{StudyId, TrialKey};
use tracing::Level;

/// What a person asked for, and what became of it.
#[derive(Debug)]
pub struct Asked {
    pub by: Option<String>,
    pub request: Request,
    pub answer: Result<u32, Refusal>,
}

impl Asked {
    /// Writes it to the log of who did what: what was refused is not to look as if it was done.
    pub fn tell(&self) {
        let Self { by, request, answer } = self;
        match answer {
            Ok(count) => tracing::info!(target: "audit", by, ?request, count, "granted"),
            Err(refusal) => {
                tracing::warn!(target: "audit", by, ?request, reason = %refusal, "refused");
            }
        }
    }
}

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
            AttemptEnd::Paused => "attempt stopped: it is paused".to_owned(),
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

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn what_was_refused_does_not_look_granted() {
        let mut told = tempfile::tempfile().unwrap();
        let writer = Mutex::new(told.try_clone().unwrap());
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).finish();
        let asked = |answer| Asked {
            by: Some("operator ada".into()),
            request: Request::PauseStudy(StudyId(7)),
            answer,
        };
        tracing::subscriber::with_default(subscriber, || {
            asked(Ok(3)).tell();
            asked(Err(Refusal::Unknown("there is no study 7".into()))).tell();
        });
        let mut lines = String::new();
        told.rewind().unwrap();
        told.read_to_string(&mut lines).unwrap();
        let [granted, refused] = lines.lines().collect::<Vec<_>>()[..] else { panic!("{lines}") };
        for line in [granted, refused] {
            assert!(line.contains("operator ada") && line.contains("PauseStudy"), "{line}");
        }
        assert!(granted.contains("granted") && granted.contains("count=3"), "{granted}");
        assert!(refused.contains("refused") && refused.contains("there is no study 7"), "{refused}");
    }
}
