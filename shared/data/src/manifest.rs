//! A data set on disk: `dataset.toml`, `cases.jsonl`, `splits_final.json`, and the files that they name.
//!
//! The manifest pins the content of every file by its BLAKE3 hash, so the manifest's own hash pins the whole data set.
//! Paths are relative to the data set's directory unless they are absolute (an import that references its source).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ndarray::Array3;
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};
use crate::folds::{self, Fold};
use crate::fsutil;
use crate::grid::Grid;
use crate::labels;
use crate::nifti_io::{self, Volume};
use crate::parallel::{self, Progress};

/// The schema that this version reads and writes.
pub const SCHEMA: &str = "mtinet-dataset/1";
/// The phases of a dynamic study, in the order that is law.
pub const PHASES: [&str; 4] = ["pre", "art", "pv", "del"];
/// The class of a case without a lesion. It is no lesion class and has no index.
pub const HEALTHY: &str = "healthy";

/// A data set that was read from its directory.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// The directory with the manifest.
    pub dir: PathBuf,
    /// `dataset.toml`.
    pub header: DatasetHeader,
    /// `cases.jsonl`, in the file's order.
    pub cases: Vec<Case>,
    /// `splits_final.json`; empty when there is none.
    pub splits: Vec<Fold>,
}

/// The content of `dataset.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetHeader {
    /// [`SCHEMA`].
    pub schema: String,
    /// A name for people.
    pub name: String,
    /// Phases in order, for example [`PHASES`].
    pub phases: Vec<String>,
    /// Lesion classes; a class is named by its index here everywhere else.
    pub classes: Vec<String>,
    /// Label names and values after each case's remap.
    pub labels: BTreeMap<String, u8>,
    /// What the intensities are, for example `scanner`.
    pub intensity_unit: String,
    /// Where the data came from.
    pub source: Source,
}

/// Where a data set came from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// `nnunet`, `phantom`, ...
    pub layout: String,
    /// The licence, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// Whatever else describes the origin, for example the options of the phantom.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub notes: BTreeMap<String, String>,
}

/// One line of `cases.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Unique id.
    pub case: String,
    /// The person; the only key that folds are split by.
    pub subject: String,
    /// A lesion class of the header, or [`HEALTHY`].
    pub class: String,
    /// One image per phase.
    pub images: BTreeMap<String, ImageRef>,
    /// The mask.
    pub label: LabelRef,
    /// The grid of the reference phase as found at import.
    pub geometry: Geometry,
    /// What is known about the acquisition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acquisition: Option<Acquisition>,
    /// The reason to leave this case out everywhere, or nothing.
    #[serde(default)]
    pub exclude: Option<String>,
}

/// An image file of a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRef {
    /// Relative to the data set's directory, or absolute.
    pub path: PathBuf,
    /// BLAKE3 of the file's bytes, hex.
    pub blake3: String,
    /// What says that this file is this phase: `channel_names`, `filename`, `simulated`, ...
    pub phase_evidence: String,
}

/// The mask file of a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelRef {
    /// Relative to the data set's directory, or absolute.
    pub path: PathBuf,
    /// BLAKE3 of the file's bytes, hex.
    pub blake3: String,
    /// The phase on whose grid the mask was drawn.
    pub grid: String,
    /// Values in the file (decimal) to values of the header's label map. A value without an entry is refused.
    pub remap: BTreeMap<String, u8>,
}

/// The grid of a case in its file's own order of axes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Geometry {
    /// The phase that was looked at.
    pub reference: String,
    /// Voxels along the file's axes.
    pub shape: [usize; 3],
    /// Millimetres along the file's axes.
    pub spacing: [f64; 3],
    /// Voxel to world, RAS+, millimetres.
    pub affine: [[f64; 4]; 4],
}

impl Geometry {
    /// The geometry of `grid`, which belongs to phase `reference`.
    #[must_use]
    pub fn of(reference: &str, grid: &Grid) -> Self {
        let mut spacing = [0.0; 3];
        for a in 0..3 {
            spacing[grid.axes[a]] = grid.spacing[a];
        }
        Self { reference: reference.to_owned(), shape: grid.source_shape, spacing, affine: grid.affine }
    }
}

/// What is known about the acquisition of a case; nothing here is computed with.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Acquisition {
    /// The scanner's maker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// Field strength in tesla.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field_t: Option<f64>,
    /// Seconds after the injection, by phase.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub times_s: BTreeMap<String, f64>,
}

