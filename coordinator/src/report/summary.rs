//! `summary.json`: the study's figures for programs (DESIGN.md 4.4).

use mtinet_domain::Arm;
use mtinet_domain::metrics::{MeanStd, mean};
use mtinet_domain::statistics::smallest_p;
use serde_json::{Map, Value, json};

use super::aggregate::{Aggregate, Cell, pooled, pooled_subjects};
use super::comparisons::{CONFIDENCE, Compared, Family, REFERENCE, RESAMPLES, comparisons, limits};
use super::metric::Metric;
use super::results::{StudyResults, TrialResult};

/// The document. `mean` and `std` of an arm are null where a trial is missing; what there is then stands under
/// `partial`, so that no program takes it for the whole by accident. Deviations are sample deviations over folds.
pub fn summary_json(results: &StudyResults) -> Value {
    let families = comparisons(results);
    json!({
        "study": results.spec.name,
        "study_id": results.study.0,
        "dataset": results.dataset.name,
        "dataset_hash": results.dataset.hash,
        "spec_hash": results.spec_hash,
        "complete": results.is_complete(),
        "outcome": results.outcome,
        "submitted_ms": results.submitted_ms,
        "finished_ms": results.finished_ms,
        "phases": results.dataset.phases,
        "classes": results.dataset.classes,
        "healthy_minimum_pixels": results.healthy_minimum_pixels,
        "folds": results.spec.folds.indices(),
        "seeds": results.spec.seeds,
        "software_version": env!("CARGO_PKG_VERSION"),
        "arms": results.spec.arms.iter().map(|&arm| arm_json(results, arm)).collect::<Vec<_>>(),
        "reference": reference_json(results),
        "comparisons": comparisons_json(&families),
        "comparisons_omitted": omitted_json(&families),
        "comparisons_limits": limits(results, &families),
    })
}

fn arm_json(results: &StudyResults, arm: Arm) -> Value {
    let cells: Vec<(&str, Cell)> =
        Metric::NAMED.iter().map(|&metric| (metric.name(), Cell::of(results, arm, metric))).collect();
    let complete = results.of_arm(arm).all(|trial| trial.summary().is_some());
    let missing: Vec<Value> =
        results.of_arm(arm).filter(|trial| trial.summary().is_none()).map(gap_json).collect();
    let mut document = json!({
        "arm": arm.name(),
        "label": arm.label(),
        "complete": complete,
        "missing": missing,
        "trials": results.of_arm(arm).map(trial_json).collect::<Vec<_>>(),
        "mean": figures(&cells, Aggregate::is_complete, |stats| Some(stats.mean)),
        "std": figures(&cells, Aggregate::is_complete, |stats| stats.std),
        "n_folds": complete.then(|| results.spec.folds.indices().len()),
        "pooled": {
            "slices": pooled_json(results, arm, pooled),
            "subjects": pooled_json(results, arm, pooled_subjects),
        },
    });
    if !complete {
        document["partial"] = json!({
            "mean": figures(&cells, |_| true, |stats| Some(stats.mean)),
            "std": figures(&cells, |_| true, |stats| stats.std),
            "n_folds": figures(&cells, |_| true, |stats| Some(stats.n as f64)),
        });
    }
    document
}

fn gap_json(trial: &TrialResult) -> Value {
    json!({
        "trial": trial.key.to_string(),
        "status": trial.outcome.word(),
        "reason": trial.outcome.reason(),
    })
}

fn trial_json(trial: &TrialResult) -> Value {
    let summary = trial.summary();
    let mut document = json!({
        "trial": trial.key.to_string(),
        "fold": trial.key.fold,
        "seed": trial.key.seed,
        "status": trial.outcome.word(),
        "attempts": trial.attempts,
        "started_ms": trial.started_ms,
        "ended_ms": trial.ended_ms,
        "mae_phases": summary.and_then(|summary| summary.mae_phases.clone()),
        "confusion": summary.and_then(|summary| summary.confusion.clone()),
        "confusion_subjects": trial.details.as_ref().and_then(|details| details.subject_confusion.clone()),
        "n_slices": summary.map(|summary| summary.n_slices),
        "n_healthy_slices": summary.map(|summary| summary.n_healthy_slices),
        "n_subjects": summary.map(|summary| summary.n_subjects),
        "reference": summary.and_then(|summary| summary.reference),
    });
    for metric in Metric::NAMED {
        document[metric.name()] = json!(metric.of_trial(trial));
    }
    document
}

