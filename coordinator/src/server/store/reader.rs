//! Reading the log, beside the thread that writes it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use mtinet_domain::event::{Event, Recorded};
use mtinet_domain::{StudyId, WorkerId};
use rusqlite::{Connection, Row, params};

use super::{StoreError, StoredEvent};
use crate::server::recording::RecordedStudy;

/// Reads the log. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reader {
    connection: Arc<Mutex<Connection>>,
}

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = super::read_only(path)?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)) })
    }

    /// Up to `limit` events of a study after number `after`, in order. Blocks on the disk: not for an async task.
    ///
    /// # Errors
    /// A log that cannot be read.
    pub fn events(&self, study: StudyId, after: u64, limit: usize) -> Result<Vec<StoredEvent>, StoreError> {
        let failed = || StoreError::sqlite("read events");
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let mut statement = connection
            .prepare_cached(
                "SELECT study, seq, time_ms, kind, json FROM events WHERE study = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3",
            )
            .map_err(failed())?;
        // SQLite counts in signed numbers: nothing comes after more than it can count.
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let rows = statement.query_map(params![study.0, after, limit], stored).map_err(failed())?;
        rows.collect::<Result<_, _>>().map_err(failed())
    }

    /// All studies with how they ended, in the order of their numbers. Blocks on the disk.
    ///
    /// # Errors
    /// A log that cannot be read.
    pub fn studies(&self) -> Result<Vec<RecordedStudy>, StoreError> {
        let failed = || StoreError::sqlite("read the studies");
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        // A study whose trials were tried again is open again: only an end after that counts.
        let mut statement = connection
            .prepare(
                "SELECT s.study, s.name, s.submitted_ms, (SELECT json_extract(e.json, '$.outcome') FROM events e \
                 WHERE e.study = s.study AND e.replayed = 1 AND e.kind IN ('study_finished', 'trials_retried') \
                 ORDER BY e.seq DESC LIMIT 1) FROM studies s ORDER BY s.study",
            )
            .map_err(failed())?;
        let rows = statement.query_map([], |row| {
            Ok(RecordedStudy {
                id: StudyId(row.get(0)?),
                name: row.get(1)?,
                submitted_ms: row.get(2)?,
                outcome: row.get(3)?,
            })
        });
        rows.map_err(failed())?.collect::<Result<_, _>>().map_err(failed())
    }

    /// All events but measurements, in the order over all studies in which they were recorded.
    ///
    /// # Errors
    /// As [`Reader::replay_events`].
    pub fn replay(&self) -> Result<Vec<Recorded>, StoreError> {
        let mut events = Vec::new();
        self.replay_events(|recorded| {
            events.push(recorded);
            Ok::<_, StoreError>(())
        })?;
        Ok(events)
    }

    /// As [`Reader::replay`], one after the other: a log of a million events need not be in memory at once.
    ///
    /// # Errors
    /// A log that cannot be read, an event that does not read back, and the first error of `apply`.
    pub fn replay_events<E: From<StoreError>>(
        &self,
        mut apply: impl FnMut(Recorded) -> Result<(), E>,
    ) -> Result<(), E> {
        let failed = || StoreError::sqlite("read the log");
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let mut statement = connection
            .prepare("SELECT study, seq, time_ms, kind, json FROM events WHERE replayed = 1 ORDER BY id")
            .map_err(failed())?;
        for row in statement.query_map([], stored).map_err(failed())? {
            let StoredEvent { study, seq, time_ms, json, .. } = row.map_err(failed())?;
            let event: Event = serde_json::from_str(&json).map_err(|source| StoreError::Event {
                study: study.0,
                seq,
                source,
            })?;
            apply(Recorded { study, seq, time_ms, event })?;
        }
        Ok(())
    }

    /// The highest number among each worker's reports, measurements included.
    ///
    /// # Errors
    /// A log that cannot be read.
    pub fn report_seqs(&self) -> Result<Vec<(WorkerId, u64)>, StoreError> {
        let failed = || StoreError::sqlite("read the log");
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let mut statement = connection.prepare("SELECT worker, seq FROM report_seqs").map_err(failed())?;
        let rows =
            statement.query_map([], |row| Ok((WorkerId(row.get(0)?), row.get(1)?))).map_err(failed())?;
        rows.collect::<Result<_, _>>().map_err(failed())
    }
}

fn stored(row: &Row<'_>) -> rusqlite::Result<StoredEvent> {
    Ok(StoredEvent {
        study: StudyId(row.get(0)?),
        seq: row.get(1)?,
        time_ms: row.get(2)?,
        kind: row.get(3)?,
        json: row.get(4)?,
    })
}
