//! Every arm learns eight slices of the phantom by heart: its loss, its gradients and its answers fit together.
//!
//! One test, because networks draw from libtorch's one generator: side by side they would not be repeatable.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::collections::HashMap;
use std::time::Instant;

use mtinet_data::{PreprocessOptions, SliceCache, phantom, phantom::PhantomOptions};
use mtinet_domain::model::{Arm, BnEval, LossWeights, ModelConfig, Preset};
use mtinet_models::{
    Discriminator, ImageShape, Network, build,
    losses::{Objective, Targets, discriminator_loss},
};
use tch::{
    Device, Kind, Tensor,
    nn::{self, OptimizerConfig, VarStore},
};

const SLICES: usize = 8;

/// How an arm is trained, and what it must reach within so many steps; the first time that it does ends its training.
struct Recipe {
    steps: usize,
    rate: f64,
    /// The loss, as a share of the first.
    loss: f64,
    /// Mean Dice of the masks, where the arm segments.
    dice: f64,
    /// Mean absolute error of the curves, as a share of that of the best constant curve.
    error: f64,
    /// Share of the right classes.
    accuracy: f64,
}

/// What an arm does not answer does not count.
const UNASKED: Recipe =
    Recipe { steps: 0, rate: 0.0, loss: 0.0, dice: 0.0, error: f64::INFINITY, accuracy: 0.0 };

fn recipe(arm: Arm) -> Recipe {
    use Arm::*;
    match arm {
        MtiNet | NoMdief | NoSpe | NoSpa | NoTim | NoTdd | SegOnly | SegReg | SegCls => {
            Recipe { steps: 400, rate: 3e-3, loss: 0.4, dice: 0.8, error: 0.5, accuracy: 1.0 }
        }
        Unet | ResUnetPp | MdFf => Recipe { steps: 80, rate: 1e-3, loss: 0.6, dice: 0.8, ..UNASKED },
        TransUnet => Recipe { steps: 15, rate: 3e-4, loss: 0.8, dice: 0.5, ..UNASKED },
        // The best constant mask has a Dice of 0.04.
        EiDdpm => Recipe { steps: 250, rate: 1e-3, loss: 0.6, dice: 0.4, ..UNASKED },
        Vgg16Reg => Recipe { steps: 80, rate: 1e-4, loss: 0.5, error: 0.6, ..UNASKED },
        Vgg16Cls => Recipe { steps: 80, rate: 1e-4, loss: 0.5, accuracy: 1.0, ..UNASKED },
        Resnet50Reg | Densenet121Reg => Recipe { steps: 60, rate: 1e-3, loss: 0.5, error: 0.6, ..UNASKED },
        Inception3Reg => Recipe { steps: 400, rate: 2e-3, loss: 0.3, error: 0.8, ..UNASKED },
        Resnet50Cls | Densenet121Cls | Inception3Cls => {
            Recipe { steps: 60, rate: 3e-4, loss: 0.5, accuracy: 1.0, ..UNASKED }
        }
    }
}

/// Tumour slices of eight subjects, normalised.
struct Slices {
    x: Tensor,
    mask: Tensor,
    curve: Tensor,
    class: Tensor,
    tumour: Tensor,
}

impl Slices {
    fn phantom(size: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = PhantomOptions {
            subjects: SLICES,
            size,
            slices_per_subject: 3,
            seed: 21,
            min_diameter_mm: 50.0,
            ..PhantomOptions::default()
        };
        let dataset = phantom::write(&dir.path().join("data"), &options, &|_, _| {}).unwrap();
        let options = PreprocessOptions { image_size: size, ..PreprocessOptions::default() };
        let cache = SliceCache::open_or_build(&dataset, &options, None, &|_, _| {}).unwrap();
        let mut of_case = HashMap::new();
        for (i, slice) in cache.slices().iter().enumerate().filter(|(_, slice)| slice.class.is_some()) {
            of_case.entry(slice.case.as_str()).or_insert(i);
        }
        let mut chosen: Vec<usize> = of_case.into_values().collect();
        chosen.sort_unstable();
        assert_eq!(chosen.len(), SLICES);
        let (count, side) = (SLICES as i64, size as i64);
        let x: Vec<f32> = chosen.iter().flat_map(|&i| cache.image(i).unwrap().into_iter()).collect();
        let mask: Vec<u8> = chosen.iter().flat_map(|&i| cache.mask(i).unwrap().into_iter()).collect();
        let of = |i: &usize| &cache.slices()[*i];
        let curve: Vec<f32> = chosen.iter().flat_map(|i| of(i).curve.clone().unwrap()).collect();
        let class: Vec<i64> = chosen.iter().map(|i| of(i).class.unwrap() as i64).collect();
        let x = Tensor::from_slice(&x).reshape([count, 4, side, side]);
        let (sd, mean) = (x.std(true), x.mean(Kind::Float));
        Self {
            mask: Tensor::from_slice(&mask).reshape([count, 1, side, side]).to_kind(Kind::Float),
            curve: (Tensor::from_slice(&curve).reshape([count, 4]) - &mean) / &sd,
            class: Tensor::from_slice(&class),
            tumour: Tensor::arange(count, (Kind::Int64, Device::Cpu)),
            x: (x - mean) / sd,
        }
    }

    fn targets(&self) -> Targets<'_> {
        let Self { mask, curve, class, tumour, .. } = self;
        Targets { mask, curve, class, tumour }
    }

    /// Mean Dice of a mask.
    fn dice(&self, mask: &Tensor) -> f64 {
        let per_slice = |t: &Tensor| t.sum_dim_intlist([1, 2, 3].as_slice(), false, Kind::Float);
        let both = per_slice(&(mask * &self.mask)) * 2.0;
        (both / (per_slice(mask) + per_slice(&self.mask))).mean(Kind::Float).double_value(&[])
    }
}

