//! Images, true masks and predicted masks of the slices that the segmentation figures show, read from their files.
//!
//! What is not there is told in words in its place: a report may be written where the data set is not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mtinet_data::manifest::Dataset;
use mtinet_data::nifti_io;
use mtinet_domain::{Arm, TrialKey};
use ndarray::{Array2, Axis};

use super::png::windowed;
use super::subjects::{Chosen, choose};
use crate::report::results::{StudyResults, TrialOutcome};

/// Where images and masks lie.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The data set's directory; where absent, the one that the study was submitted with.
    pub dataset: Option<PathBuf>,
    /// Predicted masks, as `ARM/FOLD/SEED/CASE.nii.gz` below it.
    pub predictions: Option<PathBuf>,
}

/// What the segmentation figures show.
#[derive(Clone, Debug, Default)]
pub struct Pictures {
    /// In the order of the figure's rows.
    pub shown: Vec<Picture>,
    /// Why there is nothing, or less than there should be.
    pub problems: Vec<String>,
}

/// A slice with its truth and what each arm made of it.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Which slice, and why.
    pub chosen: Chosen,
    /// The phase shown: the one that the truth was drawn on.
    pub phase: String,
    /// The slice as grey values `[row, column]`, from anterior and from the patient's right.
    pub image: Array2<u8>,
    /// The true mask on the same grid; 0 is background.
    pub truth: Array2<u8>,
    /// Millimetres from row to row and from column to column.
    pub spacing: [f64; 2],
    /// The predicted mask of each arm that segments, or why there is none.
    pub predicted: BTreeMap<Arm, Result<Array2<u8>, String>>,
}

/// Trials whose predicted masks the segmentation figures show.
pub fn trials_shown(results: &StudyResults) -> Vec<TrialKey> {
    let mut keys: Vec<TrialKey> =
        choose(results).iter().flat_map(|chosen| segmenting(results, chosen)).collect();
    keys.sort();
    keys.dedup();
    keys
}

/// The trials of all segmenting arms that held `chosen` out, of the study's first seed.
fn segmenting(results: &StudyResults, chosen: &Chosen) -> Vec<TrialKey> {
    let fold = chosen.fold;
    let Some(&seed) = results.spec.seeds.first() else { return Vec::new() };
    let arms = results.spec.arms.iter().copied().filter(|arm| arm.tasks().seg);
    arms.map(|arm| TrialKey { arm, fold, seed }).collect()
}

impl Pictures {
    /// Chooses the subjects and reads their slices. Nothing here fails: what cannot be read is a problem to be told.
    pub fn read(results: &StudyResults, sources: &Sources) -> Self {
        let chosen = choose(results);
        if chosen.is_empty() {
            return Self::default();
        }
        let directory = sources.dataset.clone().unwrap_or_else(|| PathBuf::from(&results.dataset.path));
        let dataset = match open(results, &directory) {
            Ok(dataset) => dataset,
            Err(problem) => return Self { shown: Vec::new(), problems: vec![problem] },
        };
        let mut pictures = Self::default();
        for chosen in chosen {
            let name = chosen.case.clone();
            match read(results, &dataset, sources.predictions.as_deref(), chosen) {
                Ok(picture) => pictures.shown.push(picture),
                Err(error) => pictures.problems.push(format!("Case {name} is not shown: {error}.")),
            }
        }
        pictures
    }
}

fn open(results: &StudyResults, directory: &Path) -> Result<Dataset, String> {
    let how = "mtinet report STUDY --out DIR --dataset DIR names the directory of the data set";
    let dataset = Dataset::open(directory).map_err(|error| {
        format!("The images are not shown: {error}. Looked in {}; {how}.", directory.display())
    })?;
    if dataset.hash() == results.dataset.hash {
        return Ok(dataset);
    }
    Err(format!(
        "The images are not shown: {} holds another data set or another split than the one that the study is pinned to \
         (BLAKE3 {} instead of {}); {how}.",
        directory.display(),
        dataset.hash(),
        results.dataset.hash
    ))
}

fn read(
    results: &StudyResults,
    dataset: &Dataset,
    predictions: Option<&Path>,
    chosen: Chosen,
) -> Result<Picture, String> {
    let words = |error: mtinet_data::DataError| error.to_string();
    let case = dataset.case(&chosen.case).map_err(words)?;
    let phase = case.label.grid.clone();
    let (truth, grid) = dataset.load_mask(case).map_err(words)?;
    let volume = dataset.load_image(case, &phase).map_err(words)?;
    let z = chosen.slice as usize;
    if volume.data.dim() != truth.dim() || z >= truth.dim().0 {
        return Err(format!("its mask does not lie on the grid of phase `{phase}`, or has no slice {z}"));
    }
    let predicted = segmenting(results, &chosen)
        .into_iter()
        .map(|key| (key.arm, predicted(results, predictions, key, &chosen, truth.dim())))
        .collect();
    Ok(Picture {
        phase,
        image: windowed(&volume.data.index_axis(Axis(0), z)),
        truth: truth.index_axis(Axis(0), z).to_owned(),
        spacing: [grid.spacing[1], grid.spacing[2]],
        predicted,
        chosen,
    })
}

fn predicted(
    results: &StudyResults,
    predictions: Option<&Path>,
    key: TrialKey,
    chosen: &Chosen,
    shape: (usize, usize, usize),
) -> Result<Array2<u8>, String> {
    let outcome = results.trials.iter().find(|trial| trial.key == key).map(|trial| &trial.outcome);
    match outcome {
        Some(TrialOutcome::Done(evaluated)) if evaluated.predictions.is_none() => {
            return Err(format!("{key} kept no masks"));
        }
        Some(TrialOutcome::Done(_)) => {}
        Some(other) => return Err(format!("{key} {}", other.word())),
        None => return Err(format!("{key} is not part of the study")),
    }
    let Some(predictions) = predictions else { return Err(format!("{key}: masks were not fetched")) };
    let path = predictions.join(key.to_string()).join(format!("{}.nii.gz", chosen.case));
    let volume = nifti_io::read(&path).map_err(|error| format!("{key}: {error}"))?;
    if volume.data.dim() != shape {
        return Err(format!("{key}: its mask has another shape than the truth"));
    }
    Ok(volume.data.index_axis(Axis(0), chosen.slice as usize).mapv(|value| u8::from(value != 0.0)))
}
