//! Logs on their way to the coordinator.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_copied_whole_although_answers_are_lost_and_the_coordinator_is_away() {
    let mut scene = Scene::start_with("train", |options| options.devices.truncate(1));
    scene.coordinator.change(|ledger| ledger.lose_answers = 2);
    scene.start_rank(|_| {}).await;
    scene.training().await;
    let text = |ledger: &coordinator::Ledger| {
        ledger.logs.get(&0).map(|log| String::from_utf8(log.clone()).unwrap()).unwrap_or_default()
    };
    scene.coordinator.until("the first line", |ledger| (ledger.lose_answers == 0).then_some(())).await;
    scene.coordinator.kill();
    let file = scene.dir.path().join("work/study-1-tiny/mti-net-0-0/1/rank0.log");
    let written = |line: &str| {
        use std::io::Write as _;
        writeln!(std::fs::File::options().append(true).open(&file).unwrap(), "{line}").unwrap();
    };
    written("while nobody listened");
    scene.coordinator.serve();
    scene.stop(10_000).await;
    let exit = scene.exit().await;
    assert!(exit.stopped, "{}", exit.message);
    let copied = scene
        .coordinator
        .until("the last line", |ledger| Some(text(ledger)).filter(|log| log.contains("the trainer ended")))
        .await;
    assert_eq!(copied, std::fs::read_to_string(&file).unwrap(), "each byte once and in order");
    assert!(copied.contains("rank 0 of 1 on cpu of here: starts from the beginning\n"), "{copied}");
    assert!(copied.contains("while nobody listened\n"), "{copied}");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_that_floods_its_log_is_not_held_up_and_its_end_is_copied() {
    let scene = Scene::start("flood");
    scene.start_rank(|_| {}).await;
    let exit = scene.exit().await;
    assert!(exit.finished, "{}", exit.message);
    let copied = scene
        .coordinator
        .until("the last line", |ledger| {
            let log = String::from_utf8_lossy(ledger.logs.get(&0)?).into_owned();
            log.contains("the trainer has done all its work").then_some(log)
        })
        .await;
    assert!(copied.len() < 2_000_000 && copied.len() > 400_000, "{} bytes of four million", copied.len());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_of_a_former_release_is_asked_once_and_missed_by_nobody() {
    let scene = Scene::start("train");
    scene.coordinator.change(|ledger| ledger.knows_no_logs = true);
    scene.start_rank(|_| {}).await;
    scene.training().await;
    scene.coordinator.until("the question", |ledger| (ledger.refused_logs == 1).then_some(())).await;
    scene.stop(10_000).await;
    let exit = scene.exit().await;
    assert!(exit.stopped && exit.how == Some(How::Code(0)), "{}", exit.message);
    scene.coordinator.change(|ledger| assert_eq!(ledger.refused_logs, 1));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_cut_goes_on_behind_what_was_copied() {
    let scene = Scene::start("train");
    scene.start_rank(|_| {}).await;
    scene.training().await;
    let has = |words: &'static str| {
        move |ledger: &coordinator::Ledger| {
            String::from_utf8_lossy(ledger.logs.get(&0)?).contains(words).then_some(())
        }
    };
    scene.coordinator.until("the first line", has("starts from the beginning")).await;
    let file = scene.dir.path().join("work/study-1-tiny/mti-net-0-0/1/rank0.log");
    std::fs::write(&file, "cut\n").unwrap();
    scene.coordinator.until("what is left", has("cut\n")).await;
    scene.stop(10_000).await;
    scene.exit().await;
    scene.coordinator.until("the last line", has("the trainer ended")).await;
    scene.coordinator.until("what was before", has("starts from the beginning")).await;
    scene.end().await;
}