/// What a network reaches outside training: Dice, the curve's error as a share of the best constant's, accuracy.
#[derive(Debug)]
struct Scores {
    dice: Option<f64>,
    error: Option<f64>,
    accuracy: Option<f64>,
}

impl Scores {
    fn of(network: &dyn Network, slices: &Slices) -> Self {
        let seeds: Vec<u64> = (0..SLICES as u64).collect();
        let outputs = tch::no_grad(|| network.predict(&slices.x, &seeds));
        let mean_error = |curve: &Tensor| (curve - &slices.curve).abs().mean(Kind::Float).double_value(&[]);
        let constant = mean_error(&slices.curve.median_dim(0, true).0);
        let right = |cls: &Tensor| cls.argmax(1, false).eq_tensor(&slices.class).to_kind(Kind::Float);
        Self {
            dice: outputs.seg.map(|seg| slices.dice(&seg.ge(0.0).to_kind(Kind::Float))),
            error: outputs.curve.map(|curve| mean_error(&curve) / constant),
            accuracy: outputs.cls.map(|cls| right(&cls).mean(Kind::Float).double_value(&[])),
        }
    }

    fn reach(&self, recipe: &Recipe) -> bool {
        self.dice.is_none_or(|dice| dice >= recipe.dice)
            && self.error.is_none_or(|error| error <= recipe.error)
            && self.accuracy.is_none_or(|accuracy| accuracy >= recipe.accuracy)
    }
}

/// Where training ended: steps, loss as a share of the first, and scores.
struct Learnt {
    steps: usize,
    loss: f64,
    scores: Scores,
}

fn learn(arm: Arm, slices: &Slices, recipe: &Recipe) -> Learnt {
    tch::manual_seed(4);
    // The large networks take too few steps for running statistics to arrive at those of the slices.
    let bn_eval = if arm.is_mti() { BnEval::Running } else { BnEval::Batch };
    let cfg = ModelConfig { dropout: 0.0, bn_eval, ..ModelConfig::preset(Preset::Tiny64) };
    let (vs, vs_d) = (VarStore::new(Device::Cpu), VarStore::new(Device::Cpu));
    let image = ImageShape { phases: 4, size: slices.x.size()[2] as usize };
    let network = build(&vs.root(), arm, &cfg, image, 2).unwrap();
    let d = arm.has_discriminator().then(|| Discriminator::new(&vs_d.root(), &cfg, 4, 2));
    let objective = Objective::new(arm, &cfg, LossWeights::default());
    let mut adam = nn::Adam::default().build(&vs, recipe.rate).unwrap();
    let mut adam_d = d.as_ref().map(|_| nn::Adam::default().build(&vs_d, 1e-4).unwrap());
    let mut losses = Vec::with_capacity(recipe.steps);
    loop {
        // Without dropout, as MODEL.md (6, test 11) has it. The baselines always drop in training, so they learn as they answer: with
        // the statistics of the batch.
        let outputs = if arm.is_mti() || arm == Arm::EiDdpm {
            network.learn(&slices.x, &slices.mask)
        } else {
            network.forward(&slices.x, false)
        };
        if let (Some(d), Some(adam_d)) = (&d, &mut adam_d) {
            adam_d.backward_step(&discriminator_loss(d, &outputs, &slices.targets()).unwrap());
        }
        let terms = objective.generator_loss(&outputs, &slices.targets(), &slices.x, d.as_ref());
        adam.backward_step(&terms.total);
        losses.push(terms.total.double_value(&[]));
        let steps = losses.len();
        let last = steps == recipe.steps;
        // A look costs a sampled answer with EI-DDPM, and little with the large networks, whose steps are long.
        let look_every = if arm.is_mti() || arm == Arm::EiDdpm { 25 } else { 5 };
        if last || steps.is_multiple_of(look_every) {
            // Several, because noise levels and dropout make single steps differ.
            let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
            let loss = mean(&losses[steps - 5..]) / mean(&losses[..2]);
            let scores = Scores::of(network.as_ref(), slices);
            if last || (loss <= recipe.loss && scores.reach(recipe)) {
                return Learnt { steps, loss, scores };
            }
        }
    }
}

#[test]
fn every_arm_learns_eight_slices_of_the_phantom_by_heart() {
    tch::set_num_threads(2);
    let (at_32, at_64, at_80) = (Slices::phantom(32), Slices::phantom(64), Slices::phantom(80));
    let only = std::env::var("MTINET_OVERFIT_ARM").ok();
    for &arm in Arm::ALL {
        if only.as_ref().is_some_and(|only| only != arm.name()) {
            continue;
        }
        // What each can take, and what a test can wait for.
        let slices = match arm {
            Arm::Inception3Reg | Arm::Inception3Cls => &at_80,
            Arm::EiDdpm => &at_32,
            _ => &at_64,
        };
        let recipe = recipe(arm);
        let start = Instant::now();
        let Learnt { steps, loss, scores } = learn(arm, slices, &recipe);
        println!("{arm}: {steps} steps, {:.1?}, loss x {loss:.2}, {scores:.2?}", start.elapsed());
        assert!(loss <= recipe.loss, "{arm}: the loss fell to {loss} of the first after {steps} steps");
        assert!(scores.reach(&recipe), "{arm}: {scores:?} after {steps} steps");
        let all = slices.dice(&slices.mask.ones_like());
        assert!(
            scores.dice.is_none_or(|dice| recipe.dice == 0.0 || dice > all + 0.2),
            "{arm}: all ones have {all}"
        );
    }
}
