//! A report as blocks of text and tables, before anybody decides how it looks. Markdown, LaTeX, the terminal and
//! HTML are written from the same blocks, so that none says what another does not.

use mtinet_domain::TrialKey;
use mtinet_domain::metrics::MeanStd;

use super::aggregate::{Aggregate, Cell, gaps};

/// Blocks from top to bottom. All text is plain: whoever renders it escapes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    /// The blocks.
    pub blocks: Vec<Block>,
}

/// A part of a document.
#[derive(Clone, Debug, PartialEq)]
pub enum Block {
    /// A heading, from level 1.
    Heading {
        /// 1 for the document's title.
        level: usize,
        /// Its words.
        text: String,
    },
    /// A paragraph.
    Paragraph(String),
    /// A paragraph that must not be overlooked, such as that the study is not complete.
    Warning(String),
    /// Sentences under a lead.
    List {
        /// What they are about.
        lead: String,
        /// The sentences.
        items: Vec<String>,
    },
    /// A table.
    Table(Table),
    /// Text to be shown as it is.
    Code(String),
}

/// A table with what is said of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Its name in file names and labels: `table1`, `table1_published`, `confusion_mti-net`.
    pub id: String,
    /// Its caption, which stands alone. Where a heading precedes the table, both say the same.
    pub caption: String,
    /// Names of the columns.
    pub header: Vec<String>,
    /// As many cells a row as there are columns.
    pub rows: Vec<Vec<TableCell>>,
    /// Paragraphs below.
    pub notes: Vec<String>,
}

/// A cell of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum TableCell {
    /// Words.
    Text(String),
    /// The arm does not have the task.
    NoTask,
    /// A figure of the study, or what is missing of it.
    Value {
        /// The figure with the trials behind it.
        aggregate: Aggregate,
        /// Whether it is the best of its metric in this table.
        best: bool,
    },
    /// A figure that no trial gave: a reference line, a published or a pooled value. Never marked as best.
    Constant {
        /// Its mean.
        mean: f64,
        /// Its deviation, where there is one.
        std: Option<f64>,
        /// How it is shown.
        text: String,
    },
}

impl Document {
    pub(super) fn heading(&mut self, level: usize, text: impl Into<String>) {
        self.blocks.push(Block::Heading { level, text: text.into() });
    }

    pub(super) fn paragraph(&mut self, text: impl Into<String>) {
        self.blocks.push(Block::Paragraph(text.into()));
    }

    pub(super) fn table(&mut self, table: Table) {
        self.blocks.push(Block::Table(table));
    }

    /// Its tables, in order.
    pub fn tables(&self) -> impl Iterator<Item = &Table> {
        self.blocks.iter().filter_map(|block| match block {
            Block::Table(table) => Some(table),
            _ => None,
        })
    }
}

impl Table {
    pub(super) fn new(id: &str, caption: &str, header: &[&str]) -> Self {
        Self {
            id: id.to_owned(),
            caption: caption.to_owned(),
            header: header.iter().map(|name| (*name).to_owned()).collect(),
            ..Self::default()
        }
    }

    /// Adds a row of words.
    pub(super) fn words(&mut self, row: impl IntoIterator<Item = String>) {
        self.rows.push(row.into_iter().map(TableCell::Text).collect());
    }
}

impl TableCell {
    pub(super) fn of(cell: &Cell, best: bool) -> Self {
        match cell {
            Cell::NoTask => Self::NoTask,
            Cell::Value(aggregate) => Self::Value { aggregate: aggregate.clone(), best },
        }
    }

    pub(super) fn constant(stats: MeanStd) -> Self {
        Self::Constant { mean: stats.mean, std: stats.std, text: with_deviation(stats) }
    }

    /// What the cell says, without emphasis and notes.
    pub fn words(&self) -> String {
        match self {
            Self::Text(text) | Self::Constant { text, .. } => text.clone(),
            Self::NoTask => "–".to_owned(),
            Self::Value { aggregate, .. } => words(aggregate),
        }
    }

    /// Whether it is to stand out.
    pub fn is_best(&self) -> bool {
        matches!(self, Self::Value { best: true, .. })
    }

    /// The trials that its figure comes from; empty where it has none.
    pub fn trials(&self) -> &[TrialKey] {
        match self {
            Self::Value { aggregate, .. } => &aggregate.from,
            _ => &[],
        }
    }
}

impl From<String> for TableCell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// Numbers notes that name trials; cells of the same trials share one.
#[derive(Debug, Default)]
pub struct TrialNotes(Vec<Vec<TrialKey>>);

impl TrialNotes {
    /// The number of a cell's note, from 1; none where no trial stands behind it.
    pub fn number(&mut self, trials: &[TrialKey]) -> Option<usize> {
        if trials.is_empty() {
            return None;
        }
        let place = self.0.iter().position(|note| note == trials).unwrap_or_else(|| {
            self.0.push(trials.to_vec());
            self.0.len() - 1
        });
        Some(place + 1)
    }

    /// The notes with their numbers: `From mti-net/0/0, mti-net/1/0.`
    pub fn iter(&self) -> impl Iterator<Item = (usize, String)> {
        self.0.iter().enumerate().map(|(place, trials)| {
            let names: Vec<String> = trials.iter().map(ToString::to_string).collect();
            (place + 1, format!("From {}.", names.join(", ")))
        })
    }
}

/// How a complete or incomplete aggregate reads.
fn words(aggregate: &Aggregate) -> String {
    let missing = gaps(&aggregate.missing);
    match aggregate.over_folds {
        None => format!("missing: {missing}"),
        Some(stats) if aggregate.is_complete() => with_deviation(stats),
        Some(stats) => {
            let (have, asked) = (stats.n, aggregate.folds_asked);
            format!("{} over {have} of {asked} folds; missing: {missing}", with_deviation(stats))
        }
    }
}

/// Mean and deviation with two digits; one value has no deviation and says so.
pub(super) fn with_deviation(stats: MeanStd) -> String {
    match stats.std {
        Some(std) => format!("{} ± {}", two_digits(stats.mean), two_digits(std)),
        None => format!("{} (n = 1)", two_digits(stats.mean)),
    }
}

pub(super) fn two_digits(value: f64) -> String {
    format!("{value:.2}")
}

pub(super) fn plural(n: usize, what: &str) -> String {
    if n == 1 { format!("{n} {what}") } else { format!("{n} {what}s") }
}

/// Text on one line, as headings and cells need it.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
