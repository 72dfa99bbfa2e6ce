//! The `[model]` table: every knob with its default, and the check that it can be built.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    AdvMode, Arm, ArmError, BnEval, EncoderSharing, HighPass, MdiefLevels, MdiefWeight, NoMdiefMode, Pos,
    Preset, RegReduce, RegTarget, Skip, SpeEncoder, SpectralRepr, TimMask, TokenPool,
};

/// The `[model]` table of a study. Every key has a default; the defaults are those of MODEL.md 3.16.
///
/// One table serves all arms of a study, so a knob that an arm does not have is ignored by that arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// Sizes: `paper`, `fast`, `small` or `tiny64`.
    pub preset: Preset,
    /// Encoder channels, block 1 to 4; by default those of the preset.
    pub enc_ch: Option<[usize; 4]>,
    /// Decoder channels, block 1 to 4; by default those of the preset.
    pub dec_ch: Option<[usize; 4]>,
    /// `shared` or `per_phase`.
    pub encoder_sharing: EncoderSharing,
    /// `gaussian`, `ideal` or `butterworth`.
    pub hpf: HighPass,
    /// Cut-off in cycles per image; by default an image size / 16.
    pub hpf_d0: Option<f64>,
    /// `ifft` or `logmag`.
    pub spectral_repr: SpectralRepr,
    /// `own`, `feature_fft` or `pool1x1`.
    pub spe_encoder: SpeEncoder,
    /// `eq1` or `shannon`.
    pub mdief_weight: MdiefWeight,
    /// `last` or `all`.
    pub mdief_levels: MdiefLevels,
    /// `none` or `add1x1`.
    pub skip: Skip,
    /// Transposed-convolution kernel: 4 or 2.
    pub deconv_k: usize,
    /// Attention heads.
    pub heads: usize,
    /// Divisor of the attention logits; by default the square root of the head width. The paper's literal is 64.
    pub attn_scale: Option<f64>,
    /// Transformer blocks.
    pub tr_blocks: usize,
    /// `learned` or `sincos`.
    pub pos: Pos,
    /// Width of a token projection; not available yet.
    pub proj_dim: Option<usize>,
    /// `phase`, `mean` or `gap`.
    pub token_pool: TokenPool,
    /// Whether a LayerNorm follows the last transformer block.
    pub final_norm: bool,
    /// `soft` or `ste`.
    pub tim_mask: TimMask,
    /// Token width of the discriminator: 64 or 256, a multiple of its 4 heads.
    pub tdd_dim: usize,
    /// Label smoothing of the real class vectors shown to the discriminator.
    pub tdd_real_smooth: f64,
    /// Condition the discriminator on the image; not available yet.
    pub tdd_condition: bool,
    /// `non_saturating` or `saturating`.
    pub adv_mode: AdvMode,
    /// `mean` or `sum`.
    pub reg_reduce: RegReduce,
    /// `tic4`, or `map` (not available yet).
    pub reg_target: RegTarget,
    /// `plain` or `concat`.
    pub no_mdief_mode: NoMdiefMode,
    /// Dropout of MTI-Net's transformer; baselines keep the dropout of their own papers.
    pub dropout: f64,
    /// `running` or `batch`.
    pub bn_eval: BnEval,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            preset: Preset::default(),
            enc_ch: None,
            dec_ch: None,
            encoder_sharing: EncoderSharing::default(),
            hpf: HighPass::default(),
            hpf_d0: None,
            spectral_repr: SpectralRepr::default(),
            spe_encoder: SpeEncoder::default(),
            mdief_weight: MdiefWeight::default(),
            mdief_levels: MdiefLevels::default(),
            skip: Skip::default(),
            deconv_k: 4,
            heads: 4,
            attn_scale: None,
            tr_blocks: 3,
            pos: Pos::default(),
            proj_dim: None,
            token_pool: TokenPool::default(),
            final_norm: true,
            tim_mask: TimMask::default(),
            tdd_dim: 64,
            tdd_real_smooth: 0.1,
            tdd_condition: false,
            adv_mode: AdvMode::default(),
            reg_reduce: RegReduce::default(),
            reg_target: RegTarget::default(),
            no_mdief_mode: NoMdiefMode::default(),
            dropout: 0.1,
            bn_eval: BnEval::default(),
        }
    }
}

/// Why a `[model]` table cannot be built.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum ModelConfigError {
    /// The arm has no network.
    #[error(transparent)]
    Arm(#[from] ArmError),
    /// The image size does not suit the arm.
    #[error("image size {size} does not suit arm {arm}: {reason}")]
    ImageSize {
        /// Pixels along each side.
        size: usize,
        /// The arm.
        arm: Arm,
        /// What is needed.
        reason: &'static str,
    },
    /// A knob has a value that cannot work.
    #[error("model.{key} = {value}: {reason}")]
    Value {
        /// The knob.
        key: &'static str,
        /// What was given.
        value: String,
        /// What is needed.
        reason: String,
    },
    /// A documented knob that has no implementation yet.
    #[error("model.{key} = {value} is not available yet; leave it at its default")]
    Unavailable {
        /// The knob.
        key: &'static str,
        /// What was given.
        value: String,
    },
}

