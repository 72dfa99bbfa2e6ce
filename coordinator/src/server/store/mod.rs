//! The event log: SQLite in WAL mode, one thread that writes, one connection that reads.
//!
//! What [`Store::append`] has returned survives the end of any process and of the machine (`synchronous = FULL`).

mod reader;
mod schema;
mod writer;

use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use mtinet_domain::StudyId;
use mtinet_domain::event::{Event, Recorded};

pub use reader::Reader;
#[cfg(test)]
pub use schema::VERSION;
pub use writer::Writer;

/// An event as it is stored and sent to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// The study it is about.
    pub study: StudyId,
    /// Its number within the study, from 1, without gaps.
    pub seq: u64,
    /// When it was recorded, milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Which kind of event ([`Event::kind`]).
    pub kind: String,
    /// The event as JSON.
    pub json: String,
}

impl StoredEvent {
    /// Whether no event of the study follows, unless trials are retried.
    pub fn is_last(&self) -> bool {
        self.kind == "study_finished"
    }
}

/// The event log failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No room for the log.
    #[error(
        "SQLite could not {doing}: the disk of the data directory is full; free space there and start the coordinator \
         again, nothing that was acknowledged is lost"
    )]
    Full {
        /// What was tried.
        doing: &'static str,
        /// What it said.
        source: rusqlite::Error,
    },
    /// Files or a file system that may only be read.
    #[error(
        "SQLite could not {doing}: the data directory holds files that this user may only read, or is on a read-only file \
         system; make it writable or give another directory with --data-dir"
    )]
    ReadOnly {
        /// What was tried.
        doing: &'static str,
        /// What it said.
        source: rusqlite::Error,
    },
    /// The disk fails. A file system that turned read-only under open files shows itself so as well.
    #[error(
        "SQLite could not {doing}: the disk of the data directory fails or has become read-only, which the system's log \
         tells (dmesg); repair it and start the coordinator again, nothing that was acknowledged is lost"
    )]
    Disk {
        /// What was tried.
        doing: &'static str,
        /// What it said.
        source: rusqlite::Error,
    },
    /// A database of something else.
    #[error("the file is a database, but no event log of mtinet; give another directory with --data-dir")]
    Foreign,
    /// SQLite refuses: the file is damaged.
    #[error("SQLite failed to {doing}")]
    Sqlite {
        /// What was tried.
        doing: &'static str,
        /// What it said.
        source: rusqlite::Error,
    },
    /// The log was written by a newer mtinet.
    #[error("the log has schema {found}, this mtinet knows {known}; use a newer mtinet")]
    Schema {
        /// The log's.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// An event that does not read back.
    #[error("event {seq} of study {study} cannot be read")]
    Event {
        /// Its study.
        study: u64,
        /// Its number.
        seq: u64,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The writing thread could not be started.
    #[error("the writing thread could not be started")]
    Thread(#[source] std::io::Error),
    /// The writing thread is gone.
    #[error("the writing thread ended after an earlier failure")]
    Ended,
}

impl StoreError {
    /// What SQLite says of one of our databases, while doing something, with what to do about it.
    pub fn sqlite(doing: &'static str) -> impl FnOnce(rusqlite::Error) -> Self {
        move |source: rusqlite::Error| match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full { doing, source },
            Some(ErrorCode::ReadOnly) => Self::ReadOnly { doing, source },
            Some(ErrorCode::SystemIoFailure) => Self::Disk { doing, source },
            _ => Self::Sqlite { doing, source },
        }
    }
}

/// Opens the log, making it where it is missing.
///
/// # Errors
/// A file that cannot be opened or is of a newer schema.
pub fn open(path: &Path) -> Result<(Writer, Reader), StoreError> {
    let connection = schema::open(path)?;
    let reader = Reader::open(path)?;
    Ok((Writer::start(connection)?, reader))
}

/// Copies the log as it is at one moment, while another process may write it. `target` is an empty file.
///
/// # Errors
/// A log that cannot be read, a target that cannot be written.
pub fn copy(log: &Path, target: &Path) -> Result<(), StoreError> {
    schema::version(&read_only(log)?)?;
    copy_database(log, target)
}

/// As [`copy`], of any SQLite database.
///
/// # Errors
/// As [`copy`].
pub fn copy_database(source: &Path, target: &Path) -> Result<(), StoreError> {
    let failed = StoreError::sqlite;
    let from = read_only(source)?;
    let mut to = Connection::open(target).map_err(failed("write the copy"))?;
    let backup = rusqlite::backup::Backup::new(&from, &mut to).map_err(failed("begin the copy"))?;
    // All pages in one step: a reader of a WAL database sees one moment and holds no writer up.
    while backup.step(-1).map_err(failed("copy the log"))? != rusqlite::backup::StepResult::Done {
        std::thread::yield_now();
    }
    drop(backup);
    // One file, without a write-ahead log beside it.
    to.pragma_update(None, "journal_mode", "DELETE").map_err(failed("finish the copy"))?;
    to.close().map_err(|(_, source)| failed("finish the copy")(source))
}

/// Reads a log that this process does not write.
///
/// # Errors
/// A file that cannot be opened or is of a newer schema.
pub fn reader_of(log: &Path) -> Result<Reader, StoreError> {
    schema::version(&read_only(log)?)?;
    Reader::open(log)
}

/// What a restart would read from a log that nobody serves.
///
/// # Errors
/// As [`Reader::replay`].
pub fn replay_of(log: &Path) -> Result<Vec<Recorded>, StoreError> {
    reader_of(log)?.replay()
}

fn read_only(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags).map_err(StoreError::sqlite("open the log for reading"))
}

/// Whether a restart needs events of this kind: measurements are for people only.
fn is_replayed(event: &Event) -> bool {
    !matches!(event, Event::Metrics { .. })
}

#[cfg(test)]
mod tests;
