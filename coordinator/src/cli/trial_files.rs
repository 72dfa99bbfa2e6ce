//! The files of each trial, written while a study runs.

use std::path::Path;
use std::time::Duration;

use mtinet_domain::StudyId;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::client::Coordinator;
use super::error::CliError;
use crate::report::TrialFiles;

/// Files are brought up to date this often: figures are drawn anew for it.
const INTERVAL: Duration = Duration::from_secs(10);

/// Follows a study's events into files.
pub struct LiveFiles {
    following: JoinHandle<Result<TrialFiles, CliError>>,
    stop: CancellationToken,
}

impl LiveFiles {
    /// Begins with the study's first event. What goes wrong is told at the end: it must not hold up the training.
    pub fn follow(coordinator: Coordinator, study: StudyId, root: &Path) -> Self {
        let stop = CancellationToken::new();
        let files = TrialFiles::new(root);
        Self { following: tokio::spawn(follow(coordinator, study, files, stop.clone())), stop }
    }

    /// Waits for the study's last event.
    ///
    /// # Errors
    /// Files that could not be written, a coordinator that went away.
    pub async fn ended(self) -> Result<TrialFiles, CliError> {
        self.following
            .await
            .unwrap_or_else(|error| Err(CliError::failed("the writing of logs broke off", &error)))
    }

    /// Ends now, with what is known.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.ended().await {
            tracing::warn!(%error, "logs and TensorBoard files are not complete");
        }
    }
}

async fn follow(
    mut coordinator: Coordinator,
    study: StudyId,
    mut files: TrialFiles,
    stop: CancellationToken,
) -> Result<TrialFiles, CliError> {
    let mut events = coordinator.events(study, 0, true).await?;
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + INTERVAL, INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.next() => match event? {
                Some(event) => files.apply(&event)?,
                None => break,
            },
            _ = ticks.tick() => files.publish()?,
            () = stop.cancelled() => break,
        }
    }
    files.publish()?;
    Ok(files)
}
