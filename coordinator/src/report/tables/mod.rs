//! `tables.md`: the paper's tables in its own layout, with what stands behind each cell.

mod comparisons;
pub(super) mod layout;
mod provenance;

use mtinet_domain::Arm;
use mtinet_domain::evaluation::ReferenceLines;
use mtinet_domain::metrics::MeanStd;

use self::layout::{Page, Style, best, plural, with_deviation};
use super::aggregate::{Aggregate, Cell, Metric, pooled, pooled_subjects};
use super::results::StudyResults;

/// Table 1's baselines in the paper's order; MTI-Net stands last in each of its tables.
const SEGMENTATION: [Arm; 6] =
    [Arm::Unet, Arm::ResUnetPp, Arm::TransUnet, Arm::EiDdpm, Arm::MdFf, Arm::MtiNet];
const REGRESSION: [Arm; 5] =
    [Arm::Vgg16Reg, Arm::Resnet50Reg, Arm::Densenet121Reg, Arm::Inception3Reg, Arm::MtiNet];
const ABLATION: [Arm; 6] = [Arm::NoMdief, Arm::NoSpe, Arm::NoSpa, Arm::NoTim, Arm::NoTdd, Arm::MtiNet];
const SYNERGY: [Arm; 4] = [Arm::SegOnly, Arm::SegReg, Arm::SegCls, Arm::MtiNet];

/// The whole document.
pub fn tables_markdown(results: &StudyResults) -> String {
    let mut page = Page::new(Style::Markdown);
    introduction(results, &mut page);
    tables(results, &mut page);
    pooled_table(results, &mut page);
    comparisons::comparisons(results, &mut page);
    provenance::missing_trials(results, &mut page);
    provenance::provenance(results, &mut page);
    page.finish()
}

/// The tables alone, for a terminal. Best values carry a star.
pub fn tables_terminal(results: &StudyResults) -> String {
    let mut page = Page::new(Style::Terminal);
    tables(results, &mut page);
    comparisons::comparisons(results, &mut page);
    page.finish()
}

fn tables(results: &StudyResults, page: &mut Page) {
    segmentation(results, page);
    regression(results, page);
    ablation(results, page);
    synergy(results, page);
    classification(results, page);
    healthy(results, page);
}

fn introduction(results: &StudyResults, page: &mut Page) {
    page.heading(1, &format!("Study {}", results.spec.name));
    if !results.is_complete() {
        let (all, done) =
            (results.trials.len(), results.trials.iter().filter(|t| t.summary().is_some()).count());
        page.paragraph(&format!(
            "**Not complete: {done} of {all} trials are done.** Cells with missing trials name them; their figures \
             are over the remaining folds only and are never marked as best."
        ));
    }
    let (folds, seeds) = (results.spec.folds.indices().len(), results.spec.seeds.len());
    let spread = if folds > 1 { "mean ± sample standard deviation (n − 1) over" } else { "the value of" };
    let of_seeds =
        if seeds > 1 { format!(", a fold's value being the mean over {seeds} seeds") } else { String::new() };
    page.paragraph(&format!(
        "Values are {spread} {}{of_seeds}, each fold held out once and evaluated after the last training step. DSC, \
         IoU and accuracy in percent over slices with tumour; MAE in raw intensity units. Best in bold, where at \
         least two arms are complete. The note of a cell names its trials (ARM/FOLD/SEED).",
        plural(folds, "fold"),
    ));
}

/// Arms of a table that the study has, in the table's order.
fn present(results: &StudyResults, arms: &[Arm]) -> Vec<Arm> {
    arms.iter().copied().filter(|arm| results.spec.arms.contains(arm)).collect()
}

/// Arms as columns, metrics as rows: the layout of Tables 1 to 3.
fn by_metric(
    results: &StudyResults,
    page: &mut Page,
    arms: &[Arm],
    metrics: &[(&str, Metric)],
    beside: &Beside,
) {
    let mut header = vec![String::new()];
    header.extend(arms.iter().map(|arm| arm.label().to_owned()));
    header.extend(beside.names.iter().map(|name| (*name).to_owned()));
    let rows = metrics.iter().map(|&(name, metric)| {
        let cells: Vec<Cell> = arms.iter().map(|&arm| Cell::of(results, arm, metric)).collect();
        let best = best(&cells, metric);
        let mut row = vec![name.to_owned()];
        row.extend(cells.iter().zip(best).map(|(cell, best)| page.cell(cell, best)));
        row.extend(beside.cells.iter().cloned());
        row
    });
    let rows: Vec<Vec<String>> = rows.collect();
    page.table(&header, &rows);
}

/// Columns that no arm fills.
#[derive(Default)]
struct Beside {
    names: Vec<&'static str>,
    cells: Vec<String>,
}

