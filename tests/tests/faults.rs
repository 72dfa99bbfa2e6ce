//! Studies through the real coordinator, agents and trainers, with and without faults: the results are the same bits.
//!
//! Every test proves that its fault happened.
#![expect(clippy::unwrap_used, reason = "a test's helpers may panic as the test may")]

use std::sync::{Mutex, MutexGuard, PoisonError};

use mtinet_domain::TrialKey;
use mtinet_domain::event::{Event, Recorded};
use mtinet_domain::trial::{AttemptEnd, ProcessExit};
use mtinet_tests::cluster::{Cluster, Outcome};
use mtinet_tests::phantom_dataset;
use mtinet_tests::processes::{children, kill_now};

const STEPS: u64 = 120;

/// Two machines' worth of training at once is all that the small test machines take.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn study(arm: &str, ranks: u32) -> String {
    format!(
        "name = \"faults\"\ndataset = \"{}\"\narms = [\"{arm}\"]\nfolds = [2]\nseeds = [4]\n[model]\npreset = \"tiny64\"\n\
         [train]\nsteps = {STEPS}\nbatch_size = 2\nreplicas = 2\nimage_size = 64\nlearning_rate = 1e-3\neval_every = 5\n\
         [resources]\nranks = {ranks}\n[checkpoint]\nevery_steps = 7\n",
        phantom_dataset().display()
    )
}

fn key(arm: &str) -> TrialKey {
    format!("{arm}/2/4").parse().unwrap()
}

/// The study left alone, on one worker with as many slots as ranks.
fn undisturbed(arm: &str, ranks: u32) -> Outcome {
    let cluster = Cluster::start();
    let _worker = cluster.worker("alone", ranks, phantom_dataset());
    let events = cluster.wait_until_complete(cluster.submit(&study(arm, ranks)));
    let outcome = Outcome::of(&events, key(arm));
    assert_eq!(outcome.attempts, 1);
    let steps = outcome.metrics.keys().filter(|(scope, _)| scope == "Step").count() as u64;
    assert_eq!(steps, STEPS, "every step is measured");
    outcome
}

fn past_step(wanted: u64) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::Metrics { records, .. } if records.iter().any(|record| record.step >= wanted))
}

fn ends(events: &[Recorded]) -> Vec<&AttemptEnd> {
    let end = |recorded| match recorded {
        &Recorded { event: Event::AttemptEnded { ref end, .. }, .. } => Some(end),
        _ => None,
    };
    events.iter().filter_map(end).collect()
}

/// The checkpoint that the last attempt went on from.
fn resumed_from(events: &[Recorded]) -> Option<u64> {
    events.iter().rev().find_map(|recorded| match &recorded.event {
        Event::AttemptStarted { resume, .. } => resume.as_ref().map(|checkpoint| checkpoint.step),
        _ => None,
    })
}

fn assert_same_results(disturbed: &Outcome, alone: &Outcome) {
    assert_eq!(disturbed.weights, alone.weights, "weights differ");
    assert_eq!(disturbed.evaluation, alone.evaluation, "held-out results differ");
    assert_eq!(disturbed.metrics, alone.metrics, "metrics differ");
}

#[test]
fn a_killed_trainer_resumes_to_the_same_bits() {
    let _turn = one_at_a_time();
    let alone = undisturbed("mti-net", 2);
    for victim in [0, 1] {
        let cluster = Cluster::start();
        let worker = cluster.worker("w", 2, phantom_dataset());
        let id = cluster.submit(&study("mti-net", 2));
        cluster.wait_for(id, "progress", past_step(20 + 13 * victim as u64));
        let trainers = children(worker.pid());
        assert_eq!(trainers.len(), 2, "one process a rank");
        kill_now(trainers[victim]);
        let events = cluster.wait_until_complete(id);
        let killed = |end: &&AttemptEnd| matches!(end, AttemptEnd::Failed(cause) if cause.exit == ProcessExit::Signal(9));
        assert_eq!(ends(&events).iter().filter(|end| killed(end)).count(), 1, "{:?}", ends(&events));
        assert!(resumed_from(&events).is_some_and(|step| step >= 7), "it went on from a checkpoint");
        let outcome = Outcome::of(&events, key("mti-net"));
        assert_eq!(outcome.attempts, 2);
        assert_same_results(&outcome, &alone);
    }
}

#[test]
fn a_killed_worker_s_trial_goes_on_elsewhere() {
    let _turn = one_at_a_time();
    let alone = undisturbed("seg-only", 1);
    let cluster = Cluster::start();
    let first = cluster.worker("first", 1, phantom_dataset());
    let id = cluster.submit(&study("seg-only", 1));
    cluster.wait_for(id, "a checkpoint", |event| matches!(event, Event::CheckpointStored { .. }));
    let _second = cluster.worker("second", 1, phantom_dataset());
    let orphans = children(first.pid());
    assert_eq!(orphans.len(), 1);
    first.kill();
    let events = cluster.wait_until_complete(id);
    assert!(
        matches!(ends(&events)[..], [AttemptEnd::WorkerLost { .. }, AttemptEnd::Completed]),
        "{:?}",
        ends(&events)
    );
    assert!(resumed_from(&events).is_some(), "it went on from a checkpoint");
    assert_same_results(&Outcome::of(&events, key("seg-only")), &alone);
    assert!(
        !std::path::Path::new(&format!("/proc/{}", orphans[0])).exists(),
        "the trainer outlived its agent"
    );
}

#[test]
fn a_killed_coordinator_finds_its_study_again_and_the_trainer_never_stops() {
    let _turn = one_at_a_time();
    let alone = undisturbed("mti-net", 1);
    let mut cluster = Cluster::start();
    let worker = cluster.worker("w", 1, phantom_dataset());
    let id = cluster.submit(&study("mti-net", 1));
    let before = cluster.wait_for(id, "progress", past_step(15));
    let trainers = children(worker.pid());
    cluster.kill_coordinator();
    cluster.start_coordinator();
    assert_eq!(children(worker.pid()), trainers, "the trainer goes on meanwhile");
    let events = cluster.wait_until_complete(id);
    assert_eq!(events[..before.len()], before, "nothing that was recorded is lost");
    assert!(events.iter().zip(1..).all(|(recorded, seq)| recorded.seq == seq), "no gap and no double");
    let outcome = Outcome::of(&events, key("mti-net"));
    assert_eq!(outcome.attempts, 1, "the attempt was adopted, not started again");
    assert_same_results(&outcome, &alone);
}
