//! Arms, model presets and model knobs: what a study may ask for, known without libtorch.
//!
//! The head node checks studies with this module and the workers build networks from it, so the two can never
//! disagree about a name. Sources: MODEL.md "Arms", sections 3 and 3.16. The networks themselves are in
//! `mtinet-models`.

mod arm;
mod config;
mod knobs;
mod loss_weights;
mod validate;

pub use arm::{Arm, ArmError, Tasks};
pub use config::ModelConfig;
pub use knobs::{
    AdvMode, BnEval, EncoderSharing, HighPass, MdiefLevels, MdiefWeight, NoMdiefMode, Pos, Preset, RegReduce,
    RegTarget, Skip, SpeEncoder, SpectralRepr, TimMask, TokenPool,
};
pub use loss_weights::LossWeights;
pub use validate::ModelConfigError;