impl ModelConfig {
    /// The defaults at the sizes of `preset`.
    pub fn preset(preset: Preset) -> Self {
        Self { preset, ..Self::default() }
    }

    /// Encoder channels, block 1 to 4.
    pub fn encoder_channels(&self) -> [usize; 4] {
        self.enc_ch.unwrap_or(self.preset.channels().0)
    }

    /// Decoder channels, block 1 to 4.
    pub fn decoder_channels(&self) -> [usize; 4] {
        self.dec_ch.unwrap_or(self.preset.channels().1)
    }

    /// First width of the U-Net baseline: 64 in preset `paper`, 32 below (MODEL.md "Arms").
    pub fn unet_base(&self) -> usize {
        if self.preset == Preset::Paper { 64 } else { 32 }
    }

    /// First width of the encoders of the MD-FF stand-in: 32 in preset `paper`, 16 below (MODEL.md 4.5).
    pub fn md_ff_base(&self) -> usize {
        if self.preset == Preset::Paper { 32 } else { 16 }
    }

    /// Checks that `arm` can be built for square images of `image_size` pixels. Knobs that `arm` does not have are not
    /// looked at.
    ///
    /// # Errors
    /// The first thing that cannot work: an arm without a network, an unsuitable image size, a knob out of range, an
    /// impossible combination of knobs, or a knob that is documented but not available yet.
    pub fn validate(&self, arm: Arm, image_size: usize) -> Result<(), ModelConfigError> {
        arm.require_available()?;
        validate_image_size(arm, image_size)?;
        if self.reg_target == RegTarget::Map && arm.tasks().reg {
            return Err(ModelConfigError::Unavailable { key: "reg_target", value: "\"map\"".into() });
        }
        if arm.is_mti() {
            self.validate_availability()?;
            self.validate_ranges()?;
            self.validate_combinations(arm)?;
            self.validate_tokens(image_size)?;
        }
        Ok(())
    }

    fn validate_availability(&self) -> Result<(), ModelConfigError> {
        let unavailable = |key, value: String| Err(ModelConfigError::Unavailable { key, value });
        if let Some(width) = self.proj_dim {
            return unavailable("proj_dim", width.to_string());
        }
        if self.tdd_condition {
            return unavailable("tdd_condition", "true".into());
        }
        Ok(())
    }

    fn validate_ranges(&self) -> Result<(), ModelConfigError> {
        for (key, channels) in [("enc_ch", self.enc_ch), ("dec_ch", self.dec_ch)] {
            let Some(channels) = channels else { continue };
            check(channels.iter().all(|c| (1..=4096).contains(c)), key, format!("{channels:?}"), || {
                "each must be 1 to 4096".into()
            })?;
        }
        if let Some(d0) = self.hpf_d0 {
            let lowest_is_fine = self.hpf == HighPass::Ideal && d0 == 0.0;
            check(d0.is_finite() && (d0 > 0.0 || lowest_is_fine), "hpf_d0", d0, || {
                "it must be a positive number of cycles per image (0 only for the ideal filter)".into()
            })?;
        }
        check([2, 4].contains(&self.deconv_k), "deconv_k", self.deconv_k, || "it must be 4 or 2".into())?;
        if let Some(scale) = self.attn_scale {
            check(scale.is_finite() && scale > 0.0, "attn_scale", scale, || "it must be positive".into())?;
        }
        check((1..=64).contains(&self.tr_blocks), "tr_blocks", self.tr_blocks, || {
            "it must be 1 to 64".into()
        })?;
        let tdd_fits = self.tdd_dim.is_multiple_of(4) && (4..=4096).contains(&self.tdd_dim);
        check(tdd_fits, "tdd_dim", self.tdd_dim, || {
            "it must be a multiple of 4, the heads, up to 4096".into()
        })?;
        check((0.0..0.5).contains(&self.tdd_real_smooth), "tdd_real_smooth", self.tdd_real_smooth, || {
            "it must be at least 0 and below 0.5".into()
        })?;
        check((0.0..1.0).contains(&self.dropout), "dropout", self.dropout, || {
            "it must be at least 0 and below 1".into()
        })
    }

