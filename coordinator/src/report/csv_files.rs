//! `trials.csv`, `subjects.csv` and `slices.csv`. DSC, IoU and accuracy in percent, MAE and curves in raw
//! intensity; a cell is empty where a value does not exist.

use mtinet_domain::TrialKey;
use mtinet_domain::evaluation::{
    SliceResult, TrialEvaluation, mean_probabilities, mean_vectors, most_probable,
};
use mtinet_domain::event::SPEED;
use mtinet_domain::metrics::mean;

use super::metric::Metric;
use super::results::{StudyResults, TrialOutcome, TrialResult};
use super::tables::devices;

/// One row a trial, finished or not.
pub fn trials(results: &StudyResults) -> Result<Vec<u8>, csv::Error> {
    let (phases, classes) = (&results.dataset.phases, &results.dataset.classes);
    let mut header = columns(&["arm", "fold", "seed", "status", "dsc", "iou", "mae"]);
    header.extend(prefixed("mae_", phases));
    header.extend(columns(&["tim_mae", "accuracy", "subject_accuracy"]));
    for truth in classes {
        header.extend(classes.iter().map(|predicted| format!("n_{truth}_as_{predicted}")));
    }
    header.extend(columns(&[
        "n_slices",
        "n_healthy_slices",
        "n_subjects",
        "healthy_fp_rate",
        "healthy_fp_pixels",
    ]));
    header.extend(columns(&[
        "best_constant_mae",
        "class_median_mae",
        "attempts",
        "failures",
        "workers_lost",
    ]));
    header.extend(columns(&["ranks", "steps", "train_seconds", "weights", "evaluation", "reason"]));
    header.extend(MORE.map(|metric| metric.name().to_owned()));
    header.extend(columns(&["healthy_minimum_pixels", "label", "devices"]));
    header.extend(columns(&["started_ms", "ended_ms", "wall_seconds", "resumed_at"]));
    header.extend(columns(&SPEED));
    let healthy = results.healthy_minimum_pixels;
    table(header, results.trials.iter().map(|trial| trial_row(trial, phases.len(), classes.len(), healthy)))
}

fn trial_row(trial: &TrialResult, phases: usize, classes: usize, healthy: u64) -> Vec<String> {
    let summary = trial.summary();
    let metric = |metric: Metric| cell(metric.of_trial(trial));
    let count = |count: fn(&mtinet_domain::evaluation::FoldSummary) -> u64| cell(summary.map(count));
    let mut row = key_cells(trial.key);
    row.push(trial.outcome.word().to_owned());
    row.extend([Metric::Dsc, Metric::Iou, Metric::Mae].map(metric));
    row.extend((0..phases).map(|phase| metric(Metric::MaePhase(phase))));
    row.extend([Metric::TimMae, Metric::Accuracy, Metric::SubjectAccuracy].map(metric));
    let confusion = summary.and_then(|summary| summary.confusion.as_ref());
    for truth in 0..classes {
        row.extend((0..classes).map(|predicted| cell(confusion.map(|counts| counts[truth][predicted]))));
    }
    row.extend([count(|s| s.n_slices), count(|s| s.n_healthy_slices), count(|s| s.n_subjects)]);
    row.extend([Metric::HealthyRate, Metric::HealthyPixels].map(metric));
    let reference = summary.and_then(|summary| summary.reference);
    row.push(cell(reference.map(|lines| lines.best_constant_mae)));
    row.push(cell(reference.map(|lines| lines.class_median_mae)));
    row.extend([trial.attempts, trial.failures, trial.workers_lost].map(|count| count.to_string()));
    row.extend([trial.placements.len().to_string(), trial.steps.to_string(), cell(trial.train_seconds)]);
    let evaluated = match &trial.outcome {
        TrialOutcome::Done(evaluated) => Some(evaluated),
        _ => None,
    };
    row.push(cell(evaluated.and_then(|e| e.weights.as_ref()).map(|weights| &weights.blake3)));
    row.push(cell(evaluated.map(|e| &e.evaluation.blake3)));
    row.push(cell(trial.outcome.reason()));
    row.extend(MORE.map(metric));
    row.extend([healthy.to_string(), trial.key.arm.label().to_owned(), devices(&trial.placements)]);
    row.extend([cell(trial.started_ms), cell(trial.ended_ms), cell(trial.wall_seconds())]);
    let resumed: Vec<String> =
        trial.history.iter().filter_map(|attempt| attempt.resumed_at).map(|step| step.to_string()).collect();
    row.push(resumed.join(";"));
    row.extend(SPEED.map(|name| cell(trial.speed(name))));
    row
}

