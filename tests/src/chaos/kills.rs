//! Processes that end without a word.

use std::path::{Path, PathBuf};

use mtinet_domain::event::Event;
use mtinet_domain::trial::{AttemptEnd, ProcessExit};

use super::scene::{Scene, Worker, measure_loss, now_ms};
use super::{Case, Outcome, Report};
use crate::processes::{is_alive, kill_now};
use crate::studies::{CHECKPOINT_EVERY, Study, ends, failures, past_step, resumed_from};

/// Each rank in turn.
pub const TRAINER: Case = Case {
    name: "kill-trainer",
    what: "SIGKILL of a trainer of a gang on two hosts, rank 0 and rank 1 in turn",
    short: false,
    run: trainer,
};

/// The agent of one rank of a gang.
pub const AGENT: Case = Case {
    name: "kill-agent",
    what: "SIGKILL of the agent of rank 1 of a gang on two hosts; a third worker takes over, the next agent tidies up",
    short: true,
    run: agent,
};

/// Again and again.
pub const COORDINATOR: Case = Case {
    name: "kill-coordinator",
    what: "SIGKILL of the coordinator, three times in one study",
    short: true,
    run: coordinator,
};

/// Nobody is left who knows.
pub const COORDINATOR_AND_AGENT: Case = Case {
    name: "kill-coordinator-and-agent",
    what: "SIGKILL of the coordinator and of the agent that trains; both are started again",
    short: false,
    run: coordinator_and_agent,
};

fn trainer(report: &mut Report) -> Outcome {
    let study = Study::gang();
    for rank in [0, 1] {
        let scene = Scene::new();
        let mut workers = [scene.worker("a"), scene.worker("b")];
        let id = scene.cluster.submit(&study.file());
        scene.cluster.wait_for(id, "progress", past_step(20 + 13 * u64::from(rank)));
        kill_now(scene.holder(id, rank, &mut workers).trainer());
        let events = scene.cluster.wait_until_complete(id);
        let failures = failures(&events);
        assert_eq!(failures.len(), 1, "{failures:?}");
        assert_eq!(failures[0].exit, ProcessExit::Signal(9), "{failures:?}");
        assert_eq!(failures[0].rank.map(|rank| rank.0), Some(rank));
        assert!(failures[0].message.contains("killed by signal 9 (SIGKILL)"), "{failures:?}");
        assert!(resumed_from(&events) >= Some(CHECKPOINT_EVERY), "it went on from a checkpoint");
        study.assert_undisturbed(&events);
        report.say(format_args!("rank {rank}: {}", failures[0].message.lines().next().unwrap_or_default()));
    }
    Ok(())
}

fn agent(report: &mut Report) -> Outcome {
    let study = Study::gang();
    let scene = Scene::new();
    let mut workers = vec![scene.worker("a"), scene.worker("b")];
    let id = scene.cluster.submit(&study.file());
    let before = scene.cluster.wait_for(id, "progress", past_step(20)).len() as u64;
    workers.push(scene.worker("c"));
    scene.wait_for_worker("c", "ready");
    let name = scene.holder(id, 1, &mut workers).name.clone();
    let at = workers.iter().position(|worker| worker.name == name).expect("it is one of these");
    let Worker { process, place, .. } = workers.remove(at);
    let orphans = crate::processes::children(process.pid());
    assert_eq!(orphans.len(), 1, "its trainer runs");
    let fault = now_ms();
    process.kill();
    let events = scene.cluster.wait_until_complete(id);
    assert!(
        matches!(ends(&events)[..], [AttemptEnd::WorkerLost { .. }, AttemptEnd::Completed]),
        "{:?}",
        ends(&events)
    );
    assert!(resumed_from(&events) >= Some(CHECKPOINT_EVERY), "it went on from a checkpoint");
    assert!(!is_alive(orphans[0]), "the trainer outlived its agent");
    study.assert_undisturbed(&events);
    measure_loss(report, &events, fault, before);
    let left = rank_dirs(&scene.cluster.work_dir(&place, &name));
    assert_eq!(left.len(), 1, "a killed agent cannot remove what its trainer left");
    let _again = scene.worker_at(place, &name);
    scene.wait("the next agent to remove what the killed one's trainer left", || !left[0].exists());
    Ok(())
}

/// The directories of ranks under an agent's work directory.
fn rank_dirs(work_dir: &Path) -> Vec<PathBuf> {
    let mut dirs = vec![work_dir.to_owned()];
    // Of studies, trials, attempts and ranks.
    for prefix in ["study-", "", "", "rank"] {
        let entries = dirs.iter().flat_map(std::fs::read_dir).flatten().flatten();
        let wanted = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
        dirs = wanted.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    }
    dirs
}

fn coordinator(report: &mut Report) -> Outcome {
    let study = Study::solo();
    let mut scene = Scene::new();
    let worker = scene.worker("a");
    let id = scene.cluster.submit(&study.file());
    for step in [15, 35, 55] {
        let before = scene.cluster.wait_for(id, "progress", past_step(step));
        let trainer = worker.trainer();
        scene.cluster.kill_coordinator();
        let start = std::time::Instant::now();
        scene.cluster.start_coordinator();
        let after = scene.cluster.events(id);
        assert_eq!(after[..before.len()], before, "nothing that was recorded is lost");
        let target = std::time::Duration::from_secs(2);
        report.measure("restarted coordinator answers", start.elapsed(), target, "one small study");
        assert_eq!(worker.trainer(), trainer, "the trainer goes on meanwhile");
    }
    let events = scene.cluster.wait_until_complete(id);
    assert!(matches!(ends(&events)[..], [AttemptEnd::Completed]), "adopted: {:?}", ends(&events));
    study.assert_undisturbed(&events);
    Ok(())
}

fn coordinator_and_agent(report: &mut Report) -> Outcome {
    let study = Study::solo();
    let mut scene = Scene::new();
    let worker = scene.worker("a");
    let id = scene.cluster.submit(&study.file());
    let before = scene.cluster.wait_for(id, "progress", past_step(20));
    scene.cluster.kill_coordinator();
    let Worker { process, place, name } = worker;
    process.kill();
    scene.cluster.start_coordinator();
    let _worker = scene.worker_at(place, &name);
    let events = scene.cluster.wait_until_complete(id);
    assert_eq!(events[..before.len()], before, "nothing that was recorded is lost");
    assert!(
        matches!(ends(&events)[..], [AttemptEnd::WorkerLost { .. }, AttemptEnd::Completed]),
        "{:?}",
        ends(&events)
    );
    assert!(events.iter().any(|recorded| matches!(recorded.event, Event::RankLost { .. })));
    study.assert_undisturbed(&events);
    report.say("the trial waited for the adoption grace and went on from its checkpoint");
    Ok(())
}
