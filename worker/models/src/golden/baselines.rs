//! The baselines against torchvision and PyTorch: the references are made by `tests/fixtures/make_golden_baselines.py`.

use std::collections::HashMap;

use mtinet_domain::model::{Arm, ModelConfig, Preset};
use tch::{Device, Kind, Tensor, nn::VarStore};

use super::{Comparison, GRADIENT_TOLERANCE, set_hashed, tensors, unit};
use crate::{ImageShape, Network, build, layers::Resize};

/// Without normalisation this keeps the size of values through layers with a ReLU: sqrt(6).
const GAIN: f64 = 2.449_489_7;

/// One network: the batch and image size of the references, and whether it has dropout. Gradients and running
/// statistics are those of training, unless dropout makes training random.
struct Case {
    arm: Arm,
    batch: i64,
    size: i64,
    dropout: bool,
}

const CASES: [Case; 7] = [
    Case { arm: Arm::ResUnetPp, batch: 2, size: 160, dropout: false },
    Case { arm: Arm::TransUnet, batch: 2, size: 64, dropout: true },
    Case { arm: Arm::MdFf, batch: 2, size: 64, dropout: false },
    Case { arm: Arm::Vgg16Reg, batch: 2, size: 64, dropout: true },
    Case { arm: Arm::Resnet50Cls, batch: 3, size: 64, dropout: false },
    Case { arm: Arm::Densenet121Reg, batch: 3, size: 64, dropout: false },
    Case { arm: Arm::Inception3Cls, batch: 2, size: 112, dropout: true },
];

fn image(batch: i64, size: i64) -> Tensor {
    let values: Vec<f32> = unit("x", batch * 4 * size * size).collect();
    Tensor::from_slice(&values).reshape([batch, 4, size, size])
}

fn hashed_network(arm: Arm, size: i64) -> (VarStore, Box<dyn Network>) {
    let vs = VarStore::new(Device::Cpu);
    let shape = ImageShape { phases: 4, size: size as usize };
    let network = build(&vs.root(), arm, &ModelConfig::preset(Preset::Small), shape, 2).unwrap();
    set_hashed(&vs, GAIN);
    (vs, network)
}

/// The one answer of a baseline; of masks every third pixel, which meets every phase of the upsampling.
fn answer(network: &dyn Network, x: &Tensor, train: bool) -> (Tensor, Tensor) {
    let outputs = network.forward(x, train);
    let mut answers = [outputs.seg, outputs.curve, outputs.cls].into_iter().flatten();
    let (whole, None) = (answers.next().unwrap(), answers.next()) else { panic!("two answers") };
    let part = if whole.dim() == 4 { whole.slice(2, 0, None, 3).slice(3, 0, None, 3) } else { whole.copy() };
    (whole, part)
}

/// Norms of the tensors that `of` picks, by name.
fn norms(vs: &VarStore, trainable: bool, of: impl Fn(&Tensor) -> Tensor) -> Vec<(String, f64)> {
    let mut names: Vec<(String, f64)> = vs
        .variables()
        .into_iter()
        .filter(|(_, variable)| variable.requires_grad() == trainable)
        .map(|(name, variable)| (name, of(&variable).norm().double_value(&[])))
        .collect();
    names.sort_by(|a, b| a.0.cmp(&b.0));
    names
}

/// Compares norms with a vector of references, in the order of names.
fn check_norms(
    comparison: &mut Comparison,
    key: &str,
    ours: &[(String, f64)],
    tolerance: f64,
    floor: f64,
) -> f64 {
    let theirs = Vec::<f64>::try_from(&comparison.golden[&format!("{}/{key}", comparison.case)]).unwrap();
    assert_eq!(ours.len(), theirs.len(), "{} {key}", comparison.case);
    let floor = floor * theirs.iter().copied().fold(0.0, f64::max);
    let mut worst: f64 = 0.0;
    for ((name, ours), theirs) in ours.iter().zip(theirs) {
        let difference = (ours - theirs).abs() / theirs.max(floor);
        assert!(
            difference < tolerance,
            "{} {key} {name}: {ours:.5e} instead of {theirs:.5e}",
            comparison.case
        );
        worst = worst.max(difference);
    }
    comparison.compared += 1;
    worst
}

