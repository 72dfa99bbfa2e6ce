//! The held-out fold: what the trained network answers for every slice, measured as MODEL.md 7 says.
//!
//! Masks are compared on the source grid, where a predicted mask is also written: a number in a table can be computed
//! again from the files.

use std::path::{Path, PathBuf};

use mtinet_data::{Grid, nifti_io};
use mtinet_domain::TrialKey;
use mtinet_domain::evaluation::{SliceResult, TrialEvaluation};
use mtinet_domain::metrics::Overlap;
use mtinet_domain::model::BnEval;
use mtinet_models::Network;
use ndarray::{Array2, Array3, Axis};
use tch::Device;

use crate::EngineError;
use crate::answers::{Answered, Answers};
use crate::fold_data::FoldData;
use crate::seeds::{self, Purpose};

/// Slices that go through the network at once.
const BATCH: usize = 16;

/// How many slices to evaluate at once. With running statistics a slice's answer does not depend on its neighbours;
/// with `bn_eval = "batch"` it must not either, so each is a batch of its own (MODEL.md 3.12, H1).
pub(crate) fn batch_size(bn_eval: BnEval) -> usize {
    match bn_eval {
        BnEval::Running => BATCH,
        BnEval::Batch => 1,
    }
}

/// The predicted masks of one case on its canonical source grid [slices, rows, columns].
pub(crate) struct PredictedCase {
    case: String,
    mask: Array3<u8>,
    grid: Grid,
}

/// Evaluates the held-out slices; also the predicted masks, where the arm segments.
///
/// An answer that starts from noise (EI-DDPM) starts from that of the trial's seed, fold and slice: it is the same
/// however often and in whatever batches it is asked for.
///
/// `working` is called before each batch.
pub(crate) fn evaluate(
    network: &dyn Network,
    data: &FoldData,
    device: Device,
    bn_eval: BnEval,
    trial: TrialKey,
    working: &dyn Fn(),
) -> Result<(TrialEvaluation, Vec<PredictedCase>), EngineError> {
    let _no_grad = tch::no_grad_guard();
    let mut slices = Vec::with_capacity(data.held_out().len());
    let mut cases: Vec<PredictedCase> = Vec::new();
    let mut truth = CaseTruth::default();
    for chunk in data.held_out().chunks(batch_size(bn_eval)) {
        working();
        let batch = data.batch(chunk, device)?;
        let seeds: Vec<u64> = chunk.iter().map(|&slice| answer_seed(data, slice, trial)).collect();
        let outputs = network.predict(&batch.x, &seeds);
        let answers = Answers::new(&[Answered { outputs, x: batch.x, normalisation: data.normalisation() }])?;
        for (row, &slice) in chunk.iter().enumerate() {
            let truth = truth.of(data, slice)?;
            let predicted = match answers.mask(row) {
                Some(mask) => Some(data.cache().restore_mask(slice, mask)?),
                None => None,
            };
            slices.push(result(data, slice, &answers, row, predicted.as_ref(), truth));
            if let Some(predicted) = predicted {
                remember(&mut cases, data, slice, &predicted, truth);
            }
        }
    }
    let header = &data.dataset().header;
    let evaluation = TrialEvaluation {
        phases: header.phases.clone(),
        classes: header.classes.clone(),
        normalisation: data.normalisation(),
        spacing: Some(data.cache().spacing()),
        slices,
        reference: data.reference(),
    };
    Ok((evaluation, cases))
}

fn answer_seed(data: &FoldData, slice: usize, trial: TrialKey) -> u64 {
    let entry = &data.cache().slices()[slice];
    seeds::derive(trial.seed, trial.fold, Purpose::Answer { case: &entry.case, slice: entry.z as u64 })
}

/// Writes the predicted masks of each case as one NIfTI file on the source grid, into `dir`.
pub(crate) fn write_predictions(dir: &Path, cases: &[PredictedCase]) -> Result<Vec<PathBuf>, EngineError> {
    let mut files = Vec::with_capacity(cases.len());
    for PredictedCase { case, mask, grid } in cases {
        let path = dir.join(format!("{case}.nii.gz"));
        nifti_io::write_mask(&path, mask, grid)?;
        files.push(path);
    }
    Ok(files)
}

/// The drawn masks of the case that was asked for last: the slices of a case come one after another.
#[derive(Default)]
struct CaseTruth(Option<(String, Array3<u8>, Grid)>);

impl CaseTruth {
    fn of(&mut self, data: &FoldData, slice: usize) -> Result<&(String, Array3<u8>, Grid), EngineError> {
        let case = &data.cache().slices()[slice].case;
        let kept = self.0.take().filter(|(kept, ..)| kept == case);
        let loaded = match kept {
            Some(kept) => kept,
            None => {
                let (mask, grid) = data.cache().source_masks(case, data.dataset())?;
                (case.clone(), mask, grid)
            }
        };
        Ok(self.0.insert(loaded))
    }
}

fn remember(
    cases: &mut Vec<PredictedCase>,
    data: &FoldData,
    slice: usize,
    predicted: &Array2<u8>,
    (case, truth, grid): &(String, Array3<u8>, Grid),
) {
    if cases.last().is_none_or(|last| &last.case != case) {
        cases.push(PredictedCase {
            case: case.clone(),
            mask: Array3::zeros(truth.dim()),
            grid: grid.clone(),
        });
    }
    if let Some(last) = cases.last_mut() {
        last.mask.index_axis_mut(Axis(0), data.cache().slices()[slice].z).assign(predicted);
    }
}

fn result(
    data: &FoldData,
    slice: usize,
    answers: &Answers,
    row: usize,
    predicted: Option<&Array2<u8>>,
    (_, truth, _): &(String, Array3<u8>, Grid),
) -> SliceResult {
    let entry = &data.cache().slices()[slice];
    let truth = truth.index_axis(Axis(0), entry.z);
    let overlap = predicted.map(|predicted| Overlap::count(predicted.iter().copied(), truth.iter().copied()));
    let tumour = entry.class.is_some();
    SliceResult {
        subject: entry.subject.clone(),
        case: entry.case.clone(),
        slice: u32::try_from(entry.z).unwrap_or(u32::MAX),
        class: entry.class,
        truth_pixels: truth.iter().map(|&pixel| u64::from(pixel != 0)).sum(),
        predicted_pixels: overlap.map(|overlap| overlap.predicted),
        dice: overlap.filter(|_| tumour).and_then(Overlap::dice),
        iou: overlap.filter(|_| tumour).and_then(Overlap::iou),
        curve: data.curve(slice),
        predicted_curve: answers.curve(row).filter(|_| tumour),
        mask_curve: answers
            .mask_curve(row)
            .filter(|_| tumour && overlap.is_some_and(|overlap| overlap.predicted > 0)),
        probabilities: answers.probabilities(row).filter(|_| tumour),
    }
}
