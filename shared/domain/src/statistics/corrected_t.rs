//! The corrected resampled t-test for values of cross-validation folds (Nadeau and Bengio, 2003).

use statrs::function::beta::beta_reg;

use super::{StatisticsError, differences};
use crate::metrics::MeanStd;

/// With two folds the deviation hangs on one number, and no difference short of absurd would show.
pub const FEWEST_FOLDS: usize = 3;

/// A corrected resampled t-test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CorrectedT {
    /// Folds.
    pub n: usize,
    /// Mean difference a - b over folds.
    pub mean: f64,
    /// The statistic, to be read against `n - 1` degrees of freedom.
    pub t: f64,
    /// Two-sided p-value.
    pub p: f64,
}

/// Tests whether the mean of the differences a - b over folds is zero.
///
/// The training sets of folds overlap, so their values are not independent, and Student's paired test takes chance
/// for difference far too often. The correction widens the variance of the mean from s^2 / k to
/// s^2 (1 / k + n_test / n_train), with `test_to_train` = n_test / n_train: 1 / (k - 1) in k-fold
/// cross-validation. It is an approximation; no unbiased estimate of that variance exists.
///
/// # Errors
/// Slices of different lengths, fewer than [`FEWEST_FOLDS`], a value that is not finite, or differences without
/// any spread.
pub fn corrected_resampled_t(
    a: &[f64],
    b: &[f64],
    test_to_train: f64,
) -> Result<CorrectedT, StatisticsError> {
    let differences = differences(a, b, FEWEST_FOLDS)?;
    let too_few = StatisticsError::TooFew { n: differences.len(), needed: FEWEST_FOLDS };
    let stats = MeanStd::of(differences).ok_or(too_few)?;
    let deviation = stats.std.ok_or(too_few)?;
    // Subtraction rounds: a spread of some units in the last place of the values is none.
    let largest = a.iter().chain(b).fold(0.0_f64, |largest, value| largest.max(value.abs()));
    if deviation <= 8.0 * f64::EPSILON * largest {
        return Err(StatisticsError::NoSpread);
    }
    let n = stats.n as f64;
    let t = stats.mean / (deviation * (1.0 / n + test_to_train).sqrt());
    Ok(CorrectedT { n: stats.n, mean: stats.mean, t, p: two_sided(t, n - 1.0) })
}

/// Both tails of Student's distribution by the incomplete beta function itself: 1 minus a distribution function
/// would lose small p-values.
fn two_sided(t: f64, freedom: f64) -> f64 {
    let x = freedom / (freedom + t * t);
    if x >= 1.0 { 1.0 } else { beta_reg(freedom / 2.0, 0.5, x).clamp(0.0, 1.0) }
}
