//! Arms side by side, over the folds that are finished so far.

use mtinet_domain::Arm;

use super::study::StudyState;
use crate::report::{Cell, Metric};

/// A figure that arms are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The report's metric.
    pub metric: Metric,
    /// Its name for people.
    pub label: &'static str,
    /// Its unit; empty for raw intensity.
    pub unit: &'static str,
}

/// The figures of the leaderboard, in its order.
pub const COLUMNS: [Column; 4] = [
    Column { metric: Metric::Dsc, label: "DSC", unit: "%" },
    Column { metric: Metric::Iou, label: "IoU", unit: "%" },
    Column { metric: Metric::Mae, label: "MAE", unit: "" },
    Column { metric: Metric::Accuracy, label: "accuracy", unit: "%" },
];

impl Column {
    /// The figure that stands for an arm where there is room for one: the first of a task that it has.
    pub fn headline(arm: Arm) -> Self {
        COLUMNS.into_iter().find(|column| column.metric.applies_to(arm)).unwrap_or(COLUMNS[0])
    }
}

/// An arm's line.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The arm.
    pub arm: Arm,
    /// In the order of [`COLUMNS`].
    pub cells: [Cell; 4],
    /// Folds of which every seed is done, and all.
    pub folds: (usize, usize),
}

impl Row {
    /// The mean over finished folds in a column.
    pub fn mean(&self, column: usize) -> Option<f64> {
        self.cells[column].value()?.over_folds.map(|stats| stats.mean)
    }
}

/// Arms by their mean in a column, the best first; those without a figure last, in the study's order.
pub fn leaderboard(study: &StudyState, by: usize) -> Vec<Row> {
    let Some(results) = study.results() else { return Vec::new() };
    let rows = results.spec.arms.iter().map(|&arm| {
        let cells = COLUMNS.map(|column| Cell::of(results, arm, column.metric));
        let folds = results.spec.folds.indices();
        let is_done = |fold: &&u32| {
            results
                .of_arm(arm)
                .filter(|trial| trial.key.fold == **fold)
                .all(|trial| trial.summary().is_some())
        };
        Row { arm, cells, folds: (folds.iter().filter(is_done).count(), folds.len()) }
    });
    let mut rows: Vec<Row> = rows.collect();
    let larger = COLUMNS[by].metric.larger_is_better();
    rows.sort_by(|a, b| match (a.mean(by), b.mean(by)) {
        (Some(a), Some(b)) if larger => b.total_cmp(&a),
        (Some(a), Some(b)) => a.total_cmp(&b),
        (a, b) => b.is_some().cmp(&a.is_some()),
    });
    rows
}