fn check_case(case: &Case, golden: &HashMap<String, Tensor>) {
    let Case { arm, batch, size, dropout } = *case;
    let mut comparison = Comparison { case: arm.name(), golden, compared: 0, worst: 0.0 };
    if !arm.tasks().seg {
        let (_vs, network) = hashed_network(arm, 256);
        let (_, large) = tch::no_grad(|| answer(network.as_ref(), &image(1, 256), false));
        comparison.check("eval256", &large);
    }
    let (vs, network) = hashed_network(arm, size);
    let x = image(batch, size);
    let (whole, part) = answer(network.as_ref(), &x, false);
    comparison.check("eval", &part);
    let whole = if dropout {
        whole
    } else {
        let (whole, part) = answer(network.as_ref(), &x, true);
        comparison.check("train", &part);
        whole
    };
    whole.square().mean(Kind::Float).backward();
    let gradients = norms(&vs, true, Tensor::grad);
    let worst = check_norms(&mut comparison, "grad", &gradients, GRADIENT_TOLERANCE, 1e-3);
    if !dropout {
        let running = norms(&vs, false, Tensor::shallow_clone);
        check_norms(&mut comparison, "running", &running, 1e-4, 1e-3);
    }
    let references = golden.keys().filter(|key| key.starts_with(&format!("{arm}/"))).count();
    assert_eq!(comparison.compared, references, "{arm}: every reference must be compared");
    println!(
        "{arm}: answers within {:.1e}, {} gradient norms within {worst:.1e}",
        comparison.worst,
        gradients.len()
    );
}

#[test]
fn every_baseline_agrees_with_pytorch() {
    tch::set_num_threads(1);
    let golden = tensors("golden_baselines.safetensors");
    for case in &CASES {
        check_case(case, &golden);
    }
}

#[test]
fn the_auxiliary_head_of_inception_agrees_with_pytorch() {
    tch::set_num_threads(1);
    let golden = tensors("golden_baselines.safetensors");
    let vs = VarStore::new(Device::Cpu);
    let cfg = ModelConfig { inception_aux: true, ..ModelConfig::preset(Preset::Small) };
    let shape = ImageShape { phases: 4, size: 64 };
    let network = build(&vs.root(), Arm::Inception3Reg, &cfg, shape, 2).unwrap();
    set_hashed(&vs, GAIN);
    let mut comparison = Comparison { case: "inception3-aux", golden: &golden, compared: 0, worst: 0.0 };
    let outputs = tch::no_grad(|| network.forward(&image(2, 64), false));
    assert!(outputs.auxiliary.is_none(), "only training has use for it");
    comparison.check("eval", &outputs.curve.unwrap());
    let outputs = tch::no_grad(|| network.forward(&image(2, 64), true));
    // Batch statistics of two single pixels blow rounding differences up.
    comparison.check_within("aux", &outputs.auxiliary.unwrap(), 2e-3, 1e-6);
    println!("inception3-aux: answers within {:.1e}", comparison.worst);
}

/// Three baselines have dropout: it must act in training, and only there.
#[test]
fn dropout_acts_in_training_alone() {
    tch::set_num_threads(1);
    for Case { arm, size, .. } in CASES.iter().filter(|case| case.dropout) {
        let vs = VarStore::new(Device::Cpu);
        let shape = ImageShape { phases: 4, size: *size as usize };
        let network = build(&vs.root(), *arm, &ModelConfig::default(), shape, 2).unwrap();
        let x = image(2, *size);
        let run = |train| tch::no_grad(|| answer(network.as_ref(), &x, train).0);
        assert!(run(false).allclose(&run(false), 0.0, 0.0, false), "{arm}");
        assert!(!run(true).allclose(&run(true), 1e-4, 1e-5, false), "{arm}");
    }
}

#[test]
fn resizing_is_that_of_pytorch() {
    for side in [1_usize, 2, 5, 8, 16] {
        let x = image(1, side as i64);
        let close =
            |ours: Tensor, theirs: Tensor| assert!(ours.allclose(&theirs, 1e-5, 1e-6, false), "{side}");
        let double = 2 * side as i64;
        let theirs = x.upsample_bilinear2d([double, double], true, None, None);
        close(Resize::doubled(side, Device::Cpu).forward(&x), theirs);
        for new_side in [side, 16 * side, 75] {
            let size = [new_side as i64; 2];
            let theirs = x.upsample_bilinear2d(size, false, None, None);
            // PyTorch computes positions in single precision.
            let ours = Resize::bilinear(side, new_side, Device::Cpu).forward(&x);
            assert!(ours.allclose(&theirs, 1e-4, 1e-5, false), "{side} to {new_side}");
        }
        close(Resize::binned(side, 7, Device::Cpu).forward(&x), x.adaptive_avg_pool2d([7, 7]));
    }
}