    fn validate_combinations(&self, arm: Arm) -> Result<(), ModelConfigError> {
        let levels = self.mdief_levels == MdiefLevels::All;
        let skips = self.skip == Skip::Add1x1;
        check(!levels || skips, "mdief_levels", "\"all\"", || {
            "the other levels reach the decoder only with skip = \"add1x1\"".into()
        })?;
        check(!skips || levels, "skip", "\"add1x1\"", || {
            "the skips carry maps fused at every level: also set mdief_levels = \"all\"".into()
        })?;
        let pooled = self.spe_encoder == SpeEncoder::Pool1x1;
        check(!pooled || !skips, "spe_encoder", "\"pool1x1\"", || {
            "it has no spectral maps for the skips: use skip = \"none\"".into()
        })?;
        check(!pooled || self.spectral_repr == SpectralRepr::Logmag, "spe_encoder", "\"pool1x1\"", || {
            "it pools the image spectrum: also set spectral_repr = \"logmag\"".into()
        })?;
        let concat = arm == Arm::NoMdief && self.no_mdief_mode == NoMdiefMode::Concat;
        check(!concat || !skips, "no_mdief_mode", "\"concat\"", || {
            "it concatenates the last level only: use skip = \"none\"".into()
        })?;
        check(self.token_pool != TokenPool::Gap || !self.final_norm, "token_pool", "\"gap\"", || {
            "the mean of a normalised token is always 0: also set final_norm = false".into()
        })
    }

    fn validate_tokens(&self, image_size: usize) -> Result<(), ModelConfigError> {
        let width = (image_size / 16).pow(2);
        check(self.heads > 0 && width.is_multiple_of(self.heads), "heads", self.heads, || {
            format!("it must divide the token width, which is {width} at image size {image_size}")
        })?;
        check(self.pos == Pos::Learned || width.is_multiple_of(2), "pos", "\"sincos\"", || {
            format!("it needs an even token width, which is {width} at image size {image_size}")
        })
    }
}

/// What the layers of `arm` need: enough pixels to halve, and sides that the upsampled maps meet again.
fn validate_image_size(arm: Arm, size: usize) -> Result<(), ModelConfigError> {
    use Arm::*;
    let (fine, reason) = match arm {
        Inception3Reg | Inception3Cls => (size >= 75, "Inception v3 needs at least 75 pixels"),
        Vgg16Reg | Vgg16Cls | Resnet50Reg | Resnet50Cls | Densenet121Reg | Densenet121Cls => {
            (size >= 32, "it must be at least 32: the network halves it five times")
        }
        ResUnetPp => (
            size >= 32 && size.is_multiple_of(8),
            "it must be a multiple of 8 and at least 32: the network halves and doubles it three times",
        ),
        _ => (
            size >= 32 && size.is_multiple_of(16),
            "it must be a multiple of 16 and at least 32: the network halves and doubles it four times",
        ),
    };
    if fine { Ok(()) } else { Err(ModelConfigError::ImageSize { size, arm, reason }) }
}

fn check(
    fine: bool,
    key: &'static str,
    value: impl fmt::Display,
    reason: impl FnOnce() -> String,
) -> Result<(), ModelConfigError> {
    if fine {
        Ok(())
    } else {
        Err(ModelConfigError::Value { key, value: value.to_string(), reason: reason() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arm_without_a_network_says_which_have_one() {
        let missing: Vec<_> = Arm::ALL.iter().filter(|arm| !arm.is_available()).collect();
        for arm in missing {
            let error = ModelConfig::default().validate(*arm, 256).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("arm {arm} is not built yet")) && error.contains("mti-net"),
                "{error}"
            );
        }
    }

    #[test]
    fn defaults_are_valid_for_every_available_arm() {
        for arm in Arm::available() {
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
        let odd =
            ModelConfig { heads: 3, proj_dim: Some(8), deconv_k: 3, tdd_condition: true, ..base.clone() };
        for arm in Arm::available() {
            let size = if arm.is_mti() { 64 } else { 80 };
            assert_eq!(odd.validate(arm, size).is_err(), arm.is_mti(), "{arm}");
        }
        let map = ModelConfig { reg_target: RegTarget::Map, ..base };
        map.validate(Arm::Vgg16Cls, 64).unwrap();
        assert!(map.validate(Arm::Vgg16Reg, 64).unwrap_err().to_string().contains("not available yet"));
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
            (ModelConfig { proj_dim: Some(768), ..base.clone() }, 64, "not available yet"),
            (ModelConfig { reg_target: RegTarget::Map, ..base.clone() }, 64, "not available yet"),
            (base.clone(), 40, "multiple of 16"),
            (base.clone(), 16, "at least 32"),
        ];
        for (config, size, expected) in cases {
            let error = config.validate(Arm::MtiNet, size).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        ModelConfig { heads: 3, ..base }.validate(Arm::Unet, 64).unwrap();
    }

    #[test]
    fn a_table_names_only_what_differs_and_unknown_keys_are_refused() {
        let config: ModelConfig = serde_json::from_str(
            r#"{"preset":"tiny64","spe_encoder":"pool1x1","encoder_sharing":"per_phase"}"#,
        )
        .unwrap();
        assert_eq!((config.preset, config.spe_encoder), (Preset::Tiny64, SpeEncoder::Pool1x1));
        assert_eq!(config.encoder_sharing, EncoderSharing::PerPhase);
        let again: ModelConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config);
        assert!(serde_json::from_str::<ModelConfig>(r#"{"tr_block":3}"#).is_err());
    }
}
