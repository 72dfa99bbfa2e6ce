//! Results of a trial on its held-out fold: per slice, and summed up per subject and per fold (MODEL.md 7).

mod details;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::details::FoldDetails;
use crate::metrics::{mean, median};

/// Everything measured on the held-out fold of one trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrialEvaluation {
    /// Phases in order; the order of every curve below.
    pub phases: Vec<String>,
    /// Lesion classes in order of their index.
    pub classes: Vec<String>,
    /// Mean and deviation fitted on the training fold, raw intensity.
    pub normalisation: (f64, f64),
    /// In-plane spacing of the network's grid, mm. Absent in evaluations from before it was kept; it then follows from
    /// the study's spec and data set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spacing: Option<f64>,
    /// One entry a held-out slice.
    pub slices: Vec<SliceResult>,
    /// What the regression has to beat.
    pub reference: Option<ReferenceLines>,
}

/// One held-out slice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SliceResult {
    /// The patient.
    pub subject: String,
    /// The case (one series of volumes).
    pub case: String,
    /// Index of the slice in the case, from inferior to superior.
    pub slice: u32,
    /// Index of the lesion's class; `None` for a slice without tumour.
    pub class: Option<usize>,
    /// Tumour pixels in truth.
    pub truth_pixels: u64,
    /// Tumour pixels predicted, where the arm segments.
    pub predicted_pixels: Option<u64>,
    /// Dice, 0 to 1; `None` where the truth is empty or the arm does not segment.
    pub dice: Option<f64>,
    /// Intersection over union, 0 to 1, likewise.
    pub iou: Option<f64>,
    /// True mean intensity in the tumour per phase, raw units.
    pub curve: Option<Vec<f64>>,
    /// Predicted curve, raw units; `None` where there is no tumour or the arm does not regress.
    pub predicted_curve: Option<Vec<f64>>,
    /// The curve read from the image under the predicted mask, raw units: a diagnostic (`tim_mae`).
    pub mask_curve: Option<Vec<f64>>,
    /// Softmax over the classes; `None` where there is no tumour or the arm does not classify.
    pub probabilities: Option<Vec<f64>>,
}

/// Errors of predictors that never look at an image, fitted on the training folds, raw units.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReferenceLines {
    /// MAE of the per-phase median of all training curves.
    pub best_constant_mae: f64,
    /// MAE of the per-phase median of the true class: an oracle that knows the class.
    pub class_median_mae: f64,
}

/// The metrics of a trial's held-out fold. DSC, IoU, accuracy in percent; MAE in raw intensity units.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FoldSummary {
    /// Mean Dice over slices with tumour.
    pub dsc: Option<f64>,
    /// Mean IoU over slices with tumour.
    pub iou: Option<f64>,
    /// Mean absolute error of the curve over slices with tumour and phases.
    pub mae: Option<f64>,
    /// The same per phase.
    pub mae_phases: Option<Vec<f64>>,
    /// MAE of the curve read under the predicted mask, over slices where that mask is not empty.
    pub tim_mae: Option<f64>,
    /// Share of slices with tumour whose class is right.
    pub accuracy: Option<f64>,
    /// Share of subjects whose mean class probability is highest for the right class.
    pub subject_accuracy: Option<f64>,
    /// Slices by true class (rows) and predicted class (columns).
    pub confusion: Option<Vec<Vec<u64>>>,
    /// Slices with tumour.
    pub n_slices: u64,
    /// Slices without tumour.
    pub n_healthy_slices: u64,
    /// Subjects, with and without tumour.
    pub n_subjects: u64,
    /// Share of slices without tumour in which at least [`HEALTHY_MINIMUM_PIXELS`] are predicted, percent.
    pub healthy_fp_rate: Option<f64>,
    /// Mean predicted pixels over slices without tumour.
    pub healthy_fp_pixels: Option<f64>,
    /// What the regression has to beat.
    pub reference: Option<ReferenceLines>,
}

/// A prediction in a slice without tumour counts as a false positive from this many pixels on (MODEL.md 7).
pub const HEALTHY_MINIMUM_PIXELS: u64 = 10;

impl SliceResult {
    /// Mean absolute error of the predicted curve over the phases, raw units.
    pub fn mae(&self) -> Option<f64> {
        mean(self.absolute_errors(self.predicted_curve.as_ref()?)?)
    }

