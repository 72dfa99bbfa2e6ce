//! Checkpoints that are damaged where they are stored.

use std::path::PathBuf;

use mtinet_domain::event::{Event, Recorded};
use mtinet_domain::trial::CheckpointRef;

use super::scene::{Scene, Worker};
use super::{Case, Outcome, Report};
use crate::processes::{kill_now, stop};
use crate::studies::{CHECKPOINT_EVERY, Study, failures, first_step, past_step, resumed_from};

/// Half of it is missing.
pub const TRUNCATED: Case = Case {
    name: "truncated-checkpoint",
    what: "the newest checkpoint is truncated in the store; the trial goes on from the one before, and says so",
    short: true,
    run: truncated,
};

/// The ranks must not go on from different ones.
pub const FLIPPED_ON_ONE_HOST: Case = Case {
    name: "flipped-checkpoint",
    what: "a bit of the newest checkpoint flips in the store, and one host of the gang has it whole in its cache",
    short: false,
    run: flipped_on_one_host,
};

/// The stored checkpoints, in order.
fn stored(events: &[Recorded]) -> Vec<&CheckpointRef> {
    let checkpoint = |recorded| match recorded {
        &Recorded { event: Event::CheckpointStored { ref checkpoint, .. }, .. } => Some(checkpoint),
        _ => None,
    };
    events.iter().filter_map(checkpoint).collect()
}

fn file_of(scene: &Scene, checkpoint: &CheckpointRef) -> PathBuf {
    let hash = &checkpoint.artifact.blake3;
    let path = scene.cluster.data_dir().join("artifacts").join(&hash[..2]).join(hash);
    let length = std::fs::metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).len();
    assert_eq!(length, checkpoint.artifact.bytes, "it was whole before");
    path
}

fn truncated(report: &mut Report) -> Outcome {
    let study = Study::solo();
    let scene = Scene::new();
    let Worker { process, place: _place, .. } = scene.worker("a");
    let id = scene.cluster.submit(&study.file());
    scene.cluster.wait_for(id, "progress", past_step(4 * CHECKPOINT_EVERY));
    process.kill();
    let events = scene.cluster.events(id);
    let checkpoints = stored(&events);
    let [.., before, newest] = checkpoints[..] else { panic!("two checkpoints are stored: {checkpoints:?}") };
    let path = file_of(&scene, newest);
    let file = std::fs::File::options().write(true).open(&path).expect("the checkpoint is a file");
    file.set_len(newest.artifact.bytes / 2).expect("it can be truncated");
    let _worker = scene.worker("b");
    let events = scene.cluster.wait_until_complete(id);
    assert_eq!(resumed_from(&events), Some(newest.step), "nobody knew that it was damaged");
    assert_eq!(first_step(&events, 2), Some(before.step + 1), "it went on from the one before");
    let words = format!("checkpoint of step {} is lost", newest.step);
    let log = scene.cluster.log("b");
    assert!(log.contains(&words) && log.contains(&format!("that of step {}", before.step)), "{log}");
    assert_eq!(failures(&events).len(), 0);
    study.assert_undisturbed(&events);
    report.say(log.lines().find(|line| line.contains(&words)).unwrap_or_default());
    Ok(())
}

fn flipped_on_one_host(report: &mut Report) -> Outcome {
    let study = Study::gang();
    let scene = Scene::new();
    let mut workers = [scene.worker("a"), scene.worker("b")];
    let id = scene.cluster.submit(&study.file());
    scene.cluster.wait_for(id, "progress", past_step(4 * CHECKPOINT_EVERY));
    let rank_0 = scene.holder(id, 0, &mut workers).trainer();
    let stopped = stop(rank_0);
    // What it wrote before is on its way: the checkpoint that belongs to the last step told.
    scene.wait("the last checkpoint to be stored", || {
        let events = scene.cluster.events(id);
        let told = events.iter().filter_map(|recorded| match &recorded.event {
            Event::Metrics { records, .. } => records.last().map(|record| record.step),
            _ => None,
        });
        let due = told.max().map_or(0, |step| step / CHECKPOINT_EVERY * CHECKPOINT_EVERY);
        stored(&events).last().is_some_and(|newest| newest.step >= due)
    });
    let events = scene.cluster.events(id);
    let checkpoints = stored(&events);
    let [.., before, newest] = checkpoints[..] else { panic!("two checkpoints are stored: {checkpoints:?}") };
    let path = file_of(&scene, newest);
    let mut bytes = std::fs::read(&path).expect("the checkpoint is a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).expect("it can be changed");
    kill_now(rank_0);
    drop(stopped);
    let events = scene.cluster.wait_until_complete(id);
    assert_eq!(resumed_from(&events), Some(newest.step), "nobody knew that it was damaged");
    assert_eq!(first_step(&events, 2), Some(before.step + 1), "all ranks went on from the one before");
    assert_eq!(failures(&events).len(), 1, "only the kill: {:?}", failures(&events));
    study.assert_undisturbed(&events);
    report.say(format_args!("went on from step {} instead of {}", before.step, newest.step));
    Ok(())
}
