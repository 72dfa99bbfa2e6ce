//! EI-DDPM against PyTorch: the references are made by `tests/fixtures/make_golden_ei_ddpm.py`.

use mtinet_domain::model::{Arm, LossWeights, ModelConfig, Preset};
use tch::{Device, Kind, Tensor, nn::VarStore};

use super::{Comparison, GAIN, set_hashed, tensors, unit};
use crate::{
    ImageShape, Network,
    ei_ddpm::EiDdpm,
    losses::{Objective, Targets},
};

const SIZE: i64 = 32;
const BATCH: i64 = 3;

fn values(name: &str, channels: i64) -> Tensor {
    let values: Vec<f32> = unit(name, BATCH * channels * SIZE * SIZE).collect();
    Tensor::from_slice(&values).reshape([BATCH, channels, SIZE, SIZE])
}

fn hashed_network(cfg: &ModelConfig) -> (VarStore, EiDdpm) {
    let vs = VarStore::new(Device::Cpu);
    let network = EiDdpm::new(&vs.root(), cfg, ImageShape { phases: 4, size: SIZE as usize });
    set_hashed(&vs, GAIN);
    (vs, network)
}

/// The mask of the references: a scattered one, and none in the first image.
fn mask() -> Tensor {
    let mask = values("mask", 1).gt(0.4).to_kind(Kind::Float);
    let _ = mask.get(0).zero_();
    mask
}

#[test]
fn ei_ddpm_agrees_with_pytorch() {
    tch::set_num_threads(1);
    let golden = tensors("golden_ei_ddpm.safetensors");
    let mut comparison = Comparison { case: "ei-ddpm", golden: &golden, compared: 0, worst: 0.0 };
    let cfg = ModelConfig { ddim_steps: 4, ..ModelConfig::preset(Preset::Small) };
    let (vs, network) = hashed_network(&cfg);
    let (x, noise, t) = (values("x", 4), values("noise", 1) * 1.7, Tensor::from_slice(&[0_i64, 437, 999]));
    let outputs = tch::no_grad(|| network.denoise(&x, &noise, &t)).unwrap();
    comparison.check("eps", &outputs.denoising.unwrap().found);
    // Not by the name of `seg`, of which `check` would look at every fourth pixel.
    let seg = outputs.seg.unwrap();
    let theirs = &golden["ei-ddpm/seg"];
    assert!((&seg - theirs).abs().max().double_value(&[]) < 1e-4 * theirs.abs().max().double_value(&[]));
    comparison.compared += 1;
    comparison.check("sampled", &tch::no_grad(|| network.sample(&x, &noise)));
    let (_vs, unclipped) = hashed_network(&ModelConfig { ddim_clip: false, ..cfg.clone() });
    comparison.check("sampled_unclipped", &tch::no_grad(|| unclipped.sample(&x, &noise)));

    let mask = mask();
    let nothing = Tensor::zeros([0], (Kind::Int64, Device::Cpu));
    let targets = Targets { mask: &mask, curve: &nothing, class: &nothing, tumour: &nothing };
    let outputs = network.learn_from(&x, &mask, noise, &t);
    let terms = Objective::new(Arm::EiDdpm, &cfg, LossWeights::default())
        .generator_loss(&outputs, &targets, &x, None);
    comparison.check_terms(&terms);
    terms.total.backward();
    comparison.check_gradients("grad", &vs);
    assert_eq!(comparison.compared, golden.len(), "every reference must be compared");
    println!("ei-ddpm: {} references, worst relative difference {:.1e}", golden.len(), comparison.worst);
}

#[test]
fn answers_follow_from_the_seed_of_each_image_alone() {
    tch::set_num_threads(1);
    let cfg = ModelConfig { ddim_steps: 3, ..ModelConfig::preset(Preset::Small) };
    let (_vs, network) = hashed_network(&cfg);
    let x = values("x", 4);
    let predict = |rows: &[i64], seeds: &[u64]| {
        let rows = x.index_select(0, &Tensor::from_slice(rows));
        tch::no_grad(|| network.predict(&rows, seeds)).seg.unwrap()
    };
    let together = predict(&[0, 1, 2], &[5, 6, 7]);
    assert_eq!(together, predict(&[0, 1, 2], &[5, 6, 7]));
    let alone = predict(&[2], &[7]);
    assert!(alone.allclose(&together.narrow(0, 2, 1), 1e-4, 1e-4, false), "whatever it is batched with");
    assert!(!alone.allclose(&predict(&[2], &[8]), 1e-2, 1e-2, false), "another seed, another answer");
}

#[test]
fn an_ensemble_is_the_mean_probability_of_its_draws() {
    tch::set_num_threads(1);
    let cfg = |ensemble| ModelConfig { ddim_steps: 2, ensemble, ..ModelConfig::preset(Preset::Small) };
    let (_vs, three) = hashed_network(&cfg(3));
    let x = values("x", 4).narrow(0, 0, 1);
    let answer = tch::no_grad(|| three.predict(&x, &[4])).seg.unwrap().sigmoid();
    let draws: Vec<Tensor> = (0..3)
        .map(|draw| {
            let noise = crate::ei_ddpm::noise(&[4], draw, SIZE);
            tch::no_grad(|| three.sample(&x, &noise)).sigmoid()
        })
        .collect();
    assert_ne!(draws[0], draws[1]);
    let mean = Tensor::stack(&draws, 0).mean_dim(0, false, Kind::Float);
    assert!(answer.allclose(&mean, 1e-4, 1e-5, false));
}

/// bf16 rounds the features; the evidence must neither overflow nor stray from what single precision says.
#[test]
fn a_step_in_bf16_is_close_to_one_in_single_precision() {
    tch::set_num_threads(1);
    let (_vs, network) = hashed_network(&ModelConfig::preset(Preset::Small));
    let (x, mask) = (values("x", 4), mask());
    let (noise, t) = (values("noise", 1), Tensor::from_slice(&[3_i64, 500, 990]));
    let learn = || network.learn_from(&x, &mask, noise.shallow_clone(), &t).seg.unwrap();
    let single = tch::no_grad(learn).sigmoid();
    let half = tch::no_grad(|| tch::autocast(true, learn));
    assert_eq!(half.kind(), Kind::Float);
    let difference = (half.sigmoid() - single).abs().mean(Kind::Float).double_value(&[]);
    assert!(difference < 0.02, "{difference}");
}
