//! The report's files. Each is written beside its place and renamed into it, so that a reader never sees half.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::results::StudyResults;
use super::{csv_files, summary, tables};

/// The files of a report.
#[derive(Clone, Debug)]
pub struct ReportFiles {
    /// The directory that holds them.
    pub directory: PathBuf,
    /// Their names, in the order written.
    pub names: Vec<&'static str>,
}

/// A file of the report that could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The disk or the directory refused.
    #[error("cannot write {path}; check that the directory exists, is yours and has room")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The rows of a CSV file could not be formed.
    #[error("cannot form the rows of {name}")]
    Csv {
        /// The file.
        name: &'static str,
        /// What is wrong.
        #[source]
        source: csv::Error,
    },
}

/// Writes `tables.md`, `summary.json`, `trials.csv`, `subjects.csv` and `slices.csv` into `directory`, which is
/// made where it is not there.
///
/// # Errors
/// The first file that could not be written; those before it are complete.
pub fn write(results: &StudyResults, directory: &Path) -> Result<ReportFiles, WriteError> {
    std::fs::create_dir_all(directory)
        .map_err(|source| WriteError::Io { path: directory.to_owned(), source })?;
    let csv =
        |name, rows: Result<Vec<u8>, csv::Error>| rows.map_err(|source| WriteError::Csv { name, source });
    let mut summary = serde_json::to_string_pretty(&summary::summary_json(results)).unwrap_or_default();
    summary.push('\n');
    let files: Vec<(&'static str, Vec<u8>)> = vec![
        ("slices.csv", csv("slices.csv", csv_files::slices(results))?),
        ("subjects.csv", csv("subjects.csv", csv_files::subjects(results))?),
        ("trials.csv", csv("trials.csv", csv_files::trials(results))?),
        ("summary.json", summary.into_bytes()),
        ("tables.md", tables::tables_markdown(results).into_bytes()),
    ];
    for (name, content) in &files {
        write_atomically(&directory.join(name), content)?;
    }
    Ok(ReportFiles { directory: directory.to_owned(), names: files.iter().map(|(name, _)| *name).collect() })
}

/// Replaces a file as one act: a temporary file beside it, synced, then renamed over it.
///
/// # Errors
/// Where the directory is missing, not writable or full; the old file then stands as it was.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<(), WriteError> {
    let failed = |source| WriteError::Io { path: path.to_owned(), source };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".writing-")
        .permissions(readable_by_all())
        .tempfile_in(directory)
        .map_err(failed)?;
    file.write_all(content).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Temporary files are private by default; a report is to be read by others (the umask still applies).
fn readable_by_all() -> std::fs::Permissions {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::Permissions::from_mode(0o666)
}
