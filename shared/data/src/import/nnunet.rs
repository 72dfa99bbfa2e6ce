//! nnU-Net v2 raw data sets: `dataset.json`, `imagesTr/CASE_000k.nii.gz`, `labelsTr/CASE.nii.gz`.
//!
//! Phases are found by `channel_names`, never by position alone. nnU-Net knows neither subjects nor classes, so a
//! `cases.csv` with the columns `case,subject,class` must stand beside, or be given. Everything that is wrong is listed
//! at once; nothing is guessed and nothing is filled up.

mod scan;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

pub use scan::{CaseImages, scan_cases};
use scan::{Layout, Row};

use crate::error::{DataError, Result};
use crate::folds;
use crate::fsutil::Staging;
use crate::manifest::{Case, Dataset, DatasetHeader, Geometry, ImageRef, LabelRef, PHASES, SCHEMA, Source};
use crate::nifti_io;
use crate::parallel::{self, Progress};

/// How to import.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// Table of case, subject and class; by default `cases.csv` in the source.
    pub cases_csv: Option<PathBuf>,
    /// Copy the files into the data set (the default), or reference them where they are by absolute path.
    pub copy: bool,
    /// Name of the data set; by default the `name` in `dataset.json`, or the directory's name.
    pub name: Option<String>,
    /// Names in `dataset.json` of the labels that are tumour; by default every label above 0.
    pub tumour_labels: Option<Vec<String>>,
    /// Folds to write; fewer where there are fewer subjects.
    pub folds: usize,
    /// Seed of the folds.
    pub seed: u64,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            cases_csv: None,
            copy: true,
            name: None,
            tumour_labels: None,
            folds: folds::DEFAULT_FOLDS,
            seed: 0,
        }
    }
}

/// What an import did.
#[derive(Debug, Clone)]
pub struct ImportReport {
    /// The data set as written.
    pub dataset: Dataset,
    /// Bytes copied; zero for references.
    pub bytes_copied: u64,
    /// Things to know, in words.
    pub notes: Vec<String>,
}

/// Imports the nnU-Net data set `src` as the new data set `dst`.
///
/// Every file is read completely, so that a damaged one is found now. `dst` appears only when all is done.
///
/// # Errors
/// [`DataError::DestinationExists`]; [`DataError::Import`] listing missing phases, unknown channel names, cases without
/// subject or class, ...; [`DataError::File`] naming a file that cannot be read.
pub fn import(
    src: &Path,
    dst: &Path,
    options: &ImportOptions,
    progress: Progress<'_>,
) -> Result<ImportReport> {
    let staging = Staging::new(dst)?;
    let layout = scan::scan(src, options.cases_csv.as_deref())?;
    let remap = layout.remap(options.tumour_labels.as_deref())?;
    if options.copy {
        for name in ["images", "labels"] {
            let path = staging.path().join(name);
            fs::create_dir(&path).map_err(DataError::io("create", &path))?;
        }
    }
    let job = Job { layout: &layout, remap: &remap, staging: staging.path(), copy: options.copy };
    let done =
        parallel::map(layout.rows.len(), parallel::threads(), progress, |i| job.case(&layout.rows[i]))?;
    let bytes_copied = done.iter().map(|(_, bytes)| bytes).sum();
    let mut dataset = Dataset {
        dir: staging.path().to_owned(),
        header: header(src, &layout, options),
        cases: done.into_iter().map(|(case, _)| case).collect(),
        splits: Vec::new(),
    };
    let mut notes = layout.notes.clone();
    let (splits, note) =
        folds::for_new(&dataset.cases, &dataset.header.classes, options.folds, options.seed)?;
    dataset.splits = splits;
    notes.extend(note);
    dataset.save()?;
    staging.commit()?;
    Ok(ImportReport { dataset: Dataset::open(dst)?, bytes_copied, notes })
}

/// What each case's import needs.
struct Job<'a> {
    layout: &'a Layout,
    remap: &'a BTreeMap<String, u8>,
    staging: &'a Path,
    copy: bool,
}

impl Job<'_> {
    fn case(&self, row: &Row) -> Result<(Case, u64)> {
        let mut images = BTreeMap::new();
        let mut bytes = 0;
        for (phase, channel) in &self.layout.channels {
            let source = &row.images[phase];
            let (path, blake3, _, length) = self.take(source, "images", &format!("{}_{phase}", row.case))?;
            bytes += length;
            let phase_evidence = format!("channel_names[{}] = {}", channel.index, channel.name);
            images.insert(phase.clone(), ImageRef { path, blake3, phase_evidence });
        }
        let (path, blake3, grid, length) = self.take(&row.label, "labels", &row.case)?;
        let reference = "pv".to_owned();
        let case = Case {
            case: row.case.clone(),
            subject: row.subject.clone(),
            class: row.class.clone(),
            images,
            geometry: Geometry::of(&reference, &grid),
            label: LabelRef { path, blake3, grid: reference, remap: self.remap.clone() },
            acquisition: None,
            exclude: None,
        };
        Ok((case, bytes + length))
    }

    /// Reads a file completely, and copies it where asked. Returns path, hash, grid and the bytes copied.
    fn take(&self, source: &Path, folder: &str, stem: &str) -> Result<(PathBuf, String, crate::Grid, u64)> {
        let bytes = fs::read(source).map_err(DataError::io("read", source))?;
        let grid = nifti_io::decode(source, &bytes)?.grid;
        let hash = blake3::hash(&bytes).to_hex().to_string();
        if !self.copy {
            let absolute = fs::canonicalize(source).map_err(DataError::io("read", source))?;
            return Ok((absolute, hash, grid, 0));
        }
        let extension = if source.extension().is_some_and(|e| e == "gz") { "nii.gz" } else { "nii" };
        let path = Path::new(folder).join(format!("{stem}.{extension}"));
        let target = self.staging.join(&path);
        fs::write(&target, &bytes).map_err(DataError::io("write", &target))?;
        Ok((path, hash, grid, bytes.len() as u64))
    }
}

fn header(src: &Path, layout: &Layout, options: &ImportOptions) -> DatasetHeader {
    let folder = || src.file_name().map(|n| n.to_string_lossy().into_owned());
    let name = options.name.clone().or_else(|| layout.name.clone()).or_else(folder);
    DatasetHeader {
        schema: SCHEMA.to_owned(),
        name: name.unwrap_or_else(|| "dataset".to_owned()),
        phases: PHASES.map(str::to_owned).to_vec(),
        classes: layout.classes.clone(),
        labels: [("background".to_owned(), 0), ("tumor".to_owned(), 1)].into(),
        intensity_unit: "scanner".to_owned(),
        source: Source {
            layout: "nnunet".to_owned(),
            license: layout.license.clone(),
            notes: BTreeMap::new(),
        },
    }
}
