//! What is stored reads back, also by a coordinator that starts later.

use std::collections::BTreeMap;

use mtinet_domain::event::{MetricRecord, MetricScope, ReportId};
use mtinet_domain::trial::DatasetRef;
use mtinet_domain::{AttemptNumber, StudySpec, WorkerId};

use super::*;

fn submitted() -> Event {
    let spec = StudySpec::from_toml("name = \"s\"\ndataset = \"d\"\narms = [\"mti-net\"]\n").unwrap();
    let dataset =
        DatasetRef { name: "d".into(), path: "/d".into(), hash: "h".into(), phases: vec![], classes: vec![] };
    Event::StudySubmitted { spec_hash: spec.hash(), spec: Box::new(spec), dataset, by: None }
}

fn metrics(seq: u64) -> Event {
    let values = BTreeMap::from([("loss".to_owned(), 0.1)]);
    Event::Metrics {
        trial: "mti-net/0/0".parse().unwrap(),
        attempt: AttemptNumber(1),
        report: ReportId { worker: WorkerId("w".into()), seq },
        records: vec![MetricRecord {
            scope: MetricScope::Step,
            step: seq,
            epoch: 1,
            train_seconds: 0.5,
            values,
        }],
    }
}

#[tokio::test]
async fn numbers_have_no_gaps_over_studies_commits_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.db");
    let (one, two) = (StudyId(1), StudyId(2));
    let (writer, _) = open(&path).unwrap();
    let stored =
        writer.append(7, vec![(one, submitted()), (two, submitted()), (one, metrics(3))]).await.unwrap();
    assert_eq!(stored.iter().map(|e| (e.study.0, e.seq)).collect::<Vec<_>>(), [(1, 1), (2, 1), (1, 2)]);
    drop(writer);
    let (writer, reader) = open(&path).unwrap();
    let more = writer.append(8, vec![(one, metrics(9)), (one, metrics(4))]).await.unwrap();
    assert_eq!(more.iter().map(|e| e.seq).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(reader.events(one, 2, 10).unwrap(), more);
    assert_eq!(reader.events(one, 0, 1).unwrap()[0], stored[0]);
    assert!(reader.events(one, u64::MAX, 10).unwrap().is_empty());
    let replay = reader.replay().unwrap();
    assert_eq!(replay.iter().map(|e| e.study).collect::<Vec<_>>(), [one, two], "without measurements");
    assert_eq!(replay[0].event, submitted());
    assert_eq!(reader.report_seqs().unwrap(), [(WorkerId("w".into()), 9)]);
}

#[test]
fn a_log_of_a_newer_mtinet_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.db");
    drop(schema::open(&path).unwrap());
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 9).unwrap();
    drop(connection);
    let before = std::fs::read(&path).unwrap();
    let error = open(&path).unwrap_err();
    assert!(error.to_string().contains("newer mtinet"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before, "it stays as it is");
}

#[test]
fn a_database_of_something_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE songs (name TEXT)").unwrap();
    let error = open(&path).unwrap_err();
    assert!(error.to_string().contains("no event log of mtinet"), "{error}");
}

#[tokio::test]
async fn a_full_disk_is_named_and_acknowledges_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.db");
    let connection = schema::open(&path).unwrap();
    // SQLite answers as it does on a full disk once the file may not grow any more.
    let pages: u32 = connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    connection.query_row(&format!("PRAGMA max_page_count = {}", pages + 8), [], |_| Ok(())).unwrap();
    let writer = Writer::start(connection).unwrap();
    writer.append(1, vec![(StudyId(1), submitted())]).await.unwrap();
    let mut acknowledged = 0;
    let error = loop {
        match writer.append(2, vec![(StudyId(1), metrics(acknowledged + 1))]).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    assert!(error.to_string().contains("free space"), "{error}");
    assert!(matches!(writer.append(3, Vec::new()).await, Err(StoreError::Ended)), "it is over");
    drop(writer);
    let (_writer, reader) = open(&path).unwrap();
    let stored = reader.events(StudyId(1), 0, usize::MAX >> 1).unwrap();
    assert_eq!(stored.len() as u64, acknowledged + 1, "exactly what was acknowledged is there");
    assert!(acknowledged > 0);
}

#[tokio::test]
async fn a_log_that_may_only_be_read_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.db");
    let connection = schema::open(&path).unwrap();
    // SQLite answers as it does where it could open the file for reading only.
    connection.pragma_update(None, "query_only", true).unwrap();
    let writer = Writer::start(connection).unwrap();
    let error = writer.append(1, vec![(StudyId(1), submitted())]).await.unwrap_err();
    assert!(matches!(error, StoreError::ReadOnly { .. }), "{error}");
    assert!(error.to_string().contains("--data-dir"), "{error}");
    assert!(matches!(writer.append(3, Vec::new()).await, Err(StoreError::Ended)), "it is over");
}

#[tokio::test]
async fn a_failed_commit_ends_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let (writer, reader) = open(&dir.path().join("events.db")).unwrap();
    // The study was never submitted.
    let error = writer.append(1, vec![(StudyId(5), metrics(1))]).await.unwrap_err();
    assert!(matches!(error, StoreError::Sqlite { .. }), "{error}");
    assert!(writer.append(1, vec![(StudyId(1), submitted())]).await.is_err());
    assert!(reader.replay().unwrap().is_empty());
}

#[tokio::test]
async fn a_replay_hands_on_each_event_before_it_reads_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.db");
    let (writer, reader) = open(&path).unwrap();
    for study in 1..=3 {
        writer.append(1, vec![(StudyId(study), submitted())]).await.unwrap();
    }
    // Whoever held the whole log in memory first would not get beyond the damage to hand anything on.
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute("UPDATE events SET json = 'x' WHERE study = 3", []).unwrap();
    let mut seen = Vec::new();
    let end = reader.replay_events(|recorded| {
        seen.push(recorded.study.0);
        Ok::<_, StoreError>(())
    });
    assert!(matches!(end, Err(StoreError::Event { study: 3, seq: 1, .. })), "{end:?}");
    assert_eq!(seen, [1, 2]);
    // And it ends with whoever takes them.
    let mut taken = 0;
    let end = reader.replay_events(|_| {
        taken += 1;
        Err(StoreError::Ended)
    });
    assert!(matches!(end, Err(StoreError::Ended)), "{end:?}");
    assert_eq!(taken, 1);
}
