//! Failures of trainers.

use mtinet_domain::trial::{AttemptEnd, ProcessExit, TrialStatus};
use mtinet_domain::{Rank, WorkerId};

use super::env::{LEASE_MS, TestEnv, checkpoint, evaluated, metrics, trial};
use crate::{Command, CoreConfig, Fact, TrialState, WaitReason};

const PEER_GONE: &str = "Connection closed by peer";

#[test]
fn rank_0_tells_the_others_where_to_meet() {
    let (mut env, _, head) = TestEnv::gang_of_two();
    env.rank_reports(head, 0, Fact::Rendezvous { host: "10.0.0.1".into(), port: 4711 });
    let (b, attempt) = env.at(head, 1);
    let expected = Command::ConnectRank { attempt, rank: Rank(1), host: "10.0.0.1".into(), port: 4711 };
    assert_eq!(env.agents[&b].told.last(), Some(&expected));
}

#[test]
fn one_failing_rank_ends_the_gang_and_the_first_cause_counts() {
    let (mut env, _, head) = TestEnv::gang_of_two();
    env.rank_fails(head, 1, ProcessExit::Code(7), "out of memory");
    // The other rank was killed, and its end is not the cause.
    assert_eq!(
        env.kinds()[2..],
        ["rank_exited", "attempt_stopping", "rank_exited", "attempt_ended", "attempt_started"]
    );
    let AttemptEnd::Failed(cause) = env.last_end() else { panic!("{:?}", env.last_end()) };
    assert_eq!(
        (cause.rank, cause.exit, cause.message.as_str()),
        (Some(Rank(1)), ProcessExit::Code(7), "out of memory")
    );
    assert_eq!(env.status(head), TrialStatus::Waiting);
    assert!(env.reason(head).unwrap().to_string().contains("retries at"), "{:?}", env.reason(head));
    // The next trial uses the pause; afterwards the first goes on.
    let next = env.running()[0];
    env.complete(next);
    env.advance(1000);
    assert_eq!(env.running(), [head]);
}

#[test]
fn pauses_double_and_attempts_are_limited() {
    let mut env = TestEnv::new();
    let study = env.submit("folds = [0]\n[retry]\nmax_attempts = 3\nbackoff = \"4s\"");
    env.join_cpus("a", 2);
    let head = trial(study, "mti-net/0/0");
    for (number, pause) in [(1, 4000), (2, 8000)] {
        env.rank_fails(head, 0, ProcessExit::Code(1), &format!("failure {number}"));
        let TrialState::Waiting { not_before_ms } = env.core.trial(head).unwrap().state else { panic!() };
        assert_eq!(not_before_ms, env.now + pause);
        env.advance(pause - 500);
        assert_eq!(env.status(head), TrialStatus::Waiting);
        env.advance(500);
        assert_eq!(env.status(head), TrialStatus::Running);
    }
    env.rank_fails(head, 0, ProcessExit::Code(1), "failure 3");
    let TrialState::Failed { reason } = &env.core.trial(head).unwrap().state else { panic!() };
    assert!(reason.contains("3 times") && reason.contains("failure 3"), "{reason}");
    env.complete(trial(study, "unet/0/0"));
    assert_eq!(env.core.study(study).unwrap().status(), "incomplete");
}

#[test]
fn the_same_failure_twice_stops_early_and_says_so() {
    let mut env = TestEnv::new();
    let study = env.submit("folds = [0]");
    env.join_cpus("a", 2);
    let head = trial(study, "mti-net/0/0");
    // A signal comes from outside and may well strike twice.
    for _ in 0..2 {
        env.rank_fails(head, 0, ProcessExit::Signal(9), "killed");
        env.advance(3000);
    }
    env.rank_fails(head, 0, ProcessExit::Code(3), "loss is nan");
    env.advance(5000);
    assert_eq!(env.status(head), TrialStatus::Running);
    env.rank_fails(head, 0, ProcessExit::Code(3), "loss is nan");
    let TrialState::Failed { reason } = &env.core.trial(head).unwrap().state else { panic!() };
    assert!(reason.contains("twice in the same way") && reason.contains("loss is nan"), "{reason}");
}

#[test]
fn exit_code_0_without_finishing_is_a_failure() {
    let (mut env, study, _, head) = TestEnv::one_slot("");
    env.rank_fails(head, 0, ProcessExit::Code(0), "");
    let AttemptEnd::Failed(cause) = env.last_end() else { panic!() };
    assert_eq!(cause.message, "exited before its work was finished");
    env.complete(trial(study, "unet/0/0"));
    env.advance(1000);
    let (a, attempt) = env.at(head, 0);
    env.exit(&a, attempt, Rank(0), ProcessExit::Code(0), true, "");
    let AttemptEnd::Failed(cause) = env.last_end() else { panic!() };
    assert!(cause.message.contains("evaluation"), "{cause:?}");
}

