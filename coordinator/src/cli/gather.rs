//! Fetches what a report needs from a coordinator.

use mtinet_domain::StudyId;
use mtinet_domain::evaluation::TrialEvaluation;
use mtinet_domain::event::Recorded;

use super::client::{Coordinator, makes_no_sense};
use super::error::CliError;
use super::progress::Counter;
use crate::report::{StudyFold, StudyResults, TrialOutcome};

/// Folds a study's events and fetches the evaluations of its finished trials.
///
/// # Errors
/// Exit code 3 where the coordinator does not answer or an evaluation is not readable.
pub async fn results(coordinator: &mut Coordinator, study: StudyId) -> Result<StudyResults, CliError> {
    results_and(coordinator, study, |_| Ok(())).await
}

/// As [`results`], and shows each event to somebody else.
///
/// # Errors
/// As [`results`], and what the other one says.
pub async fn results_and(
    coordinator: &mut Coordinator,
    study: StudyId,
    mut show: impl FnMut(&Recorded) -> Result<(), CliError>,
) -> Result<StudyResults, CliError> {
    let mut stream = coordinator.events(study, 0, false).await?;
    // Nearly all of a long study's log are measurements: they are folded as they come, and none is kept.
    let mut fold = StudyFold::default();
    while let Some(event) = stream.next().await? {
        fold.apply(&event)?;
        show(&event)?;
    }
    let mut results = fold.finish()?;
    let (counter, all) = (Counter::new("reading evaluations"), results.trials.len());
    for place in 0..all {
        counter.set(place as u64, all as u64);
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
