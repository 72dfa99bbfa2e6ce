//! Certificates that end while a study runs.

use mtinet_domain::event::Event;
use mtinet_domain::trial::AttemptEnd;
use mtinet_runtime::tls::{Identity, unix_now};

use super::scene::Scene;
use super::{Case, Outcome, Report};
use crate::hosts::Place;
use crate::studies::{Study, ends, past_step};

/// The agent's, and the coordinator's own.
pub const EXPIRY: Case = Case {
    name: "certificate-expiry",
    what: "the agent's certificate, with the shortest life there is, ends while its trainer trains; nothing is interrupted",
    short: false,
    run: expiry,
};

fn expiry(report: &mut Report) -> Outcome {
    // More than there is time for: it is cancelled at the end.
    let study = Study { steps: 10_000_000, ..Study::solo() };
    let short = |place: Place| place.with("MTINET_COORDINATOR__CERTIFICATE_LIFE", "60s");
    let scene = Scene::with(|host| short(Place::on(host)));
    let worker = scene.worker("a");
    let id = scene.cluster.submit(&study.file());
    scene.cluster.wait_for(id, "progress", past_step(5));
    let (file, trainer) = (scene.cluster.work_dir(&worker.place, "a").join("identity.pem"), worker.trainer());
    let until = || Identity::load(&file).expect("the agent has an identity").certified().not_after;
    let first = until();
    scene.wait("the first certificate to end", || unix_now() > first);
    let renewed = until();
    assert!(renewed > unix_now(), "the agent's present certificate has not ended");
    // What is recorded from here on came with a later one.
    scene.wait_for_progress(id);
    assert_eq!(worker.trainer(), trainer, "the trainer goes on");
    assert!(ends(&scene.cluster.events(id)).is_empty(), "and so does its attempt");
    scene.cluster.cancel(id);
    let events = scene.cluster.wait_for(id, "the end", |event| matches!(event, Event::StudyFinished { .. }));
    assert!(matches!(ends(&events)[..], [AttemptEnd::Cancelled]), "{:?}", ends(&events));
    report
        .say(format_args!("one attempt over {} s of a 60 s certificate", renewed.saturating_sub(first) + 60));
    Ok(())
}
