//! Clocks that somebody sets while a study runs.

use std::time::Instant;

use mtinet_domain::event::{Event, Recorded};
use mtinet_domain::trial::AttemptEnd;

use super::scene::Scene;
use super::{Case, Outcome, Report, Skipped};
use crate::clock::Clock;
use crate::hosts::Place;
use crate::studies::{Study, ends, past_step};

/// Leases and the times of events.
pub const COORDINATOR: Case = Case {
    name: "clock-coordinator",
    what: "the coordinator's clock jumps an hour forward, then two hours back",
    short: true,
    run: coordinator,
};

/// Heartbeats, caches and training times.
pub const AGENT: Case = Case {
    name: "clock-agent",
    what: "the clock of the host that trains jumps an hour forward, then two hours back",
    short: false,
    run: agent,
};

const HOUR: i64 = 3600;

/// Every time that is told is as long as it was, to a second.
fn assert_durations(events: &[Recorded], took: std::time::Duration) {
    let ordered = events.windows(2).all(|pair| pair[0].time_ms <= pair[1].time_ms);
    assert!(ordered, "no event is before an earlier one");
    let told = events.last().map_or(0, |last| last.time_ms - events[0].time_ms);
    assert!(told <= took.as_millis() as u64 + 1000, "{told} ms are told, it took {took:?}");
    for recorded in events {
        if let Event::Metrics { records, .. } = &recorded.event {
            let trained = records.iter().map(|record| record.train_seconds);
            assert!(trained.clone().all(|seconds| (0.0..=took.as_secs_f64()).contains(&seconds)));
        }
    }
}

fn coordinator(report: &mut Report) -> Outcome {
    let study = Study { steps: 300, ..Study::solo() };
    let mut clock = Clock::new().map_err(Skipped::Rights)?;
    let scene = Scene::with(|host| clock.at(Place::on(host)));
    let _worker = scene.worker("a");
    let start = Instant::now();
    let id = scene.cluster.submit(&study.file());
    scene.cluster.wait_for(id, "progress", past_step(20));
    for (jump, name) in [(HOUR, "b"), (-HOUR, "c")] {
        let before = clock.wrong_reads();
        clock.jump(jump);
        // A line in its log carries the time.
        let _other = scene.worker(name);
        scene.wait_for_worker(name, "ready");
        scene.wait_for_progress(id);
        scene.wait("the clock to be read", || clock.wrong_reads() > before);
    }
    let events = scene.cluster.wait_until_complete(id);
    assert!(matches!(ends(&events)[..], [AttemptEnd::Completed]), "nobody is lost: {:?}", ends(&events));
    assert_durations(&events, start.elapsed());
    study.assert_undisturbed(&events);
    report.say(format_args!("a wrong time was read {} times", clock.wrong_reads()));
    Ok(())
}

fn agent(report: &mut Report) -> Outcome {
    let study = Study::solo();
    let mut clock = Clock::new().map_err(Skipped::Rights)?;
    let scene = Scene::new();
    let _worker = scene.worker_at(clock.at(Place::on(&scene.hosts.host("a"))), "a");
    let start = Instant::now();
    let id = scene.cluster.submit(&study.file());
    for (step, jump) in [(20, HOUR), (45, -HOUR)] {
        scene.cluster.wait_for(id, "progress", past_step(step));
        let before = clock.wrong_reads();
        clock.jump(jump);
        scene.wait_for_progress(id);
        scene.wait("the clock to be read", || clock.wrong_reads() > before);
    }
    let events = scene.cluster.wait_until_complete(id);
    assert!(matches!(ends(&events)[..], [AttemptEnd::Completed]), "nobody is lost: {:?}", ends(&events));
    assert_durations(&events, start.elapsed());
    study.assert_undisturbed(&events);
    report.say(format_args!("a wrong time was read {} times", clock.wrong_reads()));
    Ok(())
}
