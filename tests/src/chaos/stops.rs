//! Processes that are there but do not run: a short while is nobody's business, a long one is a loss or a hang.

use std::time::Duration;

use mtinet_domain::StudyId;
use mtinet_domain::event::{Event, Recorded};
use mtinet_domain::trial::{AttemptEnd, FailureCause, ProcessExit};

use super::scene::{LEASE, Scene, measure_loss, now_ms};
use super::{Case, Outcome, Report};
use crate::hosts::Place;
use crate::processes::{Stopped, children, stop};
use crate::studies::{Study, ends, past_step};

/// No false alarm.
pub const BRIEFLY: Case = Case {
    name: "stop-briefly",
    what: "SIGSTOP of trainer, agent and coordinator for 0.5 s each: no alarm",
    short: false,
    run: briefly,
};

/// Given up, and back.
pub const AGENT: Case = Case {
    name: "stop-agent",
    what: "SIGSTOP of an agent until it is given up; when it goes on, nobody listens to its old trial and it is of use again",
    short: false,
    run: agent,
};

/// Its own absence is not the workers' silence.
pub const COORDINATOR: Case = Case {
    name: "stop-coordinator",
    what: "SIGSTOP of the coordinator for twice the lease: no worker is blamed",
    short: false,
    run: coordinator,
};

/// The gang's store is with it.
pub const RANK_0: Case = Case {
    name: "stop-rank-0",
    what: "SIGSTOP of rank 0 of a gang on two hosts: rank 1 names it",
    short: false,
    run: |report| rank(report, 0),
};

/// The plain hung collective.
pub const RANK_1: Case = Case {
    name: "stop-rank-1",
    what: "SIGSTOP of rank 1 of a gang on two hosts: the collective hangs, and rank 0 names it",
    short: false,
    run: |report| rank(report, 1),
};

/// Nobody in the gang is left to say so.
pub const GANG: Case = Case {
    name: "stop-gang",
    what: "SIGSTOP of both ranks of a gang: the agents end them",
    short: false,
    run: gang,
};

/// Nobody waits for it.
pub const ALONE: Case = Case {
    name: "stop-trainer-alone",
    what: "SIGSTOP of a trainer that is no gang: its agent ends it",
    short: false,
    run: alone,
};

/// How long a trainer may make no progress in these cases: long enough for a busy machine.
const HANG: Duration = Duration::from_secs(20);

fn impatient(place: Place) -> Place {
    place.with("MTINET_WORKER__HANG_TIMEOUT", format!("{}s", HANG.as_secs()))
}

fn briefly(report: &mut Report) -> Outcome {
    let study = Study::gang();
    let mut scene = Scene::new();
    let mut workers = [scene.worker("a"), scene.worker("b")];
    let id = scene.cluster.submit(&study.file());
    for (rank, step) in [(0, 10), (1, 30)] {
        scene.cluster.wait_for(id, "progress", past_step(step));
        let worker = scene.holder(id, rank, &mut workers);
        let victims = [worker.trainer(), worker.process.pid(), scene.cluster.coordinator().pid()];
        for victim in victims {
            let stopped = stop(victim);
            std::thread::sleep(Duration::from_millis(500));
            assert!(stopped.holds(), "it did not run meanwhile");
            stopped.go_on();
        }
    }
    let events = scene.cluster.wait_until_complete(id);
    assert!(matches!(ends(&events)[..], [AttemptEnd::Completed]), "no alarm: {:?}", ends(&events));
    study.assert_undisturbed(&events);
    report.say("six stops of 0.5 s, one attempt");
    Ok(())
}

fn agent(report: &mut Report) -> Outcome {
    let study = Study::solo();
    let scene = Scene::new();
    let first = scene.worker("a");
    let id = scene.cluster.submit(&study.file());
    let before = scene.cluster.wait_for(id, "progress", past_step(20)).len() as u64;
    let _second = scene.worker("b");
    scene.wait_for_worker("b", "ready");
    let trainer = first.trainer();
    let fault = now_ms();
    let stopped = stop(first.process.pid());
    scene.wait_for_worker("a", "lost");
    scene.wait_for_progress(id);
    assert!(stopped.holds(), "it did not run meanwhile");
    stopped.go_on();
    // It reports what its trainer did meanwhile, is told that the attempt is over, and is of use again.
    scene.wait_for_worker("a", "ready");
    scene.wait("the old trainer to be ended", || !children(first.process.pid()).contains(&trainer));
    let events = scene.cluster.wait_until_complete(id);
    assert!(
        matches!(ends(&events)[..], [AttemptEnd::WorkerLost { .. }, AttemptEnd::Completed]),
        "{:?}",
        ends(&events)
    );
    let over = events.iter().position(|recorded| matches!(recorded.event, Event::AttemptEnded { .. }));
    let late = events[over.map_or(0, |at| at + 1)..].iter();
    let late = late.filter(|recorded| recorded.event.attempt().is_some_and(|attempt| attempt.0 == 1)).count();
    assert_eq!(late, 0, "nothing of an attempt that is over is recorded");
    study.assert_undisturbed(&events);
    measure_loss(report, &events, fault, before);
    Ok(())
}