/// Metrics that came after the first columns were fixed.
const MORE: [Metric; 10] = [
    Metric::MaeSum,
    Metric::Sensitivity,
    Metric::Specificity,
    Metric::SubjectDsc,
    Metric::SubjectIou,
    Metric::SubjectMae,
    Metric::DscSkipBothEmpty,
    Metric::IouSkipBothEmpty,
    Metric::DscBothEmptyOne,
    Metric::IouBothEmptyOne,
];

/// One row a held-out slice of every finished trial.
pub fn slices(results: &StudyResults) -> Result<Vec<u8>, csv::Error> {
    let mut header = columns(&["arm", "fold", "seed", "subject", "case", "slice"]);
    header.extend(value_columns(results));
    header.push("overlap_pixels".to_owned());
    header.extend(late_columns(results));
    let rows = evaluations(results).flat_map(|(key, evaluation)| {
        evaluation.slices.iter().map(move |slice| {
            let mut row = key_cells(key);
            row.extend([slice.subject.clone(), slice.case.clone(), slice.slice.to_string()]);
            row.extend(Values::of_slice(slice).cells(results));
            row.push(cell(slice.overlap_pixels()));
            row.extend(WITH_HEALTHY.map(|metric| cell(metric.of_slice(slice))));
            row.extend(Late::of(&[slice]).cells(results));
            row
        })
    });
    table(header, rows)
}

/// One row a held-out subject of every finished trial: means over its slices with tumour. A subject without
/// tumour has a row without values; the cases of a subject with several are joined by `;`.
pub fn subjects(results: &StudyResults) -> Result<Vec<u8>, csv::Error> {
    let mut header = columns(&["arm", "fold", "seed", "subject", "case"]);
    header.extend(value_columns(results));
    header.extend(columns(&["n_slices", "n_healthy_slices"]));
    header.extend(late_columns(results));
    let rows = evaluations(results).flat_map(|(key, evaluation)| {
        evaluation.by_subject().into_iter().map(move |(subject, slices)| {
            let mut row = key_cells(key);
            row.extend([subject.to_owned(), case_names(&slices)]);
            let tumour: Vec<&SliceResult> =
                slices.iter().copied().filter(|slice| slice.class.is_some()).collect();
            row.extend(Values::of_subject(&tumour).cells(results));
            row.extend([tumour.len().to_string(), (slices.len() - tumour.len()).to_string()]);
            let over_all =
                |metric: Metric| cell(mean(slices.iter().filter_map(|slice| metric.of_slice(slice))));
            row.extend(WITH_HEALTHY.map(over_all));
            row.extend(Late::of(&tumour).cells(results));
            row
        })
    });
    table(header, rows)
}

fn evaluations(results: &StudyResults) -> impl Iterator<Item = (TrialKey, &TrialEvaluation)> {
    results
        .trials
        .iter()
        .filter(|trial| trial.summary().is_some())
        .filter_map(|trial| trial.evaluation.as_ref().map(|evaluation| (trial.key, evaluation)))
}

