//! Which tables are refused, and in which words.

use super::*;
use crate::model::{EncoderSharing, Preset};

#[test]
fn defaults_are_valid_for_every_arm() {
    for &arm in Arm::ALL {
        let inception = matches!(arm, Arm::Inception3Reg | Arm::Inception3Cls);
        for preset in [Preset::Paper, Preset::Fast, Preset::Small, Preset::Tiny64] {
            for size in [32, 64, 128, 256].into_iter().filter(|size| !inception || *size > 75) {
                ModelConfig::preset(preset).validate(arm, size).unwrap();
            }
        }
    }
}

#[test]
fn each_architecture_refuses_the_image_sizes_that_it_cannot_take() {
    let config = ModelConfig::default();
    let cases = [
        (Arm::Unet, 32, 40, "multiple of 16"),
        (Arm::TransUnet, 48, 72, "multiple of 16"),
        (Arm::MdFf, 32, 16, "at least 32"),
        (Arm::ResUnetPp, 40, 44, "multiple of 8"),
        (Arm::EiDdpm, 40, 36, "multiple of 8"),
        (Arm::Vgg16Cls, 33, 31, "at least 32"),
        (Arm::Resnet50Reg, 50, 31, "at least 32"),
        (Arm::Densenet121Cls, 75, 31, "at least 32"),
        (Arm::Inception3Cls, 75, 74, "at least 75 pixels"),
        (Arm::Inception3Reg, 299, 64, "at least 75 pixels"),
    ];
    for (arm, fine, wrong, expected) in cases {
        config.validate(arm, fine).unwrap();
        let error = config.validate(arm, wrong).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("image size {wrong} does not suit arm {arm}"))
                && error.contains(expected),
            "{error}"
        );
    }
}

#[test]
fn baselines_ignore_the_knobs_of_mti_net() {
    let base = ModelConfig::default();
    let odd = ModelConfig { heads: 3, ddim_steps: 0, deconv_k: 3, tdd_condition: true, ..base };
    for &arm in Arm::ALL {
        let size = if arm.is_mti() { 64 } else { 80 };
        assert_eq!(odd.validate(arm, size).is_err(), arm.is_mti() || arm == Arm::EiDdpm, "{arm}");
    }
}

#[test]
fn impossible_tables_are_refused_with_the_reason() {
    let base = ModelConfig::default();
    let cases = [
        (ModelConfig { token_pool: TokenPool::Gap, ..base.clone() }, 64, "final_norm = false"),
        (ModelConfig { mdief_levels: MdiefLevels::All, ..base.clone() }, 64, "skip = \"add1x1\""),
        (ModelConfig { heads: 3, ..base.clone() }, 64, "token width, which is 16"),
        (ModelConfig { heads: 0, ..base.clone() }, 64, "model.heads = 0"),
        (ModelConfig { hpf_d0: Some(f64::NAN), ..base.clone() }, 64, "model.hpf_d0 = NaN"),
        (ModelConfig { deconv_k: 3, ..base.clone() }, 64, "4 or 2"),
        (ModelConfig { proj_dim: Some(96), ..base.clone() }, 64, "multiple of 64"),
        (
            ModelConfig { reg_target: RegTarget::Map, proj_dim: Some(768), ..base.clone() },
            64,
            "leave out proj_dim",
        ),
        (base.clone(), 40, "multiple of 16"),
        (base.clone(), 16, "at least 32"),
    ];
    for (config, size, expected) in cases {
        let error = config.validate(Arm::MtiNet, size).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    for (config, expected) in [
        (ModelConfig { ddim_steps: 1, ..base.clone() }, "model.ddim_steps = 1"),
        (ModelConfig { ensemble: 0, ..base.clone() }, "model.ensemble = 0"),
    ] {
        let error = config.validate(Arm::EiDdpm, 64).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    ModelConfig { heads: 3, ..base.clone() }.validate(Arm::Unet, 64).unwrap();
    ModelConfig { inception_aux: true, ..base }.validate(Arm::Inception3Cls, 64).unwrap();
}

#[test]
fn a_table_names_only_what_differs_and_unknown_keys_are_refused() {
    let config: ModelConfig =
        serde_json::from_str(r#"{"preset":"tiny64","spe_encoder":"pool1x1","encoder_sharing":"per_phase"}"#)
            .unwrap();
    assert_eq!((config.preset, config.spe_encoder), (Preset::Tiny64, SpeEncoder::Pool1x1));
    assert_eq!(config.encoder_sharing, EncoderSharing::PerPhase);
    let again: ModelConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
    assert_eq!(again, config);
    assert!(serde_json::from_str::<ModelConfig>(r#"{"tr_block":3}"#).is_err());
}
