//! Comparing two arms: paired tests, their correction for many comparisons, and intervals of a difference.
//!
//! Values come in pairs, one of each arm: per subject for [`wilcoxon`] and [`bootstrap_mean`], per fold for
//! [`corrected_resampled_t`]. The SciPy functions that these follow, and where they do not, are named at each;
//! `tests/fixtures/make_statistics.py` writes the values that they are held to.

mod bootstrap;
mod corrected_t;
mod holm;
mod wilcoxon;

pub use bootstrap::{Interval, SplitMix64, bootstrap_mean};
pub use corrected_t::{CorrectedT, FEWEST_FOLDS, corrected_resampled_t};
pub use holm::holm;
pub use wilcoxon::{Wilcoxon, WilcoxonMethod, smallest_p, wilcoxon};

/// Why values cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatisticsError {
    /// The values do not come in pairs.
    #[error("{a} values cannot be paired with {b}; give one value of each arm a unit")]
    Unpaired {
        /// Values of the first arm.
        a: usize,
        /// Values of the second arm.
        b: usize,
    },
    /// A value is NaN or infinite.
    #[error("a value is not finite; leave out arms whose training diverged")]
    NotFinite,
    /// There are not enough pairs.
    #[error("needs at least {needed} pairs and has {n}")]
    TooFew {
        /// Pairs there are.
        n: usize,
        /// Pairs it takes.
        needed: usize,
    },
    /// The differences are all the same, as far as their rounding lets one tell.
    #[error("the differences are all the same, which leaves no spread to test against")]
    NoSpread,
}

/// The differences a - b of at least `needed` finite pairs.
fn differences(a: &[f64], b: &[f64], needed: usize) -> Result<Vec<f64>, StatisticsError> {
    if a.len() != b.len() {
        return Err(StatisticsError::Unpaired { a: a.len(), b: b.len() });
    }
    if a.len() < needed {
        return Err(StatisticsError::TooFew { n: a.len(), needed });
    }
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    if differences.iter().any(|difference| !difference.is_finite()) {
        return Err(StatisticsError::NotFinite);
    }
    Ok(differences)
}
