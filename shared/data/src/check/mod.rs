//! The leak gate: what must hold of a data set before anything is trained on it (DATA.md 5).
//!
//! Each case is read once, by all cores; what is kept of it are hashes and a short descriptor, so memory does not grow with
//! the size of the volumes. Only cases that look alike by their descriptors are read again. Normalisation needs no finding: [`crate::SliceCache::normalisation`] is only ever
//! given the training slices of a fold.

pub mod codes;

mod duplicates;
mod files;
mod neighbours;
pub(crate) mod splits;

use serde::Serialize;

use crate::error::Result;
use crate::manifest::{Case, Dataset};
use crate::parallel::{self, Progress};

/// How to check.
#[derive(Debug, Clone)]
pub struct CheckOptions {
    /// Correlation of the thumbnails of two subjects from which on they are reported as near-duplicates.
    pub near_duplicate: f64,
    /// Distance in mm between the corners of two phases' volumes up to which they count as one grid.
    pub grid_tolerance_mm: f64,
    /// Compare each file's BLAKE3 hash with the manifest.
    pub verify_hashes: bool,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self { near_duplicate: 0.999, grid_tolerance_mm: 0.1, verify_hashes: true }
    }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing may be trained on this data set.
    Error,
    /// Worth a look.
    Warning,
}

/// One thing found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// One of [`codes`].
    pub code: &'static str,
    /// The case, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub case: Option<String>,
    /// The subject, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The fold, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fold: Option<usize>,
    /// What it is and what to do, in words.
    pub message: String,
}

/// Everything found, errors first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckReport {
    /// The data set's hash at the time.
    pub dataset_hash: String,
    /// Cases looked at; excluded ones are not.
    pub cases: usize,
    /// Their subjects.
    pub subjects: usize,
    /// Folds.
    pub folds: usize,
    /// What was found.
    pub findings: Vec<Finding>,
}

impl CheckReport {
    /// Whether there is no error; warnings do not stop a study.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.findings.iter().all(|f| f.severity != Severity::Error)
    }
}

/// Checks splits and files of a data set.
///
/// # Errors
/// None for faults of the data, which are findings. The result leaves room for faults of the machine.
pub fn check(dataset: &Dataset, options: &CheckOptions, progress: Progress<'_>) -> Result<CheckReport> {
    let cases: Vec<&Case> = dataset.included().collect();
    let mut findings = splits::findings(&dataset.cases, &dataset.header.classes, &dataset.splits);
    let facts = parallel::map(cases.len(), parallel::threads(), progress, |i| {
        Ok(files::examine(dataset, cases[i], options))
    })?;
    let thumbnails = |n: usize| files::thumbnails(dataset, cases[n]);
    findings.extend(duplicates::findings(&cases, &facts, options.near_duplicate, &thumbnails));
    findings.extend(facts.into_iter().flat_map(|f| f.findings));
    findings.sort_by_key(|f| f.severity);
    let mut subjects: Vec<&str> = cases.iter().map(|c| c.subject.as_str()).collect();
    subjects.sort_unstable();
    subjects.dedup();
    Ok(CheckReport {
        dataset_hash: dataset.hash(),
        cases: cases.len(),
        subjects: subjects.len(),
        folds: dataset.splits.len(),
        findings,
    })
}

impl Finding {
    fn new(severity: Severity, code: &'static str, message: String) -> Self {
        Self { severity, code, case: None, subject: None, fold: None, message }
    }

    fn of_case(severity: Severity, code: &'static str, case: &Case, message: &str) -> Self {
        Self {
            case: Some(case.case.clone()),
            subject: Some(case.subject.clone()),
            ..Self::new(severity, code, format!("case {}: {message}", case.case))
        }
    }
}
