//! Data sets are brought once, kept while a study names them, and given to workers alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mtinet_data::phantom::{self, PhantomOptions};
use mtinet_data::{Dataset, PortableDataset};
use mtinet_proto::v1::coordinator_message::Message;
use mtinet_proto::v1::offer_dataset_request::Part;
use mtinet_proto::v1::{self, OfferDatasetRequest};
use tonic::{Code, Status};

use super::fleet::*;
use crate::server::datasets::KEPT;

struct Set {
    hash: String,
    document: Vec<u8>,
    sources: BTreeMap<String, PathBuf>,
}

fn set(dir: &Path, seed: u64) -> Set {
    let options =
        PhantomOptions { subjects: 10, size: 32, slices_per_subject: 2, seed, ..PhantomOptions::default() };
    let dataset: Dataset = phantom::write(&dir.join(format!("set{seed}")), &options, &|_, _| {}).unwrap();
    let (portable, sources) = PortableDataset::of(&dataset).unwrap();
    Set { hash: portable.hash(), document: portable.to_json().unwrap(), sources }
}

async fn offer(server: &Server, hash: &str, document: &[u8]) -> Result<Vec<String>, Status> {
    let data = document.chunks(1000).map(|data| Part::Data(data.to_vec()));
    let parts = std::iter::once(Part::Hash(hash.to_owned())).chain(data);
    let parts: Vec<_> = parts.map(|part| OfferDatasetRequest { part: Some(part) }).collect();
    let answer = server.client().await.offer_dataset(tokio_stream::iter(parts)).await?;
    Ok(answer.into_inner().missing)
}

async fn put_files(server: &Server, set: &Set, files: &[String]) {
    for file in files {
        let content = std::fs::read(&set.sources[file]).unwrap();
        put_as(server, artifact(&content), &content).await.unwrap();
    }
}

async fn bring(server: &Server, set: &Set) {
    let missing = offer(server, &set.hash, &set.document).await.unwrap();
    put_files(server, set, &missing).await;
}

async fn list(server: &Server, hash: &str) -> Result<Vec<u8>, Status> {
    let request = v1::GetDatasetRequest { hash: hash.to_owned() };
    let mut stream = server.worker_client().await.get_dataset(request).await?.into_inner();
    let mut document = Vec::new();
    while let Some(chunk) = stream.message().await? {
        document.extend(chunk.data);
    }
    Ok(document)
}

