//! Copies of the data, and what the artifact store is rid of.

use std::path::{Path, PathBuf};

use mtinet_domain::fleet::FleetEvent;
use mtinet_proto::v1;

use super::fleet::*;
use crate::server::data_dir::FLEET;
use crate::server::fleet_log::FleetLog;
use crate::server::{Backup, DATABASE, ServerError, backup};

fn stored(data_dir: &Path, content: &str) -> PathBuf {
    let hash = artifact(content.as_bytes()).blake3;
    data_dir.join("artifacts").join(&hash[..2]).join(&hash)
}

async fn until_gone(path: &Path) {
    within("a file to be removed", async {
        while path.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_backup_of_a_running_coordinator_is_restored() {
    let (dir, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(options(dir.path())).await;
    let mut client = server.client().await;
    let spare = Agent::join(&server, 1).await;
    client.drain_worker(v1::DrainWorkerRequest { worker: spare.id.clone(), undo: false }).await.unwrap();
    let study = submit(&mut client, "folds = [0, 1]\n").await;
    let mut agent = Agent::join(&server, 2).await;
    let (first, second) = (agent.assignment().await, agent.assignment().await);
    for content in ["c5", "c9", "weights", "evaluation"] {
        put(&server, content).await;
    }
    agent.complete(&first).await;
    agent.report(&second, metrics(1)).await;
    agent.report(&second, checkpoint(5)).await;
    agent.acknowledged().await;
    let (file, files) = (copies.path().join("events.db"), copies.path().join("artifacts"));
    let copy = |file: &Path| backup(dir.path(), file, Some(&files));
    let made = tokio::task::block_in_place(|| copy(&file)).unwrap();
    let fleet = copies.path().join("events.fleet.db");
    let expected = Backup {
        studies: 1,
        events: made.events,
        fleet: Some(fleet.clone()),
        copied: 3,
        ..Backup::default()
    };
    assert_eq!(made, expected, "the checkpoint, the weights and the evaluation; c9 is nobody's");
    let then = events(&mut client, study, 0, false).await;
    // What happens afterwards is in the next copy, which takes only the files that are new.
    agent.report(&second, checkpoint(9)).await;
    agent.acknowledged().await;
    let again = tokio::task::block_in_place(|| copy(&copies.path().join("later.db"))).unwrap();
    assert_eq!((again.copied, again.present, again.missing.len()), (1, 3, 0));
    let refused = tokio::task::block_in_place(|| copy(&file)).unwrap_err();
    assert!(matches!(refused, ServerError::Backup { .. }), "it overwrites nothing: {refused}");
    server.stop().await.unwrap();

    assert_eq!(std::fs::read_dir(copies.path()).unwrap().count(), 5, "nothing lies beside the copies");
    std::fs::remove_file(copies.path().join("later.db")).unwrap();
    std::fs::rename(fleet, copies.path().join(FLEET)).unwrap();
    let marks = FleetLog::open(&copies.path().join(FLEET)).unwrap().events().unwrap();
    assert!(
        matches!(&marks[..], [FleetEvent::WorkerDrained { worker, .. }] if worker.0 == spare.id),
        "{marks:?}"
    );
    let server = Server::start(options(copies.path())).await;
    let mut client = server.client().await;
    assert_eq!(events(&mut client, study, 0, false).await, then);
    assert_eq!(show(&mut client, study).await.trials[1].checkpoint_step, Some(5));
    // The trial that ran goes on from the checkpoint of the copy once nobody has come to claim it.
    let request = v1::GetArtifactRequest { blake3: artifact(b"c5").blake3 };
    let mut stream = client.get_artifact(request).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().data, b"c5");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_backup_of_nothing_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = backup(dir.path(), &dir.path().join("copy"), None).unwrap_err();
    assert!(error.to_string().contains(DATABASE), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_nobody_needs_any_more_is_removed() {
    let (dir, server) = fresh().await;
    let mut client = server.client().await;
    let study = submit(&mut client, "folds = [0]\n").await;
    let mut agent = Agent::join(&server, 1).await;
    let start = agent.assignment().await;
    for content in ["c5", "late", "weights", "evaluation"] {
        put(&server, content).await;
    }
    agent.report(&start, checkpoint(5)).await;
    agent.acknowledged().await;
    client.cancel_study(v1::CancelStudyRequest { study }).await.unwrap();
    agent.report(&start, exited(0, false)).await;
    events(&mut client, study, 0, true).await;
    let done = submit(&mut client, "folds = [0]\n").await;
    let start = agent.assignment().await;
    agent.complete(&start).await;
    events(&mut client, done, 0, true).await;
    assert!(stored(dir.path(), "late").exists(), "it is young: its report may be on the way");
    server.stop().await.unwrap();
    let unfinished = stored(dir.path(), "late").with_file_name(format!("{}#1", artifact(b"late").blake3));
    std::fs::write(&unfinished, "half of it").unwrap();

    let server = Server::start(options(dir.path())).await;
    assert!(!unfinished.exists(), "nobody goes on with an upload to a former process");
    until_gone(&stored(dir.path(), "late")).await;
    assert!(stored(dir.path(), "c5").exists(), "a cancelled trial may be retried, from its checkpoint");
    assert!(stored(dir.path(), "weights").exists() && stored(dir.path(), "evaluation").exists());
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_running_attempt_may_yet_report_stays_over_a_restart() {
    let (dir, server) = fresh().await;
    let mut client = server.client().await;
    let study = submit(&mut client, "folds = [0]\n").await;
    let mut agent = Agent::join(&server, 1).await;
    let start = agent.assignment().await;
    put(&server, "c5").await;
    server.kill().await;
    agent.disconnect();
    agent.report(&start, checkpoint(5)).await;
    let server = Server::start(options(dir.path())).await;
    agent.connect(&server, vec![running(&start)]).await;
    agent.acknowledged().await;
    let mut client = server.client().await;
    assert_eq!(show(&mut client, study).await.trials[0].checkpoint_step, Some(5));
    assert!(stored(dir.path(), "c5").exists());
    server.stop().await.unwrap();
}
