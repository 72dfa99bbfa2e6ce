//! What happens to a study file before it is submitted: read, its data set opened, verified and judged by the leak
//! gate, and both held against each other.

use std::path::{Path, PathBuf};

use mtinet_data::{CheckReport, Dataset, Severity};
use mtinet_domain::StudySpec;
use mtinet_domain::spec::{Folds, SpecError};
use mtinet_domain::trial::DatasetRef;

use super::error::{CliError, chain};
use super::initial::Weights;
use super::output::say;
use super::{data, initial};

/// A study that may be submitted.
#[derive(Debug)]
pub struct Prepared {
    /// The spec as written, with the initial weights that it names pinned to their content.
    pub spec: StudySpec,
    /// The data set that it is pinned to.
    pub dataset: DatasetRef,
    /// The data set's directory, absolute.
    pub directory: PathBuf,
    /// The initial weights, which the coordinator must be given first.
    pub weights: Vec<Weights>,
}

/// Reads the file and judges its data set. Blocking: every volume is read.
///
/// # Errors
/// Exit code 2 for the study file, 4 for a data set that is missing, changed or fails the leak gate, and for initial
/// weights that cannot be used.
pub fn prepare(file: &Path) -> Result<Prepared, CliError> {
    let mut spec = read(file)?;
    let weights = initial::pin(&mut spec, file)?;
    let directory = locate(&spec.dataset, file)?;
    let dataset = Dataset::open(&directory)?;
    fits(&spec, &dataset)
        .map_err(|(key, problem)| CliError::Usage(format!("{}: {key}: {problem}", file.display())))?;
    refuse_leaks(&dataset, &data::gate(&dataset)?)?;
    let path = directory.to_string_lossy().into_owned();
    let dataset = DatasetRef {
        name: dataset.header.name.clone(),
        path,
        hash: dataset.hash(),
        phases: dataset.header.phases.clone(),
        classes: dataset.header.classes.clone(),
    };
    initial::check(&spec, &dataset, &weights)?;
    Ok(Prepared { spec, dataset, directory, weights })
}

/// Reads a study file.
///
/// # Errors
/// Exit code 2, as `FILE:LINE: key: message`.
pub fn read(file: &Path) -> Result<StudySpec, CliError> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        CliError::Usage(format!(
            "cannot read the study file {}: {}; `mtinet study init` writes one",
            file.display(),
            chain(&error)
        ))
    })?;
    StudySpec::from_toml(&text).map_err(|error| CliError::Usage(place(file, &error)))
}

fn place(file: &Path, error: &SpecError) -> String {
    let line = error.line.map(|line| format!(":{line}")).unwrap_or_default();
    let key = if error.key.is_empty() { String::new() } else { format!("{}: ", error.key) };
    format!("{}{line}: {key}{}", file.display(), error.message)
}

/// The data set's directory, absolute: as named from the current directory, else from the study file's.
fn locate(dataset: &str, file: &Path) -> Result<PathBuf, CliError> {
    let named = PathBuf::from(dataset);
    let beside = file.parent().unwrap_or(Path::new("")).join(dataset);
    let found =
        [&named, &beside].into_iter().find(|path| path.join("dataset.toml").is_file()).unwrap_or(&named);
    found.canonicalize().map_err(|error| {
        let places = if named.is_absolute() || beside == named {
            named.display().to_string()
        } else {
            format!("{} (nor {})", named.display(), beside.display())
        };
        CliError::BadData(format!(
            "there is no data set at {places}: {error}; correct `dataset` in {}, or make one with `mtinet data import` \
             or `mtinet data phantom`",
            file.display()
        ))
    })
}

/// Whether the data set has what the study asks for; the key that asks too much, and how.
fn fits(spec: &StudySpec, dataset: &Dataset) -> Result<(), (&'static str, String)> {
    let split = dataset.splits.len();
    let directory = dataset.dir.display();
    if split == 0 {
        return Err(("folds", format!("{directory} is not split; run `mtinet data split {directory}`")));
    }
    match &spec.folds {
        Folds::Count(count) if *count as usize != split => Err((
            "folds",
            format!(
                "{directory} is split into {split} folds, not {count}; write folds = {split}, or a list of its folds, \
                 or split it anew with `mtinet data split {directory} --folds {count}`"
            ),
        )),
        Folds::List(list) if list.iter().any(|&fold| fold as usize >= split) => {
            Err(("folds", format!("{directory} has the folds 0 to {}; got {list:?}", split - 1)))
        }
        _ => Ok(()),
    }?;
    let classes = &dataset.header.classes;
    let arm = spec.arms.iter().find(|arm| arm.tasks().cls);
    match arm {
        Some(arm) if classes.len() < 2 => Err((
            "arms",
            format!(
                "{arm} classifies lesions, and {directory} has {} lesion class(es); leave it out",
                classes.len()
            ),
        )),
        _ => Ok(()),
    }
}

/// The gate also finds files that have changed since the import.
fn refuse_leaks(dataset: &Dataset, report: &CheckReport) -> Result<(), CliError> {
    let warnings = data::of(report, Severity::Warning).count();
    let directory = dataset.dir.display();
    if report.passes() {
        if warnings > 0 {
            say(format_args!(
                "{warnings} warning(s) about the data set; `mtinet data check {directory}` shows them"
            ));
        }
        return Ok(());
    }
    let errors: Vec<String> =
        data::of(report, Severity::Error).map(|finding| format!("\n  {}", data::words(finding))).collect();
    Err(CliError::BadData(format!("the leak gate stops this study; {directory} fails:{}", errors.concat())))
}
