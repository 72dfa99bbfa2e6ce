//! Every network and loss against PyTorch: the references are made by `tests/fixtures/make_golden.py`.

mod baselines;
mod ei_ddpm;

use std::{collections::HashMap, fs, path::PathBuf};

use mtinet_domain::model::{Arm, LossWeights, ModelConfig};
use tch::{Device, Kind, Tensor, nn::VarStore};

use crate::{
    Discriminator, ImageShape, Network, Outputs, build, load_safetensors,
    losses::{LossTerms, Objective, Targets, discriminator_loss},
    unet::Unet,
};

const IMAGE: ImageShape = ImageShape { phases: 4, size: 64 };
const UNET_BASE: usize = 4;

/// Bound of the weights, times the square root of the fan-in.
const GAIN: f64 = 1.5;

/// Largest difference allowed, relative to the largest value of a tensor.
const TOLERANCE: f64 = 1e-4;

/// The same for norms of gradients. A single ReLU whose input is within rounding of 0 moves them by up to 5e-3: PyTorch
/// differs from itself by as much when only its number of threads changes.
const GRADIENT_TOLERANCE: f64 = 2e-2;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures")).join(name)
}

fn tensors(name: &str) -> HashMap<String, Tensor> {
    Tensor::read_safetensors(fixture(name)).unwrap().into_iter().collect()
}

/// The same values as `unit` of `make_golden.py`: uniform in [-1, 1), given by a name.
fn unit(name: &str, count: i64) -> impl Iterator<Item = f32> {
    let seed = name.bytes().fold(0x811C_9DC5_u32, |h, byte| (h ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (0..count as u32).map(move |i| {
        let mut h = i.wrapping_mul(0x9E37_79B1).wrapping_add(seed);
        h = (h ^ (h >> 16)).wrapping_mul(0x85EB_CA6B);
        h = (h ^ (h >> 13)).wrapping_mul(0xC2B2_AE35);
        h ^= h >> 16;
        (h >> 8) as f32 / 8_388_608.0 - 1.0
    })
}

/// The same values as `hashed` of `make_golden.py`.
fn hashed(name: &str, shape: &[i64], gain: f64) -> Tensor {
    let (scale, offset) = if shape.len() > 1 {
        let fan_in = if name.ends_with("pos_embed") { 16 } else { shape[1..].iter().product() };
        ((gain / (fan_in as f64).sqrt()) as f32, 0.0)
    } else if name.ends_with("running_var") || name.ends_with("weight") {
        (0.25, 1.0)
    } else {
        (0.1, 0.0)
    };
    let values: Vec<f32> = unit(name, shape.iter().product()).map(|u| u * scale + offset).collect();
    Tensor::from_slice(&values).reshape(shape)
}

fn set_hashed(vs: &VarStore, gain: f64) {
    for (name, mut variable) in vs.variables() {
        let value = hashed(&name, &variable.size(), gain);
        tch::no_grad(|| variable.copy_(&value));
    }
}

/// What has been compared in one case, and the largest relative difference in it.
struct Comparison<'a> {
    case: &'a str,
    golden: &'a HashMap<String, Tensor>,
    compared: usize,
    worst: f64,
}

impl Comparison<'_> {
    fn check(&mut self, key: &str, ours: &Tensor) {
        self.check_within(key, ours, TOLERANCE, 1e-6);
    }

    /// `floor` is the size below which a value counts as rounding noise.
    fn check_within(&mut self, key: &str, ours: &Tensor, tolerance: f64, floor: f64) {
        let key = format!("{}/{key}", self.case);
        let theirs = self.golden.get(&key).unwrap_or_else(|| panic!("no reference {key}"));
        let ours = if (key.ends_with("/seg") || key.ends_with("/map")) && ours.dim() == 4 {
            ours.slice(2, 0, None, 4).slice(3, 0, None, 4)
        } else {
            ours.shallow_clone()
        };
        assert_eq!(ours.size(), theirs.size(), "{key}");
        let largest = theirs.abs().max().double_value(&[]).max(floor);
        let difference = (ours - theirs).abs().max().double_value(&[]) / largest;
        assert!(difference < tolerance, "{key}: {difference:.2e} of {largest:.3e}");
        self.worst = self.worst.max(difference);
        self.compared += 1;
    }

    fn check_outputs(&mut self, mode: &str, outputs: &Outputs) {
        let Outputs { seg, curve, cls, map, .. } = outputs;
        let answers = [("seg", seg), ("curve", curve), ("cls", cls), ("map", map)];
        for (key, answer) in answers {
            let key = format!("{mode}/{key}");
            assert_eq!(answer.is_some(), self.golden.contains_key(&format!("{}/{key}", self.case)), "{key}");
            if let Some(answer) = answer {
                self.check(&key, answer);
            }
        }
    }

    fn check_terms(&mut self, terms: &LossTerms) {
        let LossTerms { total, seg, dice, reg, cls, tim, adv } = terms;
        self.check("loss/total", total);
        for (key, term) in
            [("seg", seg), ("dice", dice), ("reg", reg), ("cls", cls), ("tim", tim), ("adv", adv)]
        {
            let key = format!("loss/{key}");
            assert_eq!(term.is_some(), self.golden.contains_key(&format!("{}/{key}", self.case)), "{key}");
            if let Some(term) = term {
                self.check(&key, term);
            }
        }
    }

    fn check_gradients(&mut self, prefix: &str, vs: &VarStore) {
        let gradients: Vec<(String, Tensor)> = vs
            .variables()
            .into_iter()
            .filter(|(_, variable)| variable.requires_grad())
            .map(|(name, variable)| (name, variable.grad().norm()))
            .collect();
        let largest = gradients.iter().map(|(_, norm)| norm.double_value(&[])).fold(0.0, f64::max);
        for (name, norm) in gradients {
            // The gradient of a key bias is 0 but for rounding, because a softmax ignores a common shift.
            self.check_within(&format!("{prefix}/{name}"), &norm, GRADIENT_TOLERANCE, 1e-3 * largest);
        }
    }

    fn check_running(&mut self, vs: &VarStore) {
        for (name, variable) in vs.variables() {
            if !variable.requires_grad() {
                self.check(&format!("running/{name}"), &variable);
            }
        }
    }
}

