//! Metrics of a held-out fold beyond [`super::FoldSummary`]: other conventions for empty masks, subjects with equal
//! weight, recalls (MODEL.md 7). They are computed from the results per slice wherever those are at hand.

use super::{SliceResult, TrialEvaluation, mean_probabilities, most_probable, percent};
use crate::metrics::{EmptyMasks, mean};

/// Further metrics of a fold. DSC, IoU, shares in percent; MAE in raw intensity units.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FoldDetails {
    /// Over slices with tumour: the curve's absolute error summed over the phases.
    pub mae_sum: Option<f64>,
    /// Dice, each subject with the weight of one: the mean over subjects of the mean over their tumour slices.
    pub subject_dsc: Option<f64>,
    /// IoU likewise.
    pub subject_iou: Option<f64>,
    /// MAE likewise.
    pub subject_mae: Option<f64>,
    /// Dice over all slices, [`EmptyMasks::SkipBoth`].
    pub dsc_skip_both_empty: Option<f64>,
    /// IoU likewise.
    pub iou_skip_both_empty: Option<f64>,
    /// Dice over all slices, [`EmptyMasks::BothAreOne`].
    pub dsc_both_empty_one: Option<f64>,
    /// IoU likewise.
    pub iou_both_empty_one: Option<f64>,
    /// Recall of the second of two classes (HCC) over slices with tumour.
    pub sensitivity: Option<f64>,
    /// Recall of the first of two classes (hemangioma) over slices with tumour.
    pub specificity: Option<f64>,
    /// Subjects by true class (rows) and the class of their mean probabilities (columns).
    pub subject_confusion: Option<Vec<Vec<u64>>>,
}

impl SliceResult {
    /// The curve's absolute error summed over the phases, raw units.
    pub fn mae_sum(&self) -> Option<f64> {
        self.mae_phases().map(|errors| errors.iter().sum())
    }

    /// Dice, 0 to 1, under a convention for slices without true tumour; `None` where the arm does not segment.
    pub fn dice_with(&self, empty: EmptyMasks) -> Option<f64> {
        empty.score(self.dice, self.truth_pixels, self.predicted_pixels?)
    }

    /// IoU likewise.
    pub fn iou_with(&self, empty: EmptyMasks) -> Option<f64> {
        empty.score(self.iou, self.truth_pixels, self.predicted_pixels?)
    }

    /// Pixels in both masks, which Dice and the two areas determine; `None` where the arm does not segment.
    pub fn overlap_pixels(&self) -> Option<u64> {
        let predicted = self.predicted_pixels?;
        if self.truth_pixels == 0 {
            return Some(0);
        }
        Some((self.dice? * (self.truth_pixels + predicted) as f64 / 2.0).round() as u64)
    }
}

impl TrialEvaluation {
    /// The fold's further metrics.
    pub fn details(&self) -> FoldDetails {
        let tumour = || self.slices.iter().filter(|slice| slice.class.is_some());
        let all = |value: fn(&SliceResult, EmptyMasks) -> Option<f64>, empty| {
            percent(mean(self.slices.iter().filter_map(|slice| value(slice, empty))))
        };
        let (sensitivity, specificity) = recalls(self.confusion().as_deref());
        FoldDetails {
            mae_sum: mean(tumour().filter_map(SliceResult::mae_sum)),
            subject_dsc: percent(self.over_subjects(|slice| slice.dice)),
            subject_iou: percent(self.over_subjects(|slice| slice.iou)),
            subject_mae: self.over_subjects(SliceResult::mae),
            dsc_skip_both_empty: all(SliceResult::dice_with, EmptyMasks::SkipBoth),
            iou_skip_both_empty: all(SliceResult::iou_with, EmptyMasks::SkipBoth),
            dsc_both_empty_one: all(SliceResult::dice_with, EmptyMasks::BothAreOne),
            iou_both_empty_one: all(SliceResult::iou_with, EmptyMasks::BothAreOne),
            sensitivity,
            specificity,
            subject_confusion: self.subject_confusion(),
        }
    }

    /// Share of slices without tumour in which at least `minimum` pixels are predicted, percent.
    pub fn healthy_fp_rate(&self, minimum: u64) -> Option<f64> {
        let healthy = self.slices.iter().filter(|slice| slice.class.is_none());
        let pixels = healthy.filter_map(|slice| slice.predicted_pixels);
        percent(mean(pixels.map(|pixels| f64::from(u8::from(pixels >= minimum)))))
    }

    /// The mean over subjects of the mean over their slices with tumour.
    fn over_subjects(&self, value: impl Fn(&SliceResult) -> Option<f64>) -> Option<f64> {
        mean(self.by_subject().values().filter_map(|slices| {
            mean(slices.iter().filter(|slice| slice.class.is_some()).filter_map(|slice| value(slice)))
        }))
    }

    fn subject_confusion(&self) -> Option<Vec<Vec<u64>>> {
        let mut counts = vec![vec![0; self.classes.len()]; self.classes.len()];
        let mut any = false;
        for slices in self.by_subject().values() {
            let truth = slices.iter().find_map(|slice| slice.class);
            if let (Some(truth), Some(probabilities)) = (truth, mean_probabilities(slices)) {
                counts[truth][most_probable(&probabilities)] += 1;
                any = true;
            }
        }
        any.then_some(counts)
    }
}

