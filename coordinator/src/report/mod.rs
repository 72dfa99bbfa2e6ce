//! The report of a study: the paper's tables, a summary for programs, and every number behind them as CSV.
//!
//! [`StudyResults`] is folded from the study's events and evaluations without any IO; [`write`] turns it into
//! files. Fetching events and evaluations from a coordinator is the command line's work.

mod aggregate;
mod comparisons;
mod csv_files;
mod curves;
mod document;
pub mod figures;
mod fold;
mod html;
mod metric;
mod paper;
mod results;
mod summary;
mod tables;
#[cfg(test)]
mod tests;
mod trial_files;
mod write;

pub use aggregate::{Aggregate, Cell, Gap};
pub use curves::{Curve, CurvePoint, LearningCurves, MOST_POINTS};
pub use document::{Block, Document, Table, TableCell};
pub use fold::StudyFold;
pub use metric::Metric;
pub use paper::{PUBLISHED, Published};
pub use results::{Attempt, Evaluated, ResultsError, StudyResults, TrialOutcome, TrialResult};
pub use summary::summary_json;
pub use tables::{
    Options, document, tables_latex, tables_latex_standalone, tables_markdown, tables_terminal,
};
pub use trial_files::TrialFiles;
pub use write::{ReportFiles, WriteError, write, write_atomically};
