//! Workers on which attempts keep failing, ranks that do not arrive, and the tail of a study.

use mtinet_domain::event::{Event, RankLoss};
use mtinet_domain::fleet::FleetEvent;
use mtinet_domain::trial::{AttemptEnd, Device, Hang, ProcessExit, TrialStatus};
use mtinet_domain::{AttemptId, AttemptNumber, Rank, SlotIndex, TrialId, WorkerId};

use super::env::{GANG_OF_2, TestEnv, checkpoint, metrics, trial};
use crate::{Command, Fact, Request, TrialState, WaitReason};

fn on(env: &TestEnv, worker: &WorkerId) -> Vec<TrialId> {
    env.running().into_iter().filter(|id| env.at(*id, 0).0 == *worker).collect()
}

#[test]
fn a_worker_with_a_wrong_data_root_fails_no_study() {
    let mut env = TestEnv::new();
    let study = env.submit("[retry]\nmax_attempts = 1");
    let bad = env.join_cpus("bad", 1);
    let good = env.join_cpus("good", 1);
    let mut failed = 0;
    while env.core.study(study).unwrap().outcome.is_none() {
        if let Some(id) = on(&env, &bad).first() {
            env.rank_fails(*id, 0, ProcessExit::NotStarted, "no data set here");
            failed += 1;
        }
        let id = on(&env, &good)[0];
        env.complete(id);
    }
    assert_eq!(env.core.study(study).unwrap().status(), "complete");
    assert_eq!(failed, 2, "after that it is set aside");
    let aside = env.fleet_log.last().unwrap();
    assert!(
        matches!(aside, FleetEvent::WorkerSetAside { reason, .. } if reason.contains("no data set here"))
    );
    assert_eq!(env.core.trial(trial(study, "mti-net/0/0")).unwrap().failures, 0);
    env.restart(true);
    env.connect(&bad);
    env.connect(&good);
    let second = env.submit("folds = [0]");
    assert_eq!(on(&env, &bad), [], "a restart does not forget it");
    env.request(&Request::Readmit("bad".into())).unwrap();
    assert_eq!(on(&env, &bad), [trial(second, "unet/0/0")]);
}

/// An agent of a machine that is set aside, beside a good one.
fn set_aside() -> (TestEnv, WorkerId) {
    let mut env = TestEnv::new();
    env.submit("folds = [0, 1, 2]");
    let bad = env.join_named("bad.1", "node1", 1);
    env.join_cpus("good", 1);
    for _ in 0..2 {
        let id = on(&env, &bad)[0];
        env.rank_fails(id, 0, ProcessExit::NotStarted, "no data set here");
    }
    assert!(matches!(env.fleet_log.last(), Some(FleetEvent::WorkerSetAside { .. })));
    (env, bad)
}

fn is_set_aside(env: &TestEnv, id: &WorkerId) -> bool {
    env.core.workers().any(|(other, worker)| other == id && worker.set_aside.is_some())
}

#[test]
fn a_machine_stays_set_aside_when_its_agent_starts_anew() {
    let (mut env, bad) = set_aside();
    // Another agent of the same identity and one on a machine of the same name are not to blame.
    let beside = env.join_named("bad.2", "node1", 1);
    let elsewhere = env.join_named("bad.3", "node2", 1);
    let namesake = env.join_named("other.1", "node1", 1);
    for id in [&beside, &elsewhere, &namesake] {
        assert!(!is_set_aside(&env, id), "{id}");
    }
    env.kill(&beside);
    env.kill(&bad);
    let again = env.join_named("bad.4", "node1", 1);
    assert!(is_set_aside(&env, &again));
    env.restart(true);
    env.connect(&WorkerId("good".into()));
    env.connect(&again);
    assert!(is_set_aside(&env, &again), "{:?}", env.fleet_log);
    env.request(&Request::Readmit(again.0.clone())).unwrap();
    env.kill(&again);
    let clean = env.join_named("bad.5", "node1", 1);
    assert!(!is_set_aside(&env, &clean), "whoever readmits a machine means it");
}

#[test]
fn after_a_restart_an_agent_has_time_to_come_back_before_another_is_taken_for_its_successor() {
    let (mut env, bad) = set_aside();
    env.restart(true);
    env.connect(&WorkerId("good".into()));
    let beside = env.join_named("bad.2", "node1", 1);
    env.connect(&bad);
    assert!(!is_set_aside(&env, &beside) && is_set_aside(&env, &bad));
}

