//! What the paper's tables leave out: classification, healthy slices, other conventions, and values over single
//! slices and subjects.

use mtinet_domain::Arm;
use mtinet_domain::metrics::MeanStd;

use super::super::aggregate::{Cell, gaps, pooled, pooled_subjects};
use super::super::document::{Document, Table, TableCell};
use super::super::metric::Metric;
use super::super::results::StudyResults;
use super::{Mark, by_arm};

pub(super) fn classification(results: &StudyResults, page: &mut Document) {
    let arms = having(results, |arm| arm.tasks().cls);
    if arms.is_empty() {
        return;
    }
    page.heading(2, "Classification");
    let mut table = Table::new("classification", "Classification of slices and subjects with tumour.", &[]);
    let mut columns =
        vec![("Accuracy, slices (%)", Metric::Accuracy), ("Accuracy, subjects (%)", Metric::SubjectAccuracy)];
    if let [negative, positive] = &results.dataset.classes[..] {
        columns.extend([("Sensitivity (%)", Metric::Sensitivity), ("Specificity (%)", Metric::Specificity)]);
        table.notes.push(format!(
            "Sensitivity is the recall of {positive}, specificity that of {negative}, both over slices. A subject's \
             class is that of its mean probabilities; a tie counts as {positive}."
        ));
    }
    by_arm(results, &mut table, "Arm", &arms, &columns, Mark::Best);
    page.table(table);
    page.paragraph("Confusion matrices of slices with tumour (the paper's Fig. 4):");
    page.table(confusion(results, &arms));
}

/// All matrices in one table, a true class a row.
fn confusion(results: &StudyResults, arms: &[Arm]) -> Table {
    let classes = &results.dataset.classes;
    let mut table = Table::new("confusion", "Confusion matrices of slices with tumour.", &["Arm", "is"]);
    table.header.extend(classes.iter().map(|class| format!("called {class}")));
    table.notes.push(
        "Percent of the slices of the true class, and in brackets their number, summed over folds and seeds."
            .to_owned(),
    );
    for &arm in arms {
        let counts = confusion_counts(results, arm);
        for (class, row) in classes.iter().zip(&counts) {
            let all: u64 = row.iter().sum();
            let shares = row.iter().map(|&count| match all {
                0 => "–".to_owned(),
                all => format!("{:.1} ({count})", count as f64 / all as f64 * 100.0),
            });
            table.words([arm.label().to_owned(), class.clone()].into_iter().chain(shares));
        }
        let accuracy = Cell::of(results, arm, Metric::Accuracy);
        if let Some(aggregate) = accuracy.value().filter(|aggregate| !aggregate.is_complete()) {
            table.notes.push(format!("{} without: {}.", arm.label(), gaps(&aggregate.missing)));
        }
    }
    table
}

fn confusion_counts(results: &StudyResults, arm: Arm) -> Vec<Vec<u64>> {
    let classes = results.dataset.classes.len();
    let mut counts = vec![vec![0_u64; classes]; classes];
    for matrix in results.of_arm(arm).filter_map(|trial| trial.summary()?.confusion.as_ref()) {
        for (sums, row) in counts.iter_mut().zip(matrix) {
            sums.iter_mut().zip(row).for_each(|(sum, count)| *sum += count);
        }
    }
    counts
}

pub(super) fn healthy(results: &StudyResults, page: &mut Document) {
    let arms = having(results, |arm| arm.tasks().seg);
    let slices: u64 = results.trials.iter().filter_map(|trial| Some(trial.summary()?.n_healthy_slices)).sum();
    if arms.is_empty() || slices == 0 {
        return;
    }
    page.heading(2, "False positives in slices without tumour");
    let mut table = Table::new("healthy", "False positives in slices without tumour.", &[]);
    let columns =
        [("False positives (%)", Metric::HealthyRate), ("Predicted pixels a slice", Metric::HealthyPixels)];
    by_arm(results, &mut table, "Arm", &arms, &columns, Mark::Nothing);
    table.notes.push(format!(
        "These slices are in no table before this one. A slice counts as a false positive from {} predicted pixels on.",
        results.healthy_minimum_pixels
    ));
    page.table(table);
}

