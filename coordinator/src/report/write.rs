//! The report's files. Each is written beside its place and renamed into it, so that a reader never sees half.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::figures::{Figure, Group, Pictures, figures};
use super::results::StudyResults;
use super::tables::Options;
use super::{csv_files, html, summary, tables};

/// The files of a report.
#[derive(Clone, Debug)]
pub struct ReportFiles {
    /// The directory that holds them.
    pub directory: PathBuf,
    /// Their names, in the order written.
    pub names: Vec<String>,
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
        name: String,
        /// What is wrong.
        #[source]
        source: csv::Error,
    },
}

/// Writes `slices.csv`, `subjects.csv`, `trials.csv`, `summary.json`, `tables.md`, `tables.tex` with a document around
/// it, each table as CSV below `tables/`, each figure below
/// `figures/`, and `report.html` with all of them, into `directory`, which is made where it is not there.
///
/// # Errors
/// The first file that could not be written; those before it are complete.
pub fn write(
    results: &StudyResults,
    options: Options,
    pictures: &Pictures,
    directory: &Path,
) -> Result<ReportFiles, WriteError> {
    let mut files = numbers(results, options)?;
    files.extend(page_and_figures(results, options, &figures(results, pictures)));
    let mut names = Vec::new();
    for (name, content) in files {
        let path = directory.join(&name);
        let folder = path.parent().unwrap_or(directory);
        std::fs::create_dir_all(folder)
            .map_err(|source| WriteError::Io { path: folder.to_owned(), source })?;
        write_atomically(&path, &content)?;
        names.push(name);
    }
    Ok(ReportFiles { directory: directory.to_owned(), names })
}

/// The page comes last, because it links the others.
fn page_and_figures(results: &StudyResults, options: Options, groups: &[Group]) -> Vec<(String, Vec<u8>)> {
    let page = html::page(results, &tables::document(results, options), groups);
    let figures = groups.iter().flat_map(|group| &group.figures).flat_map(Figure::contents);
    figures.chain([("report.html".to_owned(), page.into_bytes())]).collect()
}

/// Every file that holds numbers and tables, by its name below the report's directory.
fn numbers(results: &StudyResults, options: Options) -> Result<Vec<(String, Vec<u8>)>, WriteError> {
    let csv = |name: String, rows: Result<Vec<u8>, csv::Error>| match rows {
        Ok(rows) => Ok((name, rows)),
        Err(source) => Err(WriteError::Csv { name, source }),
    };
    let mut summary = serde_json::to_string_pretty(&summary::summary_json(results)).unwrap_or_default();
    summary.push('\n');
    let document = tables::document(results, options);
    let mut files = vec![
        csv("slices.csv".to_owned(), csv_files::slices(results))?,
        csv("subjects.csv".to_owned(), csv_files::subjects(results))?,
        csv("trials.csv".to_owned(), csv_files::trials(results))?,
        ("summary.json".to_owned(), summary.into_bytes()),
        ("tables.md".to_owned(), tables::markdown(&document).into_bytes()),
        ("tables.tex".to_owned(), tables::tables_latex(results, options).into_bytes()),
        ("tables-standalone.tex".to_owned(), tables::tables_latex_standalone(results).into_bytes()),
    ];
    for table in document.tables() {
        files.push(csv(format!("tables/{}.csv", table.id), tables::table_csv(table))?);
    }
    Ok(files)
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