#[test]
fn what_cannot_be_done_without_does_not_inherit_a_mark() {
    let (mut env, bad) = set_aside();
    env.kill(&bad);
    env.kill(&WorkerId("good".into()));
    env.advance(super::env::LEASE_MS + 250);
    let again = env.join_named("bad.2", "node1", 1);
    assert!(!is_set_aside(&env, &again));
}

#[test]
fn marks_of_those_who_are_gone_for_good_are_forgotten() {
    let (mut env, bad) = set_aside();
    env.request(&Request::Drain("good".into())).unwrap();
    env.kill(&bad);
    env.advance(1000);
    let month = crate::CoreConfig::default().forget_marks_ms;
    env.now += month - 5000;
    env.advance(1000);
    assert_eq!(env.core.marks.len(), 2);
    env.now += 5000;
    env.advance(1000);
    assert_eq!(env.core.marks.len(), 1, "who is here stays drained: {:?}", env.fleet_log);
    assert_eq!(env.fleet_log.last(), Some(&FleetEvent::WorkerForgotten { worker: bad }));
    env.restart(true);
}

#[test]
fn a_trial_waits_for_another_worker_and_leaves_this_one_to_others() {
    let mut env = TestEnv::new();
    let study = env.submit("folds = [0, 1]");
    let bad = env.join_cpus("bad", 1);
    env.join_cpus("good", 1);
    let failed = on(&env, &bad)[0];
    env.rank_fails(failed, 0, ProcessExit::NotStarted, "no data set here");
    assert!(matches!(env.last_end(), AttemptEnd::Unfit { worker, .. } if worker == bad));
    let reason = env.reason(failed).unwrap();
    assert!(matches!(reason, WaitReason::Elsewhere { needed: 1, total: 1, .. }), "{reason:?}");
    assert_eq!(on(&env, &bad), [trial(study, "unet/0/0")], "those behind it use the slot");
    // When nobody else is left, it is tried again where it failed, and failures count.
    env.kill(&WorkerId("good".into()));
    env.advance(super::env::LEASE_MS + 250);
    env.complete(trial(study, "unet/0/0"));
    assert_eq!(on(&env, &bad), [failed]);
}

#[test]
fn two_trials_that_wait_for_another_worker_leave_this_one_to_those_behind_both() {
    let mut env = TestEnv::new();
    let study = env.submit("folds = [0, 1, 2]");
    let bad = env.join_cpus("bad", 1);
    env.join_cpus("good", 1);
    let first = on(&env, &bad)[0];
    env.rank_fails(first, 0, ProcessExit::NotStarted, "no room");
    // A success between them, so that the worker is not set aside.
    env.complete(on(&env, &bad)[0]);
    let second = on(&env, &bad)[0];
    env.rank_fails(second, 0, ProcessExit::NotStarted, "no room");
    assert_eq!(on(&env, &bad), [trial(study, "unet/1/0")]);
    let reason = env.reason(first).unwrap();
    assert!(matches!(reason, WaitReason::Elsewhere { free: 0, total: 1, .. }), "{reason:?}");
    assert_eq!(env.reason(second), Some(WaitReason::Behind(first)));
}

#[test]
fn a_worker_that_cannot_be_done_without_is_not_blamed_without_end() {
    let mut env = TestEnv::new();
    env.submit("folds = 5\n[retry]\nmax_attempts = 100\nbackoff = 0");
    let only = env.join_cpus("only", 1);
    for step in 0..200 {
        let id = on(&env, &only)[0];
        env.rank_fails(id, 0, ProcessExit::Code(1), &format!("failure {step}"));
        env.advance(250);
    }
    assert!(env.core.health.remembered(&only) <= 16);
}

