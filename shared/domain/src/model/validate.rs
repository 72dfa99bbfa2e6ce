//! What can be built of a `[model]` table, and why not.

use std::fmt;

use thiserror::Error;

use super::config::PROJECTED_HEAD;
use super::{
    Arm, HighPass, MdiefLevels, ModelConfig, NoMdiefMode, Pos, RegTarget, Skip, SpeEncoder, SpectralRepr,
    TokenPool,
};

/// Why a `[model]` table cannot be built.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum ModelConfigError {
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
}

impl ModelConfig {
    /// Checks that `arm` can be built for square images of `image_size` pixels. Knobs that `arm` does not have are not
    /// looked at.
    ///
    /// # Errors
    /// The first thing that cannot work: an unsuitable image size, a knob out of range, or an impossible combination of
    /// knobs.
    pub fn validate(&self, arm: Arm, image_size: usize) -> Result<(), ModelConfigError> {
        self.validate_image_size(arm, image_size)?;
        if arm == Arm::EiDdpm {
            self.validate_sampling()?;
        }
        if arm.is_mti() {
            self.validate_ranges()?;
            self.validate_combinations(arm)?;
            self.validate_tokens(image_size)?;
        }
        Ok(())
    }

    fn validate_sampling(&self) -> Result<(), ModelConfigError> {
        check((2..=1000).contains(&self.ddim_steps), "ddim_steps", self.ddim_steps, || {
            "it must be 2 to 1000: the first evaluation is at noise level 999, the last at 0".into()
        })?;
        check((1..=100).contains(&self.ensemble), "ensemble", self.ensemble, || "it must be 1 to 100".into())
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
        })?;
        let map = self.reg_target == RegTarget::Map && arm.tasks().reg;
        check(!map || self.proj_dim.is_none(), "reg_target", "\"map\"", || {
            "projected tokens are no maps any more: leave out proj_dim".into()
        })
    }

    fn validate_tokens(&self, image_size: usize) -> Result<(), ModelConfigError> {
        if let Some(width) = self.proj_dim {
            let fits = width.is_multiple_of(PROJECTED_HEAD) && (PROJECTED_HEAD..=4096).contains(&width);
            return check(fits, "proj_dim", width, || {
                format!("it must be a multiple of {PROJECTED_HEAD}, the width of a head, up to 4096")
            });
        }
        let (width, heads) = self.tokens(image_size);
        check(heads > 0 && width.is_multiple_of(heads), "heads", heads, || {
            format!("it must divide the token width, which is {width} at image size {image_size}")
        })?;
        check(self.pos == Pos::Learned || width.is_multiple_of(2), "pos", "\"sincos\"", || {
            format!("it needs an even token width, which is {width} at image size {image_size}")
        })
    }

    /// What the layers of `arm` need: enough pixels to halve, and sides that the upsampled maps meet again.
    fn validate_image_size(&self, arm: Arm, size: usize) -> Result<(), ModelConfigError> {
        use Arm::*;
        let (fine, reason) = match arm {
            Inception3Reg | Inception3Cls if self.inception_aux => {
                (size >= 32, "it must be at least 32, to be resized to 299")
            }
            Inception3Reg | Inception3Cls => (size >= 75, "Inception v3 needs at least 75 pixels"),
            Vgg16Reg | Vgg16Cls | Resnet50Reg | Resnet50Cls | Densenet121Reg | Densenet121Cls => {
                (size >= 32, "it must be at least 32: the network halves it five times")
            }
            ResUnetPp | EiDdpm => (
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
mod tests;
