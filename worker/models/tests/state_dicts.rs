//! Parameter names, shapes and counts against the listed state dicts of the PyTorch modules.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod support;

use mtinet_domain::model::{Arm, EncoderSharing, ModelConfig, NoMdiefMode, Preset, Skip};
use mtinet_domain::model::{MdiefLevels, RegTarget, SpeEncoder};
use mtinet_models::{Discriminator, ImageShape, ModelError, build};
use tch::{Device, Kind, Tensor, nn::VarStore};

use support::{expected, listing, store, trainable};

#[test]
fn mti_net_has_the_listed_names_and_shapes_at_every_preset() {
    let cases = [
        ("paper", Preset::Paper, 256, 15_079_527, 24_384_231),
        ("fast", Preset::Fast, 256, 5_684_407, 8_014_327),
        ("small", Preset::Small, 256, 3_271_415, 3_855_767),
        ("tiny64", Preset::Tiny64, 64, 36_103, 48_847),
    ];
    for (name, preset, size, shared, per_phase) in cases {
        let sharings =
            [(EncoderSharing::Shared, "shared", shared), (EncoderSharing::PerPhase, "perphase", per_phase)];
        for (encoder_sharing, suffix, count) in sharings {
            let cfg = ModelConfig { encoder_sharing, ..ModelConfig::preset(preset) };
            let vs = store(Arm::MtiNet, &cfg, size, 2);
            assert_eq!(trainable(&vs), count, "{name} {suffix}");
            assert_eq!(listing(&vs), expected(&format!("mti_{name}_{suffix}")), "{name} {suffix}");
        }
    }
}

#[test]
fn the_discriminator_and_unet_have_the_listed_names_and_shapes() {
    let vs = VarStore::new(Device::Cpu);
    let _d = Discriminator::new(&vs.root(), &ModelConfig::default(), 4, 2);
    assert_eq!((trainable(&vs), listing(&vs)), (150_785, expected("tdd_d64")));
    let vs = VarStore::new(Device::Cpu);
    let _d = Discriminator::new(&vs.root(), &ModelConfig { tdd_dim: 256, ..ModelConfig::default() }, 4, 2);
    assert_eq!(trainable(&vs), 2_372_609);
    let vs = VarStore::new(Device::Cpu);
    let _d =
        Discriminator::new(&vs.root(), &ModelConfig { tdd_condition: true, ..ModelConfig::default() }, 4, 2);
    assert_eq!(trainable(&vs), 150_785 + (2048 + 1) * 64 + 64, "one more token, and its embedding");

    let vs = store(Arm::Unet, &ModelConfig::default(), 256, 2);
    assert_eq!((trainable(&vs), listing(&vs)), (31_038_209, expected("unet64_in4_out1")));
    assert_eq!(trainable(&store(Arm::Unet, &ModelConfig::preset(Preset::Small), 256, 2)), 7_763_329);
}