fn case_names(slices: &[&SliceResult]) -> String {
    let mut names: Vec<&str> = slices.iter().map(|slice| slice.case.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names.join(";")
}

fn value_columns(results: &StudyResults) -> Vec<String> {
    let phases = &results.dataset.phases;
    let mut names = columns(&["class", "dsc", "iou", "mae"]);
    names.extend(prefixed("mae_", phases));
    names.push("pred_class".to_owned());
    names.extend((1..results.dataset.classes.len()).map(|class| format!("p_{class}")));
    names.extend(columns(&["truth_pixels", "predicted_pixels", "tim_mae"]));
    names.extend(prefixed("true_", phases));
    names.extend(prefixed("predicted_", phases));
    names.extend(columns(&["class_index", "pred_class_index"]));
    names
}

/// Dice and IoU by the conventions that count slices without tumour.
const WITH_HEALTHY: [Metric; 4] =
    [Metric::DscSkipBothEmpty, Metric::IouSkipBothEmpty, Metric::DscBothEmptyOne, Metric::IouBothEmptyOne];

fn late_columns(results: &StudyResults) -> Vec<String> {
    let mut names: Vec<String> = WITH_HEALTHY.iter().map(|metric| metric.name().to_owned()).collect();
    names.extend(columns(&["mae_sum", "p_0"]));
    names.extend(prefixed("mask_", &results.dataset.phases));
    names
}

/// The last columns, after those on empty masks.
struct Late {
    mae_sum: Option<f64>,
    first_probability: Option<f64>,
    /// The curve that the image has under the predicted mask.
    mask_curve: Option<Vec<f64>>,
}

impl Late {
    /// Means over slices with tumour.
    fn of(slices: &[&SliceResult]) -> Self {
        Self {
            mae_sum: mean(slices.iter().filter_map(|slice| slice.mae_sum())),
            first_probability: mean_probabilities(slices).and_then(|values| values.first().copied()),
            mask_curve: mean_vectors(slices.iter().filter_map(|slice| slice.mask_curve.as_deref())),
        }
    }

    fn cells(&self, results: &StudyResults) -> Vec<String> {
        let mut row = vec![cell(self.mae_sum), cell(self.first_probability)];
        let phases = 0..results.dataset.phases.len();
        row.extend(phases.map(|phase| cell(self.mask_curve.as_ref().and_then(|curve| curve.get(phase)))));
        row
    }
}

/// What a row holds from column `class` on.
struct Values {
    class: Option<usize>,
    dsc: Option<f64>,
    iou: Option<f64>,
    mae: Option<f64>,
    tim_mae: Option<f64>,
    mae_phases: Option<Vec<f64>>,
    probabilities: Option<Vec<f64>>,
    truth_pixels: Option<f64>,
    predicted_pixels: Option<f64>,
    curve: Option<Vec<f64>>,
    predicted_curve: Option<Vec<f64>>,
}

impl Values {
    fn of_slice(slice: &SliceResult) -> Self {
        Self {
            class: slice.class,
            dsc: Metric::Dsc.of_slice(slice),
            iou: Metric::Iou.of_slice(slice),
            mae: Metric::Mae.of_slice(slice),
            tim_mae: Metric::TimMae.of_slice(slice),
            mae_phases: slice.mae_phases(),
            probabilities: slice.probabilities.clone(),
            truth_pixels: Some(slice.truth_pixels as f64),
            predicted_pixels: slice.predicted_pixels.map(|pixels| pixels as f64),
            curve: slice.curve.clone(),
            predicted_curve: slice.predicted_curve.clone(),
        }
    }

    fn of_subject(slices: &[&SliceResult]) -> Self {
        let over = |metric: Metric| mean(slices.iter().filter_map(|slice| metric.of_slice(slice)));
        let errors: Vec<Vec<f64>> = slices.iter().filter_map(|slice| slice.mae_phases()).collect();
        Self {
            class: slices.iter().find_map(|slice| slice.class),
            dsc: over(Metric::Dsc),
            iou: over(Metric::Iou),
            mae: over(Metric::Mae),
            tim_mae: over(Metric::TimMae),
            mae_phases: mean_vectors(errors.iter().map(Vec::as_slice)),
            probabilities: mean_probabilities(slices),
            truth_pixels: mean(slices.iter().map(|slice| slice.truth_pixels as f64)),
            predicted_pixels: mean(
                slices.iter().filter_map(|slice| slice.predicted_pixels).map(|n| n as f64),
            ),
            curve: mean_vectors(slices.iter().filter_map(|slice| slice.curve.as_deref())),
            predicted_curve: mean_vectors(slices.iter().filter_map(|slice| slice.predicted_curve.as_deref())),
        }
    }

    fn cells(&self, results: &StudyResults) -> Vec<String> {
        let (phases, classes) = (results.dataset.phases.len(), &results.dataset.classes);
        let name = |class: Option<usize>| cell(class.and_then(|class| classes.get(class)));
        let list = |values: &Option<Vec<f64>>, range: std::ops::Range<usize>| -> Vec<String> {
            range.map(|index| cell(values.as_ref().and_then(|values| values.get(index)))).collect()
        };
        let predicted = self.probabilities.as_deref().map(most_probable);
        let mut row = vec![name(self.class), cell(self.dsc), cell(self.iou), cell(self.mae)];
        row.extend(list(&self.mae_phases, 0..phases));
        row.push(name(predicted));
        row.extend(list(&self.probabilities, 1..classes.len()));
        row.extend([cell(self.truth_pixels), cell(self.predicted_pixels), cell(self.tim_mae)]);
        row.extend(list(&self.curve, 0..phases));
        row.extend(list(&self.predicted_curve, 0..phases));
        row.extend([cell(self.class), cell(predicted)]);
        row
    }
}

fn key_cells(key: TrialKey) -> Vec<String> {
    vec![key.arm.name().to_owned(), key.fold.to_string(), key.seed.to_string()]
}

fn columns(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn prefixed<'a>(prefix: &'a str, names: &'a [String]) -> impl Iterator<Item = String> + 'a {
    names.iter().map(move |name| format!("{prefix}{name}"))
}

fn cell(value: Option<impl std::fmt::Display>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn table(header: Vec<String>, rows: impl Iterator<Item = Vec<String>>) -> Result<Vec<u8>, csv::Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(header)?;
    for row in rows {
        writer.write_record(row)?;
    }
    writer.into_inner().map_err(|error| csv::Error::from(error.into_error()))
}
