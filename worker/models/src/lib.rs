//! The networks of mtinet: MTI-Net with its ablations, its discriminator, the baselines, and their losses.
//!
//! A network is built from an [`Arm`](mtinet_domain::model::Arm) and a
//! [`ModelConfig`](mtinet_domain::model::ModelConfig) into a `VarStore` that the caller owns; parameter names are those
//! of the PyTorch modules listed in `tests/fixtures/state_dicts`. Nothing here trains, reads data sets, measures or
//! knows of studies. All images are [N, phases, H, W] in normalised units (MODEL.md 2.1).
#![warn(missing_docs)]

mod densenet121;
mod discriminator;
mod ei_ddpm;
mod error;
#[cfg(test)]
mod golden;
mod inception3;
mod init;
pub mod initial;
mod layers;
pub mod losses;
mod md_ff;
mod mti_net;
mod network;
mod resnet50;
mod resunetpp;
mod transunet;
mod unet;
mod vgg16;
pub mod weights;

pub use discriminator::Discriminator;
pub use error::ModelError;
pub use initial::initialise;
pub use network::{Denoising, ImageShape, Network, Outputs, build};
pub use weights::{load_safetensors, save_safetensors};
