//! What people ask for while a study runs.

use mtinet_domain::Rank;
use mtinet_domain::trial::{ProcessExit, TrialStatus};

use super::env::{TestEnv, checkpoint, trial};
use crate::{Command, Fact, Refusal, Request, WaitReason};

const ALL: Vec<mtinet_domain::TrialKey> = Vec::new();

#[test]
fn a_paused_study_saves_stops_and_goes_on_from_there() {
    let (mut env, study, a, head) = TestEnv::one_slot("");
    env.rank_reports(head, 0, Fact::Checkpoint(checkpoint(5, "c5")));
    assert_eq!(env.request(&Request::PauseStudy(study)), Ok(1));
    let told = env.agents[&a].told.last().cloned();
    assert!(matches!(told, Some(Command::StopAttempt { grace_ms: 1.., .. })), "time to save: {told:?}");
    assert_eq!((env.status(head), env.reason(head)), (TrialStatus::Waiting, Some(WaitReason::Paused)));
    assert_eq!(env.core.trial(head).unwrap().failures, 0);
    assert_eq!(env.core.study(study).unwrap().status(), "paused");
    assert_eq!(env.request(&Request::PauseStudy(study)), Ok(0), "twice means the same as once");
    env.restart(true);
    env.connect(&a);
    assert_eq!(env.running(), [], "a restart does not forget it");
    env.request(&Request::ResumeStudy(study)).unwrap();
    let (_, attempt) = env.at(head, 0);
    assert_eq!(env.agents[&a].processes[&(attempt, Rank(0))].resume, Some(checkpoint(5, "c5")));
    assert_eq!((env.count("study_paused"), env.count("study_resumed")), (1, 1));
}

#[test]
fn a_paused_trial_saves_stops_and_leaves_its_slot_to_the_next_until_it_is_resumed() {
    let (mut env, study, a, head) = TestEnv::one_slot("");
    let next = trial(study, "unet/0/0");
    env.rank_reports(head, 0, Fact::Checkpoint(checkpoint(5, "c5")));
    assert_eq!(env.request(&Request::PauseTrial(head)), Ok(1));
    assert_eq!((env.status(head), env.reason(head)), (TrialStatus::Waiting, Some(WaitReason::TrialPaused)));
    assert_eq!(env.core.trial(head).unwrap().failures, 0);
    assert_eq!(env.running(), [next]);
    assert_eq!(env.request(&Request::PauseTrial(head)), Ok(0), "twice means the same as once");
    env.restart(true);
    env.connect(&a);
    env.complete(next);
    // What is paused is not over, and neither is its study; pausing and resuming that changes nothing for it.
    for request in [Request::PauseStudy(study), Request::ResumeStudy(study)] {
        env.request(&request).unwrap();
    }
    env.advance(5000);
    assert_eq!((env.running(), env.core.study(study).unwrap().status()), (vec![], "running"));
    env.request(&Request::ResumeTrial(head)).unwrap();
    let (_, attempt) = env.at(head, 0);
    assert_eq!(env.agents[&a].processes[&(attempt, Rank(0))].resume, Some(checkpoint(5, "c5")));
    env.complete(head);
    assert_eq!((env.count("trial_paused"), env.count("trial_resumed")), (1, 1));
    let refused = env.request(&Request::PauseTrial(head)).unwrap_err();
    assert!(
        matches!(refused, Refusal::State(_)) && refused.to_string().contains("done already"),
        "{refused}"
    );
}

#[test]
fn a_paused_trial_is_cancelled_and_a_retry_forgets_that_it_was_paused() {
    let mut env = TestEnv::new();
    let study = env.submit("folds = [0]");
    let (head, next) = (trial(study, "mti-net/0/0"), trial(study, "unet/0/0"));
    env.request(&Request::PauseTrial(head)).unwrap();
    env.join_cpus("a", 2);
    assert_eq!(env.running(), [next], "what is paused before it ran does not start");
    env.request(&Request::CancelTrial(head)).unwrap();
    assert_eq!(env.status(head), TrialStatus::Cancelled);
    env.restart(true);
    env.connect(&super::env::worker("a"));
    env.request(&Request::RetryTrials { study, trials: ALL }).unwrap();
    assert_eq!(env.running(), [head, next]);
    // A study takes its paused trials along.
    env.request(&Request::PauseTrial(head)).unwrap();
    env.request(&Request::CancelStudy(study)).unwrap();
    assert_eq!(env.core.study(study).unwrap().status(), "cancelled");
}

