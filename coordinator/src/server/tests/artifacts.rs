//! Artifacts go in whole or not at all.

use std::time::Duration;

use mtinet_proto::v1::put_artifact_request::Part;
use mtinet_proto::v1::{self, PutArtifactRequest};
use tonic::{Code, Status};

use super::fleet::*;
use crate::server::{ServerOptions, UploadLimits};

async fn get(server: &Server, blake3: String) -> Result<Vec<u8>, Status> {
    let mut client = server.client().await;
    let mut stream = client.get_artifact(v1::GetArtifactRequest { blake3 }).await?.into_inner();
    let mut content = Vec::new();
    while let Some(chunk) = stream.message().await? {
        content.extend(chunk.data);
    }
    Ok(content)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_was_put_is_what_is_got() {
    let (_dir, server) = fresh().await;
    let large: Vec<u8> =
        (0..12_345_678_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    for content in [&large[..], b"small", b""] {
        let stored = put_as(&server, artifact(content), content).await.unwrap();
        assert_eq!(stored, artifact(content));
        assert!(get(&server, stored.blake3).await.unwrap() == content);
    }
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn damaged_and_unknown_artifacts_are_refused_in_words() {
    let (dir, server) = fresh().await;
    let wanted = artifact(b"the right content");
    for wrong in [&b"the wrong content"[..], b"short", b"the right content and more"] {
        let refused = put_as(&server, wanted.clone(), wrong).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains("damaged"), "{refused}");
    }
    let unknown = get(&server, wanted.blake3.clone()).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let nonsense = get(&server, "../../etc/passwd".into()).await.unwrap_err();
    assert_eq!(nonsense.code(), Code::InvalidArgument);
    let mut client = server.worker_client().await;
    let no_announcement = PutArtifactRequest { part: Some(Part::Data(vec![1])) };
    let refused = client.put_artifact(tokio_stream::iter([no_announcement])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let left: Vec<_> = walk(&dir.path().join("artifacts"));
    assert!(left.is_empty(), "{left:?}");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_upload_that_stalls_is_given_up_and_makes_room_for_others() {
    let dir = tempfile::tempdir().unwrap();
    let uploads = UploadLimits { at_once: 1, silence: Duration::from_millis(200), ..UploadLimits::default() };
    let server = Server::start(ServerOptions { uploads, ..options(dir.path()) }).await;
    let content = b"some content";
    let begun = [Part::Announce(artifact(content)), Part::Data(content[..4].to_vec())];
    for parts in [&begun[..0], &begun[..1], &begun] {
        // The stream stays open: only the time that passes ends it.
        let (sender, stream) = tokio::sync::mpsc::channel(4);
        for part in parts {
            sender.try_send(PutArtifactRequest { part: Some(part.clone()) }).unwrap();
        }
        let mut client = server.worker_client().await;
        let stalled = client.put_artifact(tokio_stream::wrappers::ReceiverStream::new(stream));
        let refused = within("an end of the upload", stalled).await.unwrap_err();
        assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused}");
        assert!(walk(&dir.path().join("artifacts")).is_empty(), "nothing is left of it");
        drop(sender);
    }
    within("the only place", put_as(&server, artifact(content), content)).await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_file_beyond_the_limit_is_refused_before_its_content() {
    let dir = tempfile::tempdir().unwrap();
    let uploads = UploadLimits { file_bytes: 4, ..UploadLimits::default() };
    let server = Server::start(ServerOptions { uploads, ..options(dir.path()) }).await;
    let refused = put_as(&server, artifact(b"12345"), b"12345").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    put_as(&server, artifact(b"1234"), b"1234").await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn superseded_checkpoints_go_and_the_weights_stay() {
    let (_dir, server) = fresh().await;
    let mut client = server.client().await;
    let study = submit(&mut client, "folds = [0]\n").await;
    let mut agent = Agent::join(&server, 1).await;
    let start = agent.assignment().await;
    for name in ["c1", "c2", "c3", "weights", "evaluation"] {
        put(&server, name).await;
    }
    for step in 1..=3 {
        agent.report(&start, checkpoint(step)).await;
    }
    agent.acknowledged().await;
    gone(&server, "c1").await;
    assert!(get(&server, artifact(b"c2").blake3).await.is_ok());
    agent.complete(&start).await;
    events(&mut client, study, 0, true).await;
    gone(&server, "c2").await;
    gone(&server, "c3").await;
    assert_eq!(get(&server, artifact(b"weights").blake3).await.unwrap(), b"weights");
    server.stop().await.unwrap();
}

async fn gone(server: &Server, content: &str) {
    let hash = artifact(content.as_bytes()).blake3;
    within("a checkpoint to be deleted", async {
        while get(server, hash.clone()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

/// Initial weights of the arm of [`submission`], pinned to some content.
fn with_weights(content: &[u8]) -> String {
    let v1::Artifact { blake3, bytes } = artifact(content);
    format!("[init]\nmti-net = {{ path = \"w\", blake3 = \"{blake3}\", bytes = {bytes} }}\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_study_is_taken_only_with_its_initial_weights_in_the_store() {
    let (dir, server) = fresh().await;
    let mut client = server.client().await;
    let weights = b"initial weights";
    let mut refused = async |extra: &str| {
        let status = client.submit_study(submission(extra)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains("init: the weights `w` of mti-net"), "{status}");
        status.message().to_owned()
    };
    assert!(refused("[init]\nmti-net = \"w\"\n").await.contains("carry no hash"));
    assert!(refused(&with_weights(weights)).await.contains("are not in the artifact store"));
    let parts = [Part::Announce(artifact(weights)), Part::Data(weights.to_vec())];
    let parts = parts.map(|part| PutArtifactRequest { part: Some(part) });
    let stored = client.put_artifact(tokio_stream::iter(parts)).await.unwrap().into_inner();
    assert_eq!(stored, artifact(weights));
    let study = submit(&mut client, &with_weights(weights)).await;
    client.cancel_study(v1::CancelStudyRequest { study }).await.unwrap();
    server.stop().await.unwrap();
    // Neither its end nor a restart, which deletes what nothing refers to, takes a study's weights away.
    let server = Server::start(options(dir.path())).await;
    assert_eq!(get(&server, stored.blake3).await.unwrap(), weights);
    let mut client = server.client().await;
    submit(&mut client, &with_weights(weights)).await;
    server.stop().await.unwrap();
}