#[test]
fn the_same_failure_on_two_workers_is_the_trials_own() {
    let mut env = TestEnv::new();
    let study = env.submit("folds = [0, 1, 2]\n[retry]\nbackoff = 0");
    let (a, b) = (env.join_cpus("a", 3), env.join_cpus("b", 3));
    // Every trial of an arm fails at the same step, wherever it runs.
    for _ in 0..20 {
        for id in env.running() {
            env.rank_fails(id, 0, ProcessExit::Code(1), "loss is nan");
        }
        env.advance(500);
    }
    assert_eq!(env.core.study(study).unwrap().status(), "incomplete");
    let usable = |id: &WorkerId| env.core.workers().any(|(other, worker)| other == id && worker.is_usable());
    assert!(usable(&a) && usable(&b), "nobody is to blame: {:?}", env.fleet_log);
}

#[test]
fn one_worker_alone_cannot_use_up_a_trial() {
    let mut env = TestEnv::new();
    let study = env.submit("folds = [0]\n[retry]\nbackoff = 0");
    let bad = env.join_cpus("bad", 1);
    let good = env.join_cpus("good", 1);
    let failed = on(&env, &bad)[0];
    let other = on(&env, &good)[0];
    for _ in 0..2 {
        env.rank_fails(failed, 0, ProcessExit::Code(1), "device error");
        env.advance(250);
    }
    assert_eq!(env.status(failed), TrialStatus::Waiting, "{:?}", env.last_end());
    env.complete(other);
    assert_eq!(env.at(failed, 0).0, good);
    env.complete(failed);
    assert_eq!(env.core.study(study).unwrap().status(), "complete");
}

#[test]
fn a_rank_that_does_not_start_in_time_is_named() {
    let (mut env, _, head) = TestEnv::gang_of_two();
    env.rank_reports(head, 0, Fact::Started);
    let late = env.at(head, 1).0;
    env.advance(3_600_000);
    let AttemptEnd::Failed(cause) = env.last_end() else { panic!("{:?}", env.last_end()) };
    assert_eq!((cause.rank, cause.exit), (Some(Rank(1)), ProcessExit::NotStarted));
    assert!(cause.message.contains(&format!("rank 1 on worker {late} did not start")), "{}", cause.message);
}

#[test]
fn where_ranks_wait_in_vain_the_one_that_had_to_be_killed_is_the_cause() {
    let (mut env, _, head) = TestEnv::gang_of_two();
    let hung = env.at(head, 1).0;
    let words = "all_reduce: no answer from a peer in time: Timed out waiting 600000ms";
    env.rank_fails(head, 0, ProcessExit::Code(1), words);
    let patient = |command: &Command| matches!(command, Command::StopAttempt { grace_ms: 1.., .. });
    assert!(env.agents[&hung].told.iter().any(patient), "time to say the same: {:?}", env.agents[&hung].told);
    let AttemptEnd::Failed(cause) = env.last_end() else { panic!("{:?}", env.last_end()) };
    assert_eq!((cause.rank, cause.exit), (Some(Rank(1)), ProcessExit::Signal(9)));
    assert_eq!(cause.hang, Some(Hang::Named));
    assert!(cause.message.contains("did not arrive") && cause.message.contains(words), "{}", cause.message);
}

#[test]
fn a_rank_that_another_missed_is_to_blame_and_its_worker_with_it() {
    let (mut env, _, head) = TestEnv::gang_of_two();
    let hung = env.at(head, 1).0;
    env.rank_misses(head, 0, "rank 1 did not arrive in step 7 (worker.hang_timeout)", &[Rank(1)]);
    let at_once = |command: &Command| matches!(command, Command::StopAttempt { grace_ms: 0, .. });
    assert!(env.agents[&hung].told.iter().any(at_once), "nobody has to say it again");
    let AttemptEnd::Failed(cause) = env.last_end() else { panic!("{:?}", env.last_end()) };
    assert_eq!(
        (cause.rank, cause.exit, cause.hang),
        (Some(Rank(1)), ProcessExit::Code(1), Some(Hang::Named))
    );
    let told = format!("(rank 1 on worker {hung} was missed by rank 0)");
    assert!(cause.message.ends_with(&told), "{}", cause.message);
    let failed_on: Vec<_> = env.core.trial(head).unwrap().failed_on.iter().collect();
    assert_eq!(failed_on, [&hung]);
}

