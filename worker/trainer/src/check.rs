//! `check-init`: whether a study's networks can start from the files that it names, before anything is trained.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use mtinet_domain::{Arm, StudySpec};
use mtinet_models::ImageShape;
use tch::Device;
use tch::nn::VarStore;

use crate::failure::Failure;

#[derive(Args)]
pub(crate) struct CheckArgs {
    /// The study as JSON.
    #[arg(long)]
    spec: PathBuf,
    /// The arm that starts from the weights.
    #[arg(long)]
    arm: Arm,
    /// Weights (safetensors).
    #[arg(long)]
    weights: PathBuf,
    /// Contrast phases of the data set.
    #[arg(long)]
    phases: usize,
    /// Lesion classes of the data set.
    #[arg(long)]
    classes: usize,
}

/// Prints a line for everything that is adapted.
pub(crate) fn check_init(args: &CheckArgs) -> Result<(), Failure> {
    let text = std::fs::read_to_string(&args.spec)
        .with_context(|| format!("failed to read {}", args.spec.display()))
        .map_err(Failure::Usage)?;
    let spec = StudySpec::from_json(&text).map_err(|error| Failure::Usage(error.into()))?;
    let vs = VarStore::new(Device::Cpu);
    let image = ImageShape { phases: args.phases, size: spec.train.image_size as usize };
    let _network = mtinet_models::build(&vs.root(), args.arm, &spec.model, image, args.classes)
        .map_err(|error| Failure::Usage(error.into()))?;
    let notes = mtinet_models::initialise(&vs, args.arm, args.phases, &args.weights)
        .map_err(|error| Failure::Input(error.into()))?;
    for note in notes {
        println!("{note}");
    }
    Ok(())
}
