//! `init` and `forward`: weights without a study.

use std::path::Path;

use anyhow::{Context, anyhow};
use mtinet_models::{ImageShape, ModelError, Network};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use crate::NetworkArgs;
use crate::failure::Failure;

pub(crate) fn init(
    network: &NetworkArgs,
    size: usize,
    phases: usize,
    seed: i64,
    out: &Path,
) -> Result<(), Failure> {
    tch::manual_seed(seed);
    let (vs, _) = build(network, ImageShape { phases, size })?;
    mtinet_models::save_safetensors(&vs, out).map_err(|error| Failure::Usage(error.into()))
}

pub(crate) fn forward(
    network: &NetworkArgs,
    weights: &Path,
    input: &Path,
    out: &Path,
) -> Result<(), Failure> {
    let x = read_input(input).map_err(Failure::Input)?;
    let size = x.size();
    let (vs, net) = build(network, ImageShape { phases: size[1] as usize, size: size[2] as usize })?;
    mtinet_models::load_safetensors(&vs, weights).map_err(|error| Failure::Input(error.into()))?;
    let outputs = {
        let _no_grad = tch::no_grad_guard();
        net.forward(&x, false)
    };
    let named: Vec<(&str, Tensor)> = [("seg", outputs.seg), ("curve", outputs.curve), ("cls", outputs.cls)]
        .into_iter()
        .filter_map(|(name, tensor)| Some((name, tensor?.contiguous())))
        .collect();
    Tensor::write_safetensors(&named, out)
        .with_context(|| format!("failed to write {}", out.display()))
        .map_err(Failure::Usage)
}

fn build(network: &NetworkArgs, shape: ImageShape) -> Result<(VarStore, Box<dyn Network>), Failure> {
    let vs = VarStore::new(Device::Cpu);
    let net = mtinet_models::build(&vs.root(), network.arm, &network.config(), shape, network.classes)
        .map_err(|error: ModelError| Failure::Usage(error.into()))?;
    Ok((vs, net))
}

fn read_input(path: &Path) -> anyhow::Result<Tensor> {
    let tensors = Tensor::read_safetensors(path)
        .with_context(|| format!("{} is not a safetensors file", path.display()))?;
    let x = tensors
        .into_iter()
        .find_map(|(name, tensor)| (name == "x").then_some(tensor))
        .ok_or_else(|| anyhow!("{}: there is no tensor named x", path.display()))?;
    let size = x.size();
    if x.kind() != Kind::Float || size.len() != 4 || size[2] != size[3] {
        let kind = x.kind();
        return Err(anyhow!(
            "{}: x must be float32 [N, phases, H, W] with H = W; it is {kind:?} {size:?}",
            path.display()
        ));
    }
    Ok(x)
}
