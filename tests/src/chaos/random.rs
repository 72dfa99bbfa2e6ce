//! Twenty kills of whatever comes up.

use mtinet_domain::event::Event;
use mtinet_domain::trial::ProcessExit;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use super::scene::{Scene, Worker};
use super::{Case, Outcome, Report};
use crate::processes::{children, kill_now};
use crate::studies::{Study, failures};

/// The whole of it.
pub const KILLS: Case = Case {
    name: "random-kills",
    what: "20 SIGKILLs of coordinator, agents and trainers, drawn by chance, in one study of four trials",
    short: false,
    run: kills,
};

const TIMES: u64 = 20;

fn kills(report: &mut Report) -> Outcome {
    let study = Study::grid();
    let mut chance = ChaCha8Rng::seed_from_u64(report.seed);
    let mut below = |bound: u64| chance.next_u64() % bound;
    report.say(format_args!("seed {}", report.seed));
    let mut scene = Scene::new();
    let mut workers = vec![scene.worker("a"), scene.worker("b")];
    let id = scene.cluster.submit(&study.file());
    let (mut killed, mut trainers) = (0, 0);
    while killed < TIMES {
        for _ in 0..=below(4) {
            scene.wait_for_progress(id);
        }
        let over = scene.cluster.events(id);
        let over = over.iter().any(|recorded| matches!(recorded.event, Event::StudyFinished { .. }));
        assert!(!over, "the study ended after {killed} kills");
        let which = below(2) as usize;
        let victim = match below(5) {
            0 => {
                scene.cluster.kill_coordinator();
                scene.cluster.start_coordinator();
                "the coordinator".to_owned()
            }
            1 | 2 => {
                let Worker { name, place, process } = workers.remove(which);
                process.kill();
                workers.insert(which, scene.worker_at(place, &name));
                format!("agent {name}")
            }
            _ => {
                // One that has just lost its trainer gets the next chance.
                let Some(&trainer) = children(workers[which].process.pid()).first() else { continue };
                kill_now(trainer);
                trainers += 1;
                format!("the trainer of {}", workers[which].name)
            }
        };
        killed += 1;
        report.say(format_args!("kill {killed}: {victim}"));
    }
    let events = scene.cluster.wait_until_complete(id);
    let failures = failures(&events);
    // Of a trainer whose agent is killed next, nobody tells the end.
    assert!(failures.len() <= trainers, "{failures:?}");
    assert!(failures.iter().all(|failure| failure.exit == ProcessExit::Signal(9)), "{failures:?}");
    study.assert_undisturbed(&events);
    report.count("random kills after which weights and metrics are the same bits", killed, TIMES);
    Ok(())
}
