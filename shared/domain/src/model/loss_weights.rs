//! Weights of the loss terms, and which terms an arm has.

use serde::{Deserialize, Serialize};

use super::{Arm, Tasks};

/// Weights of the loss terms (MODEL.md 3.11); a weight of 0 turns a term off.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossWeights {
    /// Segmentation, binary cross-entropy; for EI-DDPM the error of the predicted noise.
    #[serde(alias = "lambda_seg")]
    pub seg: f64,
    /// Regression, absolute error in normalised units.
    #[serde(alias = "lambda_reg")]
    pub reg: f64,
    /// Classification, cross-entropy.
    #[serde(alias = "lambda_cls")]
    pub cls: f64,
    /// Task interaction.
    #[serde(alias = "lambda_tim")]
    pub tim: f64,
    /// Adversarial.
    #[serde(alias = "lambda_adv")]
    pub adv: f64,
    /// Soft Dice beside the binary cross-entropy.
    #[serde(alias = "dice_weight")]
    pub dice: f64,
}

impl Default for LossWeights {
    fn default() -> Self {
        Self { seg: 1.0, reg: 1.0, cls: 1.0, tim: 0.5, adv: 0.1, dice: 0.0 }
    }
}

impl LossWeights {
    /// The weights that `arm` trains with: terms of tasks it does not have, or that it ablates, become 0. The two terms
    /// of EI-DDPM's own objective, `seg` and `dice`, both get the weight of the segmentation (MODEL.md 4.4).
    pub fn for_arm(self, arm: Arm) -> Self {
        let Tasks { seg, reg, cls } = arm.tasks();
        let keep = |yes: bool, weight: f64| if yes { weight } else { 0.0 };
        Self {
            seg: keep(seg, self.seg),
            reg: keep(reg, self.reg),
            cls: keep(cls, self.cls),
            tim: keep(seg && reg && arm != Arm::NoTim, self.tim),
            adv: keep(arm.has_discriminator(), self.adv),
            dice: keep(seg, if arm == Arm::EiDdpm { self.seg } else { self.dice }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ablations_turn_their_terms_off() {
        let weights = LossWeights::default();
        assert_eq!(weights.for_arm(Arm::MtiNet), weights);
        assert_eq!(weights.for_arm(Arm::NoTim).tim, 0.0);
        assert_eq!(weights.for_arm(Arm::NoTdd).adv, 0.0);
        assert_eq!(weights.for_arm(Arm::SegReg), LossWeights { cls: 0.0, adv: 0.0, ..weights });
        assert_eq!(weights.for_arm(Arm::SegCls), LossWeights { reg: 0.0, adv: 0.0, tim: 0.0, ..weights });
        let seg = LossWeights { reg: 0.0, cls: 0.0, adv: 0.0, tim: 0.0, ..weights };
        assert_eq!(weights.for_arm(Arm::SegOnly), seg);
        assert_eq!(weights.for_arm(Arm::EiDdpm), LossWeights { dice: 1.0, ..seg });
    }
}
