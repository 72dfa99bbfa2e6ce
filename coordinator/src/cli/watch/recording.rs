//! News from a log that nobody writes any more.

use std::path::Path;

use mtinet_domain::{StudyId, TrialId, TrialKey};
use mtinet_proto::v1::LogChunk;
use tokio::sync::{mpsc, watch};

use super::feed::LOG_BYTES;
use crate::cli::error::CliError;
use crate::cli::logs::LogLines;
use crate::cli::study::blocking;
use crate::dashboard::{Link, LogLine, Request, StudyLine, Update};
use crate::server::{DATABASE, Piece, RecordedStudy, Recording, ServerError};

/// Events that are read and taken in at once.
const PAGE: usize = 1000;

/// A log to be shown.
pub struct Log {
    recording: Recording,
}

impl Log {
    /// Opens the log of a data directory; `given` is what a person named.
    ///
    /// # Errors
    /// Exit code 2 where there is none.
    pub async fn open(data: &Path, given: &Path) -> Result<Self, CliError> {
        if !data.join(DATABASE).is_file() {
            return Err(CliError::Usage(format!(
                "{} is not a coordinator's data directory or a run's directory; give the DIR of `mtinet coordinator \
                 --data-dir DIR` or runs/NAME",
                given.display()
            )));
        }
        let data = data.to_owned();
        let recording = blocking(move || Recording::open(&data).map_err(|error| unreadable(&error))).await?;
        Ok(Self { recording })
    }

    /// Its studies.
    ///
    /// # Errors
    /// A log that cannot be read.
    pub async fn studies(&self) -> Result<Vec<StudyLine>, CliError> {
        let recording = self.recording.clone();
        let studies = blocking(move || recording.studies().map_err(|error| unreadable(&error))).await?;
        let line = |study: RecordedStudy| StudyLine {
            id: study.id,
            name: study.name,
            status: study.outcome.unwrap_or_else(|| "not finished".to_owned()),
            done: (0, 0),
            submitted_ms: study.submitted_ms,
        };
        Ok(studies.into_iter().map(line).collect())
    }

    /// Tells a study's events, then those of others that are asked for, until nobody listens.
    ///
    /// # Errors
    /// A log that cannot be read.
    pub async fn play(
        self,
        study: Option<StudyId>,
        news: mpsc::Sender<Update>,
        mut asked: mpsc::Receiver<Request>,
        mut focus: watch::Receiver<Option<TrialKey>>,
    ) -> Result<(), CliError> {
        let studies = self.studies().await?;
        let _ = news.send(Update::Studies(studies)).await;
        let (mut shown, mut next) = (None, study);
        loop {
            if let Some(study) = next.take() {
                if self.tell(study, &news).await?.is_none() {
                    return Ok(());
                }
                shown = Some(study);
                focus.mark_changed();
            }
            tokio::select! {
                request = asked.recv() => match request {
                    Some(Request::Follow(study)) => next = Some(study),
                    // The dashboard asks for nothing else of a recording.
                    Some(Request::Send(_)) => {}
                    None => return Ok(()),
                },
                Ok(()) = focus.changed() => {
                    let key = *focus.borrow_and_update();
                    if let (Some(study), Some(key)) = (shown, key) {
                        let lines = self.log_of(TrialId { study, key }).await;
                        let _ = news.send(Update::Log(key, lines)).await;
                    }
                }
            }
        }
    }

    /// The end of a trial's log; empty where none is kept or it cannot be read: everything else can be shown without.
    async fn log_of(&self, trial: TrialId) -> Vec<LogLine> {
        let recording = self.recording.clone();
        let read = blocking(move || Ok(recording.trainer_logs(trial, LOG_BYTES)));
        let pieces = match read.await {
            Ok(Ok(pieces)) => pieces,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a trainer's log cannot be read");
                return Vec::new();
            }
            Err(_) => return Vec::new(),
        };
        let (mut lines, mut kept) = (LogLines::default(), Vec::new());
        for (attempt, rank, piece) in pieces {
            let Piece { offset, data } = piece;
            let (study, attempt, rank) = (trial.study.0, attempt.0, rank.0);
            kept.extend(lines.push(&LogChunk { study, attempt, rank, offset, data, ranks: 0 }));
        }
        kept.extend(lines.finish());
        kept.into_iter().map(|line| LogLine { rank: line.rank, text: line.text }).collect()
    }

    /// None where nobody listens any more.
    async fn tell(&self, study: StudyId, news: &mpsc::Sender<Update>) -> Result<Option<()>, CliError> {
        let mut updates = vec![Update::Link(Link::Loading), Update::Study(study)];
        let mut after = 0;
        loop {
            for update in updates.drain(..) {
                if news.send(update).await.is_err() {
                    return Ok(None);
                }
            }
            let recording = self.recording.clone();
            let page =
                blocking(move || recording.events(study, after, PAGE).map_err(|error| unreadable(&error)))
                    .await?;
            let Some(last) = page.last() else { break };
            after = last.seq;
            updates.push(Update::Events(page));
        }
        Ok(news.send(Update::Link(Link::Recorded)).await.ok())
    }
}

fn unreadable(error: &ServerError) -> CliError {
    CliError::failed("this recording cannot be read", error)
}
