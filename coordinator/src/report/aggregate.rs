//! Means and deviations over folds, which never pass over a missing trial in silence.
//!
//! The value of a fold is the mean over its seeds; mean and sample deviation (n - 1) are taken over the folds'
//! values (MODEL.md 7, "Aggregation").

use std::collections::BTreeMap;

use mtinet_domain::evaluation::{FoldSummary, SliceResult};
use mtinet_domain::metrics::{MeanStd, mean};
use mtinet_domain::{Arm, TrialKey};

use super::results::{StudyResults, TrialResult};

/// A figure that tables show for an arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Dice, percent.
    Dsc,
    /// Intersection over union, percent.
    Iou,
    /// Mean absolute error of the curve, raw intensity.
    Mae,
    /// The same in the phase of this index.
    MaePhase(usize),
    /// MAE of the curve read under the predicted mask, raw intensity.
    TimMae,
    /// Slices of the right class, percent.
    Accuracy,
    /// Subjects of the right class, percent.
    SubjectAccuracy,
    /// Slices without tumour in which tumour is predicted, percent.
    HealthyRate,
    /// Predicted pixels in slices without tumour.
    HealthyPixels,
}

impl Metric {
    /// Whether `arm` has the task that this metric measures.
    pub fn applies_to(self, arm: Arm) -> bool {
        let tasks = arm.tasks();
        match self {
            Self::Dsc | Self::Iou | Self::HealthyRate | Self::HealthyPixels | Self::TimMae => tasks.seg,
            Self::Mae | Self::MaePhase(_) => tasks.reg,
            Self::Accuracy | Self::SubjectAccuracy => tasks.cls,
        }
    }

    /// Whether a larger value is the better one.
    pub fn larger_is_better(self) -> bool {
        matches!(self, Self::Dsc | Self::Iou | Self::Accuracy | Self::SubjectAccuracy)
    }

    /// Its value in a fold.
    pub fn of(self, summary: &FoldSummary) -> Option<f64> {
        match self {
            Self::Dsc => summary.dsc,
            Self::Iou => summary.iou,
            Self::Mae => summary.mae,
            Self::MaePhase(phase) => summary.mae_phases.as_ref()?.get(phase).copied(),
            Self::TimMae => summary.tim_mae,
            Self::Accuracy => summary.accuracy,
            Self::SubjectAccuracy => summary.subject_accuracy,
            Self::HealthyRate => summary.healthy_fp_rate,
            Self::HealthyPixels => summary.healthy_fp_pixels,
        }
    }

    /// Its value in a slice with tumour, in the unit of [`Metric::of`]; `None` for metrics of other slices.
    pub fn of_slice(self, slice: &SliceResult) -> Option<f64> {
        slice.class?;
        match self {
            Self::Dsc => slice.dice.map(|share| share * 100.0),
            Self::Iou => slice.iou.map(|share| share * 100.0),
            Self::Mae => slice.mae(),
            Self::MaePhase(phase) => slice.mae_phases()?.get(phase).copied(),
            Self::TimMae => slice.tim_mae(),
            Self::Accuracy => Some(f64::from(u8::from(slice.predicted_class()? == slice.class?)) * 100.0),
            Self::SubjectAccuracy | Self::HealthyRate | Self::HealthyPixels => None,
        }
    }
}

/// What a cell of a table holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// The arm does not have the task.
    NoTask,
    /// Values, and whatever is missing beside them.
    Value(Aggregate),
}

/// A metric of an arm over folds, with the trials behind it and those that are missing.
#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    /// Over the folds of which every seed is there; absent where there is none.
    pub over_folds: Option<MeanStd>,
    /// Folds that the study asks for.
    pub folds_asked: usize,
    /// Trials that the figures come from.
    pub from: Vec<TrialKey>,
    /// Trials that should have given a value and did not.
    pub missing: Vec<Gap>,
}

/// A trial without a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The trial.
    pub key: TrialKey,
    /// What became of it: a status word, or `no value` where it is done but the metric could not be computed.
    pub status: &'static str,
}

impl Aggregate {
    /// Whether every trial of the arm has its value in it.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// The mean, only where nothing is missing.
    pub fn complete_mean(&self) -> Option<f64> {
        self.over_folds.filter(|_| self.is_complete()).map(|stats| stats.mean)
    }

