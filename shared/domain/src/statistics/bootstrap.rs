//! Percentile bootstrap intervals of a mean, the same on every machine.

use super::StatisticsError;
use crate::metrics::mean;

/// A confidence interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// The generator SplitMix64 (Steele, Lea and Flood, 2014): 64 bits of state, every seed as good as another, and
/// few enough lines that an interval can be recomputed anywhere. This crate has no randomness of its own: the seed
/// is the caller's.
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// Begins a stream.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`: the upper half of a 128-bit product. Its bias, n / 2^64, is far below what any number
    /// of resamples could show.
    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }
}

/// The percentile bootstrap interval of the mean of `values` at `confidence` (0.95), from `resamples` draws with
/// replacement: `scipy.stats.bootstrap(.., numpy.mean, method="percentile")` but for its random numbers.
///
/// # Errors
/// Fewer than two values, which have no spread to draw from, none to resample, or a value that is not finite.
pub fn bootstrap_mean(
    values: &[f64],
    confidence: f64,
    resamples: usize,
    seed: u64,
) -> Result<Interval, StatisticsError> {
    if values.len() < 2 || resamples == 0 {
        return Err(StatisticsError::TooFew { n: values.len().min(resamples), needed: 2 });
    }
    if values.iter().any(|value| !value.is_finite()) {
        return Err(StatisticsError::NotFinite);
    }
    let mut generator = SplitMix64::new(seed);
    let mut means: Vec<f64> = (0..resamples)
        .filter_map(|_| mean((0..values.len()).map(|_| values[generator.below(values.len())])))
        .collect();
    means.sort_by(f64::total_cmp);
    let tail = (1.0 - confidence.clamp(0.0, 1.0)) / 2.0;
    Ok(Interval { low: quantile(&means, tail), high: quantile(&means, 1.0 - tail) })
}

/// The quantile of sorted values, linear between neighbours as NumPy's default is.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}
