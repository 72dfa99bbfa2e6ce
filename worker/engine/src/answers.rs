//! A batch's answers on the host: of one network for the held-out fold, of several for new cases.
//!
//! The members of an ensemble are averaged where their answers mean the same: tumour probabilities of pixels (then
//! thresholded), curves in raw intensity, class probabilities. With one member, nothing is changed by that.

use mtinet_models::Outputs;
use mtinet_models::losses::tim;
use tch::{Device, Kind, Tensor};

use crate::EngineError;

/// What one network answered.
pub(crate) struct Answered {
    /// Its outputs.
    pub(crate) outputs: Outputs,
    /// What it was shown, normalised [N, phases, S, S].
    pub(crate) x: Tensor,
    /// Mean and deviation of that, raw intensity.
    pub(crate) normalisation: (f64, f64),
}

/// A batch's answers, in raw units.
pub(crate) struct Answers {
    mask: Option<Vec<u8>>,
    /// Whether the probabilities behind the mask are numbers; what is none would pass for "no tumour".
    mask_is_certain: bool,
    pixels: usize,
    curve: Option<Rows>,
    mask_curve: Option<Rows>,
    probabilities: Option<Rows>,
}

/// A matrix, row by row.
struct Rows {
    values: Vec<f64>,
    columns: usize,
}

impl Answers {
    /// Of at least one network.
    pub(crate) fn new(answered: &[Answered]) -> Result<Self, EngineError> {
        let Some(first) = answered.first() else {
            return Err(EngineError::Fold("no network was asked".to_owned()));
        };
        let probability =
            mean(answered, |one| Some(one.outputs.seg.as_ref()?.sigmoid().to_kind(Kind::Double)));
        let sum = probability.as_ref().map(|probability| f64::try_from(probability.sum(Kind::Double)));
        let mask_is_certain = sum.transpose()?.is_none_or(f64::is_finite);
        let mask = probability.map(|probability| probability.ge(0.5));
        let curve = mean(answered, |one| Some(raw(one.outputs.curve.as_ref()?, one.normalisation)));
        let probabilities = mean(answered, |one| Some(one.outputs.cls.as_ref()?.softmax(-1, Kind::Double)));
        // The mean under a mask is the same in whichever unit it is taken.
        let mask_curve =
            mask.as_ref().map(|mask| raw(&tim(&mask.to_kind(Kind::Float), &first.x), first.normalisation));
        let size = first.x.size();
        Ok(Self {
            mask: mask
                .map(|mask| Vec::try_from(mask.to_kind(Kind::Uint8).to_device(Device::Cpu).reshape([-1])))
                .transpose()?,
            mask_is_certain,
            pixels: (size[2] * size[3]) as usize,
            curve: curve.as_ref().map(Rows::new).transpose()?,
            mask_curve: mask_curve.as_ref().map(Rows::new).transpose()?,
            probabilities: probabilities.as_ref().map(Rows::new).transpose()?,
        })
    }

    /// The mask of an image [S x S] on the network's grid.
    pub(crate) fn mask(&self, row: usize) -> Option<&[u8]> {
        Some(&self.mask.as_ref()?[row * self.pixels..(row + 1) * self.pixels])
    }

    /// Whether all tumour probabilities of the batch are numbers.
    pub(crate) fn mask_is_certain(&self) -> bool {
        self.mask_is_certain
    }

    /// The curve of an image.
    pub(crate) fn curve(&self, row: usize) -> Option<Vec<f64>> {
        self.curve.as_ref().map(|rows| rows.row(row))
    }

    /// The curve that an image has under its mask; without meaning where that is empty.
    pub(crate) fn mask_curve(&self, row: usize) -> Option<Vec<f64>> {
        self.mask_curve.as_ref().map(|rows| rows.row(row))
    }

    /// The class probabilities of an image.
    pub(crate) fn probabilities(&self, row: usize) -> Option<Vec<f64>> {
        self.probabilities.as_ref().map(|rows| rows.row(row))
    }
}

