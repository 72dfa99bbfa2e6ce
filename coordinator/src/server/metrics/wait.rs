//! Since when trials could have started, folded from events.

use std::collections::HashMap;

use mtinet_domain::event::Event;
use mtinet_domain::trial::AttemptEnd;
use mtinet_domain::{StudyId, TrialId, TrialKey};

/// Trials that wait. The time that a person has paused their study counts as well: they wait for it.
#[derive(Debug, Default)]
pub struct WaitClock {
    since_ms: HashMap<TrialId, u64>,
}

impl WaitClock {
    /// Takes in an event; how long the trial waited that it starts, in milliseconds.
    pub fn apply(&mut self, study: StudyId, now_ms: u64, event: &Event) -> Option<u64> {
        let id = |key: &TrialKey| TrialId { study, key: *key };
        match event {
            Event::StudySubmitted { spec, .. } => {
                self.since_ms.extend(spec.trials().iter().map(|key| (id(key), now_ms)));
            }
            Event::TrialsRetried { trials, .. } => {
                self.since_ms.extend(trials.iter().map(|key| (id(key), now_ms)));
            }
            Event::AttemptStarted { trial, .. } => {
                return self.since_ms.remove(&id(trial)).map(|since_ms| now_ms.saturating_sub(since_ms));
            }
            Event::AttemptEnded { end: AttemptEnd::Completed | AttemptEnd::Cancelled, .. } => {}
            Event::AttemptEnded { trial, retry_at_ms, .. } => {
                // The pause after a failure is no waiting for slots.
                self.since_ms.insert(id(trial), retry_at_ms.unwrap_or(now_ms).max(now_ms));
            }
            // What is paused waits for a person.
            Event::TrialFailed { trial, .. }
            | Event::TrialCancelled { trial, .. }
            | Event::TrialPaused { trial, .. } => {
                self.since_ms.remove(&id(trial));
            }
            Event::TrialResumed { trial, .. } => drop(self.since_ms.insert(id(trial), now_ms)),
            Event::StudyFinished { .. } => self.since_ms.retain(|trial, _| trial.study != study),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use mtinet_domain::{AttemptNumber, StudySpec};

    use super::*;

    #[test]
    fn a_trial_waits_from_its_submission_and_from_the_end_of_an_attempt() {
        let spec =
            StudySpec::from_toml("name = \"s\"\ndataset = \"d\"\narms = [\"mti-net\"]\nfolds = [0]").unwrap();
        let trial = spec.trials()[0];
        let dataset = mtinet_domain::trial::DatasetRef {
            name: "d".into(),
            path: "/d".into(),
            hash: "h".into(),
            phases: Vec::new(),
            classes: Vec::new(),
        };
        let submitted =
            Event::StudySubmitted { spec_hash: spec.hash(), spec: Box::new(spec), dataset, by: None };
        let attempt = AttemptNumber(1);
        let started = Event::AttemptStarted { trial, attempt, placements: Vec::new(), resume: None };
        let ended = |end, retry_at_ms| Event::AttemptEnded { trial, attempt, end, retry_at_ms };
        let mut clock = WaitClock::default();
        let mut apply = |now_ms, event: &Event| clock.apply(StudyId(1), now_ms, event);
        assert_eq!(apply(1000, &submitted), None);
        assert_eq!(apply(3500, &started), Some(2500));
        assert_eq!(apply(4000, &ended(AttemptEnd::Paused, Some(6000))), None);
        assert_eq!(apply(6100, &started), Some(100));
        apply(7000, &ended(AttemptEnd::Completed, None));
        apply(7000, &Event::StudyFinished { outcome: mtinet_domain::event::StudyOutcome::Complete });
        assert!(clock.since_ms.is_empty());
    }
}
