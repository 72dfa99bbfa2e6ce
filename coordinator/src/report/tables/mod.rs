//! The paper's tables in its own layout, with what stands behind each cell, and what they leave out.
//!
//! [`document`] forms blocks; the other functions render them. Which of two figures is better is decided here alone.

mod comparisons;
mod latex;
mod markdown;
mod more;
mod paper_tables;
mod provenance;
mod table_csv;
mod terminal;

use mtinet_domain::Arm;

use super::aggregate::Cell;
use super::document::{Document, Table, TableCell, plural, two_digits};
use super::metric::Metric;
use super::results::StudyResults;

pub(super) use self::markdown::render as markdown;
pub(super) use self::provenance::devices;
pub(super) use self::table_csv::table_csv;

/// What a reader asked for beyond the study's own figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Shows the paper's published values beside the study's.
    pub with_paper: bool,
}

/// The whole report as blocks: tables, comparisons, what is missing, provenance.
pub fn document(results: &StudyResults, options: Options) -> Document {
    let mut page = Document::default();
    introduction(results, &mut page);
    tables(results, options, &mut page);
    more::other_conventions(results, &mut page);
    more::pooled_table(results, &mut page);
    comparisons::comparisons(results, &mut page);
    provenance::missing_trials(results, &mut page);
    provenance::provenance(results, &mut page);
    page
}

/// The whole report as Markdown.
pub fn tables_markdown(results: &StudyResults, options: Options) -> String {
    markdown::render(&document(results, options))
}

/// The tables alone, for a terminal. Best values carry a star.
pub fn tables_terminal(results: &StudyResults, options: Options) -> String {
    let mut page = Document::default();
    tables(results, options, &mut page);
    comparisons::comparisons(results, &mut page);
    terminal::render(&page)
}

/// The tables as LaTeX `table` environments, to be taken into a document with `\input`.
pub fn tables_latex(results: &StudyResults, options: Options) -> String {
    let mut page = Document::default();
    tables(results, options, &mut page);
    more::other_conventions(results, &mut page);
    more::pooled_table(results, &mut page);
    comparisons::comparisons(results, &mut page);
    latex::render(&page, results)
}

/// A LaTeX document that takes `tables.tex` in and compiles on its own.
pub fn tables_latex_standalone(results: &StudyResults) -> String {
    latex::standalone(results)
}

fn tables(results: &StudyResults, options: Options, page: &mut Document) {
    paper_tables::segmentation(results, options, page);
    paper_tables::regression(results, options, page);
    paper_tables::ablation(results, options, page);
    paper_tables::synergy(results, options, page);
    paper_tables::published_remarks(results, options, page);
    more::classification(results, page);
    more::healthy(results, page);
}

fn introduction(results: &StudyResults, page: &mut Document) {
    page.heading(1, format!("Study {}", results.spec.name));
    if !results.is_complete() {
        let (all, done) =
            (results.trials.len(), results.trials.iter().filter(|t| t.summary().is_some()).count());
        page.blocks.push(super::document::Block::Warning(format!(
            "Not complete: {done} of {all} trials are done. Cells with missing trials name them; their figures are \
             over the remaining folds only and are never marked as best."
        )));
    }
    page.paragraph(format!(
        "Values are {}, each fold held out once and evaluated after the last training step. DSC, IoU and accuracy in \
         percent over slices with tumour; MAE in raw intensity units. Best in bold, where at least two arms are \
         complete. The note of a cell names its trials (ARM/FOLD/SEED).",
        spread(results)
    ));
}

/// What the figures of a cell are taken over.
fn spread(results: &StudyResults) -> String {
    let (folds, seeds) = (results.spec.folds.indices().len(), results.spec.seeds.len());
    let spread = if folds > 1 { "mean ± sample standard deviation (n − 1) over" } else { "the value of" };
    let of_seeds =
        if seeds > 1 { format!(", a fold's value being the mean over {seeds} seeds") } else { String::new() };
    format!("{spread} {}{of_seeds}", plural(folds, "fold"))
}

/// Arms of a table that the study has, in the table's order.
fn present(results: &StudyResults, arms: &[Arm]) -> Vec<Arm> {
    arms.iter().copied().filter(|arm| results.spec.arms.contains(arm)).collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Best,
    Nothing,
}

/// Cells of one metric, the best marked.
fn cells(results: &StudyResults, arms: &[Arm], metric: Metric, mark: Mark) -> Vec<TableCell> {
    let cells: Vec<Cell> = arms.iter().map(|&arm| Cell::of(results, arm, metric)).collect();
    let best = if mark == Mark::Best { best(&cells, metric) } else { vec![false; cells.len()] };
    cells.iter().zip(best).map(|(cell, best)| TableCell::of(cell, best)).collect()
}

/// Arms as columns, metrics as rows: the layout of Tables 1 to 3.
fn by_metric(results: &StudyResults, table: &mut Table, arms: &[Arm], metrics: &[(String, Metric)]) {
    table.header = vec![String::new()];
    table.header.extend(arms.iter().map(|arm| arm.label().to_owned()));
    table.rows = metrics
        .iter()
        .map(|(name, metric)| {
            let mut row = vec![TableCell::Text(name.clone())];
            row.extend(cells(results, arms, *metric, Mark::Best));
            row
        })
        .collect();
}

/// Arms as rows, metrics as columns: the layout of Table 4.
fn by_arm(
    results: &StudyResults,
    table: &mut Table,
    corner: &str,
    arms: &[Arm],
    columns: &[(&str, Metric)],
    mark: Mark,
) {
    table.header = vec![corner.to_owned()];
    table.header.extend(columns.iter().map(|(name, _)| (*name).to_owned()));
    table.rows = arms.iter().map(|arm| vec![TableCell::Text(arm.label().to_owned())]).collect();
    for &(_, metric) in columns {
        for (row, cell) in table.rows.iter_mut().zip(cells(results, arms, metric, mark)) {
            row.push(cell);
        }
    }
}

/// Which of the cells hold the best value, as printed. Only complete ones compete, and only with one another: a
/// mean over fewer folds is not comparable.
fn best(cells: &[Cell], metric: Metric) -> Vec<bool> {
    let means: Vec<Option<f64>> = cells.iter().map(|cell| cell.value()?.complete_mean()).collect();
    if means.iter().flatten().count() < 2 {
        return vec![false; cells.len()];
    }
    let best = means.iter().flatten().copied().reduce(|a, b| {
        let a_wins = if metric.larger_is_better() { a >= b } else { a <= b };
        if a_wins { a } else { b }
    });
    means
        .iter()
        .map(|mean| mean.zip(best).is_some_and(|(mean, best)| two_digits(mean) == two_digits(best)))
        .collect()
}