impl Dataset {
    /// Reads the manifest of the data set in `dir`. Files are not touched; see [`crate::check`] and [`Self::verify_files`].
    ///
    /// # Errors
    /// [`DataError`] naming the file and the line when the manifest cannot be read or contradicts itself.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("dataset.toml");
        let text = std::fs::read_to_string(&path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => DataError::file(dir, "is not a data set: it has no dataset.toml; make one with `mtinet data import` or `mtinet data phantom`"),
            _ => DataError::Io { action: "read", path: path.clone(), source },
        })?;
        let header: DatasetHeader =
            toml::from_str(&text).map_err(|e| DataError::file(&path, e.to_string()))?;
        validate_header(&path, &header)?;
        let cases = read_cases(&dir.join("cases.jsonl"))?;
        let splits = dir.join("splits_final.json");
        let splits = if splits.exists() { folds::read(&splits)? } else { Vec::new() };
        let dataset = Self { dir: dir.to_owned(), header, cases, splits };
        dataset.validate_cases()?;
        Ok(dataset)
    }

    /// Writes the three files of the manifest into [`Self::dir`], each atomically.
    ///
    /// # Errors
    /// [`DataError::Io`] when one cannot be written.
    pub fn save(&self) -> Result<()> {
        let path = self.dir.join("dataset.toml");
        let text = toml::to_string(&self.header).map_err(|e| DataError::file(&path, e.to_string()))?;
        fsutil::write_atomic(&path, text.as_bytes())?;
        let path = self.dir.join("cases.jsonl");
        let mut lines = Vec::new();
        for case in &self.cases {
            serde_json::to_writer(&mut lines, case).map_err(|e| DataError::file(&path, e.to_string()))?;
            lines.push(b'\n');
        }
        fsutil::write_atomic(&path, &lines)?;
        if self.splits.is_empty() {
            Ok(())
        } else {
            folds::write(&self.dir.join("splits_final.json"), &self.splits)
        }
    }

    /// BLAKE3 (hex) of header, cases and splits. File hashes count, paths do not: a data set keeps its hash when it is moved.
    #[must_use]
    pub fn hash(&self) -> String {
        digest(&(self.content_hash(), &self.splits))
    }

    /// As [`Self::hash`] without the splits: what the preprocessed slices depend on.
    #[must_use]
    pub fn content_hash(&self) -> String {
        type Images<'a> = BTreeMap<&'a str, &'a str>;
        let mut cases: Vec<&Case> = self.cases.iter().collect();
        cases.sort_by(|a, b| a.case.cmp(&b.case));
        let cases: Vec<_> = cases
            .into_iter()
            .map(|c| {
                let images: Images<'_> =
                    c.images.iter().map(|(p, i)| (p.as_str(), i.blake3.as_str())).collect();
                (
                    &c.case,
                    &c.subject,
                    &c.class,
                    images,
                    &c.label.blake3,
                    &c.label.grid,
                    &c.label.remap,
                    &c.exclude,
                )
            })
            .collect();
        digest(&(&self.header, cases))
    }

    /// Reads every file and compares its BLAKE3 hash with the manifest.
    ///
    /// # Errors
    /// [`DataError::Changed`] naming the first file, in the manifest's order, that is not the one imported, or
    /// [`DataError::Io`] when it is gone.
    pub fn verify_files(&self, progress: Progress<'_>) -> Result<()> {
        parallel::map(self.cases.len(), parallel::threads(), progress, |i| {
            let case = &self.cases[i];
            let images = case.images.values().map(|image| (&image.path, &image.blake3));
            for (path, expected) in images.chain([(&case.label.path, &case.label.blake3)]) {
                let path = self.path(path);
                if hash_file(&path)? != *expected {
                    return Err(DataError::Changed { case: case.case.clone(), path });
                }
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Cases that are not excluded.
    pub fn included(&self) -> impl Iterator<Item = &Case> {
        self.cases.iter().filter(|c| c.exclude.is_none())
    }

    /// The case with this id.
    ///
    /// # Errors
    /// [`DataError::Case`] when there is none.
    pub fn case(&self, id: &str) -> Result<&Case> {
        self.cases
            .iter()
            .find(|c| c.case == id)
            .ok_or_else(|| DataError::case(id, format!("is not in {}", self.dir.display())))
    }

    /// Index of a case's class among the lesion classes; none for a healthy case.
    #[must_use]
    pub fn class_index(&self, case: &Case) -> Option<usize> {
        self.header.classes.iter().position(|c| *c == case.class)
    }

    /// A path of the manifest as one that can be opened.
    #[must_use]
    pub fn path(&self, path: &Path) -> PathBuf {
        self.dir.join(path)
    }

    /// Reads the image of one phase and makes sure that it is the file that was imported.
    ///
    /// # Errors
    /// [`DataError::Case`] for a missing phase, [`DataError::Changed`] for another content, and those of [`nifti_io::read`].
    pub fn load_image(&self, case: &Case, phase: &str) -> Result<Volume> {
        let image = case.images.get(phase).ok_or_else(|| {
            DataError::case(
                &case.case,
                format!("has no image of phase `{phase}`; every case needs all of {:?}", self.header.phases),
            )
        })?;
        self.load(case, &image.path, &image.blake3)
    }

    /// Reads the mask with the case's remap applied, in canonical order, with its source grid.
    ///
    /// # Errors
    /// As [`Self::load_image`], and [`DataError::Case`] for label values outside the remap.
    pub fn load_mask(&self, case: &Case) -> Result<(Array3<u8>, Grid)> {
        let volume = self.load(case, &case.label.path, &case.label.blake3)?;
        let mask = labels::remap(&volume.data, &case.label.remap)
            .map_err(|values| DataError::case(&case.case, labels_outside(&values)))?;
        Ok((mask, volume.grid))
    }

    fn load(&self, case: &Case, path: &Path, expected: &str) -> Result<Volume> {
        let path = self.path(path);
        let (volume, hash) = nifti_io::read_hashed(&path)?;
        if hash == expected { Ok(volume) } else { Err(DataError::Changed { case: case.case.clone(), path }) }
    }

    /// What opening a data set checks of its manifest.
    pub(crate) fn validate(&self) -> Result<()> {
        validate_header(&self.dir.join("dataset.toml"), &self.header)?;
        self.validate_cases()
    }

    fn validate_cases(&self) -> Result<()> {
        let path = self.dir.join("cases.jsonl");
        let mut seen = BTreeSet::new();
        for case in &self.cases {
            if !seen.insert(&case.case) {
                return Err(DataError::file(
                    &path,
                    format!("case {} stands there twice; ids must be unique", case.case),
                ));
            }
            if case.case.is_empty() || case.case.contains(['/', '\\']) {
                return Err(DataError::file(&path, format!("case id `{}` cannot be a file name", case.case)));
            }
            if case.subject.is_empty() {
                return Err(DataError::file(
                    &path,
                    format!("case {} has no subject, and folds are split by subject", case.case),
                ));
            }
            if case.class != HEALTHY && self.class_index(case).is_none() {
                return Err(DataError::file(
                    &path,
                    format!(
                        "case {} has class `{}`; allowed are {:?} and `{HEALTHY}`",
                        case.case, case.class, self.header.classes
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// BLAKE3 of a file, hex, read in pieces.
///
/// # Errors
/// [`DataError::Io`] when it cannot be read.
pub fn hash_file(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let file = std::fs::File::open(path).map_err(DataError::io("read", path))?;
    hasher.update_reader(file).map_err(DataError::io("read", path))?;
    Ok(hasher.finalize().to_hex().to_string())
}

pub(crate) fn labels_outside(values: &[f32]) -> String {
    format!(
        "its mask has the values {values:?}, which the label map does not name; correct the mask or the labels and import again"
    )
}

fn validate_header(path: &Path, header: &DatasetHeader) -> Result<()> {
    let unique = |names: &[String]| names.iter().collect::<BTreeSet<_>>().len() == names.len();
    let problem = if header.schema != SCHEMA {
        format!("schema is `{}`; this version reads `{SCHEMA}`", header.schema)
    } else if header.phases.is_empty() || !unique(&header.phases) {
        "phases must be a list of different names".to_owned()
    } else if !unique(&header.classes) || header.classes.iter().any(|c| c == HEALTHY) {
        format!("classes must be different lesion classes; `{HEALTHY}` is no lesion class and is not listed")
    } else {
        return Ok(());
    };
    Err(DataError::file(path, problem))
}

fn read_cases(path: &Path) -> Result<Vec<Case>> {
    let text = std::fs::read_to_string(path).map_err(DataError::io("read", path))?;
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(n, line)| {
            serde_json::from_str(line).map_err(|e| DataError::file(path, format!("line {}: {e}", n + 1)))
        })
        .collect()
}

/// Hash of a value's JSON. Only structs, tuples and sorted maps go in, so the bytes are the same on every machine.
fn digest(value: &impl Serialize) -> String {
    let mut hasher = blake3::Hasher::new();
    // Writing into a hasher cannot fail, and all keys here are strings; an error would still change the hash.
    if let Err(error) = serde_json::to_writer(&mut hasher, value) {
        hasher.update(error.to_string().as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}
