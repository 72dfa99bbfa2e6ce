//! Saving is complete, loading is strict.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::{collections::HashMap, fs};

use mtinet_domain::model::{Arm, ModelConfig, Preset};
use mtinet_models::{ImageShape, ModelError, Network, build, load_safetensors, save_safetensors, weights};
use tch::{Device, Kind, Tensor, nn::VarStore};

fn network(seed: i64) -> (VarStore, Box<dyn Network>) {
    tch::manual_seed(seed);
    let vs = VarStore::new(Device::Cpu);
    let image = ImageShape { phases: 4, size: 64 };
    let network = build(&vs.root(), Arm::MtiNet, &ModelConfig::preset(Preset::Tiny64), image, 2).unwrap();
    (vs, network)
}

fn images() -> Tensor {
    Tensor::randn([2, 4, 64, 64], (Kind::Float, Device::Cpu))
}

#[test]
fn a_loaded_network_answers_as_the_saved_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let (vs, network_a) = network(1);
    let x = images();
    // One pass in training mode, so that the running statistics are worth saving.
    network_a.forward(&x, true);
    save_safetensors(&vs, &path).unwrap();
    let (other, network_b) = network(2);
    load_safetensors(&other, &path).unwrap();
    let (a, b) = (network_a.forward(&x, false), network_b.forward(&x, false));
    assert_eq!((a.seg, a.curve, a.cls), (b.seg, b.curve, b.cls));
    assert!(other.trainable_variables().iter().all(Tensor::requires_grad));
}

/// Bytes of a file that differs from the network's own by `change`.
fn changed(change: impl FnOnce(&mut HashMap<String, Tensor>)) -> Vec<u8> {
    let (vs, _network) = network(1);
    let mut tensors = vs.variables();
    change(&mut tensors);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changed.safetensors");
    let named: Vec<_> = tensors.iter().collect();
    Tensor::write_safetensors(&named, &path).unwrap();
    fs::read(&path).unwrap()
}

fn refusal(bytes: &[u8]) -> ModelError {
    let (vs, _network) = network(3);
    let before: HashMap<_, _> = vs.variables().into_iter().map(|(name, t)| (name, t.copy())).collect();
    let error = weights::from_bytes(&vs, bytes, "w.safetensors").unwrap_err();
    assert!(vs.variables().iter().all(|(name, t)| *t == before[name]), "a refused file must change nothing");
    assert!(error.to_string().contains("w.safetensors"), "{error}");
    error
}

fn message(change: impl FnOnce(&mut HashMap<String, Tensor>)) -> String {
    refusal(&changed(change)).to_string()
}

#[test]
fn a_file_that_does_not_fit_is_refused_and_the_parameter_named() {
    const NAME: &str = "dec.head.bias";
    let options = (Kind::Float, Device::Cpu);
    let missing = message(|t| drop(t.remove(NAME)));
    assert!(missing.contains("lack dec.head.bias (1 in all)"), "{missing}");
    let extra = message(move |t| drop(t.insert("dec.tail".into(), Tensor::zeros([1], options))));
    assert!(extra.contains("have dec.tail (1 in all)"), "{extra}");
    let shape = message(move |t| drop(t.insert(NAME.into(), Tensor::zeros([2], options))));
    assert!(shape.contains("dec.head.bias has shape [2], the network needs [1]"), "{shape}");
    let double = (Kind::Double, Device::Cpu);
    let kind = message(move |t| drop(t.insert(NAME.into(), Tensor::zeros([1], double))));
    assert!(kind.contains("dec.head.bias has type F64"), "{kind}");
    for value in [f64::NAN, f64::INFINITY] {
        let poisoned = Tensor::full([1], value, options);
        let bad = message(move |t| drop(t.insert(NAME.into(), poisoned)));
        assert!(bad.contains("dec.head.bias holds NaN or infinity at element 0"), "{bad}");
    }
}

#[test]
fn a_truncated_file_is_refused_wherever_it_ends() {
    let bytes = weights::to_bytes(&network(1).0).unwrap();
    for length in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
        let error = refusal(&bytes[..length]);
        assert!(matches!(error, ModelError::Format { .. }), "{error}");
        assert!(error.to_string().contains("truncated"), "{error}");
    }
}

#[test]
fn an_absent_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("absent.safetensors");
    let error = load_safetensors(&network(1).0, &path).unwrap_err();
    assert!(matches!(error, ModelError::File { .. }) && error.to_string().contains("absent"), "{error}");
}
