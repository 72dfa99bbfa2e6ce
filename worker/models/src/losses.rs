//! The losses of MODEL.md 3.8 to 3.11, without a single wait for the device.
//!
//! Everything is in normalised units. Slices without tumour take part in the segmentation loss only.

pub use mtinet_domain::model::LossWeights;
use mtinet_domain::model::{AdvMode, Arm, ModelConfig, RegReduce, TimMask};
use tch::{Device, Kind, Reduction, Tensor};

use crate::{Denoising, Discriminator, Outputs};

/// The truth for one batch, on the device of the network.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    /// Tumour mask [N, 1, H, W], f32 in {0, 1}.
    pub mask: &'a Tensor,
    /// Normalised mean intensities inside the mask [N, phases]; rows without tumour hold any finite number.
    pub curve: &'a Tensor,
    /// Class [N], i64; rows without tumour hold any valid class.
    pub class: &'a Tensor,
    /// Indices [T] of the rows that have a tumour, i64; may be empty.
    pub tumour: &'a Tensor,
}

/// The loss of a generator step. The terms are unweighted and detached; those that do not apply are `None`.
#[derive(Debug)]
pub struct LossTerms {
    /// The weighted sum, to be differentiated.
    pub total: Tensor,
    /// Binary cross-entropy of the mask; for a diffusion network the error of the noise it found.
    pub seg: Option<Tensor>,
    /// Soft Dice loss.
    pub dice: Option<Tensor>,
    /// Absolute error of the curve.
    pub reg: Option<Tensor>,
    /// Cross-entropy of the class.
    pub cls: Option<Tensor>,
    /// Task interaction loss.
    pub tim: Option<Tensor>,
    /// Adversarial loss.
    pub adv: Option<Tensor>,
}

/// What an arm is trained for: loss weights and the knobs of the losses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Objective {
    /// Weights; the terms that the arm lacks are 0.
    pub weights: LossWeights,
    tim_mask: TimMask,
    reg_reduce: RegReduce,
}

impl Objective {
    /// The objective of `arm`; weights of terms that the arm lacks are ignored.
    pub fn new(arm: Arm, cfg: &ModelConfig, weights: LossWeights) -> Self {
        Self { weights: weights.for_arm(arm), tim_mask: cfg.tim_mask, reg_reduce: cfg.reg_reduce }
    }

    /// The loss of the network (MODEL.md 3.11), for `outputs` of the images `x` [N, phases, H, W].
    ///
    /// `discriminator` is used with its current values and gets no gradient. A batch without tumour has only the
    /// segmentation terms; where the arm has none of those either, `total` is 0 with zero gradients.
    pub fn generator_loss(
        &self,
        outputs: &Outputs,
        targets: &Targets,
        x: &Tensor,
        discriminator: Option<&Discriminator>,
    ) -> LossTerms {
        let mut sum = WeightedSum(None);
        let [seg, dice] = self.mask_terms(outputs, targets.mask, &mut sum);
        let [reg, cls, tim, adv] = if targets.tumour.size()[0] > 0 {
            self.tumour_terms(outputs, targets, x, discriminator, &mut sum)
        } else {
            [const { None }; 4]
        };
        let total = sum.0.unwrap_or_else(|| zero_with_gradients(outputs));
        LossTerms { total, seg, dice, reg, cls, tim, adv }
    }

    /// Segmentation and Dice over all slices. A diffusion network learns to find the noise that was added, and its Dice has
    /// squares in the denominator (MODEL.md 4.4).
    fn mask_terms(&self, outputs: &Outputs, mask: &Tensor, sum: &mut WeightedSum) -> [Option<Tensor>; 2] {
        let w = &self.weights;
        let Some(seg) = outputs.seg.as_ref().map(|seg| seg.to_kind(Kind::Float)) else {
            return [const { None }; 2];
        };
        match &outputs.denoising {
            Some(Denoising { found, noise: Some(noise) }) => [
                sum.add(w.seg, || noise_error(found, noise)),
                sum.add(w.dice, || squared_dice(&seg.sigmoid(), mask)),
            ],
            _ => [sum.add(w.seg, || bce(&seg, mask)), sum.add(w.dice, || soft_dice(&seg.sigmoid(), mask))],
        }
    }