pub(super) fn other_conventions(results: &StudyResults, page: &mut Document) {
    let segmenting = having(results, |arm| arm.tasks().seg);
    let regressing = having(results, |arm| arm.tasks().reg);
    if segmenting.is_empty() && regressing.is_empty() {
        return;
    }
    page.heading(2, "The same by other conventions");
    if !segmenting.is_empty() {
        let mut table = Table::new("conventions_overlap", "DSC and IoU (%) by other conventions.", &[]);
        let columns = [
            ("DSC, per subject", Metric::SubjectDsc),
            ("IoU, per subject", Metric::SubjectIou),
            ("DSC, both empty left out", Metric::DscSkipBothEmpty),
            ("IoU, both empty left out", Metric::IouSkipBothEmpty),
            ("DSC, both empty = 1", Metric::DscBothEmptyOne),
            ("IoU, both empty = 1", Metric::IouBothEmptyOne),
        ];
        by_arm(results, &mut table, "Arm", &segmenting, &columns, Mark::Nothing);
        table.notes.push(
            "Per subject: slices with tumour, each subject with the weight of one. The others are over all slices, \
             healthy ones too: 0 where a tumour is predicted and there is none; where both masks are empty the slice \
             is left out, or counts as 1."
                .to_owned(),
        );
        page.table(table);
    }
    let curves = having(results, |arm| arm.tasks().reg || arm.tasks().seg);
    let mut table = Table::new("conventions_mae", "MAE by other conventions, raw intensity.", &[]);
    let columns = [
        ("MAE, per subject", Metric::SubjectMae),
        ("Error summed over phases", Metric::MaeSum),
        ("MAE under the predicted mask", Metric::TimMae),
    ];
    by_arm(results, &mut table, "Arm", &curves, &columns, Mark::Nothing);
    table.notes.push(
        "Under the predicted mask: the mean intensity that the image has there, over slices where something is \
         predicted. It tells what a mask alone would give."
            .to_owned(),
    );
    page.table(table);
}

pub(super) fn pooled_table(results: &StudyResults, page: &mut Document) {
    page.heading(2, "Pooled over folds");
    page.paragraph(
        "Mean ± sample standard deviation (n − 1) over single slices with tumour, and over subjects (each the mean of \
         its slices), of all folds together: the spread between patients, not between folds. Only of complete arms.",
    );
    let mut table = Table::new(
        "pooled",
        "Pooled over folds: mean and sample standard deviation over slices and over subjects of all folds together.",
        &["Arm", "over", "n", "DSC (%)", "IoU (%)", "MAE", "Accuracy (%)"],
    );
    for &arm in &results.spec.arms {
        for (unit, pool, accuracy) in [
            ("slices", pooled as PoolFn, Metric::Accuracy),
            ("subjects", pooled_subjects as PoolFn, Metric::SubjectAccuracy),
        ] {
            let metrics = [Metric::Dsc, Metric::Iou, Metric::Mae, accuracy];
            let stats =
                metrics.map(|metric| if metric.applies_to(arm) { pool(results, arm, metric) } else { None });
            let Some(n) = stats.iter().flatten().map(|stats| stats.n).max() else { continue };
            let mut row: Vec<TableCell> =
                [arm.label().to_owned(), unit.to_owned(), n.to_string()].map(TableCell::Text).into();
            row.extend(stats.map(|stats| stats.map_or(TableCell::NoTask, TableCell::constant)));
            table.rows.push(row);
        }
    }
    if table.rows.is_empty() {
        page.paragraph("No arm is complete yet.");
    } else {
        page.table(table);
    }
}

type PoolFn = fn(&StudyResults, Arm, Metric) -> Option<MeanStd>;

fn having(results: &StudyResults, task: impl Fn(Arm) -> bool) -> Vec<Arm> {
    results.spec.arms.iter().copied().filter(|&arm| task(arm)).collect()
}
