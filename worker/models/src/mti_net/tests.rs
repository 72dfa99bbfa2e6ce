//! Behaviour of MTI-Net that MODEL.md section 6 asks for.

use mtinet_domain::model::{Arm, BnEval, EncoderSharing, ModelConfig, Preset};
use tch::{Device, Kind, Tensor, nn::VarStore};

use super::{Branches, MtiNet, transformer::phase_means};
use crate::{ImageShape, Network};

const IMAGE: ImageShape = ImageShape { phases: 4, size: 64 };

fn network(arm: Arm, cfg: &ModelConfig) -> (VarStore, MtiNet) {
    tch::manual_seed(5);
    let vs = VarStore::new(Device::Cpu);
    let network = MtiNet::new(&vs.root(), arm, cfg, IMAGE, 2);
    (vs, network)
}

fn tiny() -> ModelConfig {
    ModelConfig::preset(Preset::Tiny64)
}

fn images(count: i64) -> Tensor {
    tch::manual_seed(6);
    Tensor::randn([count, 4, 64, 64], (Kind::Float, Device::Cpu))
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

/// Test 5: position embeddings make the order of the phases matter.
#[test]
fn permuting_phases_does_more_than_permute_the_token_means() {
    let (_vs, network) = network(Arm::MtiNet, &tiny());
    let x = images(2);
    let order = Tensor::from_slice(&[2_i64, 0, 3, 1]);
    let means = |x: &Tensor| {
        let fused = network.fused(x, false);
        phase_means(&network.transformer.as_ref().unwrap().tokens(&fused[0], false), 4)
    };
    let permuted_after = means(&x).index_select(1, &order);
    let permuted_before = means(&x.index_select(1, &order));
    assert!(largest_difference(&permuted_after, &permuted_before) > 1e-4);
}

/// Test 6: the absolute intensity is not lost on the way to the curve.
#[test]
fn scaling_the_image_changes_the_curve_outside_training() {
    let (_vs, network) = network(Arm::MtiNet, &tiny());
    let x = images(2);
    let curve = |x: &Tensor| network.forward(x, false).curve.unwrap();
    assert!(largest_difference(&curve(&x), &curve(&(&x * 2.0))) > 1e-3);
}

/// Test 7 (hazard H1): one image, one encoder per phase, batch statistics: the scale of a phase is invisible.
#[test]
fn per_phase_encoders_at_batch_1_cannot_see_the_scale_of_a_phase() {
    let cfg = ModelConfig { encoder_sharing: EncoderSharing::PerPhase, ..tiny() };
    let (_vs, network) = network(Arm::MtiNet, &cfg);
    let Branches::Both(encoder, _) = &network.branches else { panic!("no spatial encoder") };
    let x = images(1) * 10.0;
    let scales = Tensor::from_slice(&[1.0_f32, 3.0, 1.0, 1.0]).reshape([1, 4, 1, 1]);
    let last = |x: &Tensor| encoder.forward(x, true).pop().unwrap();
    let (before, after) = (last(&x), last(&(&x * scales)));
    let largest = before.abs().max().double_value(&[]);
    assert!(largest_difference(&before, &after) < 1e-3 * largest);
}

#[test]
fn one_seed_gives_one_network_and_another_seed_another() {
    let values = |seed: i64| {
        tch::manual_seed(seed);
        let vs = VarStore::new(Device::Cpu);
        let _network = MtiNet::new(&vs.root(), Arm::MtiNet, &tiny(), IMAGE, 2);
        vs.variables()
    };
    let (first, again, other) = (values(1), values(1), values(2));
    assert!(first.iter().all(|(name, value)| *value == again[name]));
    assert_ne!(first["dec.head.weight"], other["dec.head.weight"]);
}

/// MODEL.md 2.2: U(-b, b) with b = 1 / sqrt(fan-in), for weights and biases alike; normalisation starts neutral.
#[test]
fn initial_values_are_those_of_pytorch() {
    let (vs, _network) = network(Arm::MtiNet, &ModelConfig::preset(Preset::Small));
    let variables = vs.variables();
    let expected = [
        ("enc_spa.block4.conv.weight", 64 * 9),
        ("dec.block1.deconv.weight", 64 * 16),
        ("tr.block1.ffn.fc1.weight", 16),
        ("tr.block1.ffn.fc1.bias", 16),
        ("tr.block2.ffn.fc2.bias", 64),
        ("dec.head.weight", 16),
        ("head_reg.weight", 64),
    ];
    for (name, fan_in) in expected {
        let bound = 1.0 / f64::from(fan_in).sqrt();
        let largest = variables[name].abs().max().double_value(&[]);
        assert!(largest <= bound + 1e-7 && largest > 0.75 * bound, "{name}: {largest} of {bound}");
    }
    let spread = variables["tr.pos_embed"].std(true).double_value(&[]);
    assert!((spread - 0.02).abs() < 1e-3, "{spread}");
    let constant = |name: &str, value: f64| {
        assert_eq!(variables[name], variables[name].full_like(value), "{name}");
    };
    constant("enc_spa.block1.bn.weight", 1.0);
    constant("enc_spa.block1.bn.bias", 0.0);
    constant("enc_spa.block1.bn.running_mean", 0.0);
    constant("enc_spa.block1.bn.running_var", 1.0);
    constant("tr.block1.attention_norm.weight", 1.0);
}

#[test]
fn dropout_acts_in_training_alone() {
    let (_vs, network) = network(Arm::MtiNet, &tiny());
    let x = images(2);
    let curve = |train| network.forward(&x, train).curve.unwrap();
    assert_eq!(curve(false), curve(false));
    assert_ne!(curve(true), curve(true));
}

#[test]
fn batch_statistics_outside_training_are_those_of_training_and_update_nothing() {
    let cfg = ModelConfig { bn_eval: BnEval::Batch, dropout: 0.0, ..tiny() };
    let (vs, network) = network(Arm::MtiNet, &cfg);
    let x = images(2);
    let seg = |train| network.forward(&x, train).seg.unwrap();
    let outside = seg(false);
    let running = vs.variables()["dec.block4.bn.running_mean"].copy();
    assert_eq!(running, running.zeros_like());
    // Training has operations of its own, which round differently.
    let (apart, scale) = (largest_difference(&outside, &seg(true)), outside.abs().max().double_value(&[]));
    assert!(apart < 1e-5 * scale, "{apart} of {scale}");
    assert_ne!(vs.variables()["dec.block4.bn.running_mean"], running);
}
