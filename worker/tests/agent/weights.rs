//! What a trial starts from, and what it leaves.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn two_checkpoints_wait_for_a_coordinator_that_is_away() {
    let mut scene = Scene::start("save");
    scene.start_rank(|_| {}).await;
    scene.pid().await;
    scene.coordinator.kill();
    let dir = scene.dir.path().join("work/study-1-tiny/mti-net-0-0/1/rank0");
    let newest = || -> (usize, u64) {
        let names = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name());
        let steps: Vec<u64> =
            names.filter_map(|name| name.to_str()?.strip_prefix("checkpoint-")?.parse().ok()).collect();
        (steps.len(), steps.into_iter().max().unwrap_or(0))
    };
    let before = newest().1;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    // One may just be written, and one may have been written and not told yet.
    let mut most = 0;
    while newest().1 < before + 50 {
        most = most.max(newest().0);
        assert!(tokio::time::Instant::now() < deadline, "training stands still: {:?}", newest());
        tokio::task::yield_now().await;
    }
    assert!(most <= 6, "{most} checkpoints on disk");
    let away = newest().1;
    scene.coordinator.serve();
    let stored = |ledger: &coordinator::Ledger| {
        let newer = |fact: &Fact| matches!(fact, Fact::Checkpoint(checkpoint) if checkpoint.step >= away);
        ledger.facts().any(newer).then_some(())
    };
    scene.coordinator.until("the newest checkpoint", stored).await;
    scene.stop(20_000).await;
    scene.exit().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_checkpoint_gives_way_to_the_one_before() {
    let scene = Scene::start("finish");
    let (newer, older) = (artifact(b"newer checkpoint"), artifact(b"older"));
    scene.coordinator.store(&newer, b"newer checkp0int");
    scene.coordinator.store(&older, b"older");
    scene
        .start_rank(|start| {
            start.resume = Some(Checkpoint { step: 20, artifact: Some(newer) });
            start.fallback = Some(Checkpoint { step: 10, artifact: Some(older) });
        })
        .await;
    assert!(scene.exit().await.finished);
    scene.coordinator.change(|ledger| {
        assert_eq!(ledger.value("resume_step"), Some(10.0));
        assert_eq!(ledger.value("resume_bytes"), Some(5.0));
        assert_eq!(ledger.value("fallback_bytes"), Some(-1.0));
    });
    let log = scene.dir.path().join("work/study-1-tiny/mti-net-0-0/1/rank0.log");
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("the checkpoint of step 20 is lost") && log.contains("step 10"), "{log}");
    scene.end().await;
}

/// Names initial weights of the trial's arm in its spec.
fn start_from(start: &mut StartRank, weights: &mtinet_proto::v1::Artifact) {
    let mut spec = StudySpec::from_json(&start.spec_json).unwrap();
    let file = PinnedFile { path: "w".into(), blake3: weights.blake3.clone(), bytes: weights.bytes };
    spec.init.insert("mti-net".parse().unwrap(), InitialFile::Pinned(file));
    start.spec_json = spec.to_json();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_starts_from_its_studys_weights_and_goes_on_from_its_own() {
    let (weights, resume) = (artifact(b"initial weights"), artifact(b"a checkpoint"));
    let checkpoint = Checkpoint { step: 20, artifact: Some(resume.clone()) };
    for (checkpoint, init_bytes, resume_bytes) in [(None, 15.0, -1.0), (Some(checkpoint), -1.0, 12.0)] {
        let scene = Scene::start("finish");
        scene.coordinator.store(&weights, b"initial weights");
        scene.coordinator.store(&resume, b"a checkpoint");
        scene
            .start_rank(|start| {
                start_from(start, &weights);
                start.resume = checkpoint;
            })
            .await;
        assert!(scene.exit().await.finished);
        scene.coordinator.change(|ledger| {
            assert_eq!(ledger.value("init_bytes"), Some(init_bytes));
            assert_eq!(ledger.value("resume_bytes"), Some(resume_bytes));
        });
        scene.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_whose_initial_weights_are_gone_or_damaged_does_not_start() {
    for stored in [None, Some(&b"initial we1ghts"[..])] {
        let scene = Scene::start("finish");
        let weights = artifact(b"initial weights");
        if let Some(content) = stored {
            scene.coordinator.store(&weights, content);
        }
        scene.start_rank(|start| start_from(start, &weights)).await;
        let exit = scene.exit().await;
        assert_eq!(exit.how, Some(How::NotStarted(true)));
        assert!(exit.message.contains("the initial weights of mti-net cannot be had"), "{}", exit.message);
        assert!(exit.message.contains(&weights.blake3), "{}", exit.message);
        scene.end().await;
    }
}