#[test]
fn a_trial_whose_gang_hangs_twice_alike_is_tried_on() {
    let mut env = TestEnv::new();
    // Both workers are needed, so that the second attempt hangs on the same one.
    let study = env.submit(&format!("{GANG_OF_2}[retry]\nmax_attempts = 3\nbackoff = 0"));
    env.join_cpus("a", 1);
    env.join_cpus("b", 1);
    let head = trial(study, "mti-net/0/0");
    for failures in 1..3 {
        env.rank_misses(head, 0, "rank 1 did not arrive in step 7 (worker.hang_timeout)", &[Rank(1)]);
        let state = env.core.trial(head).unwrap();
        let last = state.last_failure.as_ref().unwrap();
        assert_eq!((last.exit, last.hang), (ProcessExit::Code(1), Some(Hang::Named)));
        assert_eq!((env.status(head), state.failures), (TrialStatus::Running, failures));
    }
    env.rank_misses(head, 0, "rank 1 did not arrive in step 7 (worker.hang_timeout)", &[Rank(1)]);
    let TrialState::Failed { reason } = &env.core.trial(head).unwrap().state else { panic!() };
    assert!(reason.contains("3 times"), "{reason}");
}

#[test]
fn a_process_that_does_not_go_holds_its_slot_but_not_its_trial() {
    let mut env = TestEnv::new();
    let study = env.submit("folds = [0]\n[train]\nreplicas = 2\n[resources]\nranks = 2\n");
    let stuck = env.join_cpus("a", 1);
    env.join_cpus("b", 1);
    let head = trial(study, "mti-net/0/0");
    let (teller, lost) = if env.at(head, 0).0 == stuck { (1, 0) } else { (0, 1) };
    let attempt = env.at(head, lost).1;
    env.agents.get_mut(&stuck).unwrap().unkillable = true;
    env.rank_misses(head, teller, "a rank did not arrive", &[Rank(lost)]);
    env.advance(59_000);
    assert_eq!(env.status(head), TrialStatus::Stopping);
    env.advance(2000);
    let AttemptEnd::Failed(cause) = env.last_end() else { panic!("{:?}", env.last_end()) };
    assert_eq!(cause.rank, Some(Rank(lost)), "the true cause stays");
    let given_up = env.log.iter().find_map(|recorded| match &recorded.event {
        Event::RankLost { how, .. } => *how,
        _ => None,
    });
    assert_eq!(given_up, Some(RankLoss::Unkillable), "nothing is said against its worker");
    // It is still there, so that nothing else is put into its slot.
    env.join_cpus("c", 1);
    env.advance(60_000);
    assert_eq!(env.core.trial(head).unwrap().attempts, 2);
    assert!((0..2).all(|rank| env.at(head, rank).0 != stuck), "the slot is taken");
    let free =
        |env: &TestEnv| env.core.workers().find(|(id, _)| **id == stuck).unwrap().1.slots[&SlotIndex(0)].held;
    assert!(free(&env).is_some());
    env.exit(&stuck, attempt, Rank(lost), ProcessExit::Signal(9), false, "gone at last");
    assert!(free(&env).is_none());
}

#[test]
fn what_had_time_to_save_and_did_not_end_is_killed_then_given_up() {
    let (mut env, study, stuck, head) = TestEnv::one_slot("");
    env.agents.get_mut(&stuck).unwrap().unkillable = true;
    env.request(&Request::PauseStudy(study)).unwrap();
    let graces = |env: &TestEnv| -> Vec<u32> {
        let told = env.agents[&stuck].told.iter();
        told.filter_map(|command| match command {
            Command::StopAttempt { grace_ms, .. } => Some(*grace_ms),
            _ => None,
        })
        .collect()
    };
    env.advance(629_000);
    assert_eq!((graces(&env), env.status(head)), (vec![30_000], TrialStatus::Stopping));
    env.advance(2000);
    assert_eq!((graces(&env), env.status(head)), (vec![30_000, 0], TrialStatus::Stopping));
    // A restart does not forget it, but begins anew.
    env.restart(true);
    env.connect(&stuck);
    env.advance(700_000);
    assert_eq!(env.last_end(), AttemptEnd::Paused);
    assert_eq!(env.status(head), TrialStatus::Waiting);
}

