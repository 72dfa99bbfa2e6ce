//! Links that are down, stall, delay or break.

use std::time::Duration;

use mtinet_domain::event::Event;
use mtinet_domain::trial::AttemptEnd;

use super::scene::{Scene, measure_loss, now_ms};
use super::{Case, Outcome, Report};
use crate::hosts::Place;
use crate::processes::children;
use crate::proxy::Proxy;
use crate::studies::{Study, ends, past_step};

/// Nobody closes a connection.
pub const PARTITION: Case = Case {
    name: "partition",
    what: "the link of the worker that trains goes down until it is given up, and up again",
    short: false,
    run: partition,
};

/// The collective goes over the link, too.
pub const PARTITION_OF_A_GANG: Case = Case {
    name: "partition-gang",
    what: "the link of rank 1's host goes down until it is given up, and up again; a third worker takes over",
    short: false,
    run: partition_of_a_gang,
};

/// No false alarm.
pub const STALLS: Case = Case {
    name: "stall-links",
    what: "the links of both hosts of a gang go down for 0.5 s, six times: no alarm",
    short: false,
    run: stalls,
};

/// Between agent and coordinator.
pub const BAD_LINE: Case = Case {
    name: "bad-line",
    what: "the line to the coordinator delays everything by 100 ms, stalls for 0.5 s and breaks, five times",
    short: false,
    run: bad_line,
};

fn partition(report: &mut Report) -> Outcome {
    // Long enough to be still at it on the other side when it has been started again on this one.
    let study = Study { steps: 600, ..Study::solo() };
    let scene = Scene::linked()?;
    let first = scene.worker("a");
    let id = scene.cluster.submit(&study.file());
    let before = scene.cluster.wait_for(id, "progress", past_step(20)).len() as u64;
    let _second = scene.worker("b");
    scene.wait_for_worker("b", "ready");
    let trainer = first.trainer();
    let fault = now_ms();
    first.host().cut();
    scene.wait_for_worker("a", "lost");
    scene.wait_for_progress(id);
    assert_eq!(children(first.process.pid()), [trainer], "on the other side nothing has changed");
    first.host().heal();
    scene.wait_for_worker("a", "ready");
    scene.wait("the old trainer to be ended", || !children(first.process.pid()).contains(&trainer));
    let events = scene.cluster.wait_until_complete(id);
    assert!(
        matches!(ends(&events)[..], [AttemptEnd::WorkerLost { .. }, AttemptEnd::Completed]),
        "{:?}",
        ends(&events)
    );
    study.assert_undisturbed(&events);
    measure_loss(report, &events, fault, before);
    Ok(())
}

fn partition_of_a_gang(report: &mut Report) -> Outcome {
    let study = Study::gang();
    let scene = Scene::linked()?;
    let mut workers = vec![scene.worker("a"), scene.worker("b")];
    let id = scene.cluster.submit(&study.file());
    let before = scene.cluster.wait_for(id, "progress", past_step(20)).len() as u64;
    workers.push(scene.worker("c"));
    scene.wait_for_worker("c", "ready");
    let cut = scene.holder(id, 1, &mut workers);
    let name = cut.name.clone();
    let fault = now_ms();
    cut.host().cut();
    scene.wait_for_worker(&name, "lost");
    scene.wait_for_progress(id);
    workers.iter().find(|worker| worker.name == name).expect("it is one of these").host().heal();
    scene.wait_for_worker(&name, "ready");
    let events = scene.cluster.wait_until_complete(id);
    assert!(
        matches!(ends(&events)[..], [AttemptEnd::WorkerLost { .. }, AttemptEnd::Completed]),
        "{:?}",
        ends(&events)
    );
    study.assert_undisturbed(&events);
    measure_loss(report, &events, fault, before);
    Ok(())
}

fn stalls(report: &mut Report) -> Outcome {
    let study = Study::gang();
    let scene = Scene::linked()?;
    let workers = [scene.worker("a"), scene.worker("b")];
    let id = scene.cluster.submit(&study.file());
    scene.cluster.wait_for(id, "progress", past_step(5));
    for round in 0..6 {
        let host = workers[round % 2].host();
        host.cut();
        std::thread::sleep(Duration::from_millis(500));
        host.heal();
        scene.wait_for_progress(id);
    }
    let running = scene.cluster.events(id);
    assert!(!running.iter().any(|recorded| matches!(recorded.event, Event::StudyFinished { .. })));
    let events = scene.cluster.wait_until_complete(id);
    assert!(matches!(ends(&events)[..], [AttemptEnd::Completed]), "no alarm: {:?}", ends(&events));
    study.assert_undisturbed(&events);
    let lost = events.iter().filter(|recorded| matches!(recorded.event, Event::RankLost { .. })).count();
    report.count("false alarms in 6 stalls of 0.5 s", lost as u64, 0);
    Ok(())
}

fn bad_line(report: &mut Report) -> Outcome {
    // Long enough to be still at it after the fifth break.
    let study = Study { steps: 600, ..Study::solo() };
    let scene = Scene::new();
    let target = scene.cluster.url().trim_start_matches("https://").to_owned();
    let proxy = Proxy::start(&scene.hosts.own_address(), target);
    let place = Place { coordinator: Some(proxy.url()), ..Place::on(&scene.hosts.host("a")) };
    let worker = scene.worker_at(place, "a");
    let id = scene.cluster.submit(&study.file());
    scene.cluster.wait_for(id, "progress", past_step(5));
    let trainer = worker.trainer();
    proxy.delay(Duration::from_millis(100));
    let mut cut = 0;
    for step in [15, 25, 35, 45, 55] {
        scene.cluster.wait_for(id, "progress", past_step(step));
        proxy.hold(Duration::from_millis(500));
        cut += proxy.cut();
    }
    assert!(cut >= 5, "connections were there to be cut");
    assert_eq!(worker.trainer(), trainer, "the trainer goes on meanwhile");
    let events = scene.cluster.wait_until_complete(id);
    assert!(matches!(ends(&events)[..], [AttemptEnd::Completed]), "no alarm: {:?}", ends(&events));
    study.assert_undisturbed(&events);
    report.say(format_args!("{cut} connections cut, {} bytes delayed, one attempt", proxy.carried()));
    Ok(())
}