fn check_case(case: &str, arm: Arm, cfg: &ModelConfig, golden: &HashMap<String, Tensor>) {
    let inputs = tensors("inputs.safetensors");
    let targets = Targets {
        mask: &inputs["mask"],
        curve: &inputs["curve"],
        class: &inputs["class"],
        tumour: &inputs["tumour"],
    };
    let vs = VarStore::new(Device::Cpu);
    let network: Box<dyn Network> = match arm {
        Arm::Unet => Box::new(Unet::new(&vs.root(), IMAGE.phases, UNET_BASE, cfg.bn_eval)),
        _ => build(&vs.root(), arm, cfg, IMAGE, 2).unwrap(),
    };
    let vs_d = VarStore::new(Device::Cpu);
    let d = arm.has_discriminator().then(|| Discriminator::new(&vs_d.root(), cfg, 4, 2));
    set_hashed(&vs, GAIN);
    set_hashed(&vs_d, GAIN);
    if case == "stored" {
        load_safetensors(&vs, &fixture("weights.safetensors")).unwrap();
    }
    let x = &inputs["x"];
    let mut comparison = Comparison { case, golden, compared: 0, worst: 0.0 };
    comparison.check_outputs("eval", &network.forward(x, false));
    let outputs = network.forward(x, true);
    comparison.check_outputs("train", &outputs);

    let dice = if case == "losses" { 0.3 } else { 0.0 };
    let objective = Objective::new(arm, cfg, LossWeights { dice, ..LossWeights::default() });
    let d_loss = d.as_ref().and_then(|d| discriminator_loss(d, &outputs, &targets));
    let terms = objective.generator_loss(&outputs, &targets, x, d.as_ref());
    comparison.check_terms(&terms);
    terms.total.backward();
    comparison.check_gradients("grad", &vs);
    if let Some(d_loss) = d_loss {
        comparison.check("loss/discriminator", &d_loss);
        d_loss.backward();
        comparison.check_gradients("grad_d", &vs_d);
    }
    comparison.check_running(&vs);
    let references = golden.keys().filter(|key| key.starts_with(&format!("{case}/"))).count();
    assert_eq!(comparison.compared, references, "{case}: every reference must be compared");
    println!("{case}: {references} references, worst relative difference {:.1e}", comparison.worst);
}

#[test]
fn every_arm_and_knob_agrees_with_pytorch() {
    let golden = tensors("golden.safetensors");
    let cases: HashMap<String, serde_json::Value> =
        serde_json::from_slice(&fs::read(fixture("golden.json")).unwrap()).unwrap();
    assert!(cases.len() >= 23);
    for (case, value) in cases {
        let arm: Arm = serde_json::from_value(value["arm"].clone()).unwrap();
        let cfg: ModelConfig = serde_json::from_value(value["model"].clone()).unwrap();
        cfg.validate(arm, IMAGE.size).unwrap();
        check_case(&case, arm, &cfg, &golden);
    }
}

#[test]
fn the_interaction_module_returns_the_curve_under_the_true_mask() {
    let inputs = tensors("inputs.safetensors");
    let mask = inputs["mask"].shallow_clone();
    let answer = crate::losses::tim(&mask, &inputs["x"]).index_select(0, &inputs["tumour"]);
    let truth = inputs["curve"].index_select(0, &inputs["tumour"]);
    assert!((answer - truth).abs().max().double_value(&[]) < 1e-5);

    let logits = Tensor::zeros([3, 1, 64, 64], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    crate::losses::tim(&logits.sigmoid(), &inputs["x"]).sum(Kind::Float).backward();
    assert!(logits.grad().abs().max().double_value(&[]) > 0.0);
}
