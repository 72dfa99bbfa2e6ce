//! Long series with few points.

/// Points that a line of a figure has at most.
pub(super) const MOST_POINTS: usize = 200;

/// The series with at most [`MOST_POINTS`] points: of every stretch its lowest and highest, so that no spike is lost;
/// first and last point stay. A short series is given back as it is.
pub(super) fn downsample(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= MOST_POINTS {
        return points.to_vec();
    }
    let inner = &points[1..points.len() - 1];
    let stretches = (MOST_POINTS - 2) / 2;
    let mut kept = vec![points[0]];
    for stretch in 0..stretches {
        let range = stretch * inner.len() / stretches..(stretch + 1) * inner.len() / stretches;
        let by_value = |a: &usize, b: &usize| inner[*a].1.total_cmp(&inner[*b].1);
        let (Some(low), Some(high)) = (range.clone().min_by(by_value), range.max_by(by_value)) else {
            continue;
        };
        kept.push(inner[low.min(high)]);
        if low != high {
            kept.push(inner[low.max(high)]);
        }
    }
    kept.extend(points.last());
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spikes_and_ends_survive() {
        let mut points: Vec<(f64, f64)> = (0..10_000).map(|step| (f64::from(step), 1.0)).collect();
        points[4321].1 = 50.0;
        let few = downsample(&points);
        assert!(few.len() <= MOST_POINTS);
        assert!(few.contains(&(4321.0, 50.0)));
        assert_eq!((few[0], few[few.len() - 1]), (points[0], points[9_999]));
        assert!(few.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn short_series_stay() {
        assert_eq!(downsample(&[(1.0, 2.0)]), [(1.0, 2.0)]);
        assert!(downsample(&[]).is_empty());
    }
}