/// Sensitivity and specificity, percent, of a matrix of two classes; of any other number there is no one such pair.
fn recalls(confusion: Option<&[Vec<u64>]>) -> (Option<f64>, Option<f64>) {
    let Some([negative, positive]) = confusion else { return (None, None) };
    let recall = |row: &[u64], class: usize| {
        let all: u64 = row.iter().sum();
        (all > 0).then(|| row[class] as f64 / all as f64 * 100.0)
    };
    (recall(positive, 1), recall(negative, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Subject, class, true, predicted and common pixels, predicted curve (truth 100, 200), probability of HCC.
    type Given = (&'static str, Option<usize>, u64, u64, u64, [f64; 2], f64);

    fn evaluation(slices: &[Given]) -> TrialEvaluation {
        let slice = |(index, given): (usize, &Given)| {
            let &(subject, class, truth, predicted, both, curve, hcc) = given;
            let overlap = crate::metrics::Overlap { both, predicted, truth };
            SliceResult {
                subject: subject.into(),
                case: subject.into(),
                slice: index as u32,
                class,
                truth_pixels: truth,
                predicted_pixels: Some(predicted),
                dice: overlap.dice(),
                iou: overlap.iou(),
                curve: class.map(|_| vec![100.0, 200.0]),
                predicted_curve: class.map(|_| curve.to_vec()),
                mask_curve: None,
                probabilities: class.map(|_| vec![1.0 - hcc, hcc]),
            }
        };
        TrialEvaluation {
            phases: vec!["pre".into(), "art".into()],
            classes: vec!["hemangioma".into(), "hcc".into()],
            normalisation: (0.0, 1.0),
            spacing: None,
            slices: slices.iter().enumerate().map(slice).collect(),
            reference: None,
        }
    }

    /// Two subjects: `a` has three slices (one healthy and clean, one healthy with 7 false pixels), `b` has two.
    fn five() -> TrialEvaluation {
        evaluation(&[
            ("a", Some(1), 10, 10, 5, [110.0, 170.0], 0.9),
            ("a", None, 0, 0, 0, [0.0; 2], 0.0),
            ("a", None, 0, 7, 0, [0.0; 2], 0.0),
            ("b", Some(0), 20, 10, 10, [100.0, 204.0], 0.3),
            ("b", Some(0), 10, 0, 0, [90.0, 200.0], 0.6),
        ])
    }

    #[track_caller]
    fn close(value: Option<f64>, expected: f64) {
        let value = value.unwrap();
        assert!((value - expected).abs() < 1e-12, "{value} is not {expected}");
    }

    #[test]
    fn conventions_for_empty_masks_differ_in_healthy_slices_alone() {
        let details = five().details();
        // Dice 0.5, 2/3, 0 with tumour; 0 for the 7 false pixels; the clean slice is left out, or 1.
        close(five().summary().dsc, 100.0 * (0.5 + 2.0 / 3.0) / 3.0);
        close(details.dsc_skip_both_empty, 100.0 * (0.5 + 2.0 / 3.0) / 4.0);
        close(details.dsc_both_empty_one, 100.0 * (0.5 + 2.0 / 3.0 + 1.0) / 5.0);
        // IoU 1/3, 1/2, 0.
        close(details.iou_skip_both_empty, 100.0 * (1.0 / 3.0 + 0.5) / 4.0);
        close(details.iou_both_empty_one, 100.0 * (1.0 / 3.0 + 0.5 + 1.0) / 5.0);
    }

    #[test]
    fn subjects_weigh_the_same_whatever_their_number_of_slices() {
        let details = five().details();
        close(details.subject_dsc, 100.0 * (0.5 + (2.0 / 3.0) / 2.0) / 2.0);
        close(details.subject_iou, 100.0 * (1.0 / 3.0 + 0.25) / 2.0);
        // Errors 10 and 30; 0 and 4; 10 and 0.
        close(details.subject_mae, f64::midpoint(20.0, f64::midpoint(2.0, 5.0)));
        close(details.mae_sum, (40.0 + 4.0 + 10.0) / 3.0);
    }

    #[test]
    fn recalls_are_those_of_hcc_and_of_hemangioma() {
        let details = five().details();
        // sklearn.metrics.recall_score([1, 0, 0], [1, 0, 1], pos_label=1) and pos_label=0.
        assert_eq!((details.sensitivity, details.specificity), (Some(100.0), Some(50.0)));
        // Mean probabilities of b: 0.45 for HCC.
        assert_eq!(details.subject_confusion, Some(vec![vec![1, 0], vec![0, 1]]));
        let one_class = evaluation(&[("a", Some(1), 1, 1, 1, [100.0, 200.0], 0.5)]).details();
        assert_eq!((one_class.sensitivity, one_class.specificity), (Some(100.0), None), "a tie is HCC");
        assert_eq!(one_class.subject_confusion, Some(vec![vec![0, 0], vec![0, 1]]));
    }

    #[test]
    fn the_minimum_decides_what_is_a_false_positive() {
        let evaluation = five();
        assert_eq!(evaluation.summary().healthy_fp_rate, Some(0.0), "7 pixels are below the usual minimum");
        assert_eq!(evaluation.healthy_fp_rate(7), Some(50.0));
        assert_eq!(evaluation.summary().healthy_fp_pixels, Some(3.5));
    }

    #[test]
    fn the_overlap_follows_from_dice_and_areas() {
        let overlaps: Vec<Option<u64>> = five().slices.iter().map(SliceResult::overlap_pixels).collect();
        assert_eq!(overlaps, [5, 0, 0, 10, 0].map(Some));
        let no_mask = SliceResult { predicted_pixels: None, ..five().slices[0].clone() };
        assert_eq!((no_mask.overlap_pixels(), no_mask.dice_with(EmptyMasks::BothAreOne)), (None, None));
    }
}