#[test]
fn an_attempt_without_a_word_is_ended() {
    let (mut env, _, _, head) = TestEnv::one_slot("");
    env.rank_reports(head, 0, metrics(3));
    env.advance(7_199_000);
    assert_eq!(env.core.trial(head).unwrap().attempts, 1);
    // Its trainer works on something long; of another attempt that says nothing.
    let (worker, attempt) = env.at(head, 0);
    env.core.on_working(env.now, &worker, attempt);
    env.advance(7_199_000);
    env.core.on_working(env.now, &worker, AttemptId { number: AttemptNumber(7), ..attempt });
    assert_eq!(env.core.trial(head).unwrap().attempts, 1);
    env.advance(2000);
    let AttemptEnd::Failed(cause) = env.last_end() else { panic!("{:?}", env.last_end()) };
    assert!(cause.message.contains("hangs") && cause.step == Some(3), "{cause:?}");
}

#[test]
fn the_last_trial_goes_on_with_more_ranks() {
    let mut env = TestEnv::new();
    let study = env.submit("folds = [0]\n[train]\nreplicas = 4\n");
    env.join_cpus("a", 2);
    let (head, last) = (trial(study, "mti-net/0/0"), trial(study, "unet/0/0"));
    assert_eq!((env.width(head), env.width(last)), (1, 1));
    env.rank_reports(last, 0, Fact::Checkpoint(checkpoint(5, "c5")));
    env.advance(70_000);
    assert_eq!(env.width(last), 1, "nothing is spare");
    env.complete(head);
    env.advance(500);
    assert_eq!((env.width(last), env.core.trial(last).unwrap().failures), (2, 0));
    assert_eq!(env.last_end(), AttemptEnd::Widened);
    let (a, attempt) = env.at(last, 0);
    assert_eq!(env.agents[&a].processes[&(attempt, Rank(0))].resume, Some(checkpoint(5, "c5")));
    env.restart(true);
}

#[test]
fn a_spare_slot_of_the_same_device_widens_nothing() {
    let (zero, one) = (Device::Cuda(0), Device::Cuda(1));
    let mut env = TestEnv::new();
    env.join("a", &[zero, zero]);
    let study = env.submit("folds = [0]\n[train]\nreplicas = 2\n[resources]\ndevice = \"cuda\"\n");
    let (head, last) = (trial(study, "mti-net/0/0"), trial(study, "unet/0/0"));
    env.rank_reports(last, 0, Fact::Checkpoint(checkpoint(5, "c5")));
    env.complete(head);
    let before = env.log.len();
    env.advance(200_000);
    let widened = env.log[before..]
        .iter()
        .any(|recorded| matches!(recorded.event, Event::AttemptStopping { end: AttemptEnd::Widened, .. }));
    assert!(!widened, "it would go on as narrow as it was");
    env.join("b", &[one]);
    env.advance(500);
    assert_eq!(env.width(last), 2);
    assert_eq!(env.last_end(), AttemptEnd::Widened);
}

#[test]
fn attempts_are_widened_one_after_the_other_and_the_oldest_first() {
    let mut env = TestEnv::new();
    let study = env.submit("folds = [0]\n[train]\nreplicas = 4\n[retry]\nbackoff = 0\n");
    env.join_cpus("a", 1);
    env.join_cpus("b", 1);
    let (head, last) = (trial(study, "mti-net/0/0"), trial(study, "unet/0/0"));
    // The first of the study is now the younger attempt.
    env.advance(1000);
    env.rank_fails(head, 0, ProcessExit::Code(1), "a failure");
    env.advance(1000);
    for id in [head, last] {
        env.rank_reports(id, 0, Fact::Checkpoint(checkpoint(5, &format!("c5 of {id}"))));
    }
    env.advance(70_000);
    assert_eq!((env.width(head), env.width(last)), (1, 1), "nothing is spare");
    let before = env.log.len();
    env.join_cpus("c", 4);
    env.advance(500);
    let told = env.log[before..].iter().filter_map(|recorded| match &recorded.event {
        Event::AttemptStopping { trial, end: AttemptEnd::Widened, .. } => Some((*trial, "stops")),
        Event::AttemptStarted { trial, .. } => Some((*trial, "starts")),
        _ => None,
    });
    let expected = [(last.key, "stops"), (last.key, "starts"), (head.key, "stops"), (head.key, "starts")];
    assert_eq!(told.take(4).collect::<Vec<_>>(), expected);
    assert!(env.width(head) > 1 && env.width(last) > 1);
}