#[test]
fn others_use_the_slots_of_a_paused_study() {
    let mut env = TestEnv::new();
    let first = env.submit("folds = [0]");
    let second = env.submit("folds = [0]");
    env.join_cpus("a", 1);
    env.request(&Request::PauseStudy(first)).unwrap();
    assert_eq!(env.running(), [trial(second, "mti-net/0/0")]);
}

#[test]
fn work_that_is_finished_while_it_is_being_stopped_counts() {
    let (mut env, study, a, head) = TestEnv::one_slot("");
    env.break_off(&a);
    // It finishes before the command reaches it.
    env.complete_unheard(head);
    env.request(&Request::PauseStudy(study)).unwrap();
    env.connect(&a);
    assert_eq!(env.status(head), TrialStatus::Done);
}

#[test]
fn one_trial_is_cancelled_and_stays_so_whatever_becomes_of_its_worker() {
    let mut env = TestEnv::new();
    let study = env.submit("folds = [0]");
    let a = env.join_cpus("a", 1);
    let (head, next) = (trial(study, "mti-net/0/0"), trial(study, "unet/0/0"));
    env.break_off(&a);
    env.request(&Request::CancelTrial(head)).unwrap();
    assert_eq!(env.status(head), TrialStatus::Stopping);
    env.kill(&a);
    env.advance(super::env::LEASE_MS + 250);
    assert_eq!(env.status(head), TrialStatus::Cancelled);
    env.join_cpus("b", 1);
    env.complete(next);
    assert_eq!(env.core.study(study).unwrap().status(), "incomplete");
    let refused = env.request(&Request::CancelTrial(next)).unwrap_err();
    assert!(refused.to_string().contains("done already"), "{refused}");
    env.restart(true);
}

#[test]
fn a_study_that_is_over_goes_on_when_its_trials_are_retried() {
    let mut env = TestEnv::new();
    let study = env.submit("folds = [0]\n[retry]\nmax_attempts = 1");
    let a = env.join_cpus("a", 1);
    let (head, next) = (trial(study, "mti-net/0/0"), trial(study, "unet/0/0"));
    env.rank_reports(head, 0, Fact::Checkpoint(checkpoint(5, "c5")));
    env.rank_fails(head, 0, ProcessExit::Code(1), "disk full");
    env.request(&Request::CancelTrial(next)).unwrap();
    assert_eq!(env.count("study_finished"), 1);
    let done = trial(study, "unet/0/0").key;
    assert_eq!(env.request(&Request::RetryTrials { study, trials: ALL }), Ok(2));
    assert_eq!(env.core.study(study).unwrap().status(), "running");
    let (_, attempt) = env.at(head, 0);
    assert_eq!(env.agents[&a].processes[&(attempt, Rank(0))].resume, Some(checkpoint(5, "c5")));
    assert_eq!(env.core.trial(head).unwrap().failures, 0);
    env.restart(true);
    env.connect(&a);
    env.complete(head);
    env.complete(next);
    assert_eq!((env.count("study_finished"), env.core.study(study).unwrap().status()), (2, "complete"));
    let refused = env.request(&Request::RetryTrials { study, trials: vec![done] }).unwrap_err();
    assert!(matches!(&refused, Refusal::State(words) if words.contains("is done")), "{refused:?}");
    env.core.emptiness_check().unwrap();
}

#[test]
fn a_drained_worker_gives_its_trials_away_and_gets_none_until_undrained() {
    let (mut env, study, a, head) = TestEnv::one_slot("");
    assert_eq!(env.request(&Request::Drain("a".into())), Ok(1));
    assert_eq!(env.running(), []);
    let reason = env.reason(head).unwrap();
    assert_eq!(reason, WaitReason::NoUsableWorkers { drained: 1, set_aside: 0 });
    env.restart(true);
    env.connect(&a);
    assert_eq!(env.running(), [], "a restart does not forget it");
    let b = env.join_cpus("b", 1);
    assert_eq!(env.at(head, 0).0, b);
    assert_eq!(env.core.trial(head).unwrap().failures, 0);
    env.request(&Request::Undrain("a".into())).unwrap();
    assert_eq!(env.at(trial(study, "unet/0/0"), 0).0, a);
    let refused = env.request(&Request::Drain("nobody".into())).unwrap_err();
    assert!(matches!(refused, Refusal::Unknown(_)), "{refused:?}");
}