fn coordinator(report: &mut Report) -> Outcome {
    let study = Study::gang();
    let mut scene = Scene::new();
    let _workers = [scene.worker("a"), scene.worker("b")];
    let id = scene.cluster.submit(&study.file());
    scene.cluster.wait_for(id, "progress", past_step(15));
    let stopped = stop(scene.cluster.coordinator().pid());
    std::thread::sleep(2 * LEASE);
    assert!(stopped.holds(), "it did not run meanwhile");
    stopped.go_on();
    let events = scene.cluster.wait_until_complete(id);
    assert!(matches!(ends(&events)[..], [AttemptEnd::Completed]), "nobody is blamed: {:?}", ends(&events));
    study.assert_undisturbed(&events);
    report.say(format_args!("stopped for {:?}, one attempt", 2 * LEASE));
    Ok(())
}

/// The failure of the attempt that runs when `stopped` is over, and all events of the study. Where the machine is so busy
/// that trainers seem to hang by themselves, there are others.
fn ended_by_the_hang(scene: &Scene, study: StudyId, stopped: Vec<Stopped>) -> (FailureCause, Vec<Recorded>) {
    let running = scene.cluster.events(study).iter().rev().find_map(|recorded| match &recorded.event {
        Event::AttemptStarted { attempt, .. } => Some(*attempt),
        _ => None,
    });
    let is_end = |event: &Event| matches!(event, Event::AttemptEnded { .. }) && event.attempt() == running;
    let noticed = |event: &Event| {
        matches!(event, Event::AttemptStopping { .. }) && event.attempt() == running || is_end(event)
    };
    scene.cluster.wait_for(study, "the hang to be noticed", noticed);
    drop(stopped);
    let events = scene.cluster.wait_for(study, "the hang to be ended", is_end);
    let ended = events.into_iter().find_map(|recorded| match recorded.event {
        Event::AttemptEnded { end: AttemptEnd::Failed(cause), attempt, .. } if Some(attempt) == running => {
            Some(cause)
        }
        _ => None,
    });
    (ended.expect("it is a failure"), scene.cluster.wait_until_complete(study))
}

fn rank(report: &mut Report, rank: u32) -> Outcome {
    let study = Study::gang();
    let scene = Scene::new();
    let worker = |name: &str| scene.worker_at(impatient(Place::on(&scene.hosts.host(name))), name);
    let mut workers = [worker("a"), worker("b")];
    let id = scene.cluster.submit(&study.file());
    scene.cluster.wait_for(id, "progress", past_step(20));
    let stopped = stop(scene.holder(id, rank, &mut workers).trainer());
    let (FailureCause { rank: missing, message, exit, .. }, events) =
        ended_by_the_hang(&scene, id, vec![stopped]);
    assert!(message.starts_with(&format!("rank {rank} did not arrive")), "the rank is named: {message}");
    assert_eq!(missing.map(|missing| missing.0), Some(rank), "and to blame, with its worker");
    assert!(
        message.contains(&format!("was missed by rank {}", 1 - rank)),
        "by the one that waited: {message}"
    );
    assert_eq!(exit, ProcessExit::Code(1));
    study.assert_undisturbed(&events);
    report.say(format_args!("told by rank {}: {message}", 1 - rank));
    Ok(())
}

fn gang(report: &mut Report) -> Outcome {
    let study = Study::gang();
    let scene = Scene::new();
    let worker = |name: &str| scene.worker_at(impatient(Place::on(&scene.hosts.host(name))), name);
    let workers = [worker("a"), worker("b")];
    let id = scene.cluster.submit(&study.file());
    scene.cluster.wait_for(id, "progress", past_step(20));
    let stopped = workers.iter().map(|worker| stop(worker.trainer())).collect();
    let (cause, events) = ended_by_the_hang(&scene, id, stopped);
    assert!(cause.message.contains("the trainer hangs"), "{cause:?}");
    study.assert_undisturbed(&events);
    report.say(cause.message.lines().next().unwrap_or_default());
    Ok(())
}

fn alone(report: &mut Report) -> Outcome {
    let study = Study::solo();
    let scene = Scene::new();
    let worker = scene.worker_at(impatient(Place::on(&scene.hosts.host("a"))), "a");
    let id = scene.cluster.submit(&study.file());
    scene.cluster.wait_for(id, "progress", past_step(20));
    let (cause, events) = ended_by_the_hang(&scene, id, vec![stop(worker.trainer())]);
    assert!(cause.message.contains("the trainer hangs"), "{cause:?}");
    study.assert_undisturbed(&events);
    report.say(cause.message.lines().next().unwrap_or_default());
    Ok(())
}
