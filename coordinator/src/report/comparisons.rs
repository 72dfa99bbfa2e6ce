//! Every arm against MTI-Net: paired tests on subjects and folds, and what they cannot show (MODEL.md 7).
//!
//! A subject's value is the mean over its slices with tumour and over seeds; every subject is held out once, so
//! subjects of all folds are taken together. Only arms without a missing trial are compared.

use std::collections::BTreeMap;

use mtinet_domain::Arm;
use mtinet_domain::metrics::mean;
use mtinet_domain::spec::Folds;
use mtinet_domain::statistics::{
    CorrectedT, FEWEST_FOLDS, Interval, Wilcoxon, bootstrap_mean, corrected_resampled_t, holm, smallest_p,
    wilcoxon,
};

use super::aggregate::{Cell, fold_values, gaps, subject_values};
use super::document::plural;
use super::metric::Metric;
use super::results::StudyResults;

/// The arm that every other is compared with.
pub(super) const REFERENCE: Arm = Arm::MtiNet;

/// What is compared, by its name in the summary and in tables. Accuracy is not: right or wrong of a subject would
/// take another test.
const METRICS: [(&str, &str, Metric); 3] =
    [("dsc", "DSC (%)", Metric::Dsc), ("iou", "IoU (%)", Metric::Iou), ("mae", "MAE", Metric::Mae)];

/// Resamples behind an interval.
pub(super) const RESAMPLES: usize = 2_000;

/// Confidence of an interval.
pub(super) const CONFIDENCE: f64 = 0.95;

/// The level that remarks on what cannot show refer to.
const LEVEL: f64 = 0.05;

/// Below so many subjects percentile intervals come with a warning.
const FEW_SUBJECTS: usize = 20;

/// The same for every comparison: a report written twice says the same, and arms are measured on the same
/// resampled subjects.
const SEED: u64 = 0;

/// The comparisons of one metric, which are corrected together.
pub(super) struct Family {
    pub(super) metric: Metric,
    /// In `summary.json`.
    pub(super) name: &'static str,
    /// In tables.
    pub(super) title: &'static str,
    /// One an arm that has the metric, in the order of the study.
    pub(super) comparisons: Vec<Comparison>,
}

pub(super) struct Comparison {
    pub(super) other: Arm,
    /// The figures, or why there are none.
    pub(super) outcome: Result<Compared, String>,
}

/// Figures of MTI-Net (a) against another arm (b); differences are a - b.
pub(super) struct Compared {
    pub(super) mean_a: f64,
    pub(super) mean_b: f64,
    pub(super) difference: f64,
    /// Of the mean difference; absent for a single subject.
    pub(super) interval: Option<Interval>,
    pub(super) subjects: Wilcoxon,
    /// Holm's correction over the whole family.
    pub(super) p_holm: f64,
    /// The test on folds, or why it is not made.
    pub(super) folds: Result<FoldTest, String>,
}

pub(super) struct FoldTest {
    pub(super) test: CorrectedT,
    pub(super) test_to_train: f64,
    pub(super) p_holm: f64,
}

impl Family {
    pub(super) fn compared(&self) -> impl Iterator<Item = (Arm, &Compared)> {
        self.comparisons
            .iter()
            .filter_map(|comparison| Some((comparison.other, comparison.outcome.as_ref().ok()?)))
    }

    pub(super) fn omitted(&self) -> impl Iterator<Item = (Arm, &str)> {
        self.comparisons
            .iter()
            .filter_map(|comparison| Some((comparison.other, comparison.outcome.as_ref().err()?.as_str())))
    }

    /// Which arm has the better mean; `None` where they are equal.
    pub(super) fn better(&self, other: Arm, compared: &Compared) -> Option<Arm> {
        if compared.difference == 0.0 {
            return None;
        }
        let reference = (compared.difference > 0.0) == self.metric.larger_is_better();
        Some(if reference { REFERENCE } else { other })
    }
}

