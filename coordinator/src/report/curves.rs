//! Learning curves of a trial in bounded memory, however many steps its training reports.
//!
//! Steps are collected in windows of equal width that begin at the same steps on every reading. Where a curve would
//! hold more than [`MOST_POINTS`], windows become twice as wide and neighbours are joined: losses by their mean,
//! evaluations of the held-out fold by the later one, since a mean of two evaluations was never measured.

use mtinet_domain::event::{MetricRecord, MetricScope};

/// A curve never holds more points.
pub const MOST_POINTS: usize = 512;

/// What a trial measured over its training, along the line of history that its result builds on: steps that were
/// taken again after a resume stand once, as they were taken last.
#[derive(Clone, Debug, PartialEq)]
pub struct LearningCurves {
    /// Loss terms of single steps, or their means over windows of steps.
    pub steps: Curve,
    /// Means over epochs: loss terms and the learning rate. Empty where training is shorter than an epoch.
    pub epochs: Curve,
    /// The held-out fold: `dsc`, `iou` and `accuracy` in percent, `mae` in raw intensity.
    pub held_out: Curve,
}

/// Several quantities over training.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    names: Vec<String>,
    windows: Vec<Window>,
    /// Steps in a window.
    width: u64,
    joined_by: Join,
}

/// A quantity at one place of training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CurvePoint {
    /// Optimiser steps done: the last of the window.
    pub step: u64,
    /// Epochs begun, from 1.
    pub epoch: u32,
    /// The value; its unit is the quantity's.
    pub value: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Join {
    Mean,
    Later,
}

/// The steps `width * place + 1` to `width * (place + 1)`.
#[derive(Clone, Debug, PartialEq)]
struct Window {
    place: u64,
    step: u64,
    epoch: u32,
    /// Sum and number of finite values, by the index of the name.
    sums: Vec<(f64, u32)>,
}

impl Default for LearningCurves {
    fn default() -> Self {
        Self {
            steps: Curve::new(Join::Mean),
            epochs: Curve::new(Join::Mean),
            held_out: Curve::new(Join::Later),
        }
    }
}

impl LearningCurves {
    /// Losses by epoch, or by step where there are fewer than two epochs to draw a line through.
    pub fn training(&self) -> &Curve {
        if self.epochs.len() < 2 { &self.steps } else { &self.epochs }
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.steps.len() + self.epochs.len() + self.held_out.len() == 0
    }

    /// Forgets what came after `step`: a resumed training takes those steps anew.
    pub(super) fn resume_at(&mut self, step: u64) {
        self.forget_from(MetricScope::Step, step + 1);
    }

    /// Adds a measurement. One at a step that is already there, or before it, begins a new line of history.
    pub(super) fn add(&mut self, record: &MetricRecord) {
        self.forget_from(record.scope, record.step);
        match record.scope {
            MetricScope::Step => self.steps.add(record),
            MetricScope::Epoch => self.epochs.add(record),
            MetricScope::HeldOut => self.held_out.add(record),
        }
    }

    /// Of one step a trainer reports first the step, then the epoch that it ends, then the evaluation.
    fn forget_from(&mut self, scope: MetricScope, step: u64) {
        match scope {
            MetricScope::Step => {
                self.steps.forget_from(step);
                self.epochs.forget_from(step);
            }
            MetricScope::Epoch => self.epochs.forget_from(step),
            MetricScope::HeldOut => {}
        }
        self.held_out.forget_from(step);
    }
}

impl Curve {
    fn new(joined_by: Join) -> Self {
        Self { names: Vec::new(), windows: Vec::new(), width: 1, joined_by }
    }