/// A study on this data set.
async fn study_on(server: &Server, hash: &str) {
    let mut request = submission("");
    request.dataset.as_mut().unwrap().hash = hash.to_owned();
    server.client().await.submit_study(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_gets_what_a_study_names_once_all_of_it_is_there() {
    let (dir, server) = fresh().await;
    let set = set(dir.path(), 1);
    let missing = offer(&server, &set.hash, &set.document).await.unwrap();
    assert!(missing.iter().eq(set.sources.keys()), "all of them, each once");
    let refused = list(&server, &set.hash).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "no study names it: {refused}");
    study_on(&server, &set.hash).await;
    put_files(&server, &set, &missing[..3]).await;
    assert_eq!(offer(&server, &set.hash, &set.document).await.unwrap(), missing[3..], "an upload goes on");
    let refused = list(&server, &set.hash).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let words = format!("has 3 of its {} files", missing.len());
    assert!(
        refused.message().contains(&words) && refused.message().contains("mtinet data upload"),
        "{refused}"
    );
    put_files(&server, &set, &missing[3..]).await;
    assert_eq!(list(&server, &set.hash).await.unwrap(), set.document);
    assert!(offer(&server, &set.hash, &set.document).await.unwrap().is_empty());
    let other = "c".repeat(64);
    study_on(&server, &other).await;
    let refused = list(&server, &other).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert!(refused.message().contains("mtinet data upload DATASET"), "{refused}");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_list_of_files_that_is_not_what_it_says_is_refused() {
    let (dir, server) = fresh().await;
    let set = set(dir.path(), 1);
    let file = set.sources.keys().next().unwrap();
    let hostile = String::from_utf8(set.document.clone()).unwrap();
    let hostile = hostile.replacen(&format!("files/{file}"), "../../x", 1);
    for (hash, document, words) in [
        (&*"d".repeat(64), &*set.document, "not dddd"),
        (&*set.hash, hostile.as_bytes(), "not where its file lies"),
        (&*set.hash, &b"{}"[..], "schema"),
        ("../../x", &*set.document, "64 lower-case hex digits"),
    ] {
        let refused = offer(&server, hash, document).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(words), "{refused}");
    }
    let parts = [OfferDatasetRequest { part: Some(Part::Data(vec![1])) }];
    let refused = server.client().await.offer_dataset(tokio_stream::iter(parts)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(std::fs::read_dir(dir.path().join("datasets")).unwrap().count(), 0);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_sweep_keeps_what_a_study_names_or_was_brought_lately() {
    let (dir, server) = fresh().await;
    let sets = [set(dir.path(), 1), set(dir.path(), 2), set(dir.path(), 3)];
    for set in &sets {
        bring(&server, set).await;
    }
    study_on(&server, &sets[0].hash).await;
    server.stop().await.unwrap();
    // The first two were brought long ago, and nobody names the second.
    for set in &sets[..2] {
        let list = std::fs::File::options().write(true).open(dir.path().join("datasets").join(&set.hash));
        list.unwrap().set_modified(SystemTime::now() - KEPT - Duration::from_secs(60)).unwrap();
    }
    // A restart without running attempts sweeps at once.
    let server = Server::start(options(dir.path())).await;
    let stored = |file: &String| dir.path().join("artifacts").join(&file[..2]).join(file).exists();
    let unique = |n: usize, file: &&String| {
        sets.iter().enumerate().all(|(other, set)| other == n || !set.sources.contains_key(*file))
    };
    within("the sweep", async {
        while sets[1].sources.keys().filter(|file| unique(1, file)).any(stored) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for n in [0, 2] {
        assert!(sets[n].sources.keys().all(stored), "{n} is whole");
        assert!(offer(&server, &sets[n].hash, &sets[n].document).await.unwrap().is_empty());
    }
    assert!(!dir.path().join("datasets").join(&sets[1].hash).exists());
    assert_eq!(list(&server, &sets[0].hash).await.unwrap(), sets[0].document);
    // What was removed can be brought again.
    bring(&server, &sets[1]).await;
    study_on(&server, &sets[1].hash).await;
    assert_eq!(list(&server, &sets[1].hash).await.unwrap(), sets[1].document);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_worker_is_asked_and_answers_for_itself_alone() {
    let (_dir, server) = fresh().await;
    let dataset = submission("").dataset;
    let request = v1::FindDatasetRequest { dataset: dataset.clone() };
    let nobody = server.client().await.find_dataset(request.clone()).await.unwrap().into_inner();
    assert_eq!(nobody, v1::FindDatasetResponse::default());
    let mut agents = [Agent::join(&server, 1).await, Agent::join(&server, 1).await];
    let mut client = server.client().await;
    let asking = tokio::spawn(async move { client.find_dataset(request).await.unwrap().into_inner() });
    let mut worker = server.worker_client().await;
    for (agent, here) in agents.iter_mut().zip([true, false]) {
        let Message::Look(look) = agent.next().await else { panic!("it was not asked") };
        assert_eq!(look.dataset, dataset);
        let question = look.question;
        let of = |worker_id: &str, here| v1::TellDatasetRequest {
            worker_id: worker_id.to_owned(),
            question,
            here,
        };
        let refused = worker.tell_dataset(of("somebody.0", true)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        worker.tell_dataset(of(&agent.id, here)).await.unwrap();
        // Once is enough, and nobody changes their mind.
        worker.tell_dataset(of(&agent.id, !here)).await.unwrap();
    }
    let found = within("the answer", asking).await.unwrap();
    assert_eq!((found.having.len(), found.lacking.len(), found.silent.len()), (1, 1, 0), "{found:?}");
    server.stop().await.unwrap();
}
