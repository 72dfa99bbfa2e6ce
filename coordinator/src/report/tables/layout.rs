//! A page with tables and numbered notes, as Markdown or for a terminal.

use mtinet_domain::TrialKey;
use mtinet_domain::metrics::MeanStd;

use super::super::aggregate::{Cell, Gap, Metric};

/// A document that is written from top to bottom; the notes of its cells are collected for its end.
pub(super) struct Page {
    style: Style,
    text: String,
    notes: Vec<Vec<TrialKey>>,
}

/// Whom a page is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// A renderer of Markdown.
    Markdown,
    /// A person at a terminal: aligned columns, the best marked by a star, no notes.
    Terminal,
}

impl Page {
    pub(super) fn new(style: Style) -> Self {
        Self { style, text: String::new(), notes: Vec::new() }
    }

    pub(super) fn heading(&mut self, level: usize, title: &str) {
        let title = one_line(title);
        match self.style {
            Style::Markdown => self.text.push_str(&format!("{} {title}\n\n", "#".repeat(level))),
            Style::Terminal => self.text.push_str(&format!("\n{title}\n")),
        }
    }

    pub(super) fn paragraph(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push_str("\n\n");
    }

    pub(super) fn table(&mut self, header: &[String], rows: &[Vec<String>]) {
        if self.style == Style::Terminal {
            let mut table = comfy_table::Table::new();
            table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
            table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
            table.set_header(header.to_vec());
            table.add_rows(rows.to_vec());
            self.text.push_str(&format!("{table}\n"));
            return;
        }
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| one_line(cell).replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        self.text.push_str(&line(header));
        self.text.push_str(&format!("|{}\n", " --- |".repeat(header.len())));
        for row in rows {
            self.text.push_str(&line(row));
        }
        self.text.push('\n');
    }

    /// A cell's figure with the note that names its trials.
    pub(super) fn cell(&mut self, cell: &Cell, best: bool) -> String {
        let Some(aggregate) = cell.value() else { return "–".to_owned() };
        let words = super::words(aggregate);
        if self.style == Style::Terminal {
            return if best { format!("{words} *") } else { words };
        }
        let words = if best { format!("**{words}**") } else { words };
        if aggregate.from.is_empty() { words } else { format!("{words}[^{}]", self.note(&aggregate.from)) }
    }

    /// The number of the note for these trials; cells of the same trials share one.
    fn note(&mut self, trials: &[TrialKey]) -> usize {
        let place = self.notes.iter().position(|note| note == trials).unwrap_or_else(|| {
            self.notes.push(trials.to_vec());
            self.notes.len() - 1
        });
        place + 1
    }

    /// The document with its notes.
    pub(super) fn finish(mut self) -> String {
        for (place, trials) in self.notes.iter().enumerate() {
            let names: Vec<String> = trials.iter().map(ToString::to_string).collect();
            self.text.push_str(&format!("[^{}]: From {}.\n", place + 1, names.join(", ")));
        }
        self.text
    }
}

/// Which of the cells hold the best value, as printed. Only complete ones compete, and only with one another: a
/// mean over fewer folds is not comparable.
pub(super) fn best(cells: &[Cell], metric: Metric) -> Vec<bool> {
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

pub(super) fn with_deviation(stats: MeanStd) -> String {
    match stats.std {
        Some(std) => format!("{} ± {}", two_digits(stats.mean), two_digits(std)),
        None => format!("{} (n = 1)", two_digits(stats.mean)),
    }
}

pub(in crate::report) fn gaps(missing: &[Gap]) -> String {
    let names: Vec<String> = missing.iter().map(|gap| format!("{} {}", gap.key, gap.status)).collect();
    names.join(", ")
}

pub(in crate::report) fn plural(n: usize, what: &str) -> String {
    if n == 1 { format!("{n} {what}") } else { format!("{n} {what}s") }
}

fn two_digits(value: f64) -> String {
    format!("{value:.2}")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
