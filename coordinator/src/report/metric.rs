//! The figures that tables, comparisons and files show for an arm.

use mtinet_domain::Arm;
use mtinet_domain::evaluation::{FoldDetails, FoldSummary, SliceResult};
use mtinet_domain::metrics::EmptyMasks;

use super::results::TrialResult;

/// A figure that tables show for an arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Dice over slices with tumour, percent.
    Dsc,
    /// Intersection over union, percent.
    Iou,
    /// Mean absolute error of the curve, raw intensity.
    Mae,
    /// The same in the phase of this index.
    MaePhase(usize),
    /// The absolute error summed over the phases, raw intensity.
    MaeSum,
    /// MAE of the curve read under the predicted mask, raw intensity.
    TimMae,
    /// Slices of the right class, percent.
    Accuracy,
    /// Subjects of the right class, percent.
    SubjectAccuracy,
    /// Recall of the second of two classes, percent of its slices.
    Sensitivity,
    /// Recall of the first of two classes, percent of its slices.
    Specificity,
    /// Slices without tumour in which tumour is predicted, percent.
    HealthyRate,
    /// Predicted pixels in slices without tumour.
    HealthyPixels,
    /// Dice, each subject with the weight of one, percent.
    SubjectDsc,
    /// IoU likewise.
    SubjectIou,
    /// MAE likewise, raw intensity.
    SubjectMae,
    /// Dice over all slices; both masks empty is left out, a prediction without truth is 0. Percent.
    DscSkipBothEmpty,
    /// IoU likewise.
    IouSkipBothEmpty,
    /// Dice over all slices; both masks empty is 1, a prediction without truth is 0. Percent.
    DscBothEmptyOne,
    /// IoU likewise.
    IouBothEmptyOne,
}

impl Metric {
    /// Those with a name of their own, in the order of `summary.json`: all but the single phases.
    pub const NAMED: [Self; 18] = [
        Self::Dsc,
        Self::Iou,
        Self::Mae,
        Self::Accuracy,
        Self::SubjectAccuracy,
        Self::TimMae,
        Self::HealthyRate,
        Self::HealthyPixels,
        Self::MaeSum,
        Self::Sensitivity,
        Self::Specificity,
        Self::SubjectDsc,
        Self::SubjectIou,
        Self::SubjectMae,
        Self::DscSkipBothEmpty,
        Self::IouSkipBothEmpty,
        Self::DscBothEmptyOne,
        Self::IouBothEmptyOne,
    ];

    /// Its name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dsc => "dsc",
            Self::Iou => "iou",
            Self::Mae => "mae",
            Self::MaePhase(_) => "mae_phase",
            Self::MaeSum => "mae_sum",
            Self::TimMae => "tim_mae",
            Self::Accuracy => "accuracy",
            Self::SubjectAccuracy => "subject_accuracy",
            Self::Sensitivity => "sensitivity",
            Self::Specificity => "specificity",
            Self::HealthyRate => "healthy_fp_rate",
            Self::HealthyPixels => "healthy_fp_pixels",
            Self::SubjectDsc => "dsc_per_subject",
            Self::SubjectIou => "iou_per_subject",
            Self::SubjectMae => "mae_per_subject",
            Self::DscSkipBothEmpty => "dsc_skip_both_empty",
            Self::IouSkipBothEmpty => "iou_skip_both_empty",
            Self::DscBothEmptyOne => "dsc_both_empty_one",
            Self::IouBothEmptyOne => "iou_both_empty_one",
        }
    }

    /// Whether `arm` has the task that this metric measures.
    pub fn applies_to(self, arm: Arm) -> bool {
        let tasks = arm.tasks();
        match self {
            Self::Mae | Self::MaePhase(_) | Self::MaeSum | Self::SubjectMae => tasks.reg,
            Self::Accuracy | Self::SubjectAccuracy | Self::Sensitivity | Self::Specificity => tasks.cls,
            _ => tasks.seg,
        }
    }

    /// Whether a larger value is the better one.
    pub fn larger_is_better(self) -> bool {
        !matches!(
            self,
            Self::Mae
                | Self::MaePhase(_)
                | Self::MaeSum
                | Self::SubjectMae
                | Self::TimMae
                | Self::HealthyRate
                | Self::HealthyPixels
        )
    }

    /// Its value in the fold of a trial that is done.
    pub fn of_trial(self, trial: &TrialResult) -> Option<f64> {
        let summary = trial.summary()?;
        self.of(summary).or_else(|| self.of_details(trial.details.as_ref()?))
    }

    /// Its value in a fold, where the trainer reports it.
    fn of(self, summary: &FoldSummary) -> Option<f64> {
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
            _ => None,
        }
    }

    /// Its value in a fold, where it takes the results per slice.
    fn of_details(self, details: &FoldDetails) -> Option<f64> {
        match self {
            Self::MaeSum => details.mae_sum,
            Self::Sensitivity => details.sensitivity,
            Self::Specificity => details.specificity,
            Self::SubjectDsc => details.subject_dsc,
            Self::SubjectIou => details.subject_iou,
            Self::SubjectMae => details.subject_mae,
            Self::DscSkipBothEmpty => details.dsc_skip_both_empty,
            Self::IouSkipBothEmpty => details.iou_skip_both_empty,
            Self::DscBothEmptyOne => details.dsc_both_empty_one,
            Self::IouBothEmptyOne => details.iou_both_empty_one,
            _ => None,
        }
    }

    /// Its value in a slice, in the unit of the fold's; `None` where it is not measured in single slices, or not in
    /// this one.
    pub fn of_slice(self, slice: &SliceResult) -> Option<f64> {
        let percent = |share: Option<f64>| share.map(|share| share * 100.0);
        match self {
            Self::DscSkipBothEmpty => return percent(slice.dice_with(EmptyMasks::SkipBoth)),
            Self::IouSkipBothEmpty => return percent(slice.iou_with(EmptyMasks::SkipBoth)),
            Self::DscBothEmptyOne => return percent(slice.dice_with(EmptyMasks::BothAreOne)),
            Self::IouBothEmptyOne => return percent(slice.iou_with(EmptyMasks::BothAreOne)),
            _ => {}
        }
        let class = slice.class?;
        match self {
            Self::Dsc => percent(slice.dice),
            Self::Iou => percent(slice.iou),
            Self::Mae => slice.mae(),
            Self::MaePhase(phase) => slice.mae_phases()?.get(phase).copied(),
            Self::MaeSum => slice.mae_sum(),
            Self::TimMae => slice.tim_mae(),
            Self::Accuracy => Some(f64::from(u8::from(slice.predicted_class()? == class)) * 100.0),
            _ => None,
        }
    }
}
