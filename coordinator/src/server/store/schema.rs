//! The tables, and their version.

use std::path::Path;

use rusqlite::Connection;

use super::StoreError;

const VERSION: u32 = 1;

/// `events.id` is the order over all studies in which events were recorded and have to be replayed. `report_seqs`
/// saves the replay from reading measurements, which are most of the log.
const TABLES: &str = "
CREATE TABLE schema_version (version INTEGER NOT NULL);
INSERT INTO schema_version VALUES (1);
CREATE TABLE studies (
    study INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    spec_hash TEXT NOT NULL,
    submitted_ms INTEGER NOT NULL
);
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    study INTEGER NOT NULL REFERENCES studies (study),
    seq INTEGER NOT NULL,
    time_ms INTEGER NOT NULL,
    kind TEXT NOT NULL,
    trial TEXT,
    attempt INTEGER,
    replayed INTEGER NOT NULL,
    json TEXT NOT NULL
);
CREATE UNIQUE INDEX events_of_study ON events (study, seq);
CREATE INDEX events_replayed ON events (id) WHERE replayed = 1;
CREATE TABLE report_seqs (
    worker TEXT PRIMARY KEY,
    seq INTEGER NOT NULL
) WITHOUT ROWID;
";

pub(super) fn open(path: &Path) -> Result<Connection, StoreError> {
    let failed = StoreError::sqlite;
    let mut connection = Connection::open(path).map_err(failed("open the event log"))?;
    // FULL: a commit that was acknowledged also survives a power cut.
    connection
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")
        .map_err(failed("set up the event log"))?;
    let transaction = connection.transaction().map_err(failed("begin"))?;
    let exists = transaction
        .prepare("SELECT 1 FROM sqlite_schema WHERE name = 'schema_version'")
        .and_then(|mut statement| statement.exists([]))
        .map_err(failed("read the schema"))?;
    if !exists {
        transaction.execute_batch(TABLES).map_err(failed("make the tables"))?;
    }
    let found: u32 = transaction
        .query_row("SELECT version FROM schema_version", [], |row| row.get(0))
        .map_err(failed("read the schema's version"))?;
    if found != VERSION {
        return Err(StoreError::Schema { found, known: VERSION });
    }
    transaction.commit().map_err(failed("make the tables"))?;
    Ok(connection)
}