    fn of(results: &StudyResults, arm: Arm, metric: Metric) -> Self {
        let mut folds: BTreeMap<u32, Vec<(TrialKey, Option<f64>)>> = BTreeMap::new();
        let mut missing = Vec::new();
        for trial in results.of_arm(arm) {
            let value = value_of(trial, metric);
            if value.is_none() {
                missing.push(Gap { key: trial.key, status: gap_word(trial) });
            }
            folds.entry(trial.key.fold).or_default().push((trial.key, value));
        }
        let mut from = Vec::new();
        let mut values = Vec::new();
        for trials in folds.values() {
            if let Some(value) = over_seeds(trials) {
                values.push(value);
                from.extend(trials.iter().map(|(key, _)| *key));
            }
        }
        Self { over_folds: MeanStd::of(values), folds_asked: folds.len(), from, missing }
    }
}

/// A fold's value: the mean over its seeds, where every one of them has a value.
fn over_seeds(trials: &[(TrialKey, Option<f64>)]) -> Option<f64> {
    let seeds: Option<Vec<f64>> = trials.iter().map(|(_, value)| *value).collect();
    mean(seeds?)
}

/// The values of an arm's folds that [`Aggregate::over_folds`] is taken over.
pub(super) fn fold_values(results: &StudyResults, arm: Arm, metric: Metric) -> BTreeMap<u32, f64> {
    let mut folds: BTreeMap<u32, Vec<(TrialKey, Option<f64>)>> = BTreeMap::new();
    for trial in results.of_arm(arm) {
        folds.entry(trial.key.fold).or_default().push((trial.key, value_of(trial, metric)));
    }
    folds.into_iter().filter_map(|(fold, trials)| Some((fold, over_seeds(&trials)?))).collect()
}

fn value_of(trial: &TrialResult, metric: Metric) -> Option<f64> {
    // A training that diverged leaves NaN; it must not become a figure.
    metric.of(trial.summary()?).filter(|value| value.is_finite())
}

fn gap_word(trial: &TrialResult) -> &'static str {
    if trial.summary().is_some() { "no value" } else { trial.outcome.word() }
}

impl Cell {
    /// A metric of an arm.
    pub fn of(results: &StudyResults, arm: Arm, metric: Metric) -> Self {
        if metric.applies_to(arm) { Self::Value(Aggregate::of(results, arm, metric)) } else { Self::NoTask }
    }

    /// The aggregate, where the arm has the task.
    pub fn value(&self) -> Option<&Aggregate> {
        match self {
            Self::Value(aggregate) => Some(aggregate),
            Self::NoTask => None,
        }
    }
}

/// A metric over all held-out slices with tumour of an arm, folds taken together; a slice that several seeds
/// predicted counts once, with its mean. `None` where a trial or its slices are missing.
pub fn pooled(results: &StudyResults, arm: Arm, metric: Metric) -> Option<MeanStd> {
    let units = units_by(results, arm, metric, |slice| (slice.case.as_str(), slice.slice))?;
    MeanStd::of(units.into_values())
}

/// The same over subjects, each the mean of its slices with tumour.
pub fn pooled_subjects(results: &StudyResults, arm: Arm, metric: Metric) -> Option<MeanStd> {
    MeanStd::of(subject_values(results, arm, metric)?.into_values())
}

/// The values of single subjects that [`pooled_subjects`] is taken over.
pub(super) fn subject_values(
    results: &StudyResults,
    arm: Arm,
    metric: Metric,
) -> Option<BTreeMap<&str, f64>> {
    units_by(results, arm, metric, |slice| slice.subject.as_str())
}

fn units_by<'a, K: Ord>(
    results: &'a StudyResults,
    arm: Arm,
    metric: Metric,
    unit: impl Fn(&'a SliceResult) -> K,
) -> Option<BTreeMap<K, f64>> {
    let mut units: BTreeMap<K, Vec<f64>> = BTreeMap::new();
    for trial in results.of_arm(arm) {
        trial.summary()?;
        for slice in &trial.evaluation.as_ref()?.slices {
            if let Some(value) = metric.of_slice(slice) {
                units.entry(unit(slice)).or_default().push(value);
            }
        }
    }
    Some(units.into_iter().filter_map(|(unit, values)| Some((unit, mean(values)?))).collect())
}
