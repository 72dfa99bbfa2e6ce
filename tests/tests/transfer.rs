//! A worker that does not have the data set of a study gets it from the coordinator, and computes what the others do.

use std::path::{Path, PathBuf};

use mtinet_data::Dataset;
use mtinet_domain::event::Event;
use mtinet_tests::cluster::Cluster;
use mtinet_tests::hosts::Place;
use mtinet_tests::studies::{Study, failures};
use mtinet_tests::{phantom_dataset, program, stderr};

/// Two ranks on two workers: neither can do without the other.
fn study() -> Study {
    Study { steps: 10, ..Study::gang() }
}

/// The data set in a worker's cache.
fn cached(cluster: &Cluster, worker: &str) -> PathBuf {
    let hash = Dataset::open(phantom_dataset()).expect("the phantom opens").hash();
    cluster.work_dir(&Place::default(), worker).join("cache/datasets").join(hash)
}

#[test]
fn a_worker_without_the_data_set_fetches_it_and_the_bits_are_the_same() {
    let cluster = Cluster::start();
    let empty = tempfile::tempdir().expect("a temporary directory");
    let _with = cluster.worker("with", 1, phantom_dataset());
    let _without = cluster.worker("without", 1, empty.path());
    cluster.wait_for_workers(2);
    let study = study();
    let events = cluster.wait_until_complete(cluster.submit(&study.file()));
    let placed = events.iter().find_map(|recorded| match &recorded.event {
        Event::AttemptStarted { placements, .. } => Some(placements.len()),
        _ => None,
    });
    assert_eq!((placed, failures(&events).len()), (Some(2), 0), "both took part at the first try");
    assert!(!cached(&cluster, "with").exists(), "who has it fetches nothing");
    let arrived = Dataset::open(&cached(&cluster, "without")).expect("it was fetched");
    arrived.verify_files(&|_, _| {}).expect("it is whole");
    assert_eq!(
        std::fs::read_dir(empty.path()).expect("the data root").count(),
        0,
        "the data root stays the user's"
    );
    // Against workers that both have it under their data root.
    study.assert_undisturbed(&events);
}

#[test]
fn what_was_not_brought_is_said_and_can_be_brought_afterwards() {
    let cluster = Cluster::start();
    let empty = tempfile::tempdir().expect("a temporary directory");
    let _without = cluster.worker("without", 1, empty.path());
    cluster.wait_for_workers(1);
    let study = Study { steps: 4, ..Study::solo() };
    let file = study.file().replace("max_attempts = 40", "max_attempts = 1");
    let number = cluster.submit_with(&file, &["--upload-data", "never"]);
    let over = |event: &Event| matches!(event, Event::TrialFailed { .. });
    cluster.wait_for(number, "a failed trial", over);
    let trial = study.trials()[0].to_string();
    let said = run(&cluster, &["explain", &trial]);
    assert!(said.contains("not under this worker's data root"), "{said}");
    assert!(said.contains("mtinet data upload"), "{said}");
    run(&cluster, &["data", "upload", path(phantom_dataset())]);
    run(&cluster, &["study", "retry", &number.to_string()]);
    let done = |event: &Event| matches!(event, Event::TrialEvaluated { .. });
    cluster.wait_for(number, "results", done);
    assert!(cached(&cluster, "without").join("dataset.toml").exists());
    let said = run(&cluster, &["data", "upload", path(phantom_dataset())]);
    assert!(said.contains("0 were sent"), "nothing is sent twice: {said}");
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// What a command of the coordinator's operator prints.
fn run(cluster: &Cluster, arguments: &[&str]) -> String {
    let mut command = std::process::Command::new(program("mtinet"));
    let output = command.args(arguments).arg("--coordinator").arg(cluster.data_dir()).output();
    let output = output.expect("mtinet starts");
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