/// All comparisons of a study: none where it does not have MTI-Net or nothing beside it.
pub(super) fn comparisons(results: &StudyResults) -> Vec<Family> {
    if !results.spec.arms.contains(&REFERENCE) {
        return Vec::new();
    }
    let families = METRICS.into_iter().map(|(name, title, metric)| {
        let others = results.spec.arms.iter().copied();
        let others = others.filter(|&arm| arm != REFERENCE && metric.applies_to(arm));
        let mut comparisons: Vec<Comparison> =
            others.map(|other| Comparison { other, outcome: compare(results, other, metric) }).collect();
        correct(&mut comparisons);
        Family { metric, name, title, comparisons }
    });
    families.filter(|family| !family.comparisons.is_empty()).collect()
}

/// Holm's correction over all comparisons that the study asks for. One that is still missing counts as p = 1, so
/// that no corrected value can rise once its arm is done.
fn correct(comparisons: &mut [Comparison]) {
    let column = |value: fn(&Compared) -> Option<f64>| -> Vec<f64> {
        let values = comparisons.iter().map(|comparison| comparison.outcome.as_ref().ok().and_then(value));
        holm(&values.map(|p| p.unwrap_or(1.0)).collect::<Vec<_>>())
    };
    let subjects = column(|compared| Some(compared.subjects.p));
    let folds = column(|compared| Some(compared.folds.as_ref().ok()?.test.p));
    for ((comparison, on_subjects), on_folds) in comparisons.iter_mut().zip(subjects).zip(folds) {
        if let Ok(compared) = &mut comparison.outcome {
            compared.p_holm = on_subjects;
            if let Ok(folds) = &mut compared.folds {
                folds.p_holm = on_folds;
            }
        }
    }
}

fn compare(results: &StudyResults, other: Arm, metric: Metric) -> Result<Compared, String> {
    let (a, b) = paired(subjects_of(results, REFERENCE, metric)?, &subjects_of(results, other, metric)?)?;
    let subjects = wilcoxon(&a, &b).map_err(|error| error.to_string())?;
    let differences: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
    Ok(Compared {
        mean_a: mean(a).unwrap_or_default(),
        mean_b: mean(b).unwrap_or_default(),
        interval: bootstrap_mean(&differences, CONFIDENCE, RESAMPLES, SEED).ok(),
        difference: mean(differences).unwrap_or_default(),
        p_holm: subjects.p,
        subjects,
        folds: compare_folds(results, other, metric),
    })
}

fn compare_folds(results: &StudyResults, other: Arm, metric: Metric) -> Result<FoldTest, String> {
    let Folds::Count(folds) = results.spec.folds else {
        return Err(
            "the study runs listed folds, which does not tell the sizes of their training sets".to_owned()
        );
    };
    let (a, b) = paired(fold_values(results, REFERENCE, metric), &fold_values(results, other, metric))?;
    // Of k folds, k - 1 are trained on: whatever the sizes of single folds, their means stand in this ratio.
    let test_to_train = 1.0 / f64::from(folds.saturating_sub(1).max(1));
    let test = corrected_resampled_t(&a, &b, test_to_train)
        .map_err(|error| format!("over {folds} folds: {error}"))?;
    Ok(FoldTest { test, test_to_train, p_holm: test.p })
}

/// An arm's subjects, or why it cannot be compared.
fn subjects_of(results: &StudyResults, arm: Arm, metric: Metric) -> Result<BTreeMap<&str, f64>, String> {
    let cell = Cell::of(results, arm, metric);
    let aggregate = cell.value().ok_or_else(|| format!("{arm} does not have the metric"))?;
    if !aggregate.is_complete() {
        return Err(format!("missing: {}", gaps(&aggregate.missing)));
    }
    subject_values(results, arm, metric)
        .filter(|values| !values.is_empty())
        .ok_or_else(|| format!("the results per slice of {arm} are not at hand"))
}

