//! Workers are lost, come back, and the coordinator starts again.

use mtinet_domain::event::Event;
use mtinet_domain::trial::{AttemptEnd, ProcessExit, TrialStatus};
use mtinet_domain::{AttemptNumber, Rank};

use super::env::{LEASE_MS, TestEnv, checkpoint, trial};
use crate::{Command, Fact, Link, WaitReason};

#[test]
fn a_dropped_session_is_no_loss_and_silence_is() {
    let (mut env, _, a, head) = TestEnv::one_slot("");
    env.rank_reports(head, 0, Fact::Checkpoint(checkpoint(5, "c5")));
    env.kill(&a);
    env.advance(LEASE_MS - 500);
    assert_eq!((env.status(head), env.link(&a)), (TrialStatus::Running, Some(Link::Away)));
    env.advance(500);
    assert_eq!((env.status(head), env.link(&a)), (TrialStatus::Waiting, Some(Link::Lost)));
    assert_eq!(env.reason(head), Some(WaitReason::NoWorkers));
    let b = env.join_cpus("b", 1);
    let (at, attempt) = env.at(head, 0);
    assert_eq!((&at, attempt.number), (&b, AttemptNumber(2)));
    assert_eq!(env.agents[&b].processes[&(attempt, Rank(0))].resume, Some(checkpoint(5, "c5")));
    assert_eq!(env.core.trial(head).unwrap().failures, 0, "losing a worker does not count");
    env.advance(700_000);
    assert_eq!(env.link(&a), None);
}

#[test]
fn a_lost_worker_stops_the_ranks_elsewhere_before_the_trial_is_started_again() {
    let mut env = TestEnv::new();
    let study = env.submit("folds = [0]\n[train]\nreplicas = 2\n[resources]\nranks = 2\n");
    let a = env.join_cpus("a", 1);
    let b = env.join_cpus("b", 1);
    let head = trial(study, "mti-net/0/0");
    let dead = env.at(head, 1).0;
    let other = if dead == a { b } else { a };
    env.kill(&dead);
    env.advance(LEASE_MS);
    assert!(matches!(env.agents[&other].told.last(), Some(Command::StopAttempt { grace_ms: 0, .. })));
    let ended = env.log.iter().find_map(|recorded| match &recorded.event {
        Event::AttemptEnded { end: AttemptEnd::WorkerLost { worker, .. }, .. } => Some(worker.clone()),
        _ => None,
    });
    assert_eq!(ended, Some(dead));
    assert_eq!(env.status(head), TrialStatus::Waiting);
}

#[test]
fn a_worker_that_was_given_up_comes_back_without_its_ranks() {
    let (mut env, study, a, head) = TestEnv::one_slot("");
    let (_, first) = env.at(head, 0);
    env.cut(&a);
    let b = env.join_cpus("b", 1);
    env.complete(trial(study, "unet/0/0"));
    env.advance(LEASE_MS + 250);
    assert_eq!(env.at(head, 0).0, b);
    // It trained on and reports, all for an attempt that is over.
    env.report(&a, first, Rank(0), Fact::Checkpoint(checkpoint(7, "c7")));
    env.connect(&a);
    assert!(
        matches!(env.agents[&a].told.last(), Some(Command::StopAttempt { attempt, .. }) if *attempt == first)
    );
    assert_eq!(env.core.trial(head).unwrap().latest, None);
    assert_eq!(env.link(&a), Some(Link::Ready));
    let second = env.submit("folds = [0]");
    assert_eq!(env.at(trial(second, "mti-net/0/0"), 0).0, a, "its slot is free again");
}

#[test]
fn running_ranks_are_adopted_after_a_restart() {
    let (mut env, study, a, head) = TestEnv::one_slot("");
    env.rank_reports(head, 0, Fact::Checkpoint(checkpoint(5, "c5")));
    env.restart(false);
    let (_, attempt) = env.at(head, 0);
    // It exits while the coordinator is away; another worker is there first.
    env.exit(&a, attempt, Rank(0), ProcessExit::Signal(9), false, "");
    let b = env.join_cpus("b", 1);
    env.advance(10_000);
    assert_eq!(env.status(head), TrialStatus::Running, "the grace is not over");
    assert_eq!(env.at(trial(study, "unet/0/0"), 0).0, b);
    env.connect(&a);
    assert_eq!(env.core.trial(head).unwrap().failures, 1, "its exit report is taken in");
    env.advance(1000);
    assert_eq!(env.at(head, 0).1.number, AttemptNumber(2));
}

#[test]
fn nobody_waits_longer_than_the_grace_for_a_worker_after_a_restart() {
    let mut env = TestEnv::new();
    let study = env.submit("folds = [0]");
    env.join_cpus("a", 1);
    env.restart(true);
    env.join_cpus("b", 2);
    let head = trial(study, "mti-net/0/0");
    env.advance(14_750);
    assert_eq!(env.at(head, 0).0.0, "a");
    env.advance(250);
    assert_eq!(env.at(head, 0).0.0, "b");
}

