//! What the report's segmentation figures show, from the data set and the artifact store.

use std::path::Path;

use super::client::Coordinator;
use super::error::CliError;
use super::predictions;
use super::study::blocking;
use crate::report::StudyResults;
use crate::report::figures::{Pictures, Sources, pictures};

/// Reads the slices shown. `dataset` replaces the directory that the study was submitted with; masks are read below
/// `predictions`, or are fetched for the time of this call where they are not kept.
///
/// # Errors
/// Exit code 3 where the coordinator does not give the masks, 1 where they cannot be written. Files of the data set that
/// cannot be read are told in the report.
pub async fn read(
    coordinator: &mut Coordinator,
    results: &StudyResults,
    dataset: Option<&Path>,
    predictions: Option<&Path>,
) -> Result<Pictures, CliError> {
    let fetched = match predictions {
        Some(_) => None,
        None => Some(fetch_shown(coordinator, results).await?),
    };
    let sources = Sources {
        dataset: dataset.map(Path::to_owned),
        predictions: predictions.or(fetched.as_ref().map(tempfile::TempDir::path)).map(Path::to_owned),
    };
    let results = results.clone();
    blocking(move || Ok(Pictures::read(&results, &sources))).await
}

async fn fetch_shown(
    coordinator: &mut Coordinator,
    results: &StudyResults,
) -> Result<tempfile::TempDir, CliError> {
    let directory = tempfile::tempdir()
        .map_err(|error| CliError::failed("cannot make a temporary directory for masks", &error))?;
    let shown = pictures::trials_shown(results);
    predictions::fetch_of(coordinator, results, directory.path(), |key| shown.contains(&key)).await?;
    Ok(directory)
}
