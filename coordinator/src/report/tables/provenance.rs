//! Where the figures come from: what is missing and why, the pinned inputs, and each trial's history.

use mtinet_domain::trial::Placement;

use super::super::document::{Block, Document, Table};
use super::super::results::{StudyResults, TrialOutcome, TrialResult};

pub(super) fn missing_trials(results: &StudyResults, page: &mut Document) {
    let missing: Vec<&TrialResult> =
        results.trials.iter().filter(|trial| trial.summary().is_none()).collect();
    if missing.is_empty() {
        return;
    }
    page.heading(2, "Missing trials");
    let mut table =
        Table::new("missing_trials", "Missing trials.", &["Trial", "Status", "Attempts", "Reason"]);
    for trial in missing {
        let reason = trial.outcome.reason().unwrap_or_default().to_owned();
        let status = trial.outcome.word().to_owned();
        table.words([trial.key.to_string(), status, trial.attempts.to_string(), reason]);
    }
    page.table(table);
}

pub(super) fn provenance(results: &StudyResults, page: &mut Document) {
    page.heading(2, "Provenance");
    let spec = &results.spec;
    let numbers = |numbers: &[u64]| numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let folds: Vec<u64> = spec.folds.indices().into_iter().map(u64::from).collect();
    let finished = match (results.outcome, results.finished_ms) {
        (Some(outcome), Some(at)) => format!("{} at {}", format!("{outcome:?}").to_lowercase(), utc(at)),
        _ => "not finished".to_owned(),
    };
    let rows = [
        ("Study", format!("{} (number {})", spec.name, results.study)),
        ("Spec", format!("BLAKE3 {}", results.spec_hash)),
        ("Data set", format!("{}, BLAKE3 {}", results.dataset.name, results.dataset.hash)),
        ("Phases", results.dataset.phases.join(", ")),
        ("Classes", results.dataset.classes.join(", ")),
        ("Folds", numbers(&folds)),
        ("Seeds", numbers(&spec.seeds)),
        ("Deterministic", if spec.train.deterministic { "yes" } else { "no" }.to_owned()),
        ("Submitted", utc(results.submitted_ms)),
        (
            "First attempt",
            results.trials.iter().filter_map(|t| t.started_ms).min().map_or_else(none_yet, utc),
        ),
        ("Last event", utc(results.last_event_ms)),
        ("Finished", finished),
        ("Report by", format!("mtinet {}", env!("CARGO_PKG_VERSION"))),
    ];
    let mut table = Table::new("provenance", "Provenance of the study.", &["What", "Value"]);
    rows.into_iter().for_each(|(what, value)| table.words([what.to_owned(), value]));
    page.table(table);
    history(results, page);
    if let Ok(text) = toml::to_string(spec) {
        page.paragraph("The study as it ran, with every default:");
        page.blocks.push(Block::Code(text));
    }
}

fn history(results: &StudyResults, page: &mut Document) {
    let header = [
        "Trial",
        "Status",
        "Attempts",
        "of these failed",
        "worker lost",
        "Ran on",
        "Steps",
        "Training",
        "Began",
        "Wall time",
        "Weights",
    ];
    let mut table = Table::new("trials", "Trials: where and how long each ran.", &header);
    let seconds = |seconds: Option<f64>| seconds.map(|seconds| format!("{seconds:.1} s")).unwrap_or_default();
    for trial in &results.trials {
        table.words([
            trial.key.to_string(),
            trial.outcome.word().to_owned(),
            trial.attempts.to_string(),
            trial.failures.to_string(),
            trial.workers_lost.to_string(),
            devices(&trial.placements),
            trial.steps.to_string(),
            seconds(trial.train_seconds),
            trial.started_ms.map(utc).unwrap_or_default(),
            seconds(trial.wall_seconds()),
            weights(trial),
        ]);
    }
    table.notes.push(
        "Ran on: the latest attempt. Training: seconds in steps that the result builds on. Wall time: from the first \
         attempt's start to the last one's end, waiting in between included. Weights: the beginning of their BLAKE3."
            .to_owned(),
    );
    page.table(table);
}

/// The devices of an attempt in words.
pub(in crate::report) fn devices(placements: &[Placement]) -> String {
    let mut names: Vec<String> = placements.iter().map(|placement| placement.device.to_string()).collect();
    let ranks = names.len();
    names.dedup();
    match ranks {
        0 => String::new(),
        1 => format!("1 rank: {}", names.join(", ")),
        _ => format!("{ranks} ranks: {}", names.join(", ")),
    }
}

fn weights(trial: &TrialResult) -> String {
    match &trial.outcome {
        TrialOutcome::Done(evaluated) => evaluated
            .weights
            .as_ref()
            .map(|weights| weights.blake3.chars().take(16).collect())
            .unwrap_or_default(),
        _ => String::new(),
    }
}

fn none_yet() -> String {
    "none yet".to_owned()
}

fn utc(milliseconds: u64) -> String {
    i64::try_from(milliseconds)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| format!("{milliseconds} ms after 1970"), |time| time.to_string())
}