/// Values of the same units in the same order; a unit that only one arm has makes the two incomparable.
fn paired<K: Ord>(a: BTreeMap<K, f64>, b: &BTreeMap<K, f64>) -> Result<(Vec<f64>, Vec<f64>), String> {
    if !a.keys().eq(b.keys()) {
        return Err("the two arms were not evaluated on the same subjects".to_owned());
    }
    Ok((a.into_values().collect(), b.values().copied().collect()))
}

/// What these tests cannot show, in sentences for the reader. Empty where nothing is compared.
pub(super) fn limits(results: &StudyResults, families: &[Family]) -> Vec<String> {
    let mut limits = Vec::new();
    // The most comparisons for each number of subjects; most often every metric has the same subjects.
    let mut sizes: BTreeMap<usize, usize> = BTreeMap::new();
    for family in families {
        for (_, compared) in family.compared() {
            let largest = sizes.entry(compared.subjects.n).or_default();
            *largest = family.comparisons.len().max(*largest);
        }
    }
    let Some((&fewest, _)) = sizes.first_key_value() else { return limits };
    limits.extend(sizes.into_iter().filter_map(|(subjects, family)| smallest_of_subjects(subjects, family)));
    limits.push(of_folds(results.spec.folds.indices().len()));
    let seeds = match results.spec.seeds.len() {
        1 => "with one seed, nothing is known of that".to_owned(),
        seeds => format!("the {seeds} seeds are averaged, not tested"),
    };
    limits.push(format!(
        "p-values and intervals over subjects take the trained networks as given: they say how much hangs on which \
         subjects were measured, not on how another training would have turned out ({seeds})."
    ));
    limits.push(
        "A p-value above 0.05 does not show that two arms are alike; the interval tells which differences remain \
         possible."
            .to_owned(),
    );
    if fewest < FEW_SUBJECTS {
        limits.push(format!(
            "Percentile intervals of fewer than {FEW_SUBJECTS} subjects are too narrow: they hold the true difference \
             less often than they say."
        ));
    }
    limits.push(
        "Accuracy is not compared: right or wrong answers would take another test (McNemar's), which is not made \
         here."
            .to_owned(),
    );
    limits
}

/// Only where it comes near a level that anybody tests at.
fn smallest_of_subjects(subjects: usize, family: usize) -> Option<String> {
    let smallest = smallest_p(subjects);
    let corrected = (smallest * family as f64).min(1.0);
    if corrected < 0.001 {
        return None;
    }
    let after = match family {
        1 => String::new(),
        _ => format!(", nor one below {corrected:.4} once corrected for {family} comparisons"),
    };
    let verdict = match (smallest >= LEVEL, corrected >= LEVEL) {
        (true, _) => format!(": no difference, however large, can show at {LEVEL}"),
        (false, true) => format!(": no difference, however large, can show at {LEVEL} once corrected"),
        (false, false) => String::new(),
    };
    Some(format!(
        "With {} the exact signed-rank test cannot give a two-sided p-value below 2/2^{subjects} = \
         {smallest:.4}{after}{verdict}.",
        plural(subjects, "subject")
    ))
}

fn of_folds(folds: usize) -> String {
    if folds < FEWEST_FOLDS {
        return format!(
            "{} tell nothing about the spread over folds: no test on folds is made below {FEWEST_FOLDS}.",
            plural(folds, "fold")
        );
    }
    let ranks = match smallest_p(folds) {
        smallest if smallest >= LEVEL => format!(
            "A signed-rank test on {folds} folds could not give a p-value below 2/2^{folds} = {smallest:.4}, \
             however large the difference; folds are therefore compared by"
        ),
        _ => "Folds are compared by".to_owned(),
    };
    format!(
        "{ranks} the corrected resampled t-test, which has {} degrees of freedom, takes the differences as normal \
         and allows for the overlap of training sets only approximately.",
        folds - 1
    )
}
