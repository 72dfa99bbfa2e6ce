//! The event log of a coordinator that does not run, and the trainers' logs beside it, read without changing anything.

use std::path::Path;

use mtinet_domain::event::Recorded;
use mtinet_domain::{AttemptId, AttemptNumber, Rank, StudyId, TrialId};

use super::data_dir::{DATABASE, LOGS};
use super::error::ServerError;
use super::logs::{Logs, Piece};
use super::store::{Reader, StoreError, reader_of};

/// A study in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedStudy {
    /// Its number.
    pub id: StudyId,
    /// Its name.
    pub name: String,
    /// When it was submitted, milliseconds since the Unix epoch.
    pub submitted_ms: u64,
    /// How it ended, in the coordinator's word; absent where it did not.
    pub outcome: Option<String>,
}

/// The event log of a data directory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Recording {
    log: Reader,
    logs: Logs,
}

impl Recording {
    /// Opens a log for reading.
    ///
    /// # Errors
    /// Where there is none, or it is a newer release's.
    pub fn open(data_dir: &Path) -> Result<Self, ServerError> {
        Ok(Self { log: reader_of(&data_dir.join(DATABASE))?, logs: Logs::new(data_dir.join(LOGS)) })
    }

    /// All studies, in the order of their numbers. Blocks on the disk.
    ///
    /// # Errors
    /// A log that cannot be read.
    pub fn studies(&self) -> Result<Vec<RecordedStudy>, ServerError> {
        Ok(self.log.studies()?)
    }

    /// Up to `limit` events of a study after number `after`, in order. Blocks on the disk.
    ///
    /// # Errors
    /// A log that cannot be read, or an event that does not read back.
    pub fn events(&self, study: StudyId, after: u64, limit: usize) -> Result<Vec<Recorded>, ServerError> {
        let stored = self.log.events(study, after, limit)?;
        let read = stored.into_iter().map(|stored| {
            let event = serde_json::from_str(&stored.json).map_err(|source| StoreError::Event {
                study: study.0,
                seq: stored.seq,
                source,
            })?;
            Ok(Recorded { study, seq: stored.seq, time_ms: stored.time_ms, event })
        });
        read.collect::<Result<_, StoreError>>().map_err(ServerError::from)
    }

    /// What the ranks of a trial's newest attempt wrote last, about `bytes` of each, from the start of a line on; nothing
    /// where no log is kept. Blocks on the disk.
    ///
    /// # Errors
    /// A log that cannot be read.
    pub fn trainer_logs(
        &self,
        trial: TrialId,
        bytes: u64,
    ) -> std::io::Result<Vec<(AttemptNumber, Rank, Piece)>> {
        let mut pieces = Vec::new();
        let Some(number) = self.logs.attempts(trial)?.pop() else { return Ok(pieces) };
        let attempt = AttemptId { trial, number };
        for rank in self.logs.ranks(attempt)? {
            let mut from = self.logs.tail(attempt, rank, bytes)?;
            while let Some(piece) = self.logs.read(attempt, rank, from)? {
                from = piece.offset + piece.data.len() as u64;
                pieces.push((number, rank, piece));
            }
        }
        Ok(pieces)
    }
}