    /// Absolute error per phase, raw units.
    pub fn mae_phases(&self) -> Option<Vec<f64>> {
        self.absolute_errors(self.predicted_curve.as_ref()?)
    }

    /// Mean absolute error of the curve read under the predicted mask.
    pub fn tim_mae(&self) -> Option<f64> {
        mean(self.absolute_errors(self.mask_curve.as_ref()?)?)
    }

    /// The most probable class.
    pub fn predicted_class(&self) -> Option<usize> {
        self.probabilities.as_deref().map(most_probable)
    }

    fn absolute_errors(&self, predicted: &[f64]) -> Option<Vec<f64>> {
        let truth = self.curve.as_ref()?;
        Some(truth.iter().zip(predicted).map(|(truth, predicted)| (truth - predicted).abs()).collect())
    }
}

/// The index of the largest probability; of equal ones the last, so that a tie between hemangioma and HCC is
/// called HCC, the graver error to miss (MODEL.md 7).
pub fn most_probable(probabilities: &[f64]) -> usize {
    let mut best = 0;
    for (class, probability) in probabilities.iter().enumerate() {
        if *probability >= probabilities[best] {
            best = class;
        }
    }
    best
}

impl TrialEvaluation {
    /// The fold's metrics.
    pub fn summary(&self) -> FoldSummary {
        let tumour = || self.slices.iter().filter(|slice| slice.class.is_some());
        let healthy = self.slices.iter().filter(|slice| slice.class.is_none());
        FoldSummary {
            dsc: percent(mean(tumour().filter_map(|slice| slice.dice))),
            iou: percent(mean(tumour().filter_map(|slice| slice.iou))),
            mae: mean(tumour().filter_map(SliceResult::mae)),
            mae_phases: (0..self.phases.len())
                .map(|phase| mean(tumour().filter_map(|slice| Some(*slice.mae_phases()?.get(phase)?))))
                .collect(),
            tim_mae: mean(tumour().filter_map(SliceResult::tim_mae)),
            accuracy: percent(mean(
                tumour()
                    .filter_map(|slice| Some(f64::from(u8::from(slice.predicted_class()? == slice.class?)))),
            )),
            subject_accuracy: self.subject_accuracy(),
            confusion: self.confusion(),
            n_slices: tumour().count() as u64,
            n_healthy_slices: (self.slices.len() - tumour().count()) as u64,
            n_subjects: self.by_subject().len() as u64,
            healthy_fp_rate: self.healthy_fp_rate(HEALTHY_MINIMUM_PIXELS),
            healthy_fp_pixels: mean(healthy.filter_map(|slice| Some(slice.predicted_pixels? as f64))),
            reference: self.reference,
        }
    }

    /// The slices of each subject, subjects in alphabetical order.
    pub fn by_subject(&self) -> BTreeMap<&str, Vec<&SliceResult>> {
        let mut subjects: BTreeMap<&str, Vec<&SliceResult>> = BTreeMap::new();
        for slice in &self.slices {
            subjects.entry(&slice.subject).or_default().push(slice);
        }
        subjects
    }

    fn confusion(&self) -> Option<Vec<Vec<u64>>> {
        let classes = self.classes.len();
        let mut counts = vec![vec![0; classes]; classes];
        let mut any = false;
        for slice in &self.slices {
            if let (Some(truth), Some(predicted)) = (slice.class, slice.predicted_class()) {
                counts[truth][predicted] += 1;
                any = true;
            }
        }
        any.then_some(counts)
    }

    fn subject_accuracy(&self) -> Option<f64> {
        percent(mean(self.by_subject().values().filter_map(|slices| {
            let truth = slices.iter().find_map(|slice| slice.class)?;
            let predicted = most_probable(&mean_probabilities(slices)?);
            Some(f64::from(u8::from(predicted == truth)))
        })))
    }
}

/// Mean class probabilities over a subject's slices with tumour.
pub fn mean_probabilities(slices: &[&SliceResult]) -> Option<Vec<f64>> {
    mean_vectors(slices.iter().filter_map(|slice| slice.probabilities.as_deref()))
}

/// Element-wise mean of vectors of one length; `None` of nothing.
pub fn mean_vectors<'a>(vectors: impl IntoIterator<Item = &'a [f64]>) -> Option<Vec<f64>> {
    let mut sum: Option<Vec<f64>> = None;
    let mut n = 0.0;
    for vector in vectors {
        n += 1.0;
        match &mut sum {
            Some(sum) => sum.iter_mut().zip(vector).for_each(|(sum, value)| *sum += value),
            None => sum = Some(vector.to_vec()),
        }
    }
    sum.map(|sum| sum.into_iter().map(|sum| sum / n).collect())
}