    /// Regression, classification, interaction and adversarial terms, over the slices with tumour.
    fn tumour_terms(
        &self,
        outputs: &Outputs,
        targets: &Targets,
        x: &Tensor,
        discriminator: Option<&Discriminator>,
        sum: &mut WeightedSum,
    ) -> [Option<Tensor>; 4] {
        let Self { weights: w, tim_mask, reg_reduce } = self;
        let rows = |t: &Tensor| rows(t, targets.tumour);
        let floats = |t: &Option<Tensor>| t.as_ref().map(|t| rows(t).to_kind(Kind::Float));
        let (curve, cls) = (floats(&outputs.curve), floats(&outputs.cls));
        let (true_curve, class) = (rows(targets.curve), rows(targets.class));
        let curve_error = |curve: &Tensor| reduced(&(curve - &true_curve).abs(), *reg_reduce);
        let mut terms = [const { None }; 4];
        terms[0] = match (floats(&outputs.map), &curve) {
            (Some(map), _) => {
                sum.add(w.reg, || reduced(&map_error(&map, &rows(x), &rows(targets.mask)), *reg_reduce))
            }
            (None, Some(curve)) => sum.add(w.reg, || curve_error(curve)),
            (None, None) => None,
        };
        terms[1] = cls.as_ref().and_then(|cls| sum.add(w.cls, || cls.cross_entropy_for_logits(&class)));
        if let Some(auxiliary) = floats(&outputs.auxiliary) {
            // Counted in the sum; the terms that are reported are those of the answer itself.
            if curve.is_some() {
                sum.add(w.reg * AUXILIARY_WEIGHT, || curve_error(&auxiliary));
            } else {
                sum.add(w.cls * AUXILIARY_WEIGHT, || auxiliary.cross_entropy_for_logits(&class));
            }
        }
        if let Some(seg) = floats(&outputs.seg) {
            terms[2] = sum.add(w.tim, || {
                let mask = interaction_mask(&seg, *tim_mask);
                (tim(&mask, &rows(x)) - &true_curve).abs().mean(None)
            });
        }
        if let (Some(curve), Some(cls), Some(d)) = (&curve, &cls, discriminator) {
            let condition = floats(&outputs.condition);
            terms[3] = sum.add(w.adv, || adversarial(&d.frozen(), curve, cls, condition.as_ref()));
        }
        terms
    }
}

/// Weight of an auxiliary head's loss beside that of the answer, as in torchvision's training recipe.
const AUXILIARY_WEIGHT: f64 = 0.4;

/// The loss of the discriminator: the mean of BCE(D(real), 1) and BCE(D(fake), 0) over the tumour rows.
///
/// `outputs` are detached, so the network gets no gradient. `None` without tumour rows, or where the network lacks the
/// curve or the class.
pub fn discriminator_loss(d: &Discriminator, outputs: &Outputs, targets: &Targets) -> Option<Tensor> {
    let (curve, cls) = (outputs.curve.as_ref()?, outputs.cls.as_ref()?);
    if targets.tumour.size()[0] == 0 {
        return None;
    }
    let rows = |t: &Tensor| rows(&t.detach(), targets.tumour);
    let (curve, truth) = (rows(curve).to_kind(Kind::Float), rows(targets.curve));
    let classes = smooth_one_hot(&rows(targets.class), cls.size()[1], d.real_smooth);
    // Both go through D as one batch: its layers are small, and each call costs more than what it computes.
    let both = |real: &Tensor, fake: &Tensor| Tensor::cat(&[real, fake], 0);
    let condition = outputs.condition.as_ref().map(|condition| rows(condition).to_kind(Kind::Float));
    let condition = condition.map(|condition| both(&condition, &condition));
    let probs = rows(cls).softmax(-1, Kind::Float);
    let answers = d.forward(&both(&truth, &curve), &both(&classes, &probs), condition.as_ref());
    let labels = both(&curve.ones_like(), &curve.zeros_like()).narrow(1, 0, 1);
    // The mean over both halves, which are equally many, is half of the sum of their means.
    Some(bce(&answers, &labels))
}

/// Task interaction module (MODEL.md 3.8): the mean of each phase of `x` [N, phases, H, W] under `mask_prob`
/// [N, 1, H, W], as [N, phases].
pub fn tim(mask_prob: &Tensor, x: &Tensor) -> Tensor {
    let inside = (mask_prob * x).sum_dim_intlist([2, 3].as_slice(), false, Kind::Float);
    inside / (mask_prob.sum_dim_intlist([2, 3].as_slice(), false, Kind::Float) + 1e-6)
}

/// The rows `indices` [T] of `t`.
///
/// On CUDA the gradient of `index_select` checks its indices once more where a study is deterministic, for which releases of
/// libtorch waited for the device; that of `index` takes it from forward that they are good. On the CPU the former is faster.
fn rows(t: &Tensor, indices: &Tensor) -> Tensor {
    if t.device().is_cuda() { t.index(&[Some(indices)]) } else { t.index_select(0, indices) }
}

