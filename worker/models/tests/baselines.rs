//! The baselines: names, shapes and counts of parameters, how they start, and the image sizes they take.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod support;

use mtinet_domain::model::{Arm, ModelConfig, Preset};
use mtinet_models::{ImageShape, Outputs, build};
use tch::{Device, Kind, Tensor, nn::VarStore};

use support::{expected, listing, store, trainable};

/// How the weights of a layer must start: the standard deviation of the weight, and the largest bias.
type Start = (&'static str, f64, f64);

/// PyTorch's default: U(-b, b) with b = 1 / sqrt(fan-in).
fn uniform(fan_in: f64) -> (f64, f64) {
    let bound = 1.0 / fan_in.sqrt();
    (bound / 3_f64.sqrt(), bound)
}

fn default_start(name: &'static str, fan_in: f64) -> Start {
    let (sd, bound) = uniform(fan_in);
    (name, sd, bound)
}

/// N(0, 2 / fan), without bias or with a bias of 0.
fn kaiming(name: &'static str, fan: f64) -> Start {
    (name, (2.0 / fan).sqrt(), 0.0)
}

fn the_answer(outputs: Outputs) -> Tensor {
    let mut answers = [outputs.seg, outputs.curve, outputs.cls].into_iter().flatten();
    let answer = answers.next().unwrap();
    assert!(answers.next().is_none());
    answer
}

fn noise(batch: i64, size: i64) -> Tensor {
    Tensor::randn([batch, 4, size, size], (Kind::Float, Device::Cpu))
}

fn all_finite(t: &Tensor) -> bool {
    bool::try_from(t.isfinite().all()).unwrap()
}

/// Builds `arm` at 256 pixels, checks the parameters and their start, and runs two images (test 12 of MODEL.md section 6).
fn check(arm: Arm, tsv: &str, count: usize, head: Option<&str>, starts: &[Start]) {
    tch::set_num_threads(1);
    tch::manual_seed(3);
    let vs = VarStore::new(Device::Cpu);
    let image = ImageShape { phases: 4, size: 256 };
    let network = build(&vs.root(), arm, &ModelConfig::default(), image, 2).unwrap();
    assert_eq!(trainable(&vs), count, "{arm}");
    let mut list = expected(tsv);
    if let (Some(head), true) = (head, arm.tasks().cls) {
        // The listed head answers with a curve of four; a classification has two classes.
        for name in ["weight", "bias"] {
            list.get_mut(&format!("{head}.{name}")).unwrap().0[0] = 2;
        }
    }
    assert_eq!(listing(&vs), list, "{arm}");
    check_start(arm, &vs, starts);
    let answer = the_answer(tch::no_grad(|| network.forward(&noise(2, 256), false)));
    let shape = if arm.tasks().seg { vec![2, 1, 256, 256] } else { vec![2, list_width(arm)] };
    assert_eq!(answer.size(), shape, "{arm}");
    assert!(all_finite(&answer), "{arm}");
}

fn list_width(arm: Arm) -> i64 {
    if arm.tasks().cls { 2 } else { 4 }
}

fn check_start(arm: Arm, vs: &VarStore, starts: &[Start]) {
    let variables = vs.variables();
    for (name, sd, largest_bias) in starts {
        let weight = &variables[&format!("{name}.weight")];
        let (found, mean) = (weight.std(true).double_value(&[]), weight.mean(Kind::Float).double_value(&[]));
        let error = 6.0 / (weight.numel() as f64).sqrt();
        assert!(
            (found / sd - 1.0).abs() < error && (mean / sd).abs() < error,
            "{arm} {name}: {found} {mean}"
        );
        if let Some(bias) = variables.get(&format!("{name}.bias")) {
            let found = bias.abs().max().double_value(&[]);
            assert!(
                found <= *largest_bias && (found > 0.0) == (*largest_bias > 0.0),
                "{arm} {name}: {found}"
            );
        }
    }
    for (name, variable) in &variables {
        let affine = variable.dim() == 1 && name.ends_with("weight");
        if affine || name.ends_with("running_var") {
            assert!(variable.allclose(&variable.ones_like(), 0.0, 0.0, false), "{arm} {name}");
        }
    }
}

#[test]
fn segmentation_baselines_have_the_listed_parameters() {
    let starts = [default_start("inc.double_conv.0", 36.0), default_start("up1.up", 2048.0)];
    check(Arm::Unet, "unet64_in4_out1", 31_038_209, None, &starts);
    let starts = [default_start("b1.c3.0", 1152.0), default_start("c1.attn.net.0", 16.0)];
    check(Arm::ResUnetPp, "resunetpp_in4_out1", 4_063_153, None, &starts);
    let block = "transformer.encoder.layer.11.ffn.fc2";
    let root = "transformer.embeddings.hybrid_model.root.conv";
    let starts = [default_start(block, 3072.0), default_start(root, 196.0)];
    check(Arm::TransUnet, "transunet_r50b16_in4_out1_256", 105_325_137, None, &starts);
    let starts = [default_start("enc.pv.2.0", 576.0), default_start("up.3.up", 1024.0)];
    check(Arm::MdFf, "mdff_base32", 24_000_449, None, &starts);
    let small = ModelConfig::preset(Preset::Small);
    assert_eq!(trainable(&store(Arm::MdFf, &small, 256, 2)), 6_005_473);
    let positions = store(Arm::TransUnet, &small, 64, 2);
    let positions = &positions.variables()["transformer.embeddings.position_embeddings"];
    assert_eq!(positions.size(), [1, 16, 768]);
    assert_eq!(positions.abs().max().double_value(&[]), 0.0);
}

/// One evaluation at full size: an answer takes ten of them.
#[test]
fn ei_ddpm_has_the_listed_parameters() {
    let vs = VarStore::new(Device::Cpu);
    let image = ImageShape { phases: 4, size: 256 };
    let network = build(&vs.root(), Arm::EiDdpm, &ModelConfig::default(), image, 2).unwrap();
    assert_eq!((trainable(&vs), vs.len()), (31_102_708, 596));
    assert_eq!(listing(&vs), expected("eiddpm_base32"));
    let starts = [default_start("pv.down2.res.conv1", 576.0), default_start("delay.mid.attn.qkv", 256.0)];
    check_start(Arm::EiDdpm, &vs, &starts);
    for (name, value) in [("pre.eil.gamma", 0.1), ("art.eil.alpha", 0.0), ("pv.cdo", 0.0)] {
        let variable = &vs.variables()[name];
        assert!(variable.allclose(&variable.full_like(value), 0.0, 0.0, false), "{name}");
    }
    let t = Tensor::from_slice(&[0_i64, 999]);
    let outputs =
        tch::no_grad(|| network.denoise(&noise(2, 256), &noise(2, 256).narrow(1, 0, 1), &t)).unwrap();
    let (seg, found) = (outputs.seg.unwrap(), outputs.denoising.unwrap().found);
    assert_eq!((seg.size(), found.size()), (vec![2, 1, 256, 256], vec![2, 4, 256, 256]));
    assert!(all_finite(&seg) && all_finite(&found));
    let small = ModelConfig::preset(Preset::Small);
    assert_eq!(trainable(&store(Arm::EiDdpm, &small, 256, 2)), 7_791_732);
}

#[test]
fn inception_v3_with_its_auxiliary_head_has_the_listed_parameters() {
    let cfg = ModelConfig { inception_aux: true, ..ModelConfig::default() };
    let vs = store(Arm::Inception3Reg, &cfg, 256, 2);
    assert_eq!((trainable(&vs), listing(&vs)), (24_354_824, expected("inception3_aux_in4_out4_299")));
    check_start(Arm::Inception3Reg, &vs, &[("AuxLogits.conv1.conv", 0.01, 0.0)]);
    assert_eq!(trainable(&store(Arm::Inception3Cls, &cfg, 256, 2)), 24_349_188);
    assert_eq!(trainable(&store(Arm::Inception3Cls, &cfg, 256, 3)), 24_352_006);
}

#[test]
fn vgg_16_and_resnet_50_have_the_listed_parameters() {
    let starts = [kaiming("features.0", 576.0), ("classifier.0", 0.01, 0.0), ("classifier.6", 0.01, 0.0)];
    let head = Some("classifier.6");
    check(Arm::Vgg16Reg, "vgg16_in4_out4", 134_277_508, head, &starts);
    check(Arm::Vgg16Cls, "vgg16_in4_out4", 134_269_314, head, &starts);
    let starts =
        [kaiming("conv1", 3136.0), kaiming("layer3.0.downsample.0", 1024.0), default_start("fc", 2048.0)];
    check(Arm::Resnet50Reg, "resnet50_in4_out4", 23_519_364, Some("fc"), &starts);
    check(Arm::Resnet50Cls, "resnet50_in4_out4", 23_515_266, Some("fc"), &starts);
}

#[test]
fn densenet_121_and_inception_v3_have_the_listed_parameters() {
    let layer = "features.denseblock3.denselayer5.conv2";
    let (sd, _) = uniform(1024.0);
    let starts = [kaiming("features.conv0", 196.0), kaiming(layer, 1152.0), ("classifier", sd, 0.0)];
    let head = Some("classifier");
    check(Arm::Densenet121Reg, "densenet121_in4_out4", 6_961_092, head, &starts);
    check(Arm::Densenet121Cls, "densenet121_in4_out4", 6_959_042, head, &starts);
    let (_, bound) = uniform(2048.0);
    let starts =
        [("Conv2d_1a_3x3.conv", 0.1, 0.0), ("Mixed_6e.branch7x7_2.conv", 0.1, 0.0), ("fc", 0.1, bound)];
    check(Arm::Inception3Reg, "inception3_noaux_in4_out4", 21_794_052, Some("fc"), &starts);
    check(Arm::Inception3Cls, "inception3_noaux_in4_out4", 21_789_954, Some("fc"), &starts);
}

#[test]
fn a_third_class_widens_the_head_alone() {
    let config = ModelConfig::default();
    let cases = [
        (Arm::Resnet50Cls, 23_517_315),
        (Arm::Densenet121Cls, 6_960_067),
        (Arm::Inception3Cls, 21_792_003),
        (Arm::Resnet50Reg, 23_519_364),
    ];
    for (arm, count) in cases {
        assert_eq!(trainable(&store(arm, &config, 256, 3)), count, "{arm}");
    }
}

/// The smallest images, and sizes that are no power of two. In training one image, some maps shrink to a pixel: that
/// has no variance, and must not spoil the running statistics.
#[test]
fn a_single_small_image_trains_every_baseline() {
    tch::set_num_threads(1);
    let cases = [
        (Arm::Unet, 32),
        (Arm::ResUnetPp, 32),
        (Arm::ResUnetPp, 40),
        (Arm::TransUnet, 32),
        (Arm::TransUnet, 48),
        (Arm::MdFf, 48),
        (Arm::EiDdpm, 40),
        (Arm::Resnet50Cls, 32),
        (Arm::Resnet50Cls, 50),
        (Arm::Densenet121Cls, 32),
        (Arm::Densenet121Reg, 49),
        (Arm::Inception3Reg, 75),
    ];
    for (arm, size) in cases {
        let vs = VarStore::new(Device::Cpu);
        let shape = ImageShape { phases: 4, size };
        let network = build(&vs.root(), arm, &ModelConfig::preset(Preset::Small), shape, 2).unwrap();
        let mask = noise(1, size as i64).narrow(1, 0, 1).gt(1.0).to_kind(Kind::Float);
        let outputs = network.learn(&noise(1, size as i64), &mask);
        let denoised = outputs.denoising.as_ref().map(|denoising| denoising.found.square().mean(Kind::Float));
        let answer = the_answer(outputs);
        let loss = answer.square().mean(Kind::Float);
        denoised.map_or_else(|| loss.shallow_clone(), |denoised| &loss + denoised).backward();
        for (name, variable) in vs.variables() {
            let whole = all_finite(&variable) && (!variable.requires_grad() || all_finite(&variable.grad()));
            assert!(whole, "{arm} at {size}: {name}");
        }
        let again = the_answer(tch::no_grad(|| network.forward(&noise(1, size as i64), false)));
        assert!(all_finite(&again), "{arm} at {size}");
    }
}