fn figures(
    cells: &[(&str, Cell)],
    counts: impl Fn(&Aggregate) -> bool,
    figure: impl Fn(MeanStd) -> Option<f64>,
) -> Map<String, Value> {
    cells
        .iter()
        .map(|(name, cell)| {
            let stats =
                cell.value().filter(|aggregate| counts(aggregate)).and_then(|aggregate| aggregate.over_folds);
            ((*name).to_owned(), json!(stats.and_then(&figure)))
        })
        .collect()
}

fn pooled_json(
    results: &StudyResults,
    arm: Arm,
    pool: impl Fn(&StudyResults, Arm, Metric) -> Option<MeanStd>,
) -> Map<String, Value> {
    // Those that a single slice or subject has; the others would be null for every arm.
    let metrics = [
        Metric::Dsc,
        Metric::Iou,
        Metric::Mae,
        Metric::Accuracy,
        Metric::SubjectAccuracy,
        Metric::TimMae,
        Metric::MaeSum,
        Metric::DscSkipBothEmpty,
        Metric::IouSkipBothEmpty,
        Metric::DscBothEmptyOne,
        Metric::IouBothEmptyOne,
    ];
    metrics.into_iter().map(|metric| (metric.name().to_owned(), json!(pool(results, arm, metric)))).collect()
}

fn reference_json(results: &StudyResults) -> Value {
    let lines = results.reference_lines();
    let complete = results.spec.folds.indices().iter().all(|fold| lines.contains_key(fold));
    let over = |value: fn(&mtinet_domain::evaluation::ReferenceLines) -> f64| {
        mean(lines.values().map(value)).filter(|_| complete)
    };
    json!({
        "best_constant_mae": over(|lines| lines.best_constant_mae),
        "class_median_mae": over(|lines| lines.class_median_mae),
        "folds": lines
            .iter()
            .map(|(fold, lines)| {
                json!({
                    "fold": fold,
                    "best_constant_mae": lines.best_constant_mae,
                    "class_median_mae": lines.class_median_mae,
                })
            })
            .collect::<Vec<_>>(),
    })
}

/// One entry a pair of arms and metric; differences and effects are a - b.
fn comparisons_json(families: &[Family]) -> Vec<Value> {
    let entries = families.iter().flat_map(|family| {
        family.compared().map(move |(other, compared)| comparison_json(family, other, compared))
    });
    entries.collect()
}

fn comparison_json(family: &Family, other: Arm, compared: &Compared) -> Value {
    let subjects = &compared.subjects;
    json!({
        "a": REFERENCE.name(),
        "b": other.name(),
        "metric": family.name,
        "test": format!("Wilcoxon signed-rank, two-sided, {}", subjects.method.words()),
        "unit": "subject",
        "n": subjects.n,
        "n_nonzero": subjects.n_nonzero,
        "statistic": subjects.statistic(),
        "p": subjects.p,
        "p_holm": compared.p_holm,
        "holm_over": family.comparisons.len(),
        "p_smallest": smallest_p(subjects.n),
        "effect": subjects.rank_biserial(),
        "effect_measure": "matched-pairs rank-biserial correlation",
        "mean_a": compared.mean_a,
        "mean_b": compared.mean_b,
        "difference": compared.difference,
        "better": family.better(other, compared).map(Arm::name),
        "ci_low": compared.interval.map(|interval| interval.low),
        "ci_high": compared.interval.map(|interval| interval.high),
        "ci": { "method": "percentile bootstrap", "confidence": CONFIDENCE, "resamples": RESAMPLES },
        "folds": match &compared.folds {
            Ok(folds) => json!({
                "test": "corrected resampled t",
                "n": folds.test.n,
                "test_to_train": folds.test_to_train,
                "difference": folds.test.mean,
                "t": folds.test.t,
                "p": folds.test.p,
                "p_holm": folds.p_holm,
            }),
            Err(reason) => json!({ "test": null, "reason": reason }),
        },
    })
}

/// Comparisons that the study asks for and that cannot be made, with the reason.
fn omitted_json(families: &[Family]) -> Vec<Value> {
    let entries = families.iter().flat_map(|family| {
        family.omitted().map(move |(other, reason)| {
            json!({ "a": REFERENCE.name(), "b": other.name(), "metric": family.name, "reason": reason })
        })
    });
    entries.collect()
}
