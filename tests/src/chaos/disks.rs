//! Disks that are full for a while.

use std::time::Duration;

use mtinet_domain::event::Event;
use mtinet_domain::trial::AttemptEnd;

use super::scene::Scene;
use super::{Case, Outcome, Report, Skipped};
use crate::disk::Disk;
use crate::hosts::Place;
use crate::studies::{Study, ends, failures, past_step};

/// Checkpoints cannot be written.
pub const AGENT: Case = Case {
    name: "full-disk-agent",
    what: "the disk with the agent's work directory is full for a while",
    short: true,
    run: agent,
};

/// The event log cannot be written.
pub const COORDINATOR: Case = Case {
    name: "full-disk-coordinator",
    what: "the disk with the coordinator's data is full; it ends, and is started again when there is room",
    short: true,
    run: coordinator,
};

const MIB: u32 = 96;

fn agent(report: &mut Report) -> Outcome {
    let study = Study::solo();
    let mut disk = Disk::new(MIB).map_err(Skipped::Rights)?;
    let scene = Scene::new();
    let place = Place { dir: Some(disk.path()), ..Place::on(&scene.hosts.host("a")) };
    let _worker = scene.worker_at(place, "a");
    let id = scene.cluster.submit(&study.file());
    scene.cluster.wait_for(id, "progress", past_step(20));
    disk.fill();
    let ended = scene.cluster.wait_for(id, "a failure", |event| matches!(event, Event::AttemptEnded { .. }));
    assert!(disk.times_full() > 0);
    let message = failures(&ended).first().expect("it failed").message.clone();
    assert!(message.contains("No space left on device"), "{message}");
    disk.free();
    let events = scene.cluster.wait_until_complete(id);
    for failure in failures(&events) {
        assert!(failure.message.contains("No space left on device"), "{failure:?}");
    }
    study.assert_undisturbed(&events);
    report.say(format_args!("{} failures, the first: {message}", failures(&events).len()));
    Ok(())
}

fn coordinator(report: &mut Report) -> Outcome {
    let study = Study::solo();
    let mut disk = Disk::new(MIB).map_err(Skipped::Rights)?;
    let mut scene = Scene::with(|host| Place { dir: Some(disk.path()), ..Place::on(host) });
    let worker = scene.worker("a");
    let id = scene.cluster.submit(&study.file());
    let before = scene.cluster.wait_for(id, "progress", past_step(20));
    let trainer = worker.trainer();
    disk.fill();
    let status = scene.cluster.coordinator().end_within(Duration::from_secs(60));
    let status = status.expect("a coordinator that cannot record does not go on");
    assert!(!status.success());
    let log = scene.cluster.log("coordinator");
    assert!(log.contains("disk is full"), "{log}");
    assert_eq!(worker.trainer(), trainer, "the trainer goes on meanwhile");
    disk.free();
    scene.cluster.start_coordinator();
    let events = scene.cluster.wait_until_complete(id);
    assert_eq!(events[..before.len()], before, "nothing that was recorded is lost");
    assert!(matches!(ends(&events)[..], [AttemptEnd::Completed]), "adopted: {:?}", ends(&events));
    study.assert_undisturbed(&events);
    let words = log.lines().rev().find(|line| line.contains("disk is full")).unwrap_or_default();
    report.say(format_args!("it ended with {status}: {words}"));
    Ok(())
}
