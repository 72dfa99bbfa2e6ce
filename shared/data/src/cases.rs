//! New cases for trained networks: a folder of nnU-Net-named files, or a data set whose masks are not looked at.
//!
//! What is wrong with one case is that case's matter: the others are found all the same.

use std::path::{Path, PathBuf};

use crate::error::{DataError, Result};
use crate::grid::Grid;
use crate::import::nnunet::{CaseImages, scan_cases};
use crate::manifest::{Case, Dataset};
use crate::nifti_io::{self, Volume};
use crate::volumes::CaseVolumes;

/// The image files of one case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseInput {
    /// Its name.
    pub case: String,
    /// One file a phase, in the phases' order.
    pub images: Vec<PathBuf>,
    /// BLAKE3 of the files (hex) where a manifest pins them; else empty.
    pub hashes: Vec<String>,
    /// Index of the phase on whose grid a mask is written.
    pub reference: usize,
}

/// Cases that were found.
#[derive(Debug)]
pub struct FoundCases {
    /// Each by its name, in alphabetical order, with its files or what is wrong with it.
    pub cases: Vec<(String, Result<CaseInput>)>,
    /// Hash of the data set, where the directory is one.
    pub dataset_hash: Option<String>,
    /// Cases that the data set's manifest excludes.
    pub excluded: usize,
}

/// Finds the cases in `dir` for networks that know `phases`.
///
/// A directory with `dataset.toml` is a data set. Any other holds `CASE_000k.nii.gz`, itself or in `imagesTs` or
/// `imagesTr`; a `dataset.json` there says which channel is which phase, without one channel k is phase k.
///
/// # Errors
/// [`DataError`] where the directory cannot be read, holds no case, or its phases are not these.
pub fn find(dir: &Path, phases: &[String]) -> Result<FoundCases> {
    if dir.join("dataset.toml").exists() {
        return in_dataset(&Dataset::open(dir)?, phases);
    }
    let mut cases: Vec<_> = scan_cases(dir, phases)?
        .into_iter()
        .map(|CaseImages { case, images }| {
            let images = images.map(|images| CaseInput {
                case: case.clone(),
                images,
                hashes: Vec::new(),
                reference: reference(phases, REFERENCE),
            });
            (case, images)
        })
        .collect();
    cases.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(FoundCases { cases, dataset_hash: None, excluded: 0 })
}

/// The phase on whose grid an import takes masks to be drawn.
const REFERENCE: &str = "pv";

fn reference(phases: &[String], wanted: &str) -> usize {
    phases.iter().position(|phase| phase == wanted).unwrap_or(0)
}

fn in_dataset(dataset: &Dataset, phases: &[String]) -> Result<FoundCases> {
    if dataset.header.phases != phases {
        return Err(DataError::file(
            &dataset.dir,
            format!(
                "has the phases {:?}, and the networks were trained on {phases:?}, in this order",
                dataset.header.phases
            ),
        ));
    }
    let input = |case: &Case| -> Result<CaseInput> {
        let (mut images, mut hashes) = (Vec::new(), Vec::new());
        for phase in phases {
            let image = case.images.get(phase).ok_or_else(|| {
                DataError::case(
                    &case.case,
                    format!("has no image of phase `{phase}`; every case needs all of {phases:?}"),
                )
            })?;
            images.push(dataset.path(&image.path));
            hashes.push(image.blake3.clone());
        }
        let reference = reference(phases, &case.label.grid);
        Ok(CaseInput { case: case.case.clone(), images, hashes, reference })
    };
    let mut cases: Vec<_> = dataset.included().map(|case| (case.case.clone(), input(case))).collect();
    cases.sort_by(|a, b| a.0.cmp(&b.0));
    if cases.is_empty() {
        return Err(DataError::file(&dataset.dir, "has no case that is not excluded"));
    }
    let excluded = dataset.cases.len() - cases.len();
    Ok(FoundCases { cases, dataset_hash: Some(dataset.hash()), excluded })
}

impl CaseInput {
    /// The grid that a mask is written on, from the header of its file.
    ///
    /// # Errors
    /// As [`nifti_io::read_grid`].
    pub fn grid(&self) -> Result<Grid> {
        nifti_io::read_grid(&self.images[self.reference])
    }

    /// Reads all phases and makes sure that networks can be shown them.
    ///
    /// # Errors
    /// [`DataError::Case`] naming the phase for other grids and for voxels that are not finite, [`DataError::Changed`] for
    /// a file that is not the manifest's, and those of [`nifti_io::read`].
    pub fn load(&self, phases: &[String]) -> Result<CaseVolumes> {
        let owner = format!("phase `{}`", phases[self.reference]);
        let volumes =
            CaseVolumes::read(&self.case, phases, (&owner, self.grid()?), |phase| self.volume(phase))?;
        for (phase, volume) in phases.iter().zip(volumes.phases()) {
            let broken = volume.iter().filter(|value| !value.is_finite()).count();
            if broken > 0 {
                return Err(DataError::case(
                    &self.case,
                    format!(
                        "phase `{phase}` has {broken} voxels that are not finite; repair {}",
                        self.file(phase, phases)
                    ),
                ));
            }
        }
        Ok(volumes)
    }

    fn volume(&self, phase: usize) -> Result<Volume> {
        let path = &self.images[phase];
        let (volume, hash) = nifti_io::read_hashed(path)?;
        match self.hashes.get(phase) {
            Some(expected) if *expected != hash => {
                Err(DataError::Changed { case: self.case.clone(), path: path.clone() })
            }
            _ => Ok(volume),
        }
    }

    fn file(&self, phase: &str, phases: &[String]) -> String {
        let index = phases.iter().position(|name| name == phase).unwrap_or(0);
        self.images[index].display().to_string()
    }
}
