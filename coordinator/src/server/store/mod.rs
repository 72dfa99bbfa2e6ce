//! The event log: SQLite in WAL mode, one thread that writes, one connection that reads.
//!
//! What [`Store::append`] has returned survives the end of any process and of the machine (`synchronous = FULL`).

mod reader;
mod schema;
mod writer;

use std::path::Path;

use mtinet_domain::StudyId;
use mtinet_domain::event::Event;

pub use reader::Reader;
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
    /// SQLite refuses: the disk is full, the file is damaged.
    #[error("SQLite failed to {doing}")]
    Sqlite {
        /// What was tried.
        doing: &'static str,
        /// What it said.
        source: rusqlite::Error,
    },
    /// The log was written by a newer mtinet.
    #[error("the event log has schema {found}, this mtinet knows {known}; use a newer mtinet")]
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
    fn sqlite(doing: &'static str) -> impl FnOnce(rusqlite::Error) -> Self {
        move |source| Self::Sqlite { doing, source }
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

/// Whether a restart needs events of this kind: measurements are for people only.
fn is_replayed(event: &Event) -> bool {
    !matches!(event, Event::Metrics { .. })
}

#[cfg(test)]
mod tests;