impl ReferenceLines {
    /// Fits medians on training curves and measures them on held-out ones; `None` where either is empty or a
    /// held-out class has no training curve.
    ///
    /// Each entry is (class index, curve in raw units).
    pub fn fit(training: &[(usize, Vec<f64>)], held_out: &[(usize, Vec<f64>)]) -> Option<Self> {
        let phases = training.first()?.1.len();
        let medians = |class: Option<usize>| -> Option<Vec<f64>> {
            (0..phases)
                .map(|phase| {
                    median(
                        training
                            .iter()
                            .filter(|(c, _)| class.is_none_or(|class| class == *c))
                            .map(|(_, curve)| curve[phase]),
                    )
                })
                .collect()
        };
        let error = |curve: &[f64], constant: &[f64]| {
            mean(curve.iter().zip(constant).map(|(value, constant)| (value - constant).abs()))
        };
        let constant = medians(None)?;
        let best_constant_mae = mean(held_out.iter().filter_map(|(_, curve)| error(curve, &constant)))?;
        let by_class: Option<Vec<f64>> =
            held_out.iter().map(|(class, curve)| error(curve, &medians(Some(*class))?)).collect();
        Some(Self { best_constant_mae, class_median_mae: mean(by_class?)? })
    }
}

fn percent(share: Option<f64>) -> Option<f64> {
    share.map(|share| share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(subject: &str, class: Option<usize>) -> SliceResult {
        SliceResult {
            subject: subject.into(),
            case: subject.into(),
            slice: 0,
            class,
            truth_pixels: u64::from(class.is_some()) * 20,
            predicted_pixels: Some(12),
            dice: class.map(|_| 0.5),
            iou: class.map(|_| 1.0 / 3.0),
            curve: class.map(|_| vec![100.0, 200.0]),
            predicted_curve: class.map(|_| vec![110.0, 170.0]),
            mask_curve: None,
            probabilities: class.map(|_| vec![0.5, 0.5]),
        }
    }

    fn evaluation(slices: Vec<SliceResult>) -> TrialEvaluation {
        TrialEvaluation {
            phases: vec!["pre".into(), "art".into()],
            classes: vec!["hemangioma".into(), "hcc".into()],
            normalisation: (0.0, 1.0),
            spacing: None,
            slices,
            reference: None,
        }
    }

    #[test]
    fn healthy_slices_are_counted_apart() {
        let summary = evaluation(vec![slice("a", Some(1)), slice("a", None), slice("b", Some(0))]).summary();
        assert_eq!((summary.n_slices, summary.n_healthy_slices, summary.n_subjects), (2, 1, 2));
        assert_eq!(summary.dsc, Some(50.0));
        assert_eq!(summary.mae, Some(20.0));
        assert_eq!(summary.mae_phases, Some(vec![10.0, 30.0]));
        assert_eq!(summary.healthy_fp_rate, Some(100.0));
        // A tie is called HCC: right for `a`, wrong for `b`.
        assert_eq!(summary.accuracy, Some(50.0));
        assert_eq!(summary.subject_accuracy, Some(50.0));
        assert_eq!(summary.confusion, Some(vec![vec![0, 1], vec![0, 1]]));
    }

    #[test]
    fn an_arm_without_a_task_has_no_metric_for_it() {
        let bare = SliceResult { predicted_curve: None, probabilities: None, ..slice("a", Some(0)) };
        let summary = evaluation(vec![bare]).summary();
        assert_eq!(
            (summary.mae, summary.mae_phases, summary.accuracy, summary.confusion),
            (None, None, None, None)
        );
        assert_eq!(summary.dsc, Some(50.0));
    }

    #[test]
    fn reference_lines_are_fitted_on_training_curves_only() {
        let training = vec![(0, vec![10.0]), (0, vec![20.0]), (1, vec![100.0])];
        let lines = ReferenceLines::fit(&training, &[(0, vec![15.0]), (1, vec![120.0])]).unwrap();
        assert_eq!(lines.best_constant_mae, f64::midpoint(5.0, 100.0));
        assert_eq!(lines.class_median_mae, f64::midpoint(0.0, 20.0));
        assert_eq!(ReferenceLines::fit(&training[..2], &[(1, vec![1.0])]), None);
    }
}
