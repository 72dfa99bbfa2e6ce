//! Means and deviations over folds, which never pass over a missing trial in silence.
//!
//! The value of a fold is the mean over its seeds; mean and sample deviation (n - 1) are taken over the folds'
//! values (MODEL.md 7, "Aggregation").

use std::collections::BTreeMap;

use mtinet_domain::evaluation::{SliceResult, mean_probabilities, most_probable};
use mtinet_domain::metrics::{MeanStd, mean};
use mtinet_domain::{Arm, TrialKey};

use super::metric::Metric;
use super::results::{StudyResults, TrialResult};

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
    /// Why, where a reason is known.
    pub reason: Option<String>,
}

impl std::fmt::Display for Gap {
    /// On one line, a long reason cut short: the table of missing trials has it in full.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}", self.key, self.status)?;
        if let Some(reason) = &self.reason {
            let words = reason.split_whitespace().collect::<Vec<_>>().join(" ");
            let short: String = words.chars().take(LONGEST_REASON).collect();
            write!(f, ": {short}{}", if short.len() < words.len() { "…" } else { "" })?;
        }
        f.write_str(")")
    }
}

/// Characters of a reason that a cell has room for.
const LONGEST_REASON: usize = 60;

/// Gaps in one line.
pub(super) fn gaps(missing: &[Gap]) -> String {
    missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
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
                missing.push(Gap {
                    key: trial.key,
                    status: gap_word(trial),
                    reason: trial.outcome.reason().map(str::to_owned),
                });
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
    metric.of_trial(trial).filter(|value| value.is_finite())
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

/// A metric over all held-out slices of an arm that have it, folds taken together; a slice that several seeds
/// predicted counts once, with its mean. `None` where a trial, its slices or a finite value are missing.
pub fn pooled(results: &StudyResults, arm: Arm, metric: Metric) -> Option<MeanStd> {
    let units = units_by(results, arm, metric, |slice| (slice.case.as_str(), slice.slice))?;
    MeanStd::of(units.into_values())
}

/// The same over subjects, each the mean of its slices; [`Metric::SubjectAccuracy`] is 100 or 0 in a subject.
pub fn pooled_subjects(results: &StudyResults, arm: Arm, metric: Metric) -> Option<MeanStd> {
    MeanStd::of(subject_values(results, arm, metric)?.into_values())
}

/// The values of single subjects that [`pooled_subjects`] is taken over.
pub(super) fn subject_values(
    results: &StudyResults,
    arm: Arm,
    metric: Metric,
) -> Option<BTreeMap<&str, f64>> {
    if metric == Metric::SubjectAccuracy {
        return subjects_right(results, arm);
    }
    units_by(results, arm, metric, |slice| slice.subject.as_str())
}

fn units_by<'a, K: Ord>(
    results: &'a StudyResults,
    arm: Arm,
    metric: Metric,
    unit: impl Fn(&'a SliceResult) -> K,
) -> Option<BTreeMap<K, f64>> {
    let mut units: BTreeMap<K, (f64, u32)> = BTreeMap::new();
    for trial in results.of_arm(arm) {
        trial.summary()?;
        for slice in &trial.evaluation.as_ref()?.slices {
            if let Some(value) = metric.of_slice(slice) {
                let (sum, n) = units.entry(unit(slice)).or_default();
                *sum += value;
                *n += 1;
            }
        }
    }
    means(units)
}

/// Whether the class of each subject's mean probabilities is right, in percent, averaged over seeds.
fn subjects_right(results: &StudyResults, arm: Arm) -> Option<BTreeMap<&str, f64>> {
    let mut subjects: BTreeMap<&str, (f64, u32)> = BTreeMap::new();
    for trial in results.of_arm(arm) {
        trial.summary()?;
        for (subject, slices) in trial.evaluation.as_ref()?.by_subject() {
            let truth = slices.iter().find_map(|slice| slice.class);
            if let (Some(truth), Some(probabilities)) = (truth, mean_probabilities(&slices)) {
                let (sum, n) = subjects.entry(subject).or_default();
                *sum += f64::from(u8::from(most_probable(&probabilities) == truth)) * 100.0;
                *n += 1;
            }
        }
    }
    means(subjects)
}

/// A unit that is not finite leaves no mean at all: to leave it out would flatter the arm.
fn means<K: Ord>(sums: BTreeMap<K, (f64, u32)>) -> Option<BTreeMap<K, f64>> {
    let means = sums.into_iter().map(|(unit, (sum, n))| {
        let mean = sum / f64::from(n);
        mean.is_finite().then_some((unit, mean))
    });
    means.collect()
}
