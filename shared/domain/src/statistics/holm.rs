//! Holm's correction for several comparisons.

/// Adjusts p-values so that rejecting those below a level keeps the chance of any false rejection among all of
/// them below that level, however they depend on one another. The order is kept; NaN counts as 1.
///
/// Holm's step-down: the smallest of m is multiplied by m, the next by m - 1 and so on, never below the one
/// before it and never above 1.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let p: Vec<f64> = p.iter().map(|&p| if p.is_nan() { 1.0 } else { p }).collect();
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&i, &j| p[i].total_cmp(&p[j]));
    let mut adjusted = vec![1.0; p.len()];
    let mut largest: f64 = 0.0;
    for (place, &index) in order.iter().enumerate() {
        largest = largest.max(p[index] * (p.len() - place) as f64).min(1.0);
        adjusted[index] = largest;
    }
    adjusted
}
