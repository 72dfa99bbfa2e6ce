//! As many seeds as a test run has time for; `make simulate` runs more.

use mtinet_sim::{config, simulate};

/// Seeds of a test run.
const SEEDS: u64 = if cfg!(debug_assertions) { 400 } else { 3000 };

#[test]
fn whatever_goes_wrong_everything_holds() {
    let mut seen = std::collections::BTreeMap::new();
    for seed in 0..SEEDS {
        let report = simulate(seed, config(), None).unwrap_or_else(|violation| panic!("{violation}"));
        for (kind, count) in report.kinds {
            *seen.entry(kind).or_insert(0) += count;
        }
    }
    // A simulation in which something never happens shows nothing about it.
    for kind in [
        "fleet",
        "rank_lost",
        "attempt_stopping",
        "trial_failed",
        "study_paused",
        "study_resumed",
        "study_cancelled",
        "trial_cancelled",
        "trials_retried",
        "trial_paused",
        "trial_resumed",
    ] {
        assert!(seen.get(kind).is_some_and(|count| *count > 0), "{kind} never happened: {seen:?}");
    }
}

#[test]
fn a_seed_tells_the_same_story_every_time() {
    let story = |seed| {
        let mut lines = Vec::new();
        let result =
            simulate(seed, config(), Some(Box::new(|now, words| lines.push((now, words.to_owned())))));
        assert!(result.is_ok(), "{result:?}");
        lines
    };
    assert!(story(7) == story(7));
    assert!(story(7) != story(8));
}