#[test]
fn a_start_command_that_was_lost_is_sent_again() {
    let mut env = TestEnv::new();
    let a = env.join_cpus("a", 1);
    env.agents.get_mut(&a).unwrap().linked = false;
    let study = env.submit("folds = [0]");
    let head = trial(study, "mti-net/0/0");
    assert!(env.agents[&a].processes.is_empty());
    env.cut(&a);
    env.connect(&a);
    assert_eq!(env.at(head, 0).1.number, AttemptNumber(1));
    assert_eq!(env.agents[&a].processes.len(), 1);
    env.complete(head);
}

#[test]
fn a_rank_that_its_worker_forgot_is_lost() {
    let (mut env, _, a, head) = TestEnv::one_slot("");
    env.rank_reports(head, 0, Fact::Started);
    env.agents.get_mut(&a).unwrap().processes.clear();
    env.cut(&a);
    env.connect(&a);
    assert_eq!(env.count("rank_lost"), 1);
    assert_eq!(env.at(head, 0).1.number, AttemptNumber(2));
}

#[test]
fn an_exit_whose_acknowledgement_was_lost_leaves_no_slot_held() {
    let mut env = TestEnv::new();
    let study = env.submit("folds = [0]");
    let a = env.join_cpus("a", 1);
    env.complete(trial(study, "mti-net/0/0"));
    env.cut(&a);
    env.connect(&a);
    env.complete(trial(study, "unet/0/0"));
    env.restart(true);
    env.connect(&a);
    env.core.emptiness_check().unwrap();
}

#[test]
fn a_coordinator_that_was_suspended_blames_nobody() {
    let mut env = TestEnv::new();
    let study = env.submit("folds = [0]");
    let a = env.join_cpus("a", 1);
    env.advance(1000);
    env.now += 60_000;
    let effects = env.core.on_tick(env.now);
    env.perform(effects);
    assert_eq!(
        (env.status(trial(study, "mti-net/0/0")), env.link(&a)),
        (TrialStatus::Running, Some(Link::Ready))
    );
}

#[test]
fn a_coordinator_that_is_slow_all_the_time_still_loses_a_dead_worker() {
    let mut env = TestEnv::new();
    let study = env.submit("folds = [0]");
    let a = env.join_cpus("a", 1);
    env.break_off(&a);
    for _ in 0..100 {
        env.now += LEASE_MS * 6 / 10;
        let effects = env.core.on_tick(env.now);
        env.perform(effects);
    }
    assert_eq!(env.link(&a), Some(Link::Lost));
    assert_eq!(env.status(trial(study, "mti-net/0/0")), TrialStatus::Waiting);
}

#[test]
fn a_pause_that_a_wrong_clock_wrote_does_not_outlast_a_restart() {
    let (mut env, study, a, head) = TestEnv::one_slot("");
    let right = env.now;
    env.now += 24 * 3_600_000;
    env.rank_fails(head, 0, ProcessExit::Code(1), "loss is nan");
    env.now = right;
    env.restart(true);
    env.connect(&a);
    env.complete(trial(study, "unet/0/0"));
    env.advance(3_600_500);
    assert_eq!(env.core.trial(head).unwrap().attempts, 2, "{:?}", env.reason(head));
}

#[test]
fn a_log_that_does_not_fit_together_is_refused() {
    let mut env = TestEnv::new();
    env.submit("folds = [0]");
    env.join_cpus("a", 1);
    let mut core = crate::Core::new(crate::CoreConfig::default());
    let error = core.apply(&env.log[1]).unwrap_err();
    assert!(error.to_string().contains("mti-net/0/0"), "{error}");
    core.apply(&env.log[0]).unwrap();
    assert!(core.apply(&env.log[0]).is_err());
}

#[test]
fn an_attempt_is_as_old_as_the_log_says_whatever_this_process_went_through() {
    let (mut env, _, a, head) = TestEnv::one_slot("");
    assert_eq!(env.core.oldest_attempt_ms(), Some(env.now));
    let begun = env.now;
    env.advance(5000);
    // It is suspended, then killed: neither makes what was stored meanwhile older than the attempt.
    env.now += 60_000;
    let effects = env.core.on_tick(env.now);
    env.perform(effects);
    assert_eq!(env.core.oldest_attempt_ms(), Some(begun));
    env.restart(true);
    assert_eq!(env.core.oldest_attempt_ms(), Some(begun));
    env.connect(&a);
    env.complete(head);
    assert!(env.core.oldest_attempt_ms() > Some(begun), "the next trial's");
}

#[test]
fn a_restart_leaves_what_was_let_go_of_alone() {
    let (mut env, _, a, head) = TestEnv::one_slot("");
    for step in [10, 20, 30] {
        env.rank_reports(head, 0, Fact::Checkpoint(checkpoint(step, &format!("c{step}"))));
    }
    assert_eq!(env.discarded.iter().collect::<Vec<_>>(), ["c10"]);
    env.restart(true);
    env.connect(&a);
    assert_eq!(env.discarded.len(), 1, "the newest and the one before stay: {:?}", env.discarded);
    env.complete(head);
    assert_eq!(env.discarded.iter().collect::<Vec<_>>(), ["c10", "c20", "c30"]);
    env.restart(true);
}
