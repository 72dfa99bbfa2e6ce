//! The figures that the paper printed, with what speaks against single ones. Shown beside a study's own on request,
//! in a column of their own, and used for nothing else: no test, no mark of the best, no target.
//!
//! Source: Xiao, Hu, Kim and Wang, "Adversarial Multi-Task Learning for Liver Tumor Segmentation, Dynamic Enhancement
//! Regression, and Classification", Tables 1 to 4, on 238 subjects that are not public.

use mtinet_domain::Arm;

use super::metric::Metric;

/// A figure of the paper.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Published {
    /// The number of its table.
    pub table: u8,
    /// The arm, which the paper may name otherwise.
    pub arm: Arm,
    /// The metric.
    pub metric: Metric,
    /// As printed.
    pub mean: f64,
    /// As printed after the plus-minus sign.
    pub std: Option<f64>,
}

impl Published {
    /// As printed.
    pub fn words(&self) -> String {
        let digits = if self.metric == Metric::Accuracy { 1 } else { 2 };
        match self.std {
            Some(std) => format!("{:.digits$} ± {std:.digits$}", self.mean),
            None => format!("{:.digits$}", self.mean),
        }
    }

    /// What speaks against it, where something does.
    pub fn remark(&self) -> Option<String> {
        let dsc = PUBLISHED
            .iter()
            .find(|other| (other.table, other.arm, other.metric) == (self.table, self.arm, Metric::Dsc));
        match (self.metric, self.arm) {
            (Metric::Iou, _) => iou_remark(self.mean, dsc?.mean),
            (Metric::Mae, Arm::MtiNet) if self.std.is_some() => {
                Some("the paper's text prints 44.35 ± 12.93".to_owned())
            }
            (Metric::Dsc, Arm::SegReg | Arm::SegCls) => {
                Some("above the whole network's 85.23, which the text calls better throughout".to_owned())
            }
            (Metric::Dsc, Arm::SegOnly) => {
                Some("above the whole network without TIM (83.66) or TDD (82.40) in Table 3".to_owned())
            }
            (Metric::Accuracy, Arm::MtiNet) => {
                Some("no rounded share of 238 subjects; the unit is not said".to_owned())
            }
            _ => None,
        }
    }
}

/// IoU = D / (2 - D) is convex in Dice: over the same samples the mean IoU cannot lie below that of the mean Dice.
fn iou_remark(iou: f64, dsc: f64) -> Option<String> {
    let least = 100.0 * dsc / (200.0 - dsc);
    (iou < least - 0.01)
        .then(|| format!("impossible beside DSC {dsc:.2} on the same samples: at least {least:.2}"))
}

/// What holds of the published figures altogether.
pub const REMARKS: [&str; 3] = [
    "Published values are of 238 subjects that are not public, and of other code: a study on other data can neither \
     confirm nor refute them. They are no targets.",
    "The deviations of DSC are too small to be between samples and must be over folds; that of MTI-Net's MAE, 74 % of \
     its mean, looks like one between samples. The paper does not say.",
    "The source of MD-FF is not identified and EI-DDPM has no public code: those rows are compared with a stand-in \
     and a reimplementation.",
];

const fn at(table: u8, arm: Arm, metric: Metric, mean: f64, std: f64) -> Published {
    Published { table, arm, metric, mean, std: Some(std) }
}

const fn bare(arm: Arm, metric: Metric, mean: f64) -> Published {
    Published { table: 4, arm, metric, mean, std: None }
}

