//! The two-sided Wilcoxon signed-rank test of paired values, as `scipy.stats.wilcoxon(x, y)` makes it.
//!
//! Written here because no kept crate has it: `statrs`, which this crate uses for its special functions, has the
//! rank test of two independent samples alone, and the small crates that have this one change to the normal
//! approximation at other sizes than SciPy does or treat ties otherwise.

use statrs::function::erf::erfc;

use super::{StatisticsError, differences};

/// SciPy's limits: an exact distribution up to so many pairs, and up to so many where there are ties or zeros.
const EXACT_UP_TO: usize = 50;
const SIGN_FLIPS_UP_TO: usize = 13;

/// A signed-rank test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wilcoxon {
    /// Pairs.
    pub n: usize,
    /// Pairs that differ; the others are left out (`zero_method="wilcox"`).
    pub n_nonzero: usize,
    /// Sum of the ranks of the pairs in which the first value is the larger.
    pub r_plus: f64,
    /// Sum of the ranks of the pairs in which the second is.
    pub r_minus: f64,
    /// Two-sided p-value.
    pub p: f64,
    /// Where the p-value comes from.
    pub method: WilcoxonMethod,
}

/// Where the p-value of a signed-rank test comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WilcoxonMethod {
    /// The exact distribution: at most 50 pairs, no two differences of one size, none zero.
    Exact,
    /// The exact distribution of these very ranks over all signs: at most 13 pairs, with ties or zeros.
    SignFlips,
    /// The normal approximation, its variance corrected for ties, without correction for continuity.
    Normal,
}

impl WilcoxonMethod {
    /// The method in words, to stand after "Wilcoxon signed-rank, two-sided".
    pub const fn words(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::SignFlips => "exact over all signs, with ties or zeros",
            Self::Normal => "normal approximation, corrected for ties",
        }
    }
}

impl Wilcoxon {
    /// The smaller of the two rank sums, SciPy's `statistic`.
    pub fn statistic(&self) -> f64 {
        self.r_plus.min(self.r_minus)
    }

    /// Effect size: the matched-pairs rank-biserial correlation (R+ - R-) / (R+ + R-), from -1 (the second value
    /// is the larger in every pair) to 1 (the first is); `None` where no pair differs.
    pub fn rank_biserial(&self) -> Option<f64> {
        let all = self.r_plus + self.r_minus;
        (all > 0.0).then(|| (self.r_plus - self.r_minus) / all)
    }
}

/// Tests whether the differences a - b are symmetric about zero.
///
/// Where every difference is zero the p-value is 1; SciPy says NaN there from 14 pairs on.
///
/// # Errors
/// Slices of different lengths, no pair, or a difference that is not finite.
pub fn wilcoxon(a: &[f64], b: &[f64]) -> Result<Wilcoxon, StatisticsError> {
    let differences = differences(a, b, 1)?;
    let n = differences.len();
    let ranks = SignedRanks::of(differences.into_iter().filter(|&difference| difference != 0.0).collect());
    let method = if ranks.signed.is_empty() {
        WilcoxonMethod::SignFlips
    } else if n > EXACT_UP_TO {
        WilcoxonMethod::Normal
    } else if ranks.ties.is_empty() && ranks.signed.len() == n {
        WilcoxonMethod::Exact
    } else if n <= SIGN_FLIPS_UP_TO {
        WilcoxonMethod::SignFlips
    } else {
        WilcoxonMethod::Normal
    };
    let p = match method {
        WilcoxonMethod::Exact | WilcoxonMethod::SignFlips => ranks.exact_p(),
        WilcoxonMethod::Normal => ranks.normal_p(),
    };
    let half = |doubled: u32| f64::from(doubled) / 2.0;
    let (r_plus, r_minus) = (half(ranks.sum(|positive| positive)), half(ranks.sum(|positive| !positive)));
    Ok(Wilcoxon { n, n_nonzero: ranks.signed.len(), r_plus, r_minus, p, method })
}

/// The smallest two-sided p-value that the exact test can give: of the 2^n signs that n pairs can have, two are as
/// far out as all alike.
pub fn smallest_p(n: usize) -> f64 {
    // 2^-1075 is below every float: the power of a larger n is 0 anyway.
    let n = i32::try_from(n).unwrap_or(i32::MAX);
    (2.0 * 0.5_f64.powi(n)).min(1.0)
}

/// Differences as ranks of their size.
struct SignedRanks {
    /// Whether the difference is positive, and twice its rank: twice, because tied differences share the mean of
    /// their ranks, which may end in a half.
    signed: Vec<(bool, u32)>,
    /// Sizes of the groups of tied differences.
    ties: Vec<usize>,
}

impl SignedRanks {
    /// Of differences none of which is zero.
    fn of(mut differences: Vec<f64>) -> Self {
        differences.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
        let mut ranks = Self { signed: Vec::with_capacity(differences.len()), ties: Vec::new() };
        let mut below = 0_u32;
        for group in differences.chunk_by(|a, b| a.abs() == b.abs()) {
            let size = u32::try_from(group.len()).unwrap_or(u32::MAX);
            // Twice the mean of the ranks below + 1 to below + size.
            let doubled = 2 * below + size + 1;
            ranks.signed.extend(group.iter().map(|&difference| (difference > 0.0, doubled)));
            if group.len() > 1 {
                ranks.ties.push(group.len());
            }
            below += size;
        }
        ranks
    }

    /// Twice the sum of the ranks of one sign.
    fn sum(&self, of: impl Fn(bool) -> bool) -> u32 {
        self.signed.iter().filter(|&&(positive, _)| of(positive)).map(|&(_, doubled)| doubled).sum()
    }

    /// Counts the signs that give each rank sum. At most [`EXACT_UP_TO`] ranks, so that the counts, which add up
    /// to 2^n, and all probabilities from them are exact.
    fn exact_p(&self) -> f64 {
        let total: u32 = self.sum(|_| true);
        let mut counts = vec![0_u64; total as usize + 1];
        counts[0] = 1;
        for &(_, doubled) in &self.signed {
            for sum in (doubled as usize..counts.len()).rev() {
                counts[sum] += counts[sum - doubled as usize];
            }
        }
        let observed = self.sum(|positive| positive) as usize;
        let at_most: u64 = counts[..=observed].iter().sum();
        let at_least: u64 = counts[observed..].iter().sum();
        let signs: u64 = counts.iter().sum();
        (2.0 * at_most.min(at_least) as f64 / signs as f64).min(1.0)
    }

    fn normal_p(&self) -> f64 {
        let n = self.signed.len() as f64;
        let mean = n * (n + 1.0) / 4.0;
        let tied: f64 = self.ties.iter().map(|&size| (size as f64).powi(3) - size as f64).sum();
        let variance = (n * (n + 1.0) * (2.0 * n + 1.0) - tied / 2.0) / 24.0;
        let z = (f64::from(self.sum(|positive| positive)) / 2.0 - mean) / variance.sqrt();
        // Twice the upper tail; 1 minus a distribution function would lose small p-values.
        erfc(z.abs() / std::f64::consts::SQRT_2)
    }
}