fn segmentation(results: &StudyResults, page: &mut Page) {
    let arms = present(results, &SEGMENTATION);
    if arms.is_empty() {
        return;
    }
    page.heading(2, "Table 1. Segmentation");
    by_metric(
        results,
        page,
        &arms,
        &[("DSC (%)", Metric::Dsc), ("IoU (%)", Metric::Iou)],
        &Beside::default(),
    );
}

fn regression(results: &StudyResults, page: &mut Page) {
    let arms = present(results, &REGRESSION);
    if arms.is_empty() {
        return;
    }
    page.heading(2, "Table 2. Dynamic enhancement regression");
    let beside = Beside {
        names: vec!["best constant (no image)", "class median (told the class)"],
        cells: vec![
            reference(results, |lines| lines.best_constant_mae),
            reference(results, |lines| lines.class_median_mae),
        ],
    };
    by_metric(results, page, &arms, &[("MAE", Metric::Mae)], &beside);
    page.paragraph(
        "The last two columns never look at an image: the median of the training folds' curves, of all and of the \
         true class. A network that does not beat the first has learnt nothing from the image; one that does not \
         beat the second has learnt no more than the class.",
    );
    let phases: Vec<(String, Metric)> = results
        .dataset
        .phases
        .iter()
        .enumerate()
        .map(|(index, phase)| (format!("MAE {phase}"), Metric::MaePhase(index)))
        .collect();
    let rows: Vec<(&str, Metric)> = phases.iter().map(|(name, metric)| (name.as_str(), *metric)).collect();
    page.paragraph("The same per phase:");
    by_metric(results, page, &arms, &rows, &Beside::default());
}

fn reference(results: &StudyResults, line: fn(&ReferenceLines) -> f64) -> String {
    let lines = results.reference_lines();
    let Some(stats) = MeanStd::of(lines.values().map(line)) else { return "not known".to_owned() };
    let missing: Vec<String> = results
        .spec
        .folds
        .indices()
        .into_iter()
        .filter(|fold| !lines.contains_key(fold))
        .map(|fold| format!("fold {fold}"))
        .collect();
    let figure = with_deviation(stats);
    if missing.is_empty() { figure } else { format!("{figure}; missing: {}", missing.join(", ")) }
}

fn ablation(results: &StudyResults, page: &mut Page) {
    let arms = present(results, &ABLATION);
    if arms.iter().all(|&arm| arm == Arm::MtiNet) {
        return;
    }
    page.heading(2, "Table 3. Ablation");
    let metrics = [("DSC (%)", Metric::Dsc), ("IoU (%)", Metric::Iou), ("MAE", Metric::Mae)];
    by_metric(results, page, &arms, &metrics, &Beside::default());
}

/// Configurations as rows: the layout of Table 4.
fn synergy(results: &StudyResults, page: &mut Page) {
    let arms = present(results, &SYNERGY);
    if arms.iter().all(|&arm| arm == Arm::MtiNet) {
        return;
    }
    page.heading(2, "Table 4. Cross-task synergy");
    let columns = [("DSC (%) ↑", Metric::Dsc), ("MAE ↓", Metric::Mae), ("Accuracy (%) ↑", Metric::Accuracy)];
    by_arm(results, page, "Configuration", &arms, &columns, Mark::Best);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Best,
    Nothing,
}

fn by_arm(
    results: &StudyResults,
    page: &mut Page,
    corner: &str,
    arms: &[Arm],
    columns: &[(&str, Metric)],
    mark: Mark,
) {
    let mut header = vec![corner.to_owned()];
    header.extend(columns.iter().map(|(name, _)| (*name).to_owned()));
    let mut rows: Vec<Vec<String>> = arms.iter().map(|arm| vec![arm.label().to_owned()]).collect();
    for &(_, metric) in columns {
        let cells: Vec<Cell> = arms.iter().map(|&arm| Cell::of(results, arm, metric)).collect();
        let best = if mark == Mark::Best { best(&cells, metric) } else { vec![false; cells.len()] };
        for ((row, cell), best) in rows.iter_mut().zip(&cells).zip(best) {
            row.push(page.cell(cell, best));
        }
    }
    page.table(&header, &rows);
}

fn classification(results: &StudyResults, page: &mut Page) {
    let arms: Vec<Arm> = results.spec.arms.iter().copied().filter(|arm| arm.tasks().cls).collect();
    if arms.is_empty() {
        return;
    }
    page.heading(2, "Classification");
    let columns =
        [("Accuracy, slices (%)", Metric::Accuracy), ("Accuracy, subjects (%)", Metric::SubjectAccuracy)];
    by_arm(results, page, "Arm", &arms, &columns, Mark::Best);
    page.paragraph(
        "Confusion matrices of slices with tumour: rows are the truth, columns the prediction; percent of the row, \
         and the number of slices summed over folds and seeds.",
    );
    for arm in arms {
        confusion(results, page, arm);
    }
}

