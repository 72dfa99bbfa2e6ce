//! Metrics of masks, curves and classes, and their means and deviations (MODEL.md 7).

/// Pixel counts of a predicted mask against the true one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overlap {
    /// Pixels in both.
    pub both: u64,
    /// Pixels predicted.
    pub predicted: u64,
    /// Pixels in truth.
    pub truth: u64,
}

impl Overlap {
    /// Counts over two masks of one grid, pixel by pixel, in which any value but 0 is tumour.
    pub fn count(predicted: impl IntoIterator<Item = u8>, truth: impl IntoIterator<Item = u8>) -> Self {
        let mut overlap = Self::default();
        for (p, t) in predicted.into_iter().zip(truth) {
            overlap.both += u64::from(p != 0 && t != 0);
            overlap.predicted += u64::from(p != 0);
            overlap.truth += u64::from(t != 0);
        }
        overlap
    }

    /// Dice similarity coefficient 2|A&B| / (|A| + |B|), 0 to 1; `None` where the truth is empty: such slices are
    /// reported apart (MODEL.md 7, "Empty masks").
    pub fn dice(self) -> Option<f64> {
        (self.truth > 0).then(|| 2.0 * self.both as f64 / (self.predicted + self.truth) as f64)
    }

    /// Intersection over union |A&B| / |A|B|, 0 to 1; `None` where the truth is empty.
    pub fn iou(self) -> Option<f64> {
        (self.truth > 0).then(|| self.both as f64 / (self.predicted + self.truth - self.both) as f64)
    }
}

/// What a slice without true tumour counts for in a mean of Dice or IoU. Slices with true tumour always count with
/// their own value, 0 where nothing of it is predicted (MODEL.md 7, "Empty masks").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmptyMasks {
    /// Nothing: the primary metric, which leaves healthy slices to the rate of false positives.
    TruthSkipped,
    /// 0 where something is predicted, nothing where both masks are empty.
    SkipBoth,
    /// 0 where something is predicted, 1 where both masks are empty.
    BothAreOne,
}

impl EmptyMasks {
    /// A slice's value: `with_tumour` is what it has where the truth is not empty; areas in pixels.
    pub fn score(self, with_tumour: Option<f64>, truth: u64, predicted: u64) -> Option<f64> {
        match (self, truth, predicted) {
            (_, 1.., _) => with_tumour,
            (Self::TruthSkipped, ..) | (Self::SkipBoth, _, 0) => None,
            (Self::BothAreOne, _, 0) => Some(1.0),
            (Self::SkipBoth | Self::BothAreOne, ..) => Some(0.0),
        }
    }
}

/// Mean and sample standard deviation (n - 1) of a set of values.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct MeanStd {
    /// Number of values.
    pub n: usize,
    /// Arithmetic mean.
    pub mean: f64,
    /// Sample standard deviation; absent for fewer than two values.
    pub std: Option<f64>,
}

impl MeanStd {
    /// Of the values; `None` where there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().collect();
        let mean = mean(values.iter().copied())?;
        let n = values.len();
        // Two passes: the textbook one-pass form loses all digits where the spread is small beside the mean.
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Some(Self { n, mean, std: (n > 1).then(|| (squares / (n - 1) as f64).sqrt()) })
    }
}

/// Arithmetic mean; `None` of nothing.
pub fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut n) = (0.0, 0_u64);
    for value in values {
        sum += value;
        n += 1;
    }
    (n > 0).then(|| sum / n as f64)
}

/// Median; the mean of the middle two for an even count; `None` of nothing.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn empty_truth_has_no_dice_and_empty_prediction_has_zero() {
        assert_eq!(Overlap::count([1, 0], [0, 0]).dice(), None);
        assert_eq!(Overlap::count([0, 0], [1, 0]).dice(), Some(0.0));
        assert_eq!(Overlap::count([0, 0], [1, 0]).iou(), Some(0.0));
        let half = Overlap::count([1, 1, 0, 0], [0, 1, 1, 0]);
        assert_eq!((half.dice(), half.iou()), (Some(0.5), Some(1.0 / 3.0)));
    }

    #[test]
    fn empty_masks_count_as_their_convention_says() {
        use EmptyMasks::*;
        let scores = |truth, predicted| {
            [TruthSkipped, SkipBoth, BothAreOne].map(|empty| empty.score(Some(0.25), truth, predicted))
        };
        assert_eq!(scores(4, 0), [Some(0.25); 3]);
        assert_eq!(scores(0, 4), [None, Some(0.0), Some(0.0)]);
        assert_eq!(scores(0, 0), [None, None, Some(1.0)]);
    }

    #[test]
    fn deviation_is_the_sample_deviation() {
        let stats = MeanStd::of([1e9 + 1.0, 1e9 + 2.0, 1e9 + 3.0]).unwrap();
        assert_eq!((stats.n, stats.std), (3, Some(1.0)));
        assert_eq!(MeanStd::of([4.0]).unwrap().std, None);
        assert_eq!(MeanStd::of([]), None);
        assert_eq!(median([3.0, 1.0, 2.0, 10.0]), Some(2.5));
    }

    proptest! {
        #[test]
        fn iou_follows_from_dice(pairs in proptest::collection::vec((0_u8..2, 0_u8..2), 1..60)) {
            let (p, t): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let overlap = Overlap::count(p, t);
            if let (Some(dice), Some(iou)) = (overlap.dice(), overlap.iou()) {
                prop_assert!((iou - dice / (2.0 - dice)).abs() < 1e-12);
            }
        }
    }
}
