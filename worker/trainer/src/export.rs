//! `export`: a trained network as TorchScript, for `mtinet export --format torchscript`.
//!
//! The network is recorded in evaluation mode with two images; how many there are stays free, their size does not. The
//! file is then read again and held against the network with one, two and three images: what does not answer alike is not
//! left behind.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, anyhow};
use mtinet_domain::Arm;
use mtinet_models::{ImageShape, Network, Outputs};
use mtinet_torch_ext::{Script, Weight};
use serde_json::{Value, json};
use tch::nn::VarStore;
use tch::{CModule, Device, IValue, Kind, Tensor};

use crate::failure::Failure;

/// How far an answer of the file may be from the network's, relative and absolute: the order of sums may differ.
const TOLERANCE: (f64, f64) = (1e-4, 1e-5);

pub(crate) fn export(weights: &Path, out: &Path) -> Result<(), Failure> {
    let description = Description::read(weights).map_err(Failure::Input)?;
    let arm = description.arm;
    if arm == Arm::EiDdpm {
        return Err(Failure::Usage(anyhow!(
            "{arm} cannot be TorchScript: its answers start from noise that is drawn from a seed of case and slice, and a \
             recorded network draws nothing; `mtinet predict` answers with it, and --format safetensors holds its weights"
        )));
    }
    let _no_grad = tch::no_grad_guard();
    let mut vs = VarStore::new(Device::Cpu);
    let network =
        mtinet_models::build(&vs.root(), arm, &description.model, description.image, description.classes)
            .map_err(|error| Failure::Usage(error.into()))?;
    mtinet_models::load_safetensors(&vs, weights).map_err(|error| Failure::Input(error.into()))?;
    // Before they are frozen, parameters tell themselves from running statistics.
    let named = named_weights(&vs);
    vs.freeze();
    let written = record(network.as_ref(), &named, &description, out)
        .and_then(|()| compare(network.as_ref(), &description, out));
    written.map_err(|error| {
        // A file that answers otherwise, or half a one, must not be taken for the network.
        let _ = std::fs::remove_file(out);
        Failure::Training(error.context(format!("failed to write {arm} as TorchScript")))
    })
}

/// What the header of exported weights says of their network.
struct Description {
    arm: Arm,
    model: mtinet_domain::model::ModelConfig,
    image: ImageShape,
    classes: usize,
    header: HashMap<String, String>,
}

impl Description {
    fn read(weights: &Path) -> anyhow::Result<Self> {
        let header = mtinet_models::weights::metadata(weights)?;
        let get = |key: &str| {
            header.get(&format!("mtinet.{key}")).ok_or_else(|| {
                anyhow!(
                    "{}: the header lacks mtinet.{key}; weights from `mtinet export` have it",
                    weights.display()
                )
            })
        };
        let unreadable = |key: &str| format!("{}: mtinet.{key} in the header", weights.display());
        let names = |key: &str| -> anyhow::Result<usize> {
            Ok(serde_json::from_str::<Vec<String>>(get(key)?).with_context(|| unreadable(key))?.len())
        };
        let size = get("image_size")?.parse::<usize>().with_context(|| unreadable("image_size"))?;
        Ok(Self {
            arm: get("arm")?.parse::<Arm>().with_context(|| unreadable("arm"))?,
            model: serde_json::from_str(get("model")?).with_context(|| unreadable("model"))?,
            image: ImageShape { phases: names("phases")?, size },
            classes: names("classes")?,
            header,
        })
    }

    /// Random images of the network's size, the same every time.
    fn images(&self, count: i64) -> Tensor {
        tch::manual_seed(count);
        let (phases, size) = (self.image.phases as i64, self.image.size as i64);
        Tensor::randn([count, phases, size, size], (Kind::Float, Device::Cpu))
    }

    /// What the file says of itself: the header of the weights, and how the network is called.
    fn about(&self, outputs: &[(&str, Tensor)]) -> String {
        let mut about: serde_json::Map<String, Value> = self
            .header
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix("mtinet.")?.to_owned(), json!(value))))
            .collect();
        let ImageShape { phases, size } = self.image;
        about.insert("format".to_owned(), json!("mtinet-torchscript/1"));
        about.insert(
            "input".to_owned(),
            json!(format!("x: float32 [N, {phases}, {size}, {size}], (raw - mean) / std")),
        );
        let names: Vec<&str> = outputs.iter().map(|(name, _)| *name).collect();
        about.insert("outputs".to_owned(), json!(names));
        Value::Object(about).to_string()
    }
}

fn named_weights(vs: &VarStore) -> Vec<Weight> {
    let mut weights: Vec<Weight> = vs
        .variables()
        .into_iter()
        .map(|(name, tensor)| Weight { name, trained: tensor.requires_grad(), tensor })
        .collect();
    weights.sort_by(|a, b| a.name.cmp(&b.name));
    weights
}

/// The answers that a file has: `seg`, `curve`, `cls`, in this order, as far as the arm has them.
fn answers(outputs: Outputs) -> Vec<(&'static str, Tensor)> {
    [("seg", outputs.seg), ("curve", outputs.curve), ("cls", outputs.cls)]
        .into_iter()
        .filter_map(|(name, tensor)| Some((name, tensor?)))
        .collect()
}

fn record(
    network: &dyn Network,
    weights: &[Weight],
    description: &Description,
    out: &Path,
) -> anyhow::Result<()> {
    let x = description.images(2);
    let script = Script::begin(weights, &x)?;
    let outputs = answers(network.forward(&x, false));
    let about = description.about(&outputs);
    Ok(script.finish(&outputs, out, &about)?)
}

/// Holds the file against the network.
fn compare(network: &dyn Network, description: &Description, out: &Path) -> anyhow::Result<()> {
    let module = CModule::load(out).context("the file cannot be read again")?;
    // libtorch optimises what it has run a few times: the answers before and after must be right.
    for count in [2, 2, 2, 1, 3, 1] {
        let x = description.images(count);
        let found = called(&module, &x)?;
        for (name, expected) in answers(network.forward(&x, false)) {
            let found = found.iter().find(|(key, _)| key == name);
            let found = found.map(|(_, value)| value).ok_or_else(|| anyhow!("it lacks {name}"))?;
            let alike =
                found.size() == expected.size() && found.allclose(&expected, TOLERANCE.0, TOLERANCE.1, false);
            if !alike {
                return Err(anyhow!(
                    "with {count} images its {name} {:?} is not the network's {:?}",
                    found.size(),
                    expected.size()
                ));
            }
        }
    }
    Ok(())
}

fn called(module: &CModule, x: &Tensor) -> anyhow::Result<Vec<(String, Tensor)>> {
    let answer = module.forward_is(&[IValue::Tensor(x.shallow_clone())])?;
    let IValue::GenericDict(pairs) = answer else { return Err(anyhow!("it returns no dictionary")) };
    pairs
        .into_iter()
        .map(|pair| match pair {
            (IValue::String(key), IValue::Tensor(value)) => Ok((key, value)),
            _ => Err(anyhow!("its dictionary holds other things than tensors")),
        })
        .collect()
}
