//! The 22 arms: names, labels and tasks.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::suggest;

/// One of the 22 networks or ablations that the paper compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Arm {
    /// The full network with TIM and TDD.
    MtiNet,
    /// Ablation: no spectral branch and no channel weighting.
    NoMdief,
    /// Ablation: no spectral branch, channel weighting kept.
    NoSpe,
    /// Ablation: no spatial branch, channel weighting kept.
    NoSpa,
    /// Ablation: no task interaction loss.
    NoTim,
    /// Ablation: no discriminator.
    NoTdd,
    /// Segmentation alone.
    SegOnly,
    /// Segmentation and enhancement regression, with TIM.
    SegReg,
    /// Segmentation and classification.
    SegCls,
    /// U-Net segmentation baseline.
    Unet,
    /// ResUNet++ segmentation baseline.
    ResUnetPp,
    /// TransUNet segmentation baseline.
    TransUnet,
    /// EI-DDPM segmentation baseline, reimplemented.
    EiDdpm,
    /// Stand-in for MD-FF, whose source is not identified.
    MdFf,
    /// VGG-16 regression baseline.
    Vgg16Reg,
    /// ResNet-50 regression baseline.
    Resnet50Reg,
    /// DenseNet-121 regression baseline.
    Densenet121Reg,
    /// Inception v3 regression baseline.
    Inception3Reg,
    /// VGG-16 classification baseline.
    Vgg16Cls,
    /// ResNet-50 classification baseline.
    Resnet50Cls,
    /// DenseNet-121 classification baseline.
    Densenet121Cls,
    /// Inception v3 classification baseline.
    Inception3Cls,
}

/// Which of the three tasks an arm answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tasks {
    /// Lesion segmentation.
    pub seg: bool,
    /// Dynamic enhancement regression (the curve).
    pub reg: bool,
    /// Lesion classification.
    pub cls: bool,
}

/// Why a name is no arm.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ArmError {
    /// No arm has that name.
    #[error("unknown arm \"{name}\"{}; arms are {}", did_you_mean(.nearest), Arm::list(Arm::ALL))]
    Unknown {
        /// What was written.
        name: String,
        /// The closest arm name, where one is close.
        nearest: Option<Arm>,
    },
}

fn did_you_mean(nearest: &Option<Arm>) -> String {
    nearest.map_or_else(String::new, |arm| format!(", did you mean \"{arm}\"?"))
}

