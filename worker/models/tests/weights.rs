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

/// A network of `arm` for four phases with random weights, and a file's worth of tensors as PyTorch would save them
/// for it: changed by `change`, and with a counter beside every running mean.
fn from_pytorch(
    arm: Arm,
    change: impl FnOnce(&mut HashMap<String, Tensor>),
) -> (VarStore, Vec<u8>, HashMap<String, Tensor>) {
    let small = |seed| {
        tch::manual_seed(seed);
        let vs = VarStore::new(Device::Cpu);
        let cfg = ModelConfig::preset(Preset::Tiny64);
        build(&vs.root(), arm, &cfg, ImageShape { phases: 4, size: 64 }, 2).unwrap();
        vs
    };
    let mut tensors = small(1).variables();
    let counters: Vec<_> = tensors.keys().filter_map(|name| name.strip_suffix("running_mean")).collect();
    let counters: Vec<_> = counters.iter().map(|name| format!("{name}num_batches_tracked")).collect();
    for name in counters {
        tensors.insert(name, Tensor::from(7_i64));
    }
    change(&mut tensors);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pytorch.safetensors");
    Tensor::write_safetensors(&tensors.iter().collect::<Vec<_>>(), &path).unwrap();
    (small(2), fs::read(&path).unwrap(), tensors)
}

fn initialise(vs: &VarStore, arm: Arm, bytes: &[u8]) -> Result<Vec<String>, ModelError> {
    mtinet_models::initial::initialise_from(vs, arm, 4, bytes, "w.safetensors")
}

#[test]
fn a_network_starts_from_a_file_of_pytorch() {
    let (vs, bytes, tensors) = from_pytorch(Arm::Unet, |t| {
        t.insert(
            "inc.double_conv.1.running_mean".into(),
            Tensor::full([32], 0.5, (Kind::Float, Device::Cpu)),
        );
    });
    assert_eq!(initialise(&vs, Arm::Unet, &bytes).unwrap(), Vec::<String>::new());
    assert!(vs.variables().iter().all(|(name, tensor)| *tensor == tensors[name]), "also running statistics");
    assert!(vs.trainable_variables().iter().all(Tensor::requires_grad));
}

#[test]
fn weights_for_colour_images_are_adapted_wherever_the_image_is_read() {
    // ResUNet++ reads the image in two places.
    let names = ["c1.c1.0.weight", "c1.c2.0.weight"];
    let colours = |t: &HashMap<String, Tensor>, name: &str| t[name].narrow(1, 0, 3).contiguous();
    let (vs, bytes, tensors) = from_pytorch(Arm::ResUnetPp, |t| {
        for name in names {
            let three = colours(t, name);
            t.insert(name.into(), three);
        }
    });
    let notes = initialise(&vs, Arm::ResUnetPp, &bytes).unwrap();
    assert_eq!(notes.len(), 2, "{notes:?}");
    for (name, note) in names.iter().zip(&notes) {
        assert!(note.contains(name) && note.contains("3 input channels adapted to 4"), "{note}");
        let (three, four) = (&tensors[*name], &vs.variables()[*name]);
        assert_eq!(four.narrow(1, 0, 3), three * 0.75);
        let fourth = four.narrow(1, 3, 1) - three.mean_dim([1].as_slice(), true, Kind::Float) * 0.75;
        assert!(fourth.abs().max().double_value(&[]) < 1e-6);
    }
    // MTI-Net sees one phase at a time; a layer of it with four inputs is none that reads the image.
    let name = "enc_spa.block2.conv.weight";
    let (vs, bytes, _) = from_pytorch(Arm::MtiNet, |t| {
        let three = colours(t, name);
        t.insert(name.into(), three);
    });
    let error = initialise(&vs, Arm::MtiNet, &bytes).unwrap_err();
    assert!(matches!(error, ModelError::Shape { .. }) && error.to_string().contains(name), "{error}");
}

#[test]
fn an_answering_layer_may_be_left_out_but_not_be_another() {
    let options = (Kind::Float, Device::Cpu);
    let (vs, bytes, _) = from_pytorch(Arm::Resnet50Cls, |t| {
        t.insert("fc.weight".into(), Tensor::zeros([1000, 2048], options));
        t.insert("fc.bias".into(), Tensor::zeros([1000], options));
    });
    let error = initialise(&vs, Arm::Resnet50Cls, &bytes).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("fc.bias has shape [1000], the network needs [2]"), "{text}");
    assert!(text.contains("leave fc out of the file"), "{text}");

    let (vs, bytes, tensors) = from_pytorch(Arm::Resnet50Cls, |t| {
        t.remove("fc.weight");
        t.remove("fc.bias");
    });
    let random = vs.variables()["fc.weight"].copy();
    let notes = initialise(&vs, Arm::Resnet50Cls, &bytes).unwrap();
    assert_eq!(notes, ["fc is not in the file and keeps its random start"]);
    assert_eq!(
        (&vs.variables()["fc.weight"], &vs.variables()["conv1.weight"]),
        (&random, &tensors["conv1.weight"])
    );

    let (vs, bytes, _) = from_pytorch(Arm::Resnet50Cls, |t| drop(t.remove("fc.bias")));
    let text = initialise(&vs, Arm::Resnet50Cls, &bytes).unwrap_err().to_string();
    assert!(text.contains("lack fc.bias (1 in all)"), "{text}");
}

#[test]
fn what_a_network_cannot_start_from_is_refused_and_changes_nothing() {
    const NAME: &str = "inc.double_conv.0.weight";
    let options = (Kind::Float, Device::Cpu);
    type Change = Box<dyn FnOnce(&mut HashMap<String, Tensor>)>;
    let cases: [(Change, &str); 5] = [
        (Box::new(|t| drop(t.remove(NAME))), "lack inc.double_conv.0.weight"),
        (
            Box::new(move |t| drop(t.insert("AuxLogits.fc.bias".into(), Tensor::zeros([1], options)))),
            "AuxLogits.fc.bias",
        ),
        (
            Box::new(move |t| drop(t.insert(NAME.into(), Tensor::zeros([32, 5, 3, 3], options)))),
            "[32, 5, 3, 3]",
        ),
        (
            Box::new(move |t| drop(t.insert(NAME.into(), Tensor::full([32, 4, 3, 3], f64::NAN, options)))),
            "NaN",
        ),
        (
            Box::new(move |t| drop(t.insert(NAME.into(), Tensor::full([32, 3, 3, 3], f64::NAN, options)))),
            "NaN",
        ),
    ];
    for (change, words) in cases {
        let (vs, bytes, _) = from_pytorch(Arm::Unet, change);
        let before: HashMap<_, _> = vs.variables().into_iter().map(|(name, t)| (name, t.copy())).collect();
        let text = initialise(&vs, Arm::Unet, &bytes).unwrap_err().to_string();
        assert!(text.contains(words) && text.contains("w.safetensors"), "{text}");
        assert!(text.contains("inc.double_conv.0.weight") || text.contains("AuxLogits"), "{text}");
        assert!(vs.variables().iter().all(|(name, t)| *t == before[name]));
        let truncated = initialise(&vs, Arm::Unet, &bytes[..bytes.len() / 2]).unwrap_err();
        assert!(matches!(truncated, ModelError::Format { .. }), "{truncated}");
    }
}
