//! How fast a trial trains: seconds of training by optimiser step, in bounded memory.

use std::collections::VecDeque;

/// Most points kept of the whole training.
const MOST_POINTS: usize = 512;
/// Points that the present pace is taken over.
const RECENT: usize = 32;

/// Steps done against seconds of training.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    points: Vec<(u64, f64)>,
    recent: VecDeque<(u64, f64)>,
    /// Every so many points one is kept; doubles when there are too many.
    stride: u64,
    seen: u64,
}

impl Pace {
    /// Takes a measurement in. One at a step that was already taken begins a new line of history.
    pub fn add(&mut self, step: u64, train_seconds: f64) {
        if !train_seconds.is_finite() {
            return;
        }
        let is_new = |points: &(u64, f64)| points.0 < step && points.1 <= train_seconds;
        while self.points.last().is_some_and(|last| !is_new(last)) {
            self.points.pop();
        }
        if self.recent.back().is_some_and(|last| !is_new(last)) {
            self.recent.clear();
        }
        self.recent.push_back((step, train_seconds));
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        let stride = self.stride.max(1);
        if self.seen.is_multiple_of(stride) {
            self.points.push((step, train_seconds));
        }
        self.seen += 1;
        if self.points.len() > MOST_POINTS {
            let mut index = 0;
            self.points.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.stride = stride * 2;
        }
    }

    /// Seconds that a step takes at present.
    pub fn step_seconds(&self) -> Option<f64> {
        let (first, last) = (self.recent.front()?, self.recent.back()?);
        (last.0 > first.0).then(|| (last.1 - first.1) / (last.0 - first.0) as f64)
    }

    /// Seconds per step over the whole training, by step.
    pub fn series(&self) -> Vec<(f64, f64)> {
        let pairs = self.points.windows(2);
        pairs
            .map(|pair| (pair[1].0 as f64, (pair[1].1 - pair[0].1) / (pair[1].0 - pair[0].0) as f64))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_that_of_the_last_steps_and_memory_stays_bounded() {
        let mut pace = Pace::default();
        assert_eq!(pace.step_seconds(), None);
        for step in 1..=10_000 {
            pace.add(step, step as f64 * 0.5);
        }
        for step in 10_001..=10_040 {
            pace.add(step, 5000.0 + (step - 10_000) as f64 * 0.1);
        }
        assert!((pace.step_seconds().unwrap() - 0.1).abs() < 1e-9);
        let series = pace.series();
        assert!(series.len() <= MOST_POINTS && series.len() > 200, "{}", series.len());
        assert!((series[0].1 - 0.5).abs() < 1e-9);
    }

    #[test]
    fn steps_that_are_taken_again_replace_those_before() {
        let mut pace = Pace::default();
        for step in 1..=10 {
            pace.add(step, step as f64);
        }
        // Goes on from step 4, with the seconds that its checkpoint holds.
        pace.add(5, 6.0);
        pace.add(6, 8.0);
        assert_eq!(pace.series().last(), Some(&(6.0, 2.0)));
        assert!(pace.step_seconds().is_some_and(|seconds| (seconds - 2.0).abs() < 1e-9));
    }
}