/// Sum of weight x term over the terms with a weight.
struct WeightedSum(Option<Tensor>);

impl WeightedSum {
    /// Adds a term and returns its detached value; a term without weight is not computed.
    fn add(&mut self, weight: f64, term: impl FnOnce() -> Tensor) -> Option<Tensor> {
        if weight == 0.0 {
            return None;
        }
        let term = term();
        let value = term.detach();
        let weighted = term * weight;
        self.0 = Some(match self.0.take() {
            Some(sum) => sum + weighted,
            None => weighted,
        });
        Some(value)
    }
}

fn bce(logits: &Tensor, target: &Tensor) -> Tensor {
    logits.binary_cross_entropy_with_logits::<Tensor>(target, None, None, Reduction::Mean)
}

/// 1 - Dice per sample, with 1 added above and below so that an empty answer to an empty mask costs nothing.
fn soft_dice(prob: &Tensor, mask: &Tensor) -> Tensor {
    let sum = |t: &Tensor| t.sum_dim_intlist([1, 2, 3].as_slice(), false, Kind::Float);
    let dice = (sum(&(prob * mask)) * 2.0 + 1.0) / (sum(prob) + sum(mask) + 1.0);
    (-dice + 1.0).mean(None)
}

/// Absolute errors [T, phases] as one number.
fn reduced(error: &Tensor, reduce: RegReduce) -> Tensor {
    match reduce {
        RegReduce::Mean => error.mean(None),
        RegReduce::Sum => error.sum_dim_intlist(1, false, Kind::Float).mean(None),
    }
}

/// Mean absolute error of a map [T, phases, H, W] inside the mask [T, 1, H, W], as [T, phases] (MODEL.md 3.9).
fn map_error(map: &Tensor, x: &Tensor, mask: &Tensor) -> Tensor {
    let inside = ((map - x).abs() * mask).sum_dim_intlist([2, 3].as_slice(), false, Kind::Float);
    inside / mask.sum_dim_intlist([2, 3].as_slice(), false, Kind::Float).clamp_min(1.0)
}

/// The mean squared error of each phase's answer, summed over the phases.
fn noise_error(found: &Tensor, noise: &Tensor) -> Tensor {
    let phases = found.size()[1] as f64;
    (found.to_kind(Kind::Float) - noise).square().mean(None) * phases
}

/// 1 - Dice with squares in the denominator, per sample and then the mean, as MONAI's `squared_pred`.
fn squared_dice(probs: &Tensor, mask: &Tensor) -> Tensor {
    const SMOOTH: f64 = 1e-5;
    let sum = |t: Tensor| t.sum_dim_intlist([1, 2, 3].as_slice(), false, Kind::Float);
    let both = sum(probs * mask) * 2.0 + SMOOTH;
    let each = sum(probs.square()) + sum(mask.square()) + SMOOTH;
    (-(both / each) + 1.0).mean(None)
}

fn interaction_mask(seg_logits: &Tensor, kind: TimMask) -> Tensor {
    let soft = seg_logits.sigmoid();
    match kind {
        TimMask::Soft => soft,
        // The value is the hard mask, the gradient is that of the soft one.
        TimMask::Ste => &soft + (soft.ge(0.5).to_kind(Kind::Float) - &soft).detach(),
    }
}

fn adversarial(d: &Discriminator, curve: &Tensor, cls_logits: &Tensor, condition: Option<&Tensor>) -> Tensor {
    let fake = d.forward(curve, &cls_logits.softmax(-1, Kind::Float), condition);
    match d.adv_mode {
        AdvMode::NonSaturating => bce(&fake, &fake.ones_like()),
        AdvMode::Saturating => -bce(&fake, &fake.zeros_like()),
    }
}

/// One-hot rows with 1 - e at the class and e / (K - 1) elsewhere. `one_hot` itself would wait for the device.
fn smooth_one_hot(class: &Tensor, classes: i64, e: f64) -> Tensor {
    let other = e / (classes - 1) as f64;
    let columns = Tensor::arange(classes, (Kind::Int64, class.device()));
    class.unsqueeze(1).eq_tensor(&columns).to_kind(Kind::Float) * (1.0 - e - other) + other
}

fn zero_with_gradients(outputs: &Outputs) -> Tensor {
    let answers = [&outputs.seg, &outputs.curve, &outputs.cls].into_iter().flatten();
    answers
        .map(|t| t.sum(Kind::Float) * 0.0)
        .reduce(|a, b| a + b)
        .unwrap_or_else(|| Tensor::zeros([], (Kind::Float, Device::Cpu)))
}
