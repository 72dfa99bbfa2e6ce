//! The tables, their version, and the way from each former version to the next.
//!
//! The version is the database's `user_version` (the first release kept it in a table, `schema_version`). A log of a
//! former version is migrated when it is opened, in one transaction: it is either of the new version or untouched.

use std::path::Path;

use rusqlite::{Connection, Transaction};

use super::StoreError;

/// What this release writes.
pub const VERSION: u32 = 2;

/// `events.id` is the order over all studies in which events were recorded and have to be replayed. `report_seqs`
/// saves the replay from reading measurements, which are most of the log.
const TABLES: &str = "
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

/// The step from version n to n + 1 is at n - 1.
const MIGRATIONS: [&str; VERSION as usize - 1] = [
    // 2: the version moved to where it can be read before anything else of the file is understood.
    "DROP TABLE schema_version;",
];

/// Opens the log for writing, making or migrating it.
pub fn open(path: &Path) -> Result<Connection, StoreError> {
    let failed = StoreError::sqlite;
    let mut connection = Connection::open(path).map_err(failed("open the event log"))?;
    // Before anything is changed: a newer log stays as it is.
    version(&connection)?;
    // FULL: a commit that was acknowledged also survives a power cut.
    connection
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")
        .map_err(failed("set up the event log"))?;
    let transaction = connection.transaction().map_err(failed("begin"))?;
    migrate(&transaction)?;
    transaction.commit().map_err(failed("set up the tables"))?;
    Ok(connection)
}

fn migrate(transaction: &Transaction<'_>) -> Result<(), StoreError> {
    let failed = StoreError::sqlite;
    match version(transaction)? {
        0 => transaction.execute_batch(TABLES).map_err(failed("make the tables"))?,
        VERSION => return Ok(()),
        found => {
            for step in &MIGRATIONS[found as usize - 1..] {
                transaction.execute_batch(step).map_err(failed("migrate the event log"))?;
            }
            tracing::info!(from = found, to = VERSION, "event log migrated");
        }
    }
    transaction.pragma_update(None, "user_version", VERSION).map_err(failed("write the schema's version"))
}

/// The version of the log behind a connection; 0 where there is nothing yet.
pub fn version(connection: &Connection) -> Result<u32, StoreError> {
    let failed = || StoreError::sqlite("read the schema's version");
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, u32>(0)).map_err(failed());
    let mut found = number("PRAGMA user_version")?;
    if found == 0 && number("SELECT COUNT(*) FROM sqlite_schema WHERE name = 'schema_version'")? > 0 {
        found = number("SELECT version FROM schema_version")?;
    }
    if found > VERSION {
        return Err(StoreError::Schema { found, known: VERSION });
    }
    if found == 0 && number("SELECT COUNT(*) FROM sqlite_schema")? > 0 {
        return Err(StoreError::Foreign);
    }
    Ok(found)
}
