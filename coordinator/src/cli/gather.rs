//! Fetches what a report needs from a coordinator.

use std::collections::BTreeMap;

use mtinet_domain::evaluation::TrialEvaluation;
use mtinet_domain::event::{Event, MetricScope, Recorded};
use mtinet_domain::{StudyId, TrialKey};

use super::client::{Coordinator, makes_no_sense};
use super::error::CliError;
use crate::report::{StudyResults, TrialOutcome};

/// Folds a study's events and fetches the evaluations of its finished trials.
///
/// # Errors
/// Exit code 3 where the coordinator does not answer or an evaluation is not readable.
pub async fn results(coordinator: &mut Coordinator, study: StudyId) -> Result<StudyResults, CliError> {
    let mut stream = coordinator.events(study, 0, false).await?;
    let mut kept = Kept::default();
    while let Some(event) = stream.next().await? {
        kept.add(event);
    }
    let mut results = StudyResults::from_events(&kept.finish())?;
    for place in 0..results.trials.len() {
        let trial = &results.trials[place];
        let (TrialOutcome::Done(evaluated), key) = (&trial.outcome, trial.key) else { continue };
        let bytes = coordinator.artifact(&evaluated.evaluation).await?;
        let evaluation: TrialEvaluation = serde_json::from_slice(&bytes).map_err(|error| {
            makes_no_sense(&format!("an evaluation of {key} that cannot be read ({error})"))
        })?;
        results.set_evaluation(key, evaluation);
    }
    Ok(results)
}

/// A study's events without the measurements that a report does not need, which are nearly all of a long study's log:
/// of each attempt the last ones stay.
#[derive(Default)]
struct Kept {
    events: Vec<Recorded>,
    last: BTreeMap<TrialKey, Recorded>,
}

impl Kept {
    fn add(&mut self, recorded: Recorded) {
        match (&recorded.event, recorded.event.trial()) {
            (Event::Metrics { records, .. }, Some(key)) => {
                // The held-out fold's figures of an epoch say nothing about steps and time.
                if records.iter().any(|record| record.scope != MetricScope::HeldOut) {
                    self.last.insert(key, recorded);
                }
            }
            (_, Some(key)) => {
                self.events.extend(self.last.remove(&key));
                self.events.push(recorded);
            }
            (_, None) => self.events.push(recorded),
        }
    }

    fn finish(mut self) -> Vec<Recorded> {
        self.events.extend(self.last.into_values());
        self.events
    }
}

#[cfg(test)]
mod tests {
    use mtinet_domain::event::{MetricRecord, ReportId};
    use mtinet_domain::trial::AttemptEnd;
    use mtinet_domain::{AttemptNumber, WorkerId};

    use super::*;

    #[test]
    fn of_each_attempt_the_last_measurements_stay() {
        let (mut kept, mut seq) = (Kept::default(), 0);
        let (a, b): (TrialKey, TrialKey) = ("unet/0/0".parse().unwrap(), "unet/1/0".parse().unwrap());
        let mut add = |kept: &mut Kept, event| {
            seq += 1;
            kept.add(Recorded { study: StudyId(1), seq, time_ms: 0, event });
        };
        let metrics = |trial, step, scope| {
            let record = MetricRecord { scope, step, epoch: 1, train_seconds: 1.0, values: BTreeMap::new() };
            let report = ReportId { worker: WorkerId("w".into()), seq: step };
            Event::Metrics { trial, attempt: AttemptNumber(1), report, records: vec![record] }
        };
        for step in 1..=50 {
            add(&mut kept, metrics(a, step, MetricScope::Step));
            add(&mut kept, metrics(b, step, MetricScope::Step));
        }
        add(&mut kept, metrics(a, 50, MetricScope::HeldOut));
        let end = AttemptEnd::Completed;
        add(&mut kept, Event::AttemptEnded { trial: a, attempt: AttemptNumber(1), end, retry_at_ms: None });
        add(&mut kept, metrics(a, 51, MetricScope::Step));
        let seqs: Vec<u64> = kept.finish().iter().map(|recorded| recorded.seq).collect();
        assert_eq!(seqs, [99, 102, 103, 100]);
    }
}
