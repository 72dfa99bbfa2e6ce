//! The log of facts about workers that are no study's: who is drained, who is set aside.
//!
//! A file of its own beside the event log: it is small and seldom written, and no study's events depend on it. What
//! [`FleetLog::append`] has returned survives like an event.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use mtinet_domain::fleet::FleetEvent;
use rusqlite::{Connection, params, types::Type};

use super::store::StoreError;

const TABLE: &str = "
CREATE TABLE IF NOT EXISTS fleet_events (
    id INTEGER PRIMARY KEY,
    time_ms INTEGER NOT NULL,
    json TEXT NOT NULL
);
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
    /// A file that cannot be opened or written.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open(path).map_err(StoreError::sqlite("open the fleet's log"))?;
        connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
            .and_then(|()| connection.execute_batch(TABLE))
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
        let aside = FleetEvent::WorkerSetAside { worker, reason: "no data set".into() };
        let log = FleetLog::open(&path).unwrap();
        log.append(1, vec![drained.clone()]).await.unwrap();
        log.append(2, vec![aside.clone()]).await.unwrap();
        drop(log);
        assert_eq!(FleetLog::open(&path).unwrap().events().unwrap(), [drained, aside]);
    }
}
