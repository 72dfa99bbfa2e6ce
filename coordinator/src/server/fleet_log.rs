//! The log of facts about workers that are no study's: who is drained, who is set aside.
//!
//! A file of its own beside the event log: it is small and seldom written, and no study's events depend on it. What
//! [`FleetLog::append`] has returned survives like an event.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use mtinet_domain::fleet::FleetEvent;
use rusqlite::{Connection, params, types::Type};

use super::store::StoreError;

/// What this release writes, as the database's `user_version`. The first release wrote the same table and no number.
const VERSION: u32 = 1;

const TABLE: &str = "
CREATE TABLE IF NOT EXISTS fleet_events (
    id INTEGER PRIMARY KEY,
    time_ms INTEGER NOT NULL,
    json TEXT NOT NULL
);
PRAGMA user_version = 1;
";

/// The log. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FleetLog {
    connection: Arc<Mutex<Connection>>,
}

impl FleetLog {
    /// Opens the log, making it where it is missing.
    ///
    /// # Errors
    /// A file that cannot be opened or written, or is of a newer schema.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open(path).map_err(StoreError::sqlite("open the fleet's log"))?;
        // Before anything is changed: a newer log stays as it is.
        let found = connection
            .query_row("PRAGMA user_version", [], |row| row.get::<_, u32>(0))
            .map_err(StoreError::sqlite("read the fleet's log"))?;
        if found > VERSION {
            return Err(StoreError::Schema { found, known: VERSION });
        }
        connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
            .and_then(|()| connection.execute_batch(&format!("BEGIN; {TABLE} COMMIT;")))
            .map_err(StoreError::sqlite("set up the fleet's log"))?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)) })
    }

    /// Everything in it, in order. Blocks on the disk: not for an async task.
    ///
    /// # Errors
    /// A log that cannot be read.
    pub fn events(&self) -> Result<Vec<FleetEvent>, StoreError> {
        let read = || {
            let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
            let mut statement = connection.prepare("SELECT json FROM fleet_events ORDER BY id")?;
            let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
            rows.map(|json| {
                let unreadable =
                    |error| rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(error));
                serde_json::from_str(&json?).map_err(unreadable)
            })
            .collect::<Result<_, _>>()
        };
        read().map_err(StoreError::sqlite("read the fleet's log"))
    }

    /// Stores facts in order, all or none; they are safe on disk when this returns.
    ///
    /// # Errors
    /// A log that cannot be written.
    pub async fn append(&self, time_ms: u64, events: Vec<FleetEvent>) -> Result<(), StoreError> {
        let log = self.clone();
        let written = tokio::task::spawn_blocking(move || log.write(time_ms, &events)).await;
        written.map_err(|_| StoreError::Ended)?.map_err(StoreError::sqlite("write the fleet's log"))
    }

    fn write(&self, time_ms: u64, events: &[FleetEvent]) -> rusqlite::Result<()> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = connection.transaction()?;
        for event in events {
            let json = serde_json::to_string(event)
                .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
            transaction.execute(
                "INSERT INTO fleet_events (time_ms, json) VALUES (?1, ?2)",
                params![time_ms, json],
            )?;
        }
        transaction.commit()
    }
}

#[cfg(test)]
mod tests {
    use mtinet_domain::WorkerId;

    use super::*;

    #[tokio::test]
    async fn what_is_stored_is_there_for_the_next_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fleet.db");
        let worker = WorkerId("w".into());
        let drained = FleetEvent::WorkerDrained { worker: worker.clone(), by: Some("ada".into()) };
        let aside = FleetEvent::WorkerSetAside { worker, reason: "no data set".into(), name: None };
        let log = FleetLog::open(&path).unwrap();
        log.append(1, vec![drained.clone()]).await.unwrap();
        log.append(2, vec![aside.clone()]).await.unwrap();
        drop(log);
        assert_eq!(FleetLog::open(&path).unwrap().events().unwrap(), [drained, aside]);
    }

    #[test]
    fn a_log_of_a_newer_mtinet_is_refused_and_one_without_a_number_is_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fleet.db");
        drop(FleetLog::open(&path).unwrap());
        let set = |version: u32| {
            Connection::open(&path).unwrap().pragma_update(None, "user_version", version).unwrap();
        };
        set(0);
        FleetLog::open(&path).unwrap();
        set(VERSION + 1);
        let error = FleetLog::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Schema { found, known } if found == known + 1), "{error}");
    }
}