/// Every figure of Tables 1 to 4, in their order.
#[expect(clippy::approx_constant, reason = "6.28 is a deviation that the paper prints, not a circle's")]
pub const PUBLISHED: &[Published] = &[
    at(1, Arm::Unet, Metric::Dsc, 77.34, 3.04),
    at(1, Arm::ResUnetPp, Metric::Dsc, 78.85, 2.91),
    at(1, Arm::TransUnet, Metric::Dsc, 80.27, 2.73),
    at(1, Arm::EiDdpm, Metric::Dsc, 81.86, 2.12),
    at(1, Arm::MdFf, Metric::Dsc, 82.20, 4.28),
    at(1, Arm::MtiNet, Metric::Dsc, 85.23, 2.04),
    at(1, Arm::Unet, Metric::Iou, 58.79, 8.45),
    at(1, Arm::ResUnetPp, Metric::Iou, 60.65, 6.98),
    at(1, Arm::TransUnet, Metric::Iou, 64.76, 6.42),
    at(1, Arm::EiDdpm, Metric::Iou, 68.12, 7.37),
    at(1, Arm::MdFf, Metric::Iou, 72.06, 6.95),
    at(1, Arm::MtiNet, Metric::Iou, 75.48, 5.37),
    at(2, Arm::Vgg16Reg, Metric::Mae, 210.28, 43.32),
    at(2, Arm::Resnet50Reg, Metric::Mae, 184.27, 37.35),
    at(2, Arm::Densenet121Reg, Metric::Mae, 167.23, 48.67),
    at(2, Arm::Inception3Reg, Metric::Mae, 115.67, 45.58),
    at(2, Arm::MtiNet, Metric::Mae, 44.35, 32.93),
    at(3, Arm::NoMdief, Metric::Dsc, 81.67, 2.78),
    at(3, Arm::NoSpe, Metric::Dsc, 82.68, 1.89),
    at(3, Arm::NoSpa, Metric::Dsc, 83.85, 2.65),
    at(3, Arm::NoTim, Metric::Dsc, 83.66, 2.29),
    at(3, Arm::NoTdd, Metric::Dsc, 82.40, 2.58),
    at(3, Arm::MtiNet, Metric::Dsc, 85.23, 2.04),
    at(3, Arm::NoMdief, Metric::Iou, 71.29, 6.23),
    at(3, Arm::NoSpe, Metric::Iou, 72.65, 5.21),
    at(3, Arm::NoSpa, Metric::Iou, 73.57, 4.78),
    at(3, Arm::NoTim, Metric::Iou, 73.78, 5.39),
    at(3, Arm::NoTdd, Metric::Iou, 72.64, 6.28),
    at(3, Arm::MtiNet, Metric::Iou, 75.48, 5.37),
    at(3, Arm::NoMdief, Metric::Mae, 65.25, 32.76),
    at(3, Arm::NoSpe, Metric::Mae, 59.36, 36.25),
    at(3, Arm::NoSpa, Metric::Mae, 53.26, 37.89),
    at(3, Arm::NoTim, Metric::Mae, 51.29, 39.65),
    at(3, Arm::NoTdd, Metric::Mae, 49.27, 28.46),
    at(3, Arm::MtiNet, Metric::Mae, 44.35, 32.93),
    bare(Arm::SegOnly, Metric::Dsc, 85.21),
    bare(Arm::SegReg, Metric::Dsc, 86.34),
    bare(Arm::SegReg, Metric::Mae, 48.72),
    bare(Arm::SegCls, Metric::Dsc, 86.02),
    bare(Arm::SegCls, Metric::Accuracy, 90.3),
    bare(Arm::MtiNet, Metric::Dsc, 85.23),
    bare(Arm::MtiNet, Metric::Mae, 44.35),
    bare(Arm::MtiNet, Metric::Accuracy, 92.8),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_impossible_ious_are_said_to_be() {
        let impossible: Vec<Arm> = PUBLISHED
            .iter()
            .filter(|value| value.remark().is_some_and(|remark| remark.starts_with("impossible")))
            .map(|value| value.arm)
            .collect();
        assert_eq!(impossible, [Arm::Unet, Arm::ResUnetPp, Arm::TransUnet, Arm::EiDdpm]);
        let unet = PUBLISHED.iter().find(|value| value.mean == 58.79).unwrap();
        assert_eq!(unet.remark().unwrap(), "impossible beside DSC 77.34 on the same samples: at least 63.05");
    }

    #[test]
    fn a_table_holds_no_figure_twice_and_prints_the_papers_digits() {
        for (place, value) in PUBLISHED.iter().enumerate() {
            let same = |other: &Published| {
                (other.table, other.arm, other.metric) == (value.table, value.arm, value.metric)
            };
            assert!(!PUBLISHED[..place].iter().any(same), "{value:?}");
        }
        assert_eq!(
            [1, 2, 3, 4].map(|table| PUBLISHED.iter().filter(|v| v.table == table).count()),
            [12, 5, 18, 8]
        );
        let words: Vec<String> = PUBLISHED.iter().map(Published::words).collect();
        assert!(
            words.contains(&"82.20 ± 4.28".to_owned()) && words.contains(&"92.8".to_owned()),
            "{words:?}"
        );
    }
}