/// A normalised curve in raw intensity.
fn raw(curve: &Tensor, (mean, std): (f64, f64)) -> Tensor {
    curve.to_kind(Kind::Double) * std + mean
}

/// The mean of an answer that all members have.
fn mean(answered: &[Answered], of: impl Fn(&Answered) -> Option<Tensor>) -> Option<Tensor> {
    let mut sum: Option<Tensor> = None;
    for one in answered {
        let value = of(one)?;
        sum = Some(match sum {
            Some(sum) => sum + value,
            None => value,
        });
    }
    sum.map(|sum| sum / answered.len() as f64)
}

impl Rows {
    fn new(matrix: &Tensor) -> Result<Self, EngineError> {
        let columns = matrix.size2()?.1 as usize;
        let values = Vec::try_from(matrix.to_device(Device::Cpu).to_kind(Kind::Double).reshape([-1]))?;
        Ok(Self { values, columns })
    }

    fn row(&self, row: usize) -> Vec<f64> {
        self.values[row * self.columns..(row + 1) * self.columns].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: [i64; 4] = [1, 1, 1, 2];

    fn answered(seg: [f32; 2], curve: f32, cls: [f32; 2], (mean, std): (f64, f64)) -> Answered {
        let tensor = |values: &[f32], shape: &[i64]| Tensor::from_slice(values).reshape(shape);
        let outputs = Outputs {
            seg: Some(tensor(&seg, &IMAGE)),
            curve: Some(tensor(&[curve], &[1, 1])),
            cls: Some(tensor(&cls, &[1, 2])),
            ..Outputs::default()
        };
        // Raw intensities 10 and 30 in either unit.
        let x = (tensor(&[10.0, 30.0], &IMAGE) - mean) / std;
        Answered { outputs, x, normalisation: (mean, std) }
    }

    #[test]
    fn probabilities_are_averaged_and_not_logits_or_votes() {
        // One is sure of the first pixel, two doubt it a little: their mean probability is above one half, that of
        // their votes is not. Of the second pixel the mean logit is above zero, the mean probability below one half.
        let one = answered([4.0, 9.0], 1.0, [0.0, 2.0_f32.ln()], (0.0, 1.0));
        let two = answered([-0.1, -3.0], 1.0, [0.0, 0.0], (10.0, 2.0));
        let three = answered([-0.1, -3.0], 4.0, [2.0_f32.ln(), 0.0], (0.0, 1.0));
        let answers = Answers::new(&[one, two, three]).unwrap();
        assert_eq!(answers.mask(0), Some([1, 0].as_slice()));
        // 1, 12 and 4 in raw intensity.
        let curve = answers.curve(0).unwrap();
        assert!((curve[0] - 17.0 / 3.0).abs() < 1e-6, "{curve:?}");
        let probabilities = answers.probabilities(0).unwrap();
        assert!(probabilities.iter().all(|p| (p - 0.5).abs() < 1e-6), "{probabilities:?}");
        let under = answers.mask_curve(0).unwrap();
        assert!((under[0] - 10.0).abs() < 1e-3, "{under:?}");
    }

    #[test]
    fn a_mask_of_what_is_no_number_is_not_certain() {
        assert!(
            Answers::new(&[answered([9.0, -9.0], 1.0, [0.0, 0.0], (0.0, 1.0))]).unwrap().mask_is_certain()
        );
        let broken = answered([f32::NAN, 1.0], 1.0, [0.0, 0.0], (0.0, 1.0));
        assert!(!Answers::new(&[broken]).unwrap().mask_is_certain());
    }

    #[test]
    fn an_answer_that_the_arm_has_not_is_none() {
        let mut one = answered([1.0, 1.0], 1.0, [0.0, 0.0], (0.0, 1.0));
        one.outputs = Outputs { seg: None, curve: None, ..one.outputs };
        let answers = Answers::new(&[one]).unwrap();
        assert!(answers.mask(0).is_none() && answers.curve(0).is_none() && answers.mask_curve(0).is_none());
        assert_eq!(answers.probabilities(0), Some(vec![0.5, 0.5]));
        assert!(Answers::new(&[]).is_err());
    }
}
