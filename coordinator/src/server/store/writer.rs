//! The one thread that writes. Whatever waits when it is free goes into one commit.

use std::collections::HashMap;
use std::sync::mpsc;

use mtinet_domain::event::{Event, ReportId};
use mtinet_domain::{StudyId, WorkerId};
use rusqlite::{Connection, Transaction, params};
use tokio::sync::oneshot;

use super::{StoreError, StoredEvent, is_replayed};

/// Hands events to the writing thread, which ends with it.
#[derive(Debug)]
pub struct Writer {
    jobs: mpsc::Sender<Job>,
}

struct Job {
    time_ms: u64,
    events: Vec<(StudyId, Event)>,
    done: oneshot::Sender<Result<Vec<StoredEvent>, StoreError>>,
}

impl Writer {
    pub(super) fn start(connection: Connection) -> Result<Self, StoreError> {
        let (jobs, waiting) = mpsc::channel();
        std::thread::Builder::new()
            .name("event-log".into())
            .spawn(move || run(connection, &waiting))
            .map_err(StoreError::Thread)?;
        Ok(Self { jobs })
    }

    /// Stores events in order, all or none, and returns them numbered once they are safe on disk.
    ///
    /// # Errors
    /// After a failure nothing is written any more: what is in memory is ahead of the log then.
    pub async fn append(
        &self,
        time_ms: u64,
        events: Vec<(StudyId, Event)>,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let (done, stored) = oneshot::channel();
        self.jobs.send(Job { time_ms, events, done }).map_err(|_| StoreError::Ended)?;
        stored.await.map_err(|_| StoreError::Ended)?
    }
}

fn run(mut connection: Connection, waiting: &mpsc::Receiver<Job>) {
    let mut seqs = HashMap::new();
    while let Ok(first) = waiting.recv() {
        let jobs: Vec<Job> = std::iter::once(first).chain(waiting.try_iter()).collect();
        let (mut batches, mut replies) = (Vec::new(), Vec::new());
        for job in jobs {
            batches.push((job.time_ms, job.events));
            replies.push(job.done);
        }
        match commit(&mut connection, &mut seqs, batches) {
            Ok(stored) => {
                for (done, stored) in replies.into_iter().zip(stored) {
                    // Whoever gave up waiting finds the events in the log.
                    let _ = done.send(Ok(stored));
                }
            }
            Err(error) => {
                if let Some(first) = replies.into_iter().next() {
                    let _ = first.send(Err(error));
                }
                return;
            }
        }
    }
}

fn commit(
    connection: &mut Connection,
    seqs: &mut HashMap<StudyId, u64>,
    batches: Vec<(u64, Vec<(StudyId, Event)>)>,
) -> Result<Vec<Vec<StoredEvent>>, StoreError> {
    let transaction = connection.transaction().map_err(StoreError::sqlite("begin"))?;
    let mut stored = Vec::with_capacity(batches.len());
    let mut reported: HashMap<WorkerId, u64> = HashMap::new();
    for (time_ms, events) in batches {
        let mut batch = Vec::with_capacity(events.len());
        for (study, event) in events {
            batch.push(insert(&transaction, seqs, time_ms, study, &event)?);
            if let Some(ReportId { worker, seq }) = event.report() {
                match reported.get_mut(worker) {
                    Some(last) => *last = (*last).max(*seq),
                    None => drop(reported.insert(worker.clone(), *seq)),
                }
            }
        }
        stored.push(batch);
    }
    note_reports(&transaction, &reported).map_err(StoreError::sqlite("write report numbers"))?;
    transaction.commit().map_err(StoreError::sqlite("commit events"))?;
    Ok(stored)
}

fn insert(
    transaction: &Transaction<'_>,
    seqs: &mut HashMap<StudyId, u64>,
    time_ms: u64,
    study: StudyId,
    event: &Event,
) -> Result<StoredEvent, StoreError> {
    let failed = || StoreError::sqlite("write an event");
    if let Event::StudySubmitted { spec, spec_hash, .. } = event {
        let mut statement = transaction
            .prepare_cached(
                "INSERT INTO studies (study, name, spec_hash, submitted_ms) VALUES (?1, ?2, ?3, ?4)",
            )
            .map_err(failed())?;
        statement.execute(params![study.0, spec.name, spec_hash, time_ms]).map_err(failed())?;
    }
    let seq = match seqs.get(&study) {
        Some(last) => last + 1,
        None => last_seq(transaction, study).map_err(failed())? + 1,
    };
    seqs.insert(study, seq);
    let json =
        serde_json::to_string(event).map_err(|source| StoreError::Event { study: study.0, seq, source })?;
    let trial = event.trial().map(|trial| trial.to_string());
    let attempt = event.attempt().map(|attempt| attempt.0);
    let mut statement = transaction
        .prepare_cached(
            "INSERT INTO events (study, seq, time_ms, kind, trial, attempt, replayed, json)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )
        .map_err(failed())?;
    statement
        .execute(params![study.0, seq, time_ms, event.kind(), trial, attempt, is_replayed(event), json])
        .map_err(failed())?;
    Ok(StoredEvent { study, seq, time_ms, kind: event.kind().to_owned(), json })
}

/// Once a commit for each worker, not once a report.
fn note_reports(transaction: &Transaction<'_>, reported: &HashMap<WorkerId, u64>) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO report_seqs (worker, seq) VALUES (?1, ?2)
         ON CONFLICT (worker) DO UPDATE SET seq = MAX(seq, excluded.seq)",
    )?;
    for (worker, seq) in reported {
        statement.execute(params![worker.0, seq])?;
    }
    Ok(())
}

fn last_seq(transaction: &Transaction<'_>, study: StudyId) -> rusqlite::Result<u64> {
    transaction
        .query_row("SELECT COALESCE(MAX(seq), 0) FROM events WHERE study = ?1", [study.0], |row| row.get(0))
}
