//! Recorded networks: read again by libtorch they answer any number of images, and their weights have names.
#![expect(clippy::unwrap_used, reason = "the helpers of tests fail tests by panicking")]

use std::collections::BTreeMap;
use std::path::Path;

use mtinet_torch_ext::{Script, TorchExtError, Weight};
use tch::{CModule, Device, IValue, Kind, Tensor};

const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

/// A convolution that is used twice, its running mean, and a readout.
struct Network {
    kernel: Tensor,
    mean: Tensor,
    readout: Tensor,
}

impl Network {
    fn new() -> Self {
        let random = |shape: &[i64]| Tensor::randn(shape, FLOAT);
        Self { kernel: random(&[2, 2, 3, 3]), mean: random(&[2]), readout: random(&[3, 2]) }
    }

    fn forward(&self, x: &Tensor) -> [Tensor; 2] {
        let layer = |x: &Tensor| x.conv2d(&self.kernel, None::<Tensor>, [1, 1], [1, 1], [1, 1], 1).relu();
        let map = layer(&layer(x)) - self.mean.reshape([1, 2, 1, 1]);
        let pooled = map.mean_dim([2, 3].as_slice(), false, None);
        [map, pooled.linear(&self.readout, None::<Tensor>)]
    }

    fn weights(&self) -> Vec<Weight> {
        let weight = |name: &str, tensor: &Tensor, trained| Weight {
            name: name.to_owned(),
            tensor: tensor.shallow_clone(),
            trained,
        };
        vec![
            weight("body.0.weight", &self.kernel, true),
            weight("body.0.running_mean", &self.mean, false),
            weight("head.weight", &self.readout, true),
        ]
    }

    fn record(&self, path: &Path) -> Result<(), TorchExtError> {
        let x = Tensor::randn([2, 2, 5, 5], FLOAT);
        let script = Script::begin(&self.weights(), &x)?;
        let [map, readout] = self.forward(&x);
        script.finish(&[("map", map), ("readout", readout)], path, "{}")
    }
}

fn answers(module: &CModule, x: &Tensor) -> BTreeMap<String, Tensor> {
    let IValue::GenericDict(pairs) = module.forward_is(&[IValue::Tensor(x.shallow_clone())]).unwrap() else {
        panic!("no dictionary");
    };
    let pair = |(key, value)| match (key, value) {
        (IValue::String(key), IValue::Tensor(value)) => (key, value),
        other => panic!("{other:?}"),
    };
    pairs.into_iter().map(pair).collect()
}

#[test]
fn a_recorded_network_answers_as_it_did_for_any_number_of_images() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("network.pt");
    let network = Network::new();
    network.record(&path).unwrap();
    let module = CModule::load(&path).unwrap();
    for count in [1, 2, 3] {
        let x = Tensor::randn([count, 2, 5, 5], FLOAT);
        let found = answers(&module, &x);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["map", "readout"]);
        for (name, expected) in ["map", "readout"].iter().zip(network.forward(&x)) {
            assert!(found[*name].allclose(&expected, 1e-6, 1e-6, false), "{name} of {count}");
        }
    }
    let names: Vec<String> = module.named_parameters().unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["body.0.weight", "head.weight"], "running statistics are no parameters");
}

#[test]
fn a_recording_that_is_given_up_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("network.pt");
    let network = Network::new();
    let x = Tensor::randn([2, 2, 5, 5], FLOAT);
    let script = Script::begin(&network.weights(), &x).unwrap();
    let error = Script::begin(&network.weights(), &x).unwrap_err();
    assert!(error.to_string().contains("already"), "{error}");
    drop(script);
    let foreign = Tensor::ones([1], FLOAT);
    let script = Script::begin(&network.weights(), &x).unwrap();
    assert!(
        script.finish(&[("constant", foreign)], &path, "{}").is_err(),
        "it does not follow from the input"
    );
    assert!(!path.exists());
    network.record(&path).unwrap();
    assert!(CModule::load(&path).is_ok());
}
