//! The losses of MODEL.md 3.8 to 3.11, without a single wait for the device.
//!
//! Everything is in normalised units. Slices without tumour take part in the segmentation loss only.

pub use mtinet_domain::model::LossWeights;
use mtinet_domain::model::{AdvMode, Arm, ModelConfig, RegReduce, TimMask};
use tch::{Device, Kind, Reduction, Tensor};

use crate::{Discriminator, Outputs};

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
    /// Binary cross-entropy of the mask.
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
        let Self { weights: w, tim_mask, reg_reduce } = *self;
        let mut sum = WeightedSum(None);
        let mut terms = [const { None }; 6];
        let seg = outputs.seg.as_ref().map(|seg| seg.to_kind(Kind::Float));
        if let Some(seg) = &seg {
            terms[0] = sum.add(w.seg, || bce(seg, targets.mask));
            terms[1] = sum.add(w.dice, || soft_dice(&seg.sigmoid(), targets.mask));
        }
        if targets.tumour.size()[0] > 0 {
            let rows = |t: &Tensor| t.index_select(0, targets.tumour);
            let curve = outputs.curve.as_ref().map(|curve| rows(curve).to_kind(Kind::Float));
            let cls = outputs.cls.as_ref().map(|cls| rows(cls).to_kind(Kind::Float));
            let true_curve = rows(targets.curve);
            if let Some(curve) = &curve {
                terms[2] = sum.add(w.reg, || curve_error(curve, &true_curve, reg_reduce));
            }
            if let Some(cls) = &cls {
                terms[3] = sum.add(w.cls, || cls.cross_entropy_for_logits(&rows(targets.class)));
            }
            if let Some(seg) = &seg {
                terms[4] = sum.add(w.tim, || {
                    let mask = interaction_mask(&rows(seg), tim_mask);
                    (tim(&mask, &rows(x)) - &true_curve).abs().mean(None)
                });
            }
            if let (Some(curve), Some(cls), Some(d)) = (&curve, &cls, discriminator) {
                terms[5] = sum.add(w.adv, || adversarial(&d.frozen(), curve, cls));
            }
        }
        let total = sum.0.unwrap_or_else(|| zero_with_gradients(outputs));
        let [seg, dice, reg, cls, tim, adv] = terms;
        LossTerms { total, seg, dice, reg, cls, tim, adv }
    }
}

/// The loss of the discriminator: the mean of BCE(D(real), 1) and BCE(D(fake), 0) over the tumour rows.
///
/// `outputs` are detached, so the network gets no gradient. `None` without tumour rows, or where the network lacks the
/// curve or the class.
pub fn discriminator_loss(d: &Discriminator, outputs: &Outputs, targets: &Targets) -> Option<Tensor> {
    let (curve, cls) = (outputs.curve.as_ref()?, outputs.cls.as_ref()?);
    if targets.tumour.size()[0] == 0 {
        return None;
    }
    let rows = |t: &Tensor| t.detach().index_select(0, targets.tumour);
    let fake = d.forward(&rows(curve).to_kind(Kind::Float), &rows(cls).softmax(-1, Kind::Float));
    let truth = smooth_one_hot(&rows(targets.class), cls.size()[1], d.real_smooth);
    let real = d.forward(&rows(targets.curve), &truth);
    Some((bce(&real, &real.ones_like()) + bce(&fake, &fake.zeros_like())) * 0.5)
}

/// Task interaction module (MODEL.md 3.8): the mean of each phase of `x` [N, phases, H, W] under `mask_prob`
/// [N, 1, H, W], as [N, phases].
pub fn tim(mask_prob: &Tensor, x: &Tensor) -> Tensor {
    let inside = (mask_prob * x).sum_dim_intlist([2, 3].as_slice(), false, Kind::Float);
    inside / (mask_prob.sum_dim_intlist([2, 3].as_slice(), false, Kind::Float) + 1e-6)
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

fn curve_error(curve: &Tensor, truth: &Tensor, reduce: RegReduce) -> Tensor {
    let error = (curve - truth).abs();
    match reduce {
        RegReduce::Mean => error.mean(None),
        RegReduce::Sum => error.sum_dim_intlist(1, false, Kind::Float).mean(None),
    }
}

fn interaction_mask(seg_logits: &Tensor, kind: TimMask) -> Tensor {
    let soft = seg_logits.sigmoid();
    match kind {
        TimMask::Soft => soft,
        // The value is the hard mask, the gradient is that of the soft one.
        TimMask::Ste => &soft + (soft.ge(0.5).to_kind(Kind::Float) - &soft).detach(),
    }
}

fn adversarial(d: &Discriminator, curve: &Tensor, cls_logits: &Tensor) -> Tensor {
    let fake = d.forward(curve, &cls_logits.softmax(-1, Kind::Float));
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
