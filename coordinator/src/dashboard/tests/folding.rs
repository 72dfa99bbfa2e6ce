//! What the dashboard makes of events: counts, shares, the estimate, the leaderboard.

use mtinet_domain::event::{Event, StudyOutcome};
use mtinet_domain::trial::{AttemptEnd, TrialStatus};

use super::super::state::{Counts, Show, leaderboard};
use super::*;

fn status(model: &Model, trial: &str) -> TrialStatus {
    let index = model.study.index_of(key(trial)).unwrap();
    model.study.trial(index).unwrap().progress.status
}

#[test]
fn trials_are_counted_by_where_they_stand() {
    let model = ablation_model();
    let counts = Counts { done: 4, running: 2, waiting: 2, failed: 1, ..Counts::default() };
    assert_eq!(model.study.counts(), counts);
    assert_eq!(counts.all(), 9);
    assert_eq!(model.study.status(), "running");
    let no_tim = model.study.trial(4).unwrap();
    assert_eq!((no_tim.progress.step, no_tim.result.attempts, no_tim.result.failures), (310, 2, 1));
    // Four done, one given up, 310 and 60 of 500 steps.
    let share = (5.0 + 0.62 + 0.12) / 9.0;
    assert!((model.study.share_done() - share).abs() < 1e-9, "{}", model.study.share_done());
}

#[test]
fn an_event_that_comes_twice_changes_nothing() {
    let story = ablation();
    let mut model = story.model();
    let before = (model.study.seq(), model.study.counts());
    // A stream that is opened anew may begin with what was told already.
    model.apply(Update::Events(story.events.clone()), story.now_ms);
    assert_eq!((model.study.seq(), model.study.counts()), before);
}

#[test]
fn pausing_cancelling_and_trying_again_are_seen() {
    let mut story = ablation();
    story.tell(Event::StudyPaused { by: Some("ada".into()) });
    assert_eq!(story.model().study.status(), "paused");
    story.tell(Event::StudyResumed { by: None });
    story.tell(Event::StudyCancelled { by: None });
    let model = story.model();
    assert_eq!(model.study.status(), "cancelling");
    assert_eq!(model.study.counts().cancelled, 2, "what waited is over at once, what runs is stopped first");
    assert_eq!(status(&model, "no-tim/1/0"), TrialStatus::Running);
    for trial in ["no-tim/1/0", "no-tim/2/0"] {
        story.tell(Event::AttemptStopping {
            trial: key(trial),
            attempt: AttemptNumber(1),
            end: AttemptEnd::Cancelled,
        });
        assert_eq!(status(&story.model(), trial), TrialStatus::Stopping);
        story.end(key(trial), 1, AttemptEnd::Cancelled);
    }
    story.over(StudyOutcome::Cancelled);
    assert_eq!(story.model().study.status(), "cancelled");
    story.tell(Event::TrialsRetried { trials: vec![key("no-tim/1/0")], by: None });
    let model = story.model();
    assert_eq!((model.study.status(), status(&model, "no-tim/1/0")), ("running", TrialStatus::Waiting));
}

#[test]
fn the_estimate_plays_what_is_left_onto_the_places_that_run() {
    let mut story =
        Story::new("name = \"s\"\ndataset = \"d\"\narms = [\"unet\"]\nfolds = 5\n[train]\nsteps = 100\n");
    assert_eq!(story.model().study.seconds_left(story.now_ms), None, "nothing runs");
    // Two places; each step takes a tenth of a second, so that a whole trial takes 10 s.
    let (first, second) = (key("unet/0/0"), key("unet/1/0"));
    story.start(first, 1, None);
    story.start(second, 1, None);
    let begin = story.now_ms;
    story.train(first, 1, 0, 50);
    story.now_ms = begin;
    story.train(second, 1, 0, 50);
    let model = story.model();
    // 5 s are left of each that runs; three more of 10 s each: one place ends after 15 s, the other after 25 s.
    let left = model.study.seconds_left(begin + 5000).unwrap();
    assert!((left - 25.0).abs() < 0.5, "{left}");
}

