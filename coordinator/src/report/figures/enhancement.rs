//! Time-intensity curves: true and predicted lesions by class, mean and deviation over subjects.

use std::collections::BTreeMap;

use mtinet_domain::Arm;
use mtinet_domain::evaluation::{SliceResult, mean_vectors};
use mtinet_domain::metrics::MeanStd;

use super::axes::{Axis, Plot, words_panel};
use super::layout::{Entry, legend};
use super::palette::{Paint, Stroke};
use super::svg::Panel;
use super::{Figure, Group, missing};
use crate::report::results::StudyResults;

/// A subject's mean curves under one arm, raw intensity.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SubjectCurves {
    /// Index of the lesion's class.
    pub(super) class: usize,
    pub(super) truth: Vec<f64>,
    pub(super) predicted: Vec<f64>,
}

/// Curves of every subject that `arm` predicted, by its name: means over its slices with tumour and over seeds. Slices
/// with a value that is not finite are left out.
pub(super) fn subject_curves(results: &StudyResults, arm: Arm) -> BTreeMap<String, SubjectCurves> {
    let mut slices: BTreeMap<&str, Vec<&SliceResult>> = BTreeMap::new();
    let evaluations = results.of_arm(arm).filter(|trial| trial.summary().is_some());
    for evaluation in evaluations.filter_map(|trial| trial.evaluation.as_ref()) {
        for slice in evaluation.slices.iter().filter(|slice| is_usable(slice)) {
            slices.entry(&slice.subject).or_default().push(slice);
        }
    }
    let means = slices.into_iter().filter_map(|(subject, slices)| {
        let curves = SubjectCurves {
            class: slices.first()?.class?,
            truth: mean_vectors(slices.iter().filter_map(|slice| slice.curve.as_deref()))?,
            predicted: mean_vectors(slices.iter().filter_map(|slice| slice.predicted_curve.as_deref()))?,
        };
        Some((subject.to_owned(), curves))
    });
    means.collect()
}

fn is_usable(slice: &SliceResult) -> bool {
    let finite = |curve: &Option<Vec<f64>>| curve.as_ref().is_some_and(|c| c.iter().all(|v| v.is_finite()));
    slice.class.is_some() && finite(&slice.curve) && finite(&slice.predicted_curve)
}

/// Arms of the study that regress.
pub(super) fn regressing(results: &StudyResults) -> Vec<Arm> {
    results.spec.arms.iter().copied().filter(|arm| arm.tasks().reg).collect()
}

pub(super) fn group(results: &StudyResults) -> Group {
    let arms = regressing(results);
    let figures = if arms.is_empty() { Vec::new() } else { vec![figure(results, &arms)] };
    Group { title: "Time-intensity curves", introduction: String::new(), figures }
}

const TRUTH: Stroke = Stroke { paint: Paint::Ink, width: 1.8, dash: "" };
const PREDICTED: Stroke = Stroke { paint: Paint::Series(1), width: 1.8, dash: "6 3" };
const TRUTH_MARKER: usize = 0;
const PREDICTED_MARKER: usize = 2;

fn figure(results: &StudyResults, arms: &[Arm]) -> Figure {
    let entry = |stroke: Stroke, marker, text: &str| Entry {
        stroke: Some(stroke),
        marker: Some((marker, stroke.paint)),
        text: text.to_owned(),
    };
    let mut panels =
        vec![legend(&[entry(TRUTH, TRUTH_MARKER, "true"), entry(PREDICTED, PREDICTED_MARKER, "predicted")])];
    for &arm in arms {
        let subjects = subject_curves(results, arm);
        for (class, name) in results.dataset.classes.iter().enumerate() {
            let of_class: Vec<&SubjectCurves> =
                subjects.values().filter(|curves| curves.class == class).collect();
            panels.push(panel(results, arm, name, &of_class));
        }
    }
    let done = results.trials.iter().filter(|trial| {
        arms.contains(&trial.key.arm) && trial.summary().is_some() && trial.evaluation.is_some()
    });
    Figure {
        name: "enhancement-curves".to_owned(),
        title: "Time-intensity curves, true and predicted".to_owned(),
        caption: "Mean intensity inside the lesion per phase, in the scanner's raw units: mean and sample standard \
                  deviation (bars) over subjects of the held-out folds, each subject the mean over its slices with \
                  tumour and over seeds."
            .to_owned(),
        from: done.map(|trial| trial.key).collect(),
        missing: missing(results, |key| arms.contains(&key.arm)),
        panels,
        numbers: None,
        pairs: false,
        png: None,
    }
}

fn panel(results: &StudyResults, arm: Arm, class: &str, subjects: &[&SubjectCurves]) -> Panel {
    let title = format!("{}: {class} (n = {})", arm.name(), subjects.len());
    let phases = &results.dataset.phases;
    let stats = |curve: fn(&SubjectCurves) -> &Vec<f64>| -> Vec<(usize, MeanStd)> {
        let of_phase =
            |phase| MeanStd::of(subjects.iter().filter_map(|subject| curve(subject).get(phase).copied()));
        (0..phases.len()).filter_map(|phase| Some((phase, of_phase(phase)?))).collect()
    };
    let (truth, predicted) = (stats(|curves| &curves.truth), stats(|curves| &curves.predicted));
    let ends = truth.iter().chain(&predicted).flat_map(|(_, stats)| {
        let deviation = stats.std.unwrap_or(0.0);
        [stats.mean - deviation, stats.mean + deviation]
    });
    let Some(y) = Axis::over("intensity (raw)", ends) else {
        let gaps = missing(results, |key| key.arm == arm);
        let words = if gaps.is_empty() {
            "no subject of this class was predicted".to_owned()
        } else {
            format!("no curve; missing: {}", gaps.join(", "))
        };
        return words_panel(&title, &words);
    };
    let mut plot = Plot::new(&title, Axis::of_names("phase", phases), y);
    series(&mut plot, &truth, TRUTH, TRUTH_MARKER, -0.05);
    series(&mut plot, &predicted, PREDICTED, PREDICTED_MARKER, 0.05);
    let words = truth.iter().zip(&predicted).map(|((phase, truth), (_, predicted))| {
        format!("{} true {:.0}, predicted {:.0}", phases[*phase], truth.mean, predicted.mean)
    });
    plot.finish(&format!("{title}: {}", words.collect::<Vec<_>>().join("; ")))
}

fn series(plot: &mut Plot, stats: &[(usize, MeanStd)], stroke: Stroke, marker: usize, aside: f64) {
    let points: Vec<(f64, f64)> =
        stats.iter().map(|(phase, stats)| (*phase as f64 + aside, stats.mean)).collect();
    plot.line(&points, stroke);
    for (&(x, _), (_, stats)) in points.iter().zip(stats) {
        let Some(deviation) = stats.std else { continue };
        let (low, high) = (stats.mean - deviation, stats.mean + deviation);
        let bar = Stroke::solid(stroke.paint, 1.0);
        plot.line(&[(x, low), (x, high)], bar);
        for end in [low, high] {
            plot.line(&[(x - 0.04, end), (x + 0.04, end)], bar);
        }
    }
    plot.markers(marker, &points, stroke.paint, 3.6);
}
