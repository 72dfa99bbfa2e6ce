//! Where the figures come from: what is missing and why, the pinned inputs, and each trial's history.

use mtinet_domain::trial::Placement;

use super::super::results::{StudyResults, TrialOutcome, TrialResult};
use super::layout::Page;

pub(super) fn missing_trials(results: &StudyResults, page: &mut Page) {
    let missing: Vec<&TrialResult> =
        results.trials.iter().filter(|trial| trial.summary().is_none()).collect();
    if missing.is_empty() {
        return;
    }
    page.heading(2, "Missing trials");
    let header = ["Trial", "Status", "Attempts", "Reason"].map(str::to_owned);
    let rows: Vec<Vec<String>> = missing
        .iter()
        .map(|trial| {
            let reason = trial.outcome.reason().unwrap_or_default().to_owned();
            vec![trial.key.to_string(), trial.outcome.word().to_owned(), trial.attempts.to_string(), reason]
        })
        .collect();
    page.table(&header, &rows);
}

pub(super) fn provenance(results: &StudyResults, page: &mut Page) {
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
        ("Finished", finished),
        ("Report by", format!("mtinet {}", env!("CARGO_PKG_VERSION"))),
    ];
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(what, value)| vec![what.to_owned(), value]).collect();
    page.table(&["What".to_owned(), "Value".to_owned()], &rows);
    history(results, page);
    if let Ok(text) = toml::to_string(spec) {
        page.paragraph("The study as it ran, with every default:");
        page.paragraph(&format!("```toml\n{}\n```", text.trim_end()));
    }
}

fn history(results: &StudyResults, page: &mut Page) {
    let header = [
        "Trial",
        "Status",
        "Attempts",
        "of these failed",
        "worker lost",
        "Ran on",
        "Steps",
        "Training",
        "Weights",
    ]
    .map(str::to_owned);
    let rows: Vec<Vec<String>> = results
        .trials
        .iter()
        .map(|trial| {
            vec![
                trial.key.to_string(),
                trial.outcome.word().to_owned(),
                trial.attempts.to_string(),
                trial.failures.to_string(),
                trial.workers_lost.to_string(),
                devices(&trial.placements),
                trial.steps.to_string(),
                trial.train_seconds.map(|seconds| format!("{seconds:.1} s")).unwrap_or_default(),
                weights(trial),
            ]
        })
        .collect();
    page.table(&header, &rows);
}

fn devices(placements: &[Placement]) -> String {
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

fn utc(milliseconds: u64) -> String {
    i64::try_from(milliseconds)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| format!("{milliseconds} ms after 1970"), |time| time.to_string())
}
