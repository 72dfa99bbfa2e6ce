//! What the tests of names and shapes share.

use std::{collections::BTreeMap, fs, path::Path};

use mtinet_domain::model::{Arm, ModelConfig};
use mtinet_models::{ImageShape, build};
use tch::{Device, nn::VarStore};

/// The parameters of a freshly built network.
pub fn store(arm: Arm, cfg: &ModelConfig, size: usize, classes: usize) -> VarStore {
    let vs = VarStore::new(Device::Cpu);
    build(&vs.root(), arm, cfg, ImageShape { phases: 4, size }, classes).unwrap();
    vs
}

/// Number of trainable values.
pub fn trainable(vs: &VarStore) -> usize {
    vs.trainable_variables().iter().map(tch::Tensor::numel).sum()
}

/// Name to shape, and whether it is trainable.
pub type Listing = BTreeMap<String, (Vec<i64>, bool)>;

/// What a store holds.
pub fn listing(vs: &VarStore) -> Listing {
    vs.variables().into_iter().map(|(name, t)| (name, (t.size(), t.requires_grad()))).collect()
}

/// What `tests/fixtures/state_dicts/NAME.tsv` lists.
pub fn expected(name: &str) -> Listing {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/state_dicts");
    let text = fs::read_to_string(folder.join(format!("{name}.tsv"))).unwrap();
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (name, shape) = line.split_once('\t').unwrap();
            let shape = shape.split('x').map(|d| d.parse().unwrap()).collect();
            let buffer = name.strip_prefix("BUFFER ");
            (buffer.unwrap_or(name).to_owned(), (shape, buffer.is_none()))
        })
        .collect()
}