fn confusion(results: &StudyResults, page: &mut Page, arm: Arm) {
    let classes = &results.dataset.classes;
    let mut counts = vec![vec![0_u64; classes.len()]; classes.len()];
    for matrix in results.of_arm(arm).filter_map(|trial| trial.summary()?.confusion.as_ref()) {
        for (sums, row) in counts.iter_mut().zip(matrix) {
            sums.iter_mut().zip(row).for_each(|(sum, count)| *sum += count);
        }
    }
    let aggregate = Cell::of(results, arm, Metric::Accuracy);
    let missing = aggregate.value().filter(|aggregate| !aggregate.is_complete());
    let gaps = missing
        .map_or_else(String::new, |aggregate| format!(", without {}", layout::gaps(&aggregate.missing)));
    let mut header = vec![format!("{}{gaps}", arm.label())];
    header.extend(classes.iter().map(|class| format!("called {class}")));
    let rows: Vec<Vec<String>> = classes
        .iter()
        .zip(&counts)
        .map(|(class, row)| {
            let all: u64 = row.iter().sum();
            let mut cells = vec![format!("is {class}")];
            cells.extend(row.iter().map(|&count| match all {
                0 => "–".to_owned(),
                all => format!("{:.1} ({count})", count as f64 / all as f64 * 100.0),
            }));
            cells
        })
        .collect();
    page.table(&header, &rows);
    if let ([negative, positive], [[specific, _], [_, sensitive]]) = (&classes[..], &square(&counts)[..]) {
        let recall = |hits: u64, row: usize| match counts[row].iter().sum::<u64>() {
            0 => "not known".to_owned(),
            all => format!("{:.1} %", hits as f64 / all as f64 * 100.0),
        };
        page.paragraph(&format!(
            "Sensitivity (recall of {positive}) {}, specificity (recall of {negative}) {}.",
            recall(*sensitive, 1),
            recall(*specific, 0)
        ));
    }
}

/// Rows of a two-class matrix; empty for any other number of classes, which have no one sensitivity.
fn square(counts: &[Vec<u64>]) -> Vec<[u64; 2]> {
    if counts.len() == 2 { counts.iter().map(|row| [row[0], row[1]]).collect() } else { Vec::new() }
}

fn healthy(results: &StudyResults, page: &mut Page) {
    let arms: Vec<Arm> = results.spec.arms.iter().copied().filter(|arm| arm.tasks().seg).collect();
    let slices: u64 = results.trials.iter().filter_map(|trial| Some(trial.summary()?.n_healthy_slices)).sum();
    if arms.is_empty() || slices == 0 {
        return;
    }
    page.heading(2, "False positives in slices without tumour");
    page.paragraph(&format!(
        "These slices are in no other table. A slice counts as a false positive from {} predicted pixels on.",
        mtinet_domain::evaluation::HEALTHY_MINIMUM_PIXELS
    ));
    let columns = [("False positives (%)", Metric::HealthyRate), ("Predicted pixels", Metric::HealthyPixels)];
    by_arm(results, page, "Arm", &arms, &columns, Mark::Nothing);
}

fn pooled_table(results: &StudyResults, page: &mut Page) {
    page.heading(2, "Pooled over folds");
    page.paragraph(
        "Mean ± sample standard deviation over single slices with tumour, and over subjects (each the mean of its \
         slices), of all folds together: the spread between patients, not between folds. Only of complete arms.",
    );
    let header = ["Arm", "over", "n", "DSC (%)", "IoU (%)", "MAE"].map(str::to_owned);
    let mut rows = Vec::new();
    for &arm in &results.spec.arms {
        for (unit, pool) in [("slices", pooled as PoolFn), ("subjects", pooled_subjects as PoolFn)] {
            let stats = [Metric::Dsc, Metric::Iou, Metric::Mae].map(|metric| pool(results, arm, metric));
            let Some(n) = stats.iter().flatten().map(|stats| stats.n).max() else { continue };
            let mut row = vec![arm.label().to_owned(), unit.to_owned(), n.to_string()];
            row.extend(stats.map(|stats| stats.map_or_else(|| "–".to_owned(), with_deviation)));
            rows.push(row);
        }
    }
    if rows.is_empty() {
        page.paragraph("No arm is complete yet.");
    } else {
        page.table(&header, &rows);
    }
}

type PoolFn = fn(&StudyResults, Arm, Metric) -> Option<MeanStd>;

/// How a complete or incomplete aggregate reads, without bold and notes.
fn words(aggregate: &Aggregate) -> String {
    let Some(stats) = aggregate.over_folds else {
        return format!("missing: {}", layout::gaps(&aggregate.missing));
    };
    let figure = with_deviation(stats);
    if aggregate.is_complete() {
        figure
    } else {
        let (have, asked) = (stats.n, aggregate.folds_asked);
        format!("{figure} over {have} of {asked} folds; missing: {}", layout::gaps(&aggregate.missing))
    }
}