    /// The quantities, in the order in which they were first reported.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Places at which something was measured.
    pub fn len(&self) -> usize {
        self.windows.len()
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// Steps that a point stands for; 1 until a curve grows too long.
    pub fn width(&self) -> u64 {
        self.width
    }

    /// A quantity by step, ascending; without the places at which it was not measured.
    pub fn series(&self, name: &str) -> Vec<CurvePoint> {
        let Some(index) = self.names.iter().position(|known| known == name) else { return Vec::new() };
        let points = self.windows.iter().filter_map(|window| {
            let &(sum, n) = window.sums.get(index)?;
            (n > 0).then(|| CurvePoint { step: window.step, epoch: window.epoch, value: sum / f64::from(n) })
        });
        points.collect()
    }

    fn add(&mut self, record: &MetricRecord) {
        let place = record.step.saturating_sub(1) / self.width;
        let mut sums = vec![(0.0, 0); self.names.len()];
        for (name, &value) in record.values.iter().filter(|(_, value)| value.is_finite()) {
            let index = self.names.iter().position(|known| known == name).unwrap_or_else(|| {
                self.names.push(name.clone());
                sums.push((0.0, 0));
                self.names.len() - 1
            });
            sums[index] = (value, 1);
        }
        self.take(Window { place, step: record.step, epoch: record.epoch, sums });
        while self.windows.len() > MOST_POINTS {
            self.width = self.width.saturating_mul(2);
            for mut window in std::mem::take(&mut self.windows) {
                window.place /= 2;
                self.take(window);
            }
        }
    }

    /// Adds a window that is not before the last one.
    fn take(&mut self, window: Window) {
        match self.windows.last_mut() {
            Some(last) if last.place == window.place && self.joined_by == Join::Mean => last.join(&window),
            Some(last) if last.place == window.place => *last = window,
            _ => self.windows.push(window),
        }
    }

    fn forget_from(&mut self, step: u64) {
        while self.windows.last().is_some_and(|window| window.step >= step) {
            self.windows.pop();
        }
    }
}

impl Window {
    fn join(&mut self, later: &Self) {
        (self.step, self.epoch) = (later.step, later.epoch);
        self.sums.resize(self.sums.len().max(later.sums.len()), (0.0, 0));
        for (mine, theirs) in self.sums.iter_mut().zip(&later.sums) {
            mine.0 += theirs.0;
            mine.1 = mine.1.saturating_add(theirs.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(scope: MetricScope, step: u64, loss: f64) -> MetricRecord {
        let values = [("loss".to_owned(), loss)].into();
        MetricRecord { scope, step, epoch: 1, train_seconds: 0.0, values }
    }

    fn steps(curve: &Curve) -> Vec<(u64, f64)> {
        curve.series("loss").iter().map(|point| (point.step, point.value)).collect()
    }

    #[test]
    fn a_long_training_becomes_means_of_windows_and_its_last_evaluations() {
        let mut curves = LearningCurves::default();
        for step in 1..=100_000 {
            curves.add(&record(MetricScope::Step, step, step as f64));
            if step % 10 == 0 {
                curves.add(&record(MetricScope::HeldOut, step, step as f64));
            }
        }
        assert_eq!(curves.steps.width(), 256);
        let points = steps(&curves.steps);
        assert!(points.len() <= MOST_POINTS && points.len() > MOST_POINTS / 2, "{}", points.len());
        assert_eq!(points[0], (256, 128.5), "the mean of 1 to 256");
        assert_eq!(points.last().unwrap().0, 100_000);
        let evaluations = steps(&curves.held_out);
        assert!(evaluations.len() <= MOST_POINTS);
        assert!(evaluations.iter().all(|(step, value)| *step as f64 == *value), "no mean of two evaluations");
        assert_eq!(evaluations.last().unwrap().0, 100_000);
    }

    #[test]
    fn steps_taken_again_replace_those_before() {
        let mut curves = LearningCurves::default();
        for step in 1..=6 {
            curves.add(&record(MetricScope::Step, step, 1.0));
        }
        curves.add(&record(MetricScope::Epoch, 6, 1.0));
        curves.add(&record(MetricScope::HeldOut, 6, 1.0));
        curves.resume_at(4);
        assert_eq!(steps(&curves.steps), [1, 2, 3, 4].map(|step| (step, 1.0)));
        assert!(curves.epochs.is_empty() && curves.held_out.is_empty());
        // A damaged checkpoint: the trainer goes on from an earlier one than it was told.
        curves.add(&record(MetricScope::Step, 3, 2.0));
        curves.add(&record(MetricScope::Step, 4, 2.0));
        assert_eq!(steps(&curves.steps), [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]);
        curves.add(&record(MetricScope::HeldOut, 4, 5.0));
        curves.add(&record(MetricScope::HeldOut, 4, 6.0));
        assert_eq!(steps(&curves.held_out), [(4, 6.0)], "an evaluation made again replaces the first");
        assert_eq!(curves.steps.len(), 4, "and leaves the steps alone");
    }

    #[test]
    fn a_window_that_a_resume_cuts_holds_only_what_was_taken_last() {
        let mut curves = LearningCurves::default();
        for step in 1..=2048 {
            curves.add(&record(MetricScope::Step, step, 1.0));
        }
        assert_eq!(curves.steps.width(), 4);
        curves.resume_at(2046);
        for step in 2047..=2048 {
            curves.add(&record(MetricScope::Step, step, 9.0));
        }
        assert_eq!(steps(&curves.steps).last(), Some(&(2048, 9.0)));
        assert_eq!(curves.steps.len(), 512);
    }

    #[test]
    fn epochs_are_drawn_where_there_are_at_least_two_and_gaps_stay_gaps() {
        let mut curves = LearningCurves::default();
        assert!(curves.is_empty());
        curves.add(&record(MetricScope::Step, 1, 3.0));
        curves.add(&record(MetricScope::Epoch, 1, 3.0));
        assert_eq!(curves.training().len(), curves.steps.len());
        curves.add(&record(MetricScope::Step, 2, f64::NAN));
        let mut second = record(MetricScope::Epoch, 2, 1.0);
        second.values.insert("tim".to_owned(), 0.5);
        curves.add(&second);
        assert_eq!(steps(curves.training()), [(1, 3.0), (2, 1.0)]);
        assert_eq!(curves.training().names(), ["loss", "tim"]);
        assert_eq!(curves.training().series("tim").len(), 1, "the first epoch has no such term");
        assert_eq!(steps(&curves.steps), [(1, 3.0)], "what is not finite is not drawn");
    }
}
