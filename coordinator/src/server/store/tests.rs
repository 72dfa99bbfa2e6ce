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
    Event::StudySubmitted { spec_hash: spec.hash(), spec: Box::new(spec), dataset }
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
    assert_eq!(replay.events.iter().map(|e| e.study).collect::<Vec<_>>(), [one, two], "without measurements");
    assert_eq!(replay.events[0].event, submitted());
    assert_eq!(replay.report_seqs, [(WorkerId("w".into()), 9)]);
}

#[test]
fn a_log_of_a_newer_mtinet_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.db");
    drop(open(&path).unwrap());
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute("UPDATE schema_version SET version = 9", []).unwrap();
    let error = open(&path).unwrap_err();
    assert!(error.to_string().contains("newer mtinet"), "{error}");
}

#[tokio::test]
async fn a_failed_commit_ends_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let (writer, reader) = open(&dir.path().join("events.db")).unwrap();
    // The study was never submitted.
    let error = writer.append(1, vec![(StudyId(5), metrics(1))]).await.unwrap_err();
    assert!(matches!(error, StoreError::Sqlite { .. }), "{error}");
    assert!(writer.append(1, vec![(StudyId(1), submitted())]).await.is_err());
    assert!(reader.replay().unwrap().events.is_empty());
}
