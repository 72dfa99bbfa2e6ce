//! `init` and `forward`: weights without a study.

use std::path::Path;

use anyhow::{Context, anyhow};
use mtinet_domain::model::ModelConfig;
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
    let (vs, _) = build(network, &network.config(), network.classes(), ImageShape { phases, size })?;
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
    let (config, classes) = described(network, weights)?;
    let image = ImageShape { phases: size[1] as usize, size: size[2] as usize };
    let (vs, net) = build(network, &config, classes, image)?;
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

/// The network's knobs and classes: as asked for, else as weights from `mtinet export` say, else the defaults.
fn described(network: &NetworkArgs, weights: &Path) -> Result<(ModelConfig, usize), Failure> {
    let says = mtinet_models::weights::metadata(weights).map_err(|error| Failure::Input(error.into()))?;
    let unreadable = |key: &'static str| {
        move |error: serde_json::Error| {
            let told = anyhow::Error::new(error);
            Failure::Input(told.context(format!("weights {}: {key} in the header", weights.display())))
        }
    };
    let config = match says.get("mtinet.model").filter(|_| network.preset.is_none()) {
        Some(model) => serde_json::from_str(model).map_err(unreadable("mtinet.model"))?,
        None => network.config(),
    };
    let classes = match says.get("mtinet.classes").filter(|_| network.classes.is_none()) {
        Some(names) => {
            serde_json::from_str::<Vec<String>>(names).map_err(unreadable("mtinet.classes"))?.len()
        }
        None => network.classes(),
    };
    Ok((config, classes))
}

fn build(
    network: &NetworkArgs,
    config: &ModelConfig,
    classes: usize,
    shape: ImageShape,
) -> Result<(VarStore, Box<dyn Network>), Failure> {
    let vs = VarStore::new(Device::Cpu);
    let net = mtinet_models::build(&vs.root(), network.arm, config, shape, classes)
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
    if x.kind() != Kind::Float || size.len() != 4 || size[2] != size[3] || size.contains(&0) {
        let kind = x.kind();
        return Err(anyhow!(
            "{}: x must be float32 [N, phases, H, W] with H = W and nothing empty; it is {kind:?} {size:?}",
            path.display()
        ));
    }
    let bad = x.f_isfinite()?.f_logical_not()?.f_nonzero()?;
    if bad.size()[0] > 0 {
        let first = Vec::<i64>::try_from(bad.get(0))?;
        return Err(anyhow!("{}: x holds NaN or infinity at {first:?}", path.display()));
    }
    Ok(x)
}