#[test]
fn a_retry_goes_on_from_the_newest_checkpoint_with_the_one_before_as_fallback() {
    let (mut env, _, _, head) = TestEnv::one_slot("");
    for step in [10, 20, 30] {
        env.rank_reports(head, 0, Fact::Checkpoint(checkpoint(step, &format!("c{step}"))));
    }
    assert_eq!(env.discarded.iter().collect::<Vec<_>>(), ["c10"]);
    env.rank_fails(head, 0, ProcessExit::Signal(9), "");
    env.complete(env.running()[0]);
    env.advance(1000);
    let (a, attempt) = env.at(head, 0);
    let process = env.agents[&a].processes[&(attempt, Rank(0))].clone();
    assert_eq!(process.resume, Some(checkpoint(30, "c30")));
    assert_eq!(process.fallback, Some(checkpoint(20, "c20")));
    // The newest was damaged: the attempt went on from 20 and stores 30 anew.
    env.rank_reports(head, 0, Fact::Checkpoint(checkpoint(30, "d30")));
    let state = env.core.trial(head).unwrap();
    assert_eq!(
        (&state.latest, &state.previous),
        (&Some(checkpoint(30, "d30")), &Some(checkpoint(20, "c20")))
    );
    assert!(!env.discarded.contains("c30"), "the running attempt still names it");
    env.complete(head);
    for gone in ["c20", "c30", "d30"] {
        assert!(env.discarded.contains(gone), "{gone}");
    }
    assert!(!env.discarded.contains("weights"));
}

#[test]
fn reports_count_once_and_never_for_an_attempt_that_is_over() {
    let (mut env, _, a, head) = TestEnv::one_slot("[retry]\nbackoff = 0");
    let (_, first) = env.at(head, 0);
    env.rank_reports(head, 0, Fact::Checkpoint(checkpoint(1, "c1")));
    env.repeat_everything(&a);
    env.rank_fails(head, 0, ProcessExit::Code(1), "x");
    assert_eq!(env.core.trial(head).unwrap().attempts, 2);
    let recorded = env.log.len();
    env.report(&a, first, Rank(0), evaluated());
    env.report(&a, first, Rank(0), Fact::Checkpoint(checkpoint(9, "c9")));
    assert_eq!(env.log.len(), recorded);
    assert_eq!(env.core.last_seq(&a), env.agents[&a].seq, "acknowledged all the same");
    env.repeat_everything(&a);
}

fn failed_rank(end: &AttemptEnd) -> (Option<Rank>, ProcessExit) {
    let AttemptEnd::Failed(cause) = end else { panic!("{end:?}") };
    (cause.rank, cause.exit)
}

fn lost(end: &AttemptEnd) -> &WorkerId {
    let AttemptEnd::WorkerLost { worker, .. } = end else { panic!("{end:?}") };
    worker
}

#[test]
fn a_peer_error_before_the_lease_of_a_dead_worker_is_over_is_no_failure() {
    let (mut env, _, head) = TestEnv::gang_of_two();
    let (dead, _) = env.at(head, 1);
    env.kill(&dead);
    env.rank_fails(head, 0, ProcessExit::Code(1), PEER_GONE);
    assert_eq!(
        (env.status(head), env.count("attempt_ended")),
        (TrialStatus::Stopping, 0),
        "nothing is decided"
    );
    env.advance(LEASE_MS);
    assert_eq!(lost(&env.last_end()), &dead);
    let state = env.core.trial(head).unwrap();
    assert_eq!((state.failures, &state.last_failure), (0, &None));
    assert!(matches!(env.reason(head), Some(WaitReason::Slots { .. })), "no pause: {:?}", env.reason(head));
    env.restart(true);
}

#[test]
fn a_restart_of_the_coordinator_does_not_turn_a_lost_worker_into_a_failure() {
    let (mut env, _, head) = TestEnv::gang_of_two();
    let ((alive, _), (dead, _)) = (env.at(head, 0), env.at(head, 1));
    env.kill(&dead);
    env.rank_fails(head, 0, ProcessExit::Code(1), PEER_GONE);
    env.restart(false);
    env.connect(&alive);
    env.advance(15_000);
    assert_eq!(lost(&env.last_end()), &dead);
    assert_eq!(env.core.trial(head).unwrap().failures, 0);
}

#[test]
fn a_worker_that_was_only_away_leaves_the_failure_to_the_rank_that_failed() {
    let (mut env, _, head) = TestEnv::gang_of_two();
    let (away, _) = env.at(head, 1);
    env.cut(&away);
    env.rank_fails(head, 0, ProcessExit::Code(1), "the loss is not a number");
    env.advance(LEASE_MS - 500);
    // It is told to stop now, and reports the end itself.
    env.connect(&away);
    assert_eq!(failed_rank(&env.last_end()), (Some(Rank(0)), ProcessExit::Code(1)));
    assert_eq!(env.core.trial(head).unwrap().failures, 1);
}

