//! A machine that runs out of memory.

use mtinet_domain::event::Event;
use mtinet_domain::trial::ProcessExit;

use super::scene::Scene;
use super::{Case, Outcome, Report, Skipped};
use crate::memory::MemoryGroup;
use crate::studies::{Study, failures, past_step};

/// The kernel ends the largest.
pub const TRAINER: Case = Case {
    name: "out-of-memory",
    what: "the kernel kills a trainer for memory; that is told, and it runs when there is enough",
    short: false,
    run: trainer,
};

const ENOUGH_MIB: u64 = 8 << 10;

fn trainer(report: &mut Report) -> Outcome {
    // Long enough to be still at it when memory is taken away.
    let study = Study { steps: 300, ..Study::solo() };
    let group = MemoryGroup::new().map_err(Skipped::Kernel)?;
    let scene = Scene::new();
    let worker = scene.worker("a");
    group.add(worker.process.pid());
    scene.wait_for_worker("a", "ready");
    let id = scene.cluster.submit(&study.file());
    scene.cluster.wait_for(id, "progress", past_step(5));
    // A limit that were there from the start would let it load libtorch over and over before it is killed.
    group.limit(group.anonymous_mib() / 2).map_err(Skipped::Kernel)?;
    let ended = scene.cluster.wait_for(id, "a failure", |event| matches!(event, Event::AttemptEnded { .. }));
    assert!(group.kills() > 0, "the kernel killed a process");
    group.limit(ENOUGH_MIB).map_err(Skipped::Kernel)?;
    let failure = failures(&ended)[0];
    assert_eq!(failure.exit, ProcessExit::Signal(9), "{failure:?}");
    assert!(failure.message.contains("because memory ran out"), "{failure:?}");
    let events = scene.cluster.wait_until_complete(id);
    study.assert_undisturbed(&events);
    report.say(failure.message.lines().next().unwrap_or_default());
    // Its processes go before the group.
    drop(worker);
    Ok(())
}
