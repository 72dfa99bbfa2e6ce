//! A synthetic dynamic-contrast liver data set with known truth (MODEL.md 9).
//!
//! Four phases of an abdomen with a carcinoma or a hemangioma, from tissue parameters through tracer kinetics and the
//! signal equation to Rician noise. It is written as an ordinary data set. The same options give the same bytes, and a
//! subject looks alike at every image size.
//!
//! It is no simulation of anatomy: slices are picked, not contiguous, and organs are ellipses.

mod anatomy;
pub(crate) mod kinetics;
pub(crate) mod lesion;
pub(crate) mod random;
mod render;
pub(crate) mod tissue;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ndarray::Array3;

use crate::error::{DataError, Result};
use crate::folds;
use crate::fsutil::Staging;
use crate::grid::Grid;
use crate::manifest::{
    Acquisition, Case, Dataset, DatasetHeader, Geometry, ImageRef, LabelRef, PHASES, SCHEMA, Source,
};
use crate::nifti_io;
use crate::parallel::{self, Progress};
use render::{Rendered, Subject};

/// Side of the reference plane in pixels of 1.5 mm.
pub(crate) const PLANE: f64 = 256.0;
/// Field of view in mm, whatever the image size.
pub const FIELD_OF_VIEW_MM: f64 = 384.0;
/// Nominal distance of slices in mm.
const SLICE_MM: f64 = 5.0;
/// Seconds from the injection to the aorta.
const ARRIVAL_S: f64 = 14.0;
/// Of 238 subjects, 138 have a carcinoma, as in the paper.
const CARCINOMA_SHARE: (usize, usize) = (138, 238);

/// A guard against a slip of the pen.
const MOST_SUBJECTS: usize = 99_999;

/// What to simulate.
#[derive(Debug, Clone, PartialEq)]
pub struct PhantomOptions {
    /// Subjects; of 238, 138 have a carcinoma and 100 a hemangioma, and other numbers keep the ratio.
    pub subjects: usize,
    /// Rows and columns; pixels measure 384 mm / size.
    pub size: usize,
    /// Slices of each subject; a third of them is healthy.
    pub slices_per_subject: usize,
    /// Everything random follows from it.
    pub seed: u64,
    /// Standard deviation of the logarithm of each subject's gain.
    pub gain_sd: f64,
    /// Smallest lesion diameter in mm, on every tumour slice.
    pub min_diameter_mm: f64,
    /// Standard deviation of each phase's shift against the first, in pixels of 1.5 mm; 0 for none. Shifts are at most
    /// 3 pixels and are rounded to half a pixel of the images.
    pub misregistration: f64,
    /// Give both lesions the same native T1, proton density and T2*, so that only dynamics tell them apart.
    pub equalise_t1: bool,
    /// Vary the times of the phases between subjects.
    pub timing_jitter: bool,
    /// Folds to write; fewer where there are fewer subjects.
    pub folds: usize,
    /// Seed of the folds.
    pub split_seed: u64,
}

impl Default for PhantomOptions {
    fn default() -> Self {
        Self {
            subjects: 238,
            size: 256,
            slices_per_subject: 6,
            seed: 0,
            gain_sd: 0.10,
            // Below this a decoder without skip connections cannot segment (MODEL.md H3).
            min_diameter_mm: 24.0,
            misregistration: 1.0,
            equalise_t1: false,
            timing_jitter: true,
            folds: folds::DEFAULT_FOLDS,
            split_seed: 0,
        }
    }
}

impl PhantomOptions {
    /// # Errors
    /// [`DataError::Options`] naming the value that is impossible.
    pub fn validate(&self) -> Result<()> {
        let problem = if self.subjects == 0 || self.subjects > MOST_SUBJECTS {
            format!("subjects is {}; it must be from 1 to {MOST_SUBJECTS}", self.subjects)
        } else if !(16..=1024).contains(&self.size) {
            format!("size is {}; it must be from 16 to 1024 pixels", self.size)
        } else if !(1..=64).contains(&self.slices_per_subject) {
            format!("slices_per_subject is {}; it must be from 1 to 64", self.slices_per_subject)
        } else if !(10.0..=60.0).contains(&self.min_diameter_mm) {
            format!("min_diameter_mm is {}; it must be from 10 to 60 mm", self.min_diameter_mm)
        } else if !(0.0..=1.0).contains(&self.gain_sd) || !(0.0..=3.0).contains(&self.misregistration) {
            "gain_sd must be from 0 to 1, and misregistration from 0 to 3 pixels".to_owned()
        } else {
            return Ok(());
        };
        Err(DataError::Options(problem))
    }

    /// Whether subject `index` has a carcinoma; the classes alternate as evenly as their ratio allows.
    fn is_carcinoma(&self, index: usize) -> bool {
        let (carcinomas, all) = CARCINOMA_SHARE;
        let before = |n: usize| (n * carcinomas + all / 2) / all;
        before(index + 1) > before(index)
    }
}

