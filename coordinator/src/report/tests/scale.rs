//! The whole paper's results: 22 arms by 5 folds, 238 subjects of 6 slices each, in seconds.

use std::time::{Duration, Instant};

use super::*;

/// 238 subjects over 5 folds: 48, 48, 48, 47, 47.
fn fold_of_the_paper(arm: Arm, fold: u32) -> TrialEvaluation {
    let mut evaluation = evaluation(arm, fold, 0.0);
    let pattern = evaluation.slices.clone();
    evaluation.slices = (0..238_u32)
        .filter(|subject| subject % 5 == fold)
        .flat_map(|subject| {
            let pattern = &pattern;
            (0..6_u32).map(move |slice| {
                let of = if slice < 4 { &pattern[(subject % 2) as usize] } else { &pattern[2] };
                let shift = f64::from((subject * 7 + slice * 3 + fold) % 11) / 100.0;
                SliceResult {
                    subject: format!("subject_{subject:04}"),
                    case: format!("case_{subject:04}"),
                    slice,
                    dice: of.dice.map(|dice| dice - shift),
                    iou: of.iou.map(|iou| iou - shift),
                    ..of.clone()
                }
            })
        })
        .collect();
    evaluation
}

#[test]
fn the_whole_paper_is_reported_within_seconds() {
    let arms: Vec<String> = Arm::ALL.iter().map(|arm| format!("\"{arm}\"")).collect();
    let spec = spec(&arms.join(", "), "5");
    let mut log = Log::new(&spec);
    for trial in spec.trials() {
        log.done(trial, fold_of_the_paper(trial.arm, trial.fold).summary());
    }
    let mut results = StudyResults::from_events(&log.0).unwrap();
    for trial in spec.trials() {
        results.set_evaluation(trial, fold_of_the_paper(trial.arm, trial.fold));
    }
    let slices: usize =
        results.trials.iter().filter_map(|trial| Some(trial.evaluation.as_ref()?.slices.len())).sum();
    assert_eq!(slices, arms.len() * 238 * 6);
    let directory = tempfile::tempdir().unwrap();
    let began = Instant::now();
    write(&results, Options { with_paper: true }, &Pictures::default(), directory.path()).unwrap();
    let took = began.elapsed();
    println!("{slices} slices of {} trials: report written in {took:.2?}", results.trials.len());
    // Seconds on an idle machine; the limit leaves room for a busy one.
    assert!(took < Duration::from_secs(60), "{took:?}");
    let summary: serde_json::Value =
        serde_json::from_slice(&std::fs::read(directory.path().join("summary.json")).unwrap()).unwrap();
    assert_eq!(summary["complete"], true);
    assert_eq!(summary["arms"][0]["pooled"]["subjects"]["dsc"]["n"], 238);
}
