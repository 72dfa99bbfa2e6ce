//! Follows a study's events to its end and tells a person what happens.

mod tally;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use mtinet_domain::event::StudyOutcome;
use mtinet_domain::{StudyId, TrialKey};

pub use tally::Tally;

use super::client::Coordinator;
use super::error::CliError;
use super::progress::Display;

/// A coordinator that is away is asked again for this long: it may be restarting.
const PATIENCE: Duration = Duration::from_secs(600);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(500);

/// How a study ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Complete, incomplete or cancelled.
    pub outcome: StudyOutcome,
    /// Trials that were given up, with the reasons.
    pub failed: Vec<(TrialKey, String)>,
}

impl End {
    /// Done only where the study is complete.
    ///
    /// # Errors
    /// [`CliError::NotSo`] naming what is missing.
    pub fn into_result(self, study: StudyId) -> Result<(), CliError> {
        match self.outcome {
            StudyOutcome::Complete => Ok(()),
            StudyOutcome::Cancelled => Err(CliError::NotSo(format!("study {study} was cancelled"))),
            StudyOutcome::Incomplete => {
                let failed: Vec<String> =
                    self.failed.iter().map(|(key, reason)| format!("\n  {key}: {reason}")).collect();
                Err(CliError::NotSo(format!(
                    "study {study} is not complete; failed trials:{}",
                    failed.concat()
                )))
            }
        }
    }
}

/// Waits for a study's end and shows its progress. Survives a coordinator that restarts.
///
/// # Errors
/// Exit code 3 where the coordinator stays away or refuses.
pub async fn to_the_end(coordinator: &mut Coordinator, study: StudyId) -> Result<End, CliError> {
    let mut tally = Tally::default();
    let mut history = coordinator.events(study, 0, false).await?;
    // What happened before is known to whoever waits again; only the sums are taken over.
    while let Some(event) = history.next().await? {
        tally.apply(&event);
    }
    tally.begin(Instant::now());
    let display = Display::new();
    let mut away: Option<Away> = None;
    loop {
        if let Some(end) = tally.end() {
            return Ok(end);
        }
        match stream(coordinator, study, &mut tally, &display, &mut away).await {
            Ok(()) => {}
            Err(error) if may_come_back(&error) => {
                wait(&mut away, error, coordinator.url(), &display).await?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Shows events until the stream ends, which it does after the study's last event or with the coordinator.
async fn stream(
    coordinator: &mut Coordinator,
    study: StudyId,
    tally: &mut Tally,
    display: &Display,
    away: &mut Option<Away>,
) -> Result<(), CliError> {
    let mut events = coordinator.events(study, tally.seq, true).await?;
    if away.take().is_some() {
        display.say("the coordinator is back");
    }
    let mut tick = tokio::time::interval(TICK);
    loop {
        let event = tokio::select! {
            event = events.next() => event?,
            _ = tick.tick() => {
                display.show(tally);
                continue;
            }
        };
        let Some(event) = event else {
            let over = tally.outcome.is_some();
            return if over {
                Ok(())
            } else {
                Err(CliError::Coordinator("the coordinator ended the stream".into()))
            };
        };
        for line in tally.apply(&event) {
            display.say(&line);
        }
    }
}

/// Since when a coordinator does not answer.
struct Away {
    since: Instant,
    pause: Duration,
}

/// Whether it makes sense to ask again: the coordinator may be restarting.
pub fn may_come_back(error: &CliError) -> bool {
    matches!(error, CliError::Coordinator(text) if !text.starts_with("the coordinator refused"))
}

async fn wait(
    away: &mut Option<Away>,
    error: CliError,
    url: &str,
    display: &Display,
) -> Result<(), CliError> {
    let state = away.get_or_insert_with(|| {
        display.say(&format!("the coordinator at {url} is away; its workers go on; asking again"));
        Away { since: Instant::now(), pause: FIRST_PAUSE }
    });
    if state.since.elapsed() > PATIENCE {
        return Err(error);
    }
    tokio::time::sleep(state.pause).await;
    state.pause = (state.pause * 2).min(LONGEST_PAUSE);
    Ok(())
}
