//! A release is replaced part by part while a study runs, as docs/upgrades.md says: orderly ends instead of faults.
#![expect(clippy::unwrap_used, reason = "a test's helpers may panic as the test may")]

use std::time::Duration;

use mtinet_domain::event::{Event, Recorded};
use mtinet_domain::trial::AttemptEnd;
use mtinet_tests::cluster::Cluster;
use mtinet_tests::phantom_dataset;
use mtinet_tests::processes::{Process, children};
use nix::sys::signal::{Signal, kill};

fn study() -> String {
    format!(
        "name = \"rolling\"\ndataset = \"{}\"\narms = [\"seg-only\"]\nfolds = [2]\n[model]\npreset = \"tiny64\"\n\
         [train]\nsteps = 150\nbatch_size = 2\nimage_size = 64\nlearning_rate = 1e-3\n",
        phantom_dataset().display()
    )
}

fn past_step(wanted: u64) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::Metrics { records, .. } if records.iter().any(|record| record.step >= wanted))
}

fn last_step(events: &[Recorded]) -> u64 {
    let steps = events.iter().filter_map(|recorded| match &recorded.event {
        Event::Metrics { records, .. } => records.iter().map(|record| record.step).max(),
        _ => None,
    });
    steps.max().unwrap_or_default()
}

fn end_in_order(process: &mut Process, what: &str) {
    kill(process.pid(), Signal::SIGTERM).unwrap();
    let status =
        process.end_within(Duration::from_secs(60)).unwrap_or_else(|| panic!("the {what} does not end"));
    assert!(status.success(), "the {what} ended with {status}");
}

#[test]
fn a_study_runs_through_while_coordinator_and_workers_are_replaced() {
    let mut cluster = Cluster::start();
    let mut first = cluster.worker("first", 1, phantom_dataset());
    let id = cluster.submit(&study());
    cluster.wait_for(id, "progress", past_step(5));
    // The coordinator: the trainer goes on meanwhile, and its attempt is adopted.
    let trainers = children(first.pid());
    end_in_order(cluster.coordinator(), "coordinator");
    cluster.start_coordinator();
    assert_eq!(children(first.pid()), trainers, "the trainer goes on meanwhile");
    let before = last_step(&cluster.events(id));
    cluster.wait_for(id, "progress with the new coordinator", past_step(before + 5));
    // The worker: its trial goes on with the next one, from what was saved at its end.
    let _second = cluster.worker("second", 1, phantom_dataset());
    end_in_order(&mut first, "worker");
    let events = cluster.wait_until_complete(id);
    let ends: Vec<&AttemptEnd> = events
        .iter()
        .filter_map(|recorded| match &recorded.event {
            Event::AttemptEnded { end, .. } => Some(end),
            _ => None,
        })
        .collect();
    assert!(
        matches!(ends[..], [AttemptEnd::WorkerLost { .. }, AttemptEnd::Completed]),
        "no failure counts: {ends:?}"
    );
    let resumed = events.iter().rev().find_map(|recorded| match &recorded.event {
        Event::AttemptStarted { resume, .. } => Some(resume.as_ref().map(|checkpoint| checkpoint.step)),
        _ => None,
    });
    assert!(
        resumed.flatten().is_some_and(|step| step > before),
        "saved at the end of the first: {resumed:?}"
    );
}
