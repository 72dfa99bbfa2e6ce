//! `init` and `forward`: weights without a study.

use std::path::Path;

use anyhow::{Context, anyhow};
use mtinet_domain::Arm;
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
    let inputs = Inputs::read(input)?;
    let x = inputs.images().map_err(Failure::Input)?;
    let size = x.size();
    let (config, classes) = described(network, weights)?;
    let image = ImageShape { phases: size[1] as usize, size: size[2] as usize };
    let (vs, net) = build(network, &config, classes, image)?;
    let outputs = if network.arm == Arm::EiDdpm {
        let (noise, t) = inputs.noise(&size)?;
        load(&vs, weights)?;
        tch::no_grad(|| net.denoise(&x, &noise, &t))
    } else {
        load(&vs, weights)?;
        Some(tch::no_grad(|| net.forward(&x, false)))
    };
    let outputs = outputs.unwrap_or_default();
    let eps = outputs.denoising.map(|denoising| denoising.found);
    let named: Vec<(&str, Tensor)> =
        [("seg", outputs.seg), ("curve", outputs.curve), ("cls", outputs.cls), ("eps", eps)]
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

fn load(vs: &VarStore, weights: &Path) -> Result<(), Failure> {
    mtinet_models::load_safetensors(vs, weights).map_err(|error| Failure::Input(error.into()))
}

/// The tensors of an input file.
struct Inputs<'a> {
    path: &'a Path,
    tensors: Vec<(String, Tensor)>,
}

impl<'a> Inputs<'a> {
    fn read(path: &'a Path) -> Result<Self, Failure> {
        let tensors = Tensor::read_safetensors(path)
            .with_context(|| format!("{} is not a safetensors file", path.display()))
            .map_err(Failure::Input)?;
        Ok(Self { path, tensors })
    }

    fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find_map(|(key, tensor)| (key == name).then_some(tensor))
    }

    /// `x` [N, phases, H, W].
    fn images(&self) -> anyhow::Result<Tensor> {
        let path = self.path.display();
        let x = self.get("x").ok_or_else(|| anyhow!("{path}: there is no tensor named x"))?;
        let size = x.size();
        if x.kind() != Kind::Float || size.len() != 4 || size[2] != size[3] || size.contains(&0) {
            let kind = x.kind();
            return Err(anyhow!(
                "{path}: x must be float32 [N, phases, H, W] with H = W and nothing empty; it is {kind:?} {size:?}"
            ));
        }
        finite(self.path, "x", x)?;
        Ok(x.shallow_clone())
    }

    /// `noise` [N, 1, H, W] and `t` [N], for images of this size.
    fn noise(&self, images: &[i64]) -> Result<(Tensor, Tensor), Failure> {
        let path = self.path.display();
        let needed = |name: &str, what: &str| {
            self.get(name).ok_or_else(|| {
                Failure::Usage(anyhow!("{path}: there is no tensor named {name}; ei-ddpm needs {what}"))
            })
        };
        let noise = needed("noise", "the noisy masks [N,1,H,W], float32")?;
        let t = needed("t", "their noise levels [N], whole numbers from 0 to 999")?;
        let expected = [images[0], 1, images[2], images[3]];
        if noise.kind() != Kind::Float || noise.size() != expected {
            let (kind, size) = (noise.kind(), noise.size());
            let message = format!("{path}: noise must be float32 {expected:?}; it is {kind:?} {size:?}");
            return Err(Failure::Input(anyhow!(message)));
        }
        finite(self.path, "noise", noise).map_err(Failure::Input)?;
        let levels = Vec::<f64>::try_from(t.to_kind(Kind::Double).reshape([-1])).unwrap_or_default();
        let whole = |level: &f64| level.fract() == 0.0 && (0.0..1000.0).contains(level);
        if t.size() != [images[0]] || !levels.iter().all(whole) {
            let message = format!(
                "{path}: t must be [{}], whole numbers from 0 to 999; it is {:?} {levels:?}",
                images[0],
                t.size()
            );
            return Err(Failure::Input(anyhow!(message)));
        }
        Ok((noise.shallow_clone(), t.to_kind(Kind::Int64)))
    }
}

fn finite(path: &Path, name: &str, tensor: &Tensor) -> anyhow::Result<()> {
    let bad = tensor.f_isfinite()?.f_logical_not()?.f_nonzero()?;
    if bad.size()[0] == 0 {
        return Ok(());
    }
    let first = Vec::<i64>::try_from(bad.get(0))?;
    Err(anyhow!("{}: {name} holds NaN or infinity at {first:?}", path.display()))
}
