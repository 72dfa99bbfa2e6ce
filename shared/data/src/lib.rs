//! Data of a study: data sets on disk, their files, folds, preprocessed slices, the leak gate and the phantom.
//!
//! A data set is a directory with `dataset.toml`, `cases.jsonl` and `splits_final.json` ([`manifest`]). It comes from
//! an import ([`import`]) or from the synthetic dynamic-contrast phantom ([`phantom`]), is judged by [`check`], and is
//! turned into a cache of equally sized slices ([`cache`]) that a trainer maps into memory. Intensities stay in the
//! scanner's raw unit everywhere: normalisation is a pair of numbers that the trainer applies.
//!
//! This crate is synchronous and knows no tensors: no libtorch and no async runtime.

pub mod cache;
pub mod cases;
pub mod check;
mod error;
pub mod folds;
mod fsutil;
mod grid;
pub mod import;
mod labels;
pub mod manifest;
pub mod nifti_io;
mod parallel;
pub mod phantom;
pub mod portable;
pub mod preprocess;
mod volumes;

#[cfg(test)]
mod tests;

pub use cache::{FoldView, SliceCache, SliceRecord};
pub use cases::{CaseInput, FoundCases};
pub use check::{CheckOptions, CheckReport, Finding, Severity};
pub use error::{DataError, Result};
pub use folds::Fold;
pub use fsutil::{abandon, write_durably};
pub use grid::Grid;
pub use manifest::{Case, Dataset, DatasetHeader, HEALTHY, PHASES};
pub use nifti_io::Volume;
pub use parallel::Progress;
pub use phantom::PhantomOptions;
pub use portable::PortableDataset;
pub use preprocess::{PlaneTransform, PreprocessOptions, Spacing};
pub use volumes::CaseVolumes;