#[test]
fn the_length_of_an_epoch_is_learnt_from_another_trial() {
    let mut story =
        Story::new("name = \"s\"\ndataset = \"d\"\narms = [\"unet\"]\nfolds = 2\n[train]\nepochs = 4\n");
    story.start(key("unet/0/0"), 1, None);
    story.train(key("unet/0/0"), 1, 0, 50);
    story.start(key("unet/1/0"), 1, None);
    story.train(key("unet/1/0"), 1, 0, 20);
    let model = story.model();
    let share = |index| model.study.fraction(model.study.trial(index).unwrap().progress);
    assert_eq!((share(0), share(1)), (0.25, 0.1));
}

#[test]
fn the_leaderboard_has_mean_and_sample_deviation_over_finished_folds() {
    let model = ablation_model();
    let rows = leaderboard(&model.study, 0);
    let names: Vec<&str> = rows.iter().map(|row| row.arm.name()).collect();
    assert_eq!(names, ["mti-net", "no-tim", "resnet50-cls"]);
    let stats = rows[0].cells[0].value().unwrap().over_folds.unwrap();
    // numpy: mean and std(ddof=1) of 79.03, 75.2, 77.5.
    assert!((stats.mean - 77.243_333).abs() < 1e-5, "{stats:?}");
    assert!((stats.std.unwrap() - 1.927_857).abs() < 1e-5, "{stats:?}");
    assert_eq!((rows[0].folds, rows[1].folds, rows[2].folds), ((3, 3), (1, 3), (0, 3)));
    assert_eq!(rows[1].cells[0].value().unwrap().over_folds.unwrap().std, None, "one fold has no deviation");
    assert!(rows[2].cells[0].value().is_none(), "a classifier has no Dice");
    // A smaller error is the better one.
    let by_error = leaderboard(&model.study, 2);
    assert_eq!(by_error[0].arm.name(), "mti-net");
}

#[test]
fn a_fold_counts_once_all_its_seeds_are_done() {
    let mut story = Story::new(
        "name = \"s\"\ndataset = \"d\"\narms = [\"unet\"]\nfolds = 2\nseeds = [0, 1]\n[train]\nsteps = 200\n",
    );
    story.done(key("unet/0/0"), 80.0);
    let rows = leaderboard(&story.model().study, 0);
    assert_eq!((rows[0].folds, rows[0].mean(0)), ((0, 2), None));
    story.done(key("unet/0/1"), 82.0);
    let rows = leaderboard(&story.model().study, 0);
    assert_eq!((rows[0].folds, rows[0].mean(0)), ((1, 2), Some(81.0)));
}

#[test]
fn the_journal_tells_what_matters_and_is_filtered() {
    let model = ablation_model();
    let journal = model.study.journal();
    let texts = |show, filter: &'static str| -> Vec<String> {
        journal.newest(show, filter).map(|entry| entry.text.clone()).collect()
    };
    let problems = texts(Show::Problems, "");
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems[0].starts_with("given up: the same error twice"), "{problems:?}");
    assert!(
        problems[2].starts_with(
            "attempt 1 failed (signal 9 at step 120): killed by the out-of-memory killer: cgroup"
        ),
        "{problems:?}"
    );
    assert_eq!(texts(Show::Main, "no-tim/1").len(), 3);
    assert!(texts(Show::All, "no such text").is_empty());
}

#[test]
fn a_log_that_does_not_begin_with_the_submission_is_told() {
    let story = ablation();
    let mut model = Model::new("x");
    model.apply(Update::Events(story.events[1..4].to_vec()), 0);
    assert!(model.damage.as_deref().is_some_and(|words| words.contains("submission")), "{:?}", model.damage);
}
