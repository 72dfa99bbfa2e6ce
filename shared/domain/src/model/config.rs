//! The `[model]` table: every knob with its default. What can be built of it is checked in `validate`.

use serde::{Deserialize, Serialize};

use super::{
    AdvMode, BnEval, EncoderSharing, HighPass, MdiefLevels, MdiefWeight, NoMdiefMode, Pos, Preset, RegReduce,
    RegTarget, Skip, SpeEncoder, SpectralRepr, TimMask, TokenPool,
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
    /// Width that tokens are projected to, a multiple of 64 (768 for ViT-B); the blocks then have a head for every 64
    /// of it and `heads` is not used. By default tokens keep their own width.
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
    /// Shows the discriminator the image too: one token from the pooled fused features, without gradients to them.
    pub tdd_condition: bool,
    /// `non_saturating` or `saturating`.
    pub adv_mode: AdvMode,
    /// `mean` or `sum`.
    pub reg_reduce: RegReduce,
    /// `tic4` or `map`.
    pub reg_target: RegTarget,
    /// `plain` or `concat`.
    pub no_mdief_mode: NoMdiefMode,
    /// Dropout of MTI-Net's transformer; baselines keep the dropout of their own papers.
    pub dropout: f64,
    /// `running` or `batch`.
    pub bn_eval: BnEval,
    /// Trains the Inception baselines with their auxiliary head (weight 0.4), on images resized to 299 pixels.
    pub inception_aux: bool,
    /// Evaluations of the denoisers for one answer of EI-DDPM.
    pub ddim_steps: usize,
    /// Whether EI-DDPM's sampler keeps its estimate of the clean mask in [-1, 1]. The literal reading of MODEL.md 4.4 is
    /// `false`; after equally short training its masks are far worse (eight slices learnt by heart for 150 steps: Dice
    /// 0.10 against 0.55).
    pub ddim_clip: bool,
    /// Answers of EI-DDPM, from as many draws of noise, that are averaged into one.
    pub ensemble: usize,
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
            inception_aux: false,
            ddim_steps: 10,
            ddim_clip: true,
            ensemble: 1,
        }
    }
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

    /// First width of the denoisers of EI-DDPM: 32 in preset `paper`, 16 below (MODEL.md 4.4).
    pub fn ei_ddpm_base(&self) -> usize {
        if self.preset == Preset::Paper { 32 } else { 16 }
    }

    /// Width of a transformer token and the number of heads. A token has `proj_dim` values, or the P^2 of a feature map
    /// (MODEL.md 3.7).
    pub fn tokens(&self, image_size: usize) -> (usize, usize) {
        match self.proj_dim {
            Some(width) => (width, width / PROJECTED_HEAD),
            None => ((image_size / 16).pow(2), self.heads),
        }
    }
}

/// Head width of the transformer with `proj_dim`, that of ViT-B.
pub(super) const PROJECTED_HEAD: usize = 64;
