//! The section "Comparisons with MTI-Net": a table a metric.

use std::collections::BTreeMap;

use mtinet_domain::Arm;
use mtinet_domain::statistics::WilcoxonMethod;

use super::super::comparisons::{
    CONFIDENCE, Compared, Family, REFERENCE, RESAMPLES, comparisons as all_families, limits,
};
use super::super::document::{Block, Document, Table, plural};
use super::super::results::StudyResults;

pub(super) fn comparisons(results: &StudyResults, page: &mut Document) {
    let families = all_families(results);
    if families.is_empty() {
        return;
    }
    let reference = REFERENCE.label();
    page.heading(2, format!("Comparisons with {reference}"));
    page.paragraph(format!(
        "Differences are {reference} minus the arm: above 0 it is better in DSC and IoU, below 0 in MAE. They are \
         means over subjects of all folds together, each subject the mean over its slices with tumour and over \
         seeds, from every trial of both arms; in brackets the {:.0} % percentile bootstrap interval over subjects \
         ({RESAMPLES} resamples). p: Wilcoxon signed-rank test on subjects, paired, two-sided; p Holm: corrected \
         for all comparisons of the metric. Effect: matched-pairs rank-biserial correlation, -1 to 1. p folds: \
         corrected resampled t-test on folds, corrected by Holm likewise.",
        CONFIDENCE * 100.0
    ));
    for family in &families {
        comparison(page, family);
    }
    let items = limits(results, &families);
    if !items.is_empty() {
        page.blocks.push(Block::List { lead: "What these tests cannot show:".to_owned(), items });
    }
}

fn comparison(page: &mut Document, family: &Family) {
    let subjects = family.compared().next().map(|(_, compared)| compared.subjects.n);
    let over = subjects.map(|n| format!(", {}", plural(n, "subject"))).unwrap_or_default();
    page.heading(3, format!("{}{over}", family.title));
    let minus = format!("{} minus", REFERENCE.label());
    let mut table = Table::new(
        &format!("comparison_{}", family.name),
        &format!("Comparisons with {}: {}{over}.", REFERENCE.label(), family.title),
        &[&minus, "difference", "p", "p Holm", "effect", "p folds"],
    );
    for (other, compared) in family.compared() {
        table.words(row(other, compared));
    }
    if !table.rows.is_empty() {
        table.notes.push(methods(family));
    }
    for (reason, arms) in refused_on_folds(family) {
        table.notes.push(format!("No test on folds for {}: {reason}.", arms.join(", ")));
    }
    let omitted: Vec<String> =
        family.omitted().map(|(other, reason)| format!("{} ({reason})", words(other))).collect();
    if !omitted.is_empty() {
        table.notes.push(format!(
            "Not compared: {}. They count as p = 1 in the correction, so that corrected values can only fall.",
            omitted.join("; ")
        ));
    }
    if table.rows.is_empty() {
        table.notes.into_iter().for_each(|note| page.paragraph(note));
    } else {
        page.table(table);
    }
}

fn row(other: Arm, compared: &Compared) -> Vec<String> {
    let difference = match compared.interval {
        Some(interval) => {
            format!("{:+.2} [{:+.2}, {:+.2}]", compared.difference, interval.low, interval.high)
        }
        None => format!("{:+.2} (n = 1: no interval)", compared.difference),
    };
    vec![
        words(other).to_owned(),
        difference,
        p_value(compared.subjects.p),
        p_value(compared.p_holm),
        compared
            .subjects
            .rank_biserial()
            .map_or_else(|| "all equal".to_owned(), |effect| format!("{effect:+.2}")),
        compared.folds.as_ref().map_or_else(|_| "–".to_owned(), |folds| p_value(folds.p_holm)),
    ]
}

/// The short name, so that the table fits a terminal; in full where a label says what a network is not.
fn words(arm: Arm) -> &'static str {
    match arm {
        Arm::EiDdpm | Arm::MdFf => arm.label(),
        _ => arm.name(),
    }
}

/// Which p-values are exact: they may differ from arm to arm, with ties.
fn methods(family: &Family) -> String {
    let kinds = [WilcoxonMethod::Exact, WilcoxonMethod::SignFlips, WilcoxonMethod::Normal];
    let parts: Vec<String> = kinds
        .into_iter()
        .filter_map(|method| {
            let arms: Vec<&str> = family
                .compared()
                .filter(|(_, compared)| compared.subjects.method == method)
                .map(|(other, _)| words(other))
                .collect();
            (!arms.is_empty()).then(|| format!("{} for {}", method.words(), arms.join(", ")))
        })
        .collect();
    format!("Signed-rank p: {}.", parts.join("; "))
}

/// Why folds are not tested, and of which arms.
fn refused_on_folds(family: &Family) -> BTreeMap<&str, Vec<&'static str>> {
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (other, compared) in family.compared() {
        if let Err(reason) = &compared.folds {
            reasons.entry(reason).or_default().push(words(other));
        }
    }
    reasons
}

fn p_value(p: f64) -> String {
    if p < 0.0001 { "<0.0001".to_owned() } else { format!("{p:.4}") }
}