/// MODEL.md 3.6, 3.13, 3.14 and 3.15.
#[test]
fn ablations_subsets_and_knobs_have_the_expected_number_of_parameters() {
    let fast = ModelConfig::preset(Preset::Fast);
    let paper = ModelConfig::preset(Preset::Paper);
    let per_phase = ModelConfig { encoder_sharing: EncoderSharing::PerPhase, ..fast.clone() };
    let concat = ModelConfig { no_mdief_mode: NoMdiefMode::Concat, ..paper.clone() };
    let skips = ModelConfig { skip: Skip::Add1x1, mdief_levels: MdiefLevels::All, ..fast.clone() };
    let map = ModelConfig { reg_target: RegTarget::Map, ..paper.clone() };
    let projected = ModelConfig { proj_dim: Some(768), ..paper.clone() };
    // A projection, positions, three blocks of ViT-B (MODEL.md 4.3) and a LayerNorm.
    let vit = (256 + 1) * 768 + 2048 * 768 + 3 * 7_087_872 + 2 * 768;
    let filtered = ModelConfig { spe_encoder: SpeEncoder::FeatureFft, ..fast.clone() };
    let cases = [
        (Arm::NoMdief, &fast, 2, 5_296_087),
        (Arm::NoSpe, &fast, 2, 5_296_087),
        (Arm::NoSpa, &fast, 2, 5_296_087),
        (Arm::NoSpa, &per_phase, 2, 6_461_047),
        (Arm::NoTim, &fast, 2, 5_684_407),
        (Arm::NoTdd, &fast, 2, 5_684_407),
        (Arm::NoMdief, &concat, 2, 15_604_327),
        (Arm::SegOnly, &paper, 2, 12_179_297),
        (Arm::SegReg, &paper, 2, 15_077_477),
        (Arm::SegCls, &paper, 2, 15_075_427),
        (Arm::MtiNet, &paper, 3, 15_079_527 + 1_025),
        (Arm::MtiNet, &skips, 2, 5_684_407 + 86_464),
        (Arm::MtiNet, &filtered, 2, 5_296_087),
        (Arm::MtiNet, &ModelConfig { final_norm: false, ..fast.clone() }, 2, 5_684_407 - 512),
        (Arm::MtiNet, &ModelConfig { deconv_k: 2, ..paper.clone() }, 2, 8_271_975),
        (Arm::SegReg, &map, 2, 12_179_297 + 2_894_080 + 4 * 2048 + 4),
        (Arm::SegReg, &projected, 2, 12_179_297 + vit + 4 * (4 * 768 + 1)),
    ];
    for (arm, cfg, classes, count) in cases {
        assert_eq!(trainable(&store(arm, cfg, 256, classes)), count, "{arm} {cfg:?}");
    }
}

#[test]
fn what_cannot_be_built_is_refused_with_the_reason() {
    let refusal = |arm, size, phases, classes| {
        let vs = VarStore::new(Device::Cpu);
        let cfg = ModelConfig::preset(Preset::Tiny64);
        let error = build(&vs.root(), arm, &cfg, ImageShape { phases, size }, classes).err().unwrap();
        assert!(vs.is_empty(), "nothing may be built before the refusal");
        error
    };
    assert!(refusal(Arm::EiDdpm, 36, 4, 2).to_string().contains("multiple of 8"));
    assert!(refusal(Arm::Inception3Cls, 64, 4, 2).to_string().contains("at least 75 pixels"));
    assert!(matches!(refusal(Arm::Vgg16Cls, 64, 4, 1), ModelError::Classes { classes: 1 }));
    assert!(refusal(Arm::MtiNet, 50, 4, 2).to_string().contains("multiple of 16"));
    assert!(matches!(refusal(Arm::MtiNet, 64, 4, 1), ModelError::Classes { classes: 1 }));
    assert!(matches!(refusal(Arm::MtiNet, 64, 0, 2), ModelError::Phases));
}

/// MODEL.md section 6: answers to two images of 256 pixels, from every arm of MTI-Net at preset `paper`.
#[test]
fn every_arm_of_mti_net_answers_at_full_size() {
    let x = Tensor::randn([2, 4, 256, 256], (Kind::Float, Device::Cpu));
    for &arm in Arm::ALL.iter().filter(|arm| arm.is_mti()) {
        let vs = VarStore::new(Device::Cpu);
        let image = ImageShape { phases: 4, size: 256 };
        let network = build(&vs.root(), arm, &ModelConfig::default(), image, 2).unwrap();
        let outputs = tch::no_grad(|| network.forward(&x, false));
        let tasks = arm.tasks();
        let shape = |t: &Option<Tensor>| t.as_ref().map(Tensor::size);
        assert_eq!(shape(&outputs.seg), Some(vec![2, 1, 256, 256]), "{arm}");
        assert_eq!(shape(&outputs.curve), tasks.reg.then(|| vec![2, 4]), "{arm}");
        assert_eq!(shape(&outputs.cls), tasks.cls.then(|| vec![2, 2]), "{arm}");
        if let (Some(curve), Some(cls)) = (&outputs.curve, &outputs.cls) {
            let vs = VarStore::new(Device::Cpu);
            let d = Discriminator::new(&vs.root(), &ModelConfig::default(), 4, 2);
            assert_eq!(d.forward(curve, &cls.softmax(-1, Kind::Float), None).size(), [2, 1], "{arm}");
        }
    }
}
