//! Tables 1 to 4 of the paper: its rows, columns and order. Arms that a study does not have have no column.

use mtinet_domain::Arm;
use mtinet_domain::evaluation::ReferenceLines;
use mtinet_domain::metrics::MeanStd;

use super::super::aggregate::Cell;
use super::super::document::{Block, Document, Table, TableCell, with_deviation};
use super::super::metric::Metric;
use super::super::paper::{PUBLISHED, Published, REMARKS};
use super::super::results::StudyResults;
use super::{Mark, Options, by_arm, by_metric, present};

/// Table 1's baselines in the paper's order; MTI-Net stands last in each of its tables.
const SEGMENTATION: [Arm; 6] =
    [Arm::Unet, Arm::ResUnetPp, Arm::TransUnet, Arm::EiDdpm, Arm::MdFf, Arm::MtiNet];
const REGRESSION: [Arm; 5] =
    [Arm::Vgg16Reg, Arm::Resnet50Reg, Arm::Densenet121Reg, Arm::Inception3Reg, Arm::MtiNet];
const ABLATION: [Arm; 6] = [Arm::NoMdief, Arm::NoSpe, Arm::NoSpa, Arm::NoTim, Arm::NoTdd, Arm::MtiNet];
const SYNERGY: [Arm; 4] = [Arm::SegOnly, Arm::SegReg, Arm::SegCls, Arm::MtiNet];

pub(super) fn segmentation(results: &StudyResults, options: Options, page: &mut Document) {
    let arms = present(results, &SEGMENTATION);
    if arms.is_empty() {
        return;
    }
    page.heading(2, "Table 1. Segmentation");
    let mut table = Table::new("table1", "Segmentation (the paper's Table 1).", &[]);
    by_metric(results, &mut table, &arms, &[dsc(), iou()]);
    page.table(table);
    published(results, options, 1, page);
}

pub(super) fn regression(results: &StudyResults, options: Options, page: &mut Document) {
    let arms = present(results, &REGRESSION);
    if arms.is_empty() {
        return;
    }
    page.heading(2, "Table 2. Dynamic enhancement regression");
    let mut table = Table::new("table2", "Dynamic enhancement regression (the paper's Table 2).", &[]);
    by_metric(results, &mut table, &arms, &[mae()]);
    table.header.extend(["best constant (no image)", "class median (told the class)"].map(str::to_owned));
    if let Some(row) = table.rows.first_mut() {
        row.push(reference(results, |lines| lines.best_constant_mae));
        row.push(reference(results, |lines| lines.class_median_mae));
    }
    table.notes.push(
        "The last two columns never look at an image: the median of the training folds' curves, of all and of the \
         true class. A network that does not beat the first has learnt nothing from the image; one that does not \
         beat the second has learnt no more than the class."
            .to_owned(),
    );
    page.table(table);
    published(results, options, 2, page);
    page.paragraph("The same per phase:");
    let phases = results.dataset.phases.iter().enumerate();
    let rows: Vec<(String, Metric)> =
        phases.map(|(index, phase)| (format!("MAE {phase}"), Metric::MaePhase(index))).collect();
    let mut table = Table::new("table2_phases", "Dynamic enhancement regression by phase.", &[]);
    by_metric(results, &mut table, &arms, &rows);
    page.table(table);
}

fn reference(results: &StudyResults, line: fn(&ReferenceLines) -> f64) -> TableCell {
    let lines = results.reference_lines();
    let Some(stats) = MeanStd::of(lines.values().map(line)) else {
        return TableCell::Text("not known".to_owned());
    };
    let folds = results.spec.folds.indices().into_iter();
    let missing: Vec<String> =
        folds.filter(|fold| !lines.contains_key(fold)).map(|fold| format!("fold {fold}")).collect();
    if missing.is_empty() {
        TableCell::constant(stats)
    } else {
        TableCell::Text(format!("{}; missing: {}", with_deviation(stats), missing.join(", ")))
    }
}

pub(super) fn ablation(results: &StudyResults, options: Options, page: &mut Document) {
    let arms = present(results, &ABLATION);
    if arms.iter().all(|&arm| arm == Arm::MtiNet) {
        return;
    }
    page.heading(2, "Table 3. Ablation");
    let mut table = Table::new("table3", "Ablation (the paper's Table 3).", &[]);
    by_metric(results, &mut table, &arms, &[dsc(), iou(), mae()]);
    page.table(table);
    published(results, options, 3, page);
}

pub(super) fn synergy(results: &StudyResults, options: Options, page: &mut Document) {
    let arms = present(results, &SYNERGY);
    if arms.iter().all(|&arm| arm == Arm::MtiNet) {
        return;
    }
    page.heading(2, "Table 4. Cross-task synergy");
    let mut table = Table::new("table4", "Cross-task synergy (the paper's Table 4).", &[]);
    let columns = [("DSC (%) ↑", Metric::Dsc), ("MAE ↓", Metric::Mae), ("Accuracy (%) ↑", Metric::Accuracy)];
    by_arm(results, &mut table, "Configuration", &arms, &columns, Mark::Best);
    page.table(table);
    published(results, options, 4, page);
}

/// The paper's figures of a table beside the study's, an arm and metric a row: arms that the study lacks too.
fn published(results: &StudyResults, options: Options, number: u8, page: &mut Document) {
    if !options.with_paper {
        return;
    }
    page.paragraph(format!("Table {number} beside the values that the paper published:"));
    let mut table = Table::new(
        &format!("table{number}_published"),
        &format!(
            "Table {number} of the paper: this study beside the published values, which are as the paper prints them. This study:"
        ),
        &["Arm", "Metric", "this study", "published", "Remark on the published value"],
    );
    table.rows = PUBLISHED
        .iter()
        .filter(|value| value.table == number)
        .map(|value| {
            let (name, _) = named(value.metric);
            vec![
                TableCell::Text(value.arm.label().to_owned()),
                TableCell::Text(name),
                own(results, value),
                TableCell::Constant { mean: value.mean, std: value.std, text: value.words() },
                TableCell::Text(value.remark().unwrap_or_default()),
            ]
        })
        .collect();
    page.table(table);
}

fn own(results: &StudyResults, value: &Published) -> TableCell {
    if results.spec.arms.contains(&value.arm) {
        TableCell::of(&Cell::of(results, value.arm, value.metric), false)
    } else {
        TableCell::Text("not in this study".to_owned())
    }
}

pub(super) fn published_remarks(results: &StudyResults, options: Options, page: &mut Document) {
    let any = page.tables().any(|table| table.id.ends_with("_published"));
    if options.with_paper && any {
        let items = REMARKS.iter().map(|remark| (*remark).to_owned()).collect();
        let lead = format!("On the published values beside those of study {}:", results.spec.name);
        page.blocks.push(Block::List { lead, items });
    }
}

fn dsc() -> (String, Metric) {
    named(Metric::Dsc)
}

fn iou() -> (String, Metric) {
    named(Metric::Iou)
}

fn mae() -> (String, Metric) {
    named(Metric::Mae)
}

fn named(metric: Metric) -> (String, Metric) {
    let name = match metric {
        Metric::Dsc => "DSC (%)",
        Metric::Iou => "IoU (%)",
        Metric::Accuracy => "Accuracy (%)",
        _ => "MAE",
    };
    (name.to_owned(), metric)
}
