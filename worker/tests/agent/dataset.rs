//! A worker without the data set of a study: it fetches it, once, and says what is wrong where it cannot.

use std::path::{Path, PathBuf};

use mtinet_data::phantom::{self, PhantomOptions};
use mtinet_data::{Dataset, PortableDataset};
use mtinet_proto::v1::coordinator_message::Message;
use mtinet_proto::v1::rank_exited::How;
use mtinet_proto::v1::{self, LookForDataset, StartRank};

use super::coordinator::{Ledger, artifact};
use super::*;

/// A data set that is on no worker.
fn elsewhere(dir: &Path) -> Dataset {
    let options =
        PhantomOptions { subjects: 10, size: 32, slices_per_subject: 2, ..PhantomOptions::default() };
    phantom::write(&dir.join("elsewhere"), &options, &|_, _| {}).unwrap()
}

fn message(dataset: &Dataset) -> v1::Dataset {
    v1::Dataset {
        name: dataset.header.name.clone(),
        path: dataset.dir.to_string_lossy().into_owned(),
        hash: dataset.hash(),
        phases: dataset.header.phases.clone(),
        classes: dataset.header.classes.clone(),
    }
}

fn of(dataset: &Dataset) -> impl Fn(&mut StartRank) {
    let message = message(dataset);
    move |start| start.dataset = Some(message.clone())
}

/// Stores all files of a data set, and their list.
fn store(coordinator: &Coordinator, dataset: &Dataset) -> usize {
    let (portable, sources) = PortableDataset::of(dataset).unwrap();
    for source in sources.values() {
        let content = std::fs::read(source).unwrap();
        coordinator.store(&artifact(&content), &content);
    }
    coordinator.change(|ledger| ledger.datasets.insert(portable.hash(), portable.to_json().unwrap()));
    sources.len()
}

fn cached(scene: &Scene, dataset: &Dataset) -> PathBuf {
    scene.dir.path().join("work/cache/datasets").join(dataset.hash())
}

#[tokio::test(flavor = "multi_thread")]
async fn ranks_that_start_together_get_a_data_set_that_arrives_damaged_at_first() {
    let scene = Scene::start("finish");
    let wanted = elsewhere(scene.dir.path());
    let files = store(&scene.coordinator, &wanted);
    scene.coordinator.change(|ledger| ledger.spoil = 3);
    scene.start_rank(of(&wanted)).await;
    scene
        .start_rank(|start| {
            of(&wanted)(start);
            (start.slot, start.attempt) = (1, another_attempt());
        })
        .await;
    let both = |ledger: &Ledger| {
        let ends: Vec<_> = ledger
            .facts()
            .filter_map(|fact| if let Fact::Exited(end) = fact { Some(end) } else { None })
            .collect();
        (ends.len() == 2).then(|| ends.iter().map(|end| (end.how, end.message.clone())).collect::<Vec<_>>())
    };
    for (how, words) in scene.coordinator.until("both ends", both).await {
        assert_eq!(how, Some(How::Code(0)), "{words}");
    }
    scene.coordinator.change(|ledger| {
        assert_eq!(ledger.lists, 1, "one of them fetched");
        assert_eq!(
            (ledger.spoil, ledger.gets),
            (0, files + 3),
            "what was damaged, and nothing else, came again"
        );
        // The trainer looks whether what it is given is a data set.
        assert_eq!(ledger.value("dataset"), Some(1.0));
    });
    let arrived = Dataset::open(&cached(&scene, &wanted)).unwrap();
    assert_eq!(arrived.hash(), wanted.hash());
    arrived.verify_files(&|_, _| {}).unwrap();
    let log = scene.dir.path().join("work/study-1-tiny/mti-net-0-0/1/rank0.log");
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("data set"), "the rank's log says what it waited for: {log}");
    scene.end().await;
}

fn another_attempt() -> Option<Attempt> {
    Some(Attempt { trial: Some(Trial { study: 2, key: "mti-net/0/0".to_owned() }), number: 1 })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_has_is_said_with_what_to_do() {
    let scene = Scene::start("finish");
    let wanted = elsewhere(scene.dir.path());
    scene.start_rank(of(&wanted)).await;
    let exit = scene.exit().await;
    assert_eq!((exit.how, exit.finished), (Some(How::NotStarted(true)), false));
    for words in [&wanted.hash(), "not under this worker's data root", "mtinet data upload"] {
        assert!(exit.message.contains(words), "{}", exit.message);
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_says_what_is_on_its_machine() {
    let scene = Scene::start("finish");
    let wanted = elsewhere(scene.dir.path());
    let there = assignment(scene.dir.path()).dataset;
    for (question, dataset) in [(1, there), (2, Some(message(&wanted)))] {
        scene.coordinator.say(Message::Look(LookForDataset { question, dataset })).await;
    }
    let told = |ledger: &Ledger| (ledger.told.len() == 2).then(|| ledger.told.clone());
    let mut told = scene.coordinator.until("two answers", told).await;
    told.sort_unstable();
    assert_eq!(told, [(1, true), (2, false)]);
    // What was fetched counts.
    store(&scene.coordinator, &wanted);
    scene.start_rank(of(&wanted)).await;
    assert_eq!(scene.exit().await.how, Some(How::Code(0)));
    let look = LookForDataset { question: 3, dataset: Some(message(&wanted)) };
    scene.coordinator.say(Message::Look(look)).await;
    scene.coordinator.until("an answer", |ledger| ledger.told.contains(&(3, true)).then_some(())).await;
    scene.end().await;
}