impl Arm {
    /// Every arm, in the order of the paper's tables.
    pub const ALL: &'static [Arm] = &[
        Arm::MtiNet,
        Arm::NoMdief,
        Arm::NoSpe,
        Arm::NoSpa,
        Arm::NoTim,
        Arm::NoTdd,
        Arm::SegOnly,
        Arm::SegReg,
        Arm::SegCls,
        Arm::Unet,
        Arm::ResUnetPp,
        Arm::TransUnet,
        Arm::EiDdpm,
        Arm::MdFf,
        Arm::Vgg16Reg,
        Arm::Resnet50Reg,
        Arm::Densenet121Reg,
        Arm::Inception3Reg,
        Arm::Vgg16Cls,
        Arm::Resnet50Cls,
        Arm::Densenet121Cls,
        Arm::Inception3Cls,
    ];

    /// The name in studies, commands and reports.
    pub const fn name(self) -> &'static str {
        self.names().0
    }

    /// The name for people: tables and plots. It says where a network is a reimplementation or a stand-in.
    pub const fn label(self) -> &'static str {
        self.names().1
    }

    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Arm::MtiNet => ("mti-net", "MTI-Net"),
            Arm::NoMdief => ("no-mdief", "MTI-Net without MdIEF"),
            Arm::NoSpe => ("no-spe", "MTI-Net without spectral features"),
            Arm::NoSpa => ("no-spa", "MTI-Net without spatial features"),
            Arm::NoTim => ("no-tim", "MTI-Net without TIM"),
            Arm::NoTdd => ("no-tdd", "MTI-Net without TDD"),
            Arm::SegOnly => ("seg-only", "MTI-Net, segmentation only"),
            Arm::SegReg => ("seg-reg", "MTI-Net, segmentation and regression"),
            Arm::SegCls => ("seg-cls", "MTI-Net, segmentation and classification"),
            Arm::Unet => ("unet", "U-Net"),
            Arm::ResUnetPp => ("resunetpp", "ResUNet++"),
            Arm::TransUnet => ("transunet", "TransUNet"),
            Arm::EiDdpm => ("ei-ddpm", "EI-DDPM (our reimplementation)"),
            Arm::MdFf => ("md-ff", "MD-FF stand-in (source not identified)"),
            Arm::Vgg16Reg => ("vgg16-reg", "VGG-16, regression"),
            Arm::Resnet50Reg => ("resnet50-reg", "ResNet-50, regression"),
            Arm::Densenet121Reg => ("densenet121-reg", "DenseNet-121, regression"),
            Arm::Inception3Reg => ("inception3-reg", "Inception v3, regression"),
            Arm::Vgg16Cls => ("vgg16-cls", "VGG-16, classification"),
            Arm::Resnet50Cls => ("resnet50-cls", "ResNet-50, classification"),
            Arm::Densenet121Cls => ("densenet121-cls", "DenseNet-121, classification"),
            Arm::Inception3Cls => ("inception3-cls", "Inception v3, classification"),
        }
    }

    /// The tasks this arm answers (MODEL.md "Arms").
    pub const fn tasks(self) -> Tasks {
        let (seg, reg, cls) = match self {
            Arm::MtiNet | Arm::NoMdief | Arm::NoSpe | Arm::NoSpa | Arm::NoTim | Arm::NoTdd => {
                (true, true, true)
            }
            Arm::SegReg => (true, true, false),
            Arm::SegCls => (true, false, true),
            Arm::SegOnly | Arm::Unet | Arm::ResUnetPp | Arm::TransUnet | Arm::EiDdpm | Arm::MdFf => {
                (true, false, false)
            }
            Arm::Vgg16Reg | Arm::Resnet50Reg | Arm::Densenet121Reg | Arm::Inception3Reg => {
                (false, true, false)
            }
            Arm::Vgg16Cls | Arm::Resnet50Cls | Arm::Densenet121Cls | Arm::Inception3Cls => {
                (false, false, true)
            }
        };
        Tasks { seg, reg, cls }
    }

    /// Whether the arm is MTI-Net or a part of it; its sizes then come from the preset.
    pub const fn is_mti(self) -> bool {
        use Arm::*;
        matches!(self, MtiNet | NoMdief | NoSpe | NoSpa | NoTim | NoTdd | SegOnly | SegReg | SegCls)
    }

    /// Whether training this arm also trains the task discriminator (TDD).
    pub const fn has_discriminator(self) -> bool {
        matches!(self, Arm::MtiNet | Arm::NoMdief | Arm::NoSpe | Arm::NoSpa | Arm::NoTim)
    }

    /// The arm among `arms` whose name is closest to `name`, where one is close.
    pub fn nearest(name: &str, arms: &[Arm]) -> Option<Arm> {
        let nearest = suggest::closest(name, arms.iter().map(|arm| arm.name()))?;
        arms.iter().find(|arm| arm.name() == nearest).copied()
    }

    fn list(arms: &[Arm]) -> String {
        arms.iter().map(|arm| arm.name()).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Arm {
    type Err = ArmError;

    fn from_str(name: &str) -> Result<Self, ArmError> {
        if let Some(arm) = Arm::ALL.iter().find(|arm| arm.name() == name) {
            return Ok(*arm);
        }
        Err(ArmError::Unknown { name: name.to_owned(), nearest: Arm::nearest(name, Arm::ALL) })
    }
}

impl TryFrom<String> for Arm {
    type Error = ArmError;

    fn try_from(name: String) -> Result<Self, ArmError> {
        name.parse()
    }
}

impl From<Arm> for String {
    fn from(arm: Arm) -> Self {
        arm.name().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_arm_name_round_trips() {
        assert_eq!(Arm::ALL.len(), 22);
        for arm in Arm::ALL {
            assert_eq!(arm.to_string().parse::<Arm>(), Ok(*arm));
            assert_eq!(serde_json::from_value::<Arm>(serde_json::json!(arm.name())).unwrap(), *arm);
        }
    }

    #[test]
    fn a_mistyped_arm_is_met_with_the_nearest_name() {
        for (typed, meant) in [("mtinet", Arm::MtiNet), ("no_mdief", Arm::NoMdief), ("U-Net", Arm::Unet)] {
            let error = typed.parse::<Arm>().unwrap_err();
            assert_eq!(error, ArmError::Unknown { name: typed.into(), nearest: Some(meant) });
            assert!(error.to_string().contains(&format!("did you mean \"{meant}\"?")));
        }
        let error = "something else".parse::<Arm>().unwrap_err().to_string();
        assert!(!error.contains("did you mean") && error.contains("densenet121-cls"), "{error}");
    }
}