#[test]
fn what_could_not_be_started_needed_no_peer() {
    let (mut env, _, head) = TestEnv::gang_of_two();
    let (dead, _) = env.at(head, 1);
    env.kill(&dead);
    env.rank_fails(head, 0, ProcessExit::NotStarted, "no such data set");
    env.advance(LEASE_MS);
    assert_eq!(failed_rank(&env.last_end()), (Some(Rank(0)), ProcessExit::NotStarted));
}

#[test]
fn a_worker_that_dies_as_the_patience_for_its_start_ends_is_lost_and_not_to_blame() {
    let (mut env, _, head) = TestEnv::gang_of_two();
    env.rank_reports(head, 0, Fact::Started);
    let (dead, _) = env.at(head, 1);
    env.advance(CoreConfig::default().start_limit_ms - LEASE_MS / 2);
    env.kill(&dead);
    env.advance(LEASE_MS);
    assert!(env.count("attempt_stopping") > 0, "patience ends before the lease");
    assert_eq!(lost(&env.last_end()), &dead);
    assert_eq!(env.core.trial(head).unwrap().failures, 0);
}

#[test]
fn a_cause_that_changes_while_ranks_are_left_survives_a_restart() {
    let mut env = TestEnv::new();
    let study = env.submit("folds = [0]\n[train]\nreplicas = 3\n[resources]\nranks = 3\n");
    for name in ["a", "b", "c"] {
        env.join_cpus(name, 1);
    }
    let head = trial(study, "mti-net/0/0");
    let ((slow, _), (dead, _)) = (env.at(head, 1), env.at(head, 2));
    env.kill(&dead);
    env.advance(1000);
    env.break_off(&slow);
    env.rank_fails(head, 0, ProcessExit::Code(1), PEER_GONE);
    env.advance(LEASE_MS - 1000);
    let TrialState::Stopping { end, .. } = &env.core.trial(head).unwrap().state else { panic!() };
    assert_eq!(lost(end), &dead);
    assert!(env.reason(head).unwrap().to_string().contains("is lost"), "{:?}", env.reason(head));
    env.restart(true);
    env.connect(&slow);
    assert_eq!((lost(&env.last_end()), env.count("attempt_stopping")), (&dead, 2));
}

#[test]
fn a_rank_that_was_killed_comes_before_the_peer_that_was_heard_first() {
    for (exit, blamed) in
        [(ProcessExit::Signal(9), 1), (ProcessExit::Signal(6), 0), (ProcessExit::Code(3), 0)]
    {
        let (mut env, _, head) = TestEnv::gang_of_two();
        let (killed, attempt) = env.at(head, 1);
        // Both are over before anyone is told to stop; the news of one is late.
        env.break_off(&killed);
        env.exit(&killed, attempt, Rank(1), exit, false, "");
        env.rank_fails(head, 0, ProcessExit::Code(1), PEER_GONE);
        env.connect(&killed);
        assert_eq!(failed_rank(&env.last_end()).0, Some(Rank(blamed)), "{exit}");
        env.restart(true);
    }
}

#[test]
fn a_failure_of_any_rank_is_at_the_last_step_that_is_known() {
    let (mut env, _, head) = TestEnv::gang_of_two();
    env.rank_reports(head, 0, Fact::Checkpoint(checkpoint(100, "c100")));
    env.rank_reports(head, 0, metrics(120));
    env.rank_fails(head, 1, ProcessExit::Signal(9), "");
    let AttemptEnd::Failed(cause) = env.last_end() else { panic!() };
    assert_eq!(cause.step, Some(120));
    env.complete(env.running()[0]);
    env.advance(1000);
    assert_eq!(env.core.trial(head).unwrap().step, 100, "it goes on from there");
    env.rank_fails(head, 1, ProcessExit::Signal(9), "");
    let AttemptEnd::Failed(cause) = env.last_end() else { panic!() };
    assert_eq!(cause.step, Some(100));
}

#[test]
fn a_studys_initial_weights_stay_even_where_a_checkpoint_has_the_same_bytes() {
    let mut env = TestEnv::new();
    let hash = "a".repeat(64);
    let init = format!("[init]\nmti-net = {{ path = \"w\", blake3 = \"{hash}\", bytes = 1 }}\n");
    let study = env.submit(&format!("folds = [0]\n{init}"));
    env.join_cpus("a", 1);
    let head = trial(study, "mti-net/0/0");
    env.rank_reports(head, 0, Fact::Checkpoint(checkpoint(10, &hash)));
    env.rank_reports(head, 0, Fact::Checkpoint(checkpoint(20, "c20")));
    env.complete(head);
    env.complete(trial(study, "unet/0/0"));
    assert!(env.discarded.contains("c20") && !env.discarded.contains(&hash));
    env.restart(true);
    env.core.emptiness_check().unwrap();
}
