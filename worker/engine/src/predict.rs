//! New cases: what trained networks of one arm answer, together, for every slice of a case.
//!
//! Slices are prepared, normalised, batched and answered by the code that evaluates a held-out fold, so that one trial's
//! network gives its held-out cases the masks that it gave them in its study. Every slice is answered, also those that a
//! study with `healthy_fraction` below 1 leaves out.

use mtinet_data::{CaseVolumes, PlaneTransform};
use mtinet_domain::TrialKey;
use mtinet_domain::model::BnEval;
use mtinet_domain::prediction::{PredictedSlice, Request};
use mtinet_models::{ImageShape, Network};
use ndarray::{Array3, Axis};
use tch::nn::VarStore;
use tch::{Device, Tensor};

use crate::EngineError;
use crate::answers::{Answered, Answers};
use crate::evaluate::batch_size;
use crate::fold_data::normalised;
use crate::seeds::{self, Purpose};

/// Trained networks of one arm.
pub struct Ensemble {
    members: Vec<Member>,
    image_size: usize,
    spacing: f64,
    bn_eval: BnEval,
    device: Device,
}

struct Member {
    network: Box<dyn Network>,
    trial: TrialKey,
    normalisation: (f64, f64),
}

/// The answers for one case.
#[derive(Debug)]
pub struct Prediction {
    /// The mask on the canonical source grid [slices, rows, columns], where the arm segments.
    pub mask: Option<Array3<u8>>,
    /// All slices, from inferior to superior.
    pub slices: Vec<PredictedSlice>,
}

impl Ensemble {
    /// Builds the networks of a request and loads their weights.
    ///
    /// # Errors
    /// [`EngineError::Model`] for weights that cannot be read or do not fit the study's network.
    pub fn load(request: &Request, device: Device) -> Result<Self, EngineError> {
        let spec = &request.spec;
        let image_size = spec.train.image_size as usize;
        let image = ImageShape { phases: request.phases.len(), size: image_size };
        let mut members = Vec::with_capacity(request.members.len());
        for member in &request.members {
            let mut vs = VarStore::new(device);
            let arm = member.trial.arm;
            let network = mtinet_models::build(&vs.root(), arm, &spec.model, image, request.classes.len())?;
            mtinet_models::load_safetensors(&vs, &member.weights)?;
            vs.freeze();
            members.push(Member { network, trial: member.trial, normalisation: member.normalisation });
        }
        Ok(Self { members, image_size, spacing: request.spacing, bn_eval: spec.model.bn_eval, device })
    }

    /// Answers all slices of a case. `answered` is told how many more are done.
    ///
    /// # Errors
    /// [`EngineError::NoNumber`] where an answer is none, [`EngineError::Tch`] where libtorch fails.
    pub fn predict(
        &self,
        case: &str,
        volumes: &CaseVolumes,
        answered: &mut dyn FnMut(usize),
    ) -> Result<Prediction, EngineError> {
        let _no_grad = tch::no_grad_guard();
        let grid = volumes.grid();
        let transform = PlaneTransform::new(grid, self.spacing, self.image_size);
        let [depth, rows, columns] = grid.shape;
        let mut mask: Option<Array3<u8>> = None;
        let mut slices = Vec::with_capacity(depth);
        for first in (0..depth).step_by(batch_size(self.bn_eval)) {
            let batch: Vec<usize> = (first..depth.min(first + batch_size(self.bn_eval))).collect();
            let answers = self.ask(case, volumes, &transform, &batch)?;
            for (row, &z) in batch.iter().enumerate() {
                let predicted = answers.mask(row).map(|mask| transform.restore_mask(mask)).transpose()?;
                slices.push(slice(case, z, &answers, row, predicted.as_ref())?);
                if let Some(predicted) = predicted {
                    let whole = mask.get_or_insert_with(|| Array3::zeros((depth, rows, columns)));
                    whole.index_axis_mut(Axis(0), z).assign(&predicted);
                }
            }
            answered(batch.len());
        }
        Ok(Prediction { mask, slices })
    }

    fn ask(
        &self,
        case: &str,
        volumes: &CaseVolumes,
        transform: &PlaneTransform,
        batch: &[usize],
    ) -> Result<Answers, EngineError> {
        let pixels: Vec<f32> = batch.iter().flat_map(|&z| volumes.squares(transform, z)).flatten().collect();
        let side = self.image_size as i64;
        let shape = [batch.len() as i64, volumes.phases().len() as i64, side, side];
        let raw = Tensor::f_from_slice(&pixels)?.f_view(shape)?;
        let mut answered = Vec::with_capacity(self.members.len());
        for Member { network, trial, normalisation } in &self.members {
            let x = normalised(&raw, *normalisation).to_device(self.device);
            let seed = |&z: &usize| {
                let purpose = Purpose::Answer { case, slice: z as u64 };
                seeds::derive(trial.seed, trial.fold, purpose)
            };
            let outputs = network.predict(&x, &batch.iter().map(seed).collect::<Vec<_>>());
            answered.push(Answered { outputs, x, normalisation: *normalisation });
        }
        Answers::new(&answered)
    }
}

fn slice(
    case: &str,
    z: usize,
    answers: &Answers,
    row: usize,
    predicted: Option<&ndarray::Array2<u8>>,
) -> Result<PredictedSlice, EngineError> {
    let pixels = predicted.map(|mask| mask.iter().map(|&pixel| u64::from(pixel != 0)).sum::<u64>());
    let found = PredictedSlice {
        slice: u32::try_from(z).unwrap_or(u32::MAX),
        predicted_pixels: pixels,
        curve: answers.curve(row),
        mask_curve: answers.mask_curve(row).filter(|_| pixels.is_some_and(|pixels| pixels > 0)),
        probabilities: answers.probabilities(row),
    };
    let mut values = [&found.curve, &found.mask_curve, &found.probabilities].into_iter().flatten().flatten();
    let all_numbers = values.all(|value| value.is_finite());
    drop(values);
    if all_numbers && answers.mask_is_certain() {
        return Ok(found);
    }
    Err(EngineError::NoNumber { case: case.to_owned(), slice: z })
}