/// Simulates a data set and writes it to `dst`, which appears only when all is done. Progress counts subjects.
///
/// # Errors
/// [`DataError::Options`], [`DataError::DestinationExists`], or [`DataError::Io`].
pub fn write(dst: &Path, options: &PhantomOptions, progress: Progress<'_>) -> Result<Dataset> {
    options.validate()?;
    let staging = Staging::new(dst)?;
    for name in ["images", "labels"] {
        let path = staging.path().join(name);
        fs::create_dir(&path).map_err(DataError::io("create", &path))?;
    }
    let cases = parallel::map(options.subjects, parallel::threads(), progress, |index| {
        write_subject(staging.path(), options, index)
    })?;
    let mut dataset =
        Dataset { dir: staging.path().to_owned(), header: header(options), cases, splits: Vec::new() };
    (dataset.splits, _) =
        folds::for_new(&dataset.cases, &dataset.header.classes, options.folds, options.split_seed)?;
    dataset.save()?;
    staging.commit()?;
    Dataset::open(dst)
}

fn write_subject(dir: &Path, options: &PhantomOptions, index: usize) -> Result<Case> {
    let id = format!("phantom_{:04}", index + 1);
    let subject = Subject::draw(options, index, options.is_carcinoma(index));
    let slices: Vec<Rendered> =
        (0..options.slices_per_subject).map(|s| subject.render(s, options.size)).collect();
    let grid = grid(options);
    let mut images = BTreeMap::new();
    for (p, phase) in PHASES.iter().enumerate() {
        let volume = stack(&grid, slices.iter().flat_map(|s| &s.images[p]).copied().collect())?;
        let path = PathBuf::from(format!("images/{id}_{phase}.nii.gz"));
        let blake3 = store(dir, &path, &nifti_io::encode_volume(&path, &volume, &grid)?)?;
        images.insert((*phase).to_owned(), ImageRef { path, blake3, phase_evidence: "simulated".to_owned() });
    }
    let mask = stack(&grid, slices.iter().flat_map(|s| &s.mask).copied().collect())?;
    let path = PathBuf::from(format!("labels/{id}.nii.gz"));
    let blake3 = store(dir, &path, &nifti_io::encode_mask(&path, &mask, &grid)?)?;
    let times =
        [0.0, subject.times[0] + ARRIVAL_S, subject.times[1] + ARRIVAL_S, subject.times[2] + ARRIVAL_S];
    Ok(Case {
        case: id.clone(),
        subject: id,
        class: if subject.carcinoma { "hcc" } else { "hemangioma" }.to_owned(),
        images,
        label: LabelRef { path, blake3, grid: "pv".to_owned(), remap: [("1".to_owned(), 1)].into() },
        geometry: Geometry::of("pv", &grid),
        acquisition: Some(Acquisition {
            vendor: Some("phantom".to_owned()),
            field_t: Some(3.0),
            times_s: PHASES.iter().map(|p| (*p).to_owned()).zip(times).collect(),
        }),
        exclude: None,
    })
}

/// Stored as it is shown: columns to the left, rows to posterior, slices to superior, centred on the origin.
fn grid(options: &PhantomOptions) -> Grid {
    let pixel = FIELD_OF_VIEW_MM / options.size as f64;
    let slices = options.slices_per_subject;
    let edge = pixel * (options.size as f64 - 1.0) / 2.0;
    let bottom = -SLICE_MM * (slices as f64 - 1.0) / 2.0;
    let affine = [
        [-pixel, 0.0, 0.0, edge],
        [0.0, -pixel, 0.0, edge],
        [0.0, 0.0, SLICE_MM, bottom],
        [0.0, 0.0, 0.0, 1.0],
    ];
    Grid::new([options.size, options.size, slices], affine, Vec::new())
}

fn stack<T>(grid: &Grid, values: Vec<T>) -> Result<Array3<T>> {
    Array3::from_shape_vec(grid.shape, values).map_err(|e| DataError::Options(e.to_string()))
}

fn store(dir: &Path, path: &Path, bytes: &[u8]) -> Result<String> {
    let target = dir.join(path);
    fs::write(&target, bytes).map_err(DataError::io("write", &target))?;
    Ok(blake3::hash(bytes).to_hex().to_string())
}

fn header(options: &PhantomOptions) -> DatasetHeader {
    let notes = [
        ("subjects", options.subjects.to_string()),
        ("size", options.size.to_string()),
        ("slices_per_subject", options.slices_per_subject.to_string()),
        ("seed", options.seed.to_string()),
        ("gain_sd", options.gain_sd.to_string()),
        ("min_diameter_mm", options.min_diameter_mm.to_string()),
        ("misregistration", options.misregistration.to_string()),
        ("equalise_t1", options.equalise_t1.to_string()),
        ("timing_jitter", options.timing_jitter.to_string()),
    ];
    DatasetHeader {
        schema: SCHEMA.to_owned(),
        name: "phantom".to_owned(),
        phases: PHASES.map(str::to_owned).to_vec(),
        classes: vec!["hemangioma".to_owned(), "hcc".to_owned()],
        labels: [("background".to_owned(), 0), ("tumor".to_owned(), 1)].into(),
        intensity_unit: "simulated scanner units".to_owned(),
        source: Source {
            layout: "phantom".to_owned(),
            license: None,
            notes: notes.map(|(name, value)| (name.to_owned(), value)).into(),
        },
    }
}
