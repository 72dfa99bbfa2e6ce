//! `mtinet-trainer export`: the TorchScript file, read again by libtorch, answers as `forward` does with the weights that
//! it was made of.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::{Command, Output};

use tch::{CModule, Device, IValue, Kind, Tensor};

const SIZE: i64 = 32;

fn trainer(here: &Path, arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mtinet-trainer"))
        .args(arguments.split(' '))
        .current_dir(here)
        .output()
        .unwrap()
}

fn done(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Fresh weights with the header that `mtinet export` gives them.
fn weights(here: &Path, arm: &str, preset: &str) {
    done(&trainer(here, &format!("init --arm {arm} --preset {preset} --size {SIZE} --out w.safetensors")));
    let bytes = std::fs::read(here.join("w.safetensors")).unwrap();
    let preset = mtinet_domain::model::ModelConfig::preset(preset.parse().unwrap());
    let header = [
        ("arm", arm.to_owned()),
        ("model", serde_json::to_string(&preset).unwrap()),
        ("image_size", SIZE.to_string()),
        ("phases", r#"["pre","art","pv","del"]"#.to_owned()),
        ("classes", r#"["hemangioma","hcc"]"#.to_owned()),
        ("normalisation_mean", "12.5".to_owned()),
    ];
    let header: HashMap<String, String> =
        header.into_iter().map(|(key, value)| (format!("mtinet.{key}"), value)).collect();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let bytes = safetensors::serialize(tensors.tensors(), Some(header)).unwrap();
    std::fs::write(here.join("w.safetensors"), bytes).unwrap();
}

fn named(path: &Path) -> BTreeMap<String, Tensor> {
    Tensor::read_safetensors(path).unwrap().into_iter().collect()
}

fn called(module: &CModule, x: &Tensor) -> BTreeMap<String, Tensor> {
    let IValue::GenericDict(pairs) = module.forward_is(&[IValue::Tensor(x.shallow_clone())]).unwrap() else {
        panic!("no dictionary")
    };
    let pair = |pair| match pair {
        (IValue::String(key), IValue::Tensor(value)) => (key, value),
        other => panic!("{other:?}"),
    };
    pairs.into_iter().map(pair).collect()
}

/// Exports an arm and compares it for one, two and three images; the names of its answers.
fn answers_alike(arm: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    weights(here, arm, "tiny64");
    done(&trainer(here, "export --weights w.safetensors --out n.pt"));
    let module = CModule::load(here.join("n.pt")).unwrap();
    let parameters: Vec<String> =
        module.named_parameters().unwrap().into_iter().map(|(name, _)| name).collect();
    let stored = named(&here.join("w.safetensors"));
    assert!(
        !parameters.is_empty() && parameters.iter().all(|name| stored.contains_key(name)),
        "{parameters:?}"
    );
    let bytes = |file: &str| std::fs::metadata(here.join(file)).unwrap().len();
    let most = bytes("w.safetensors") + bytes("w.safetensors") / 4 + (1 << 20);
    assert!(bytes("n.pt") < most, "{arm}: weights are stored once, not {} bytes", bytes("n.pt"));
    let mut names = Vec::new();
    for count in [1, 2, 3] {
        let x = Tensor::randn([count, 4, SIZE, SIZE], (Kind::Float, Device::Cpu));
        Tensor::write_safetensors(&[("x", &x)], here.join("x.safetensors")).unwrap();
        let files = "--weights w.safetensors --input x.safetensors --out y.safetensors";
        done(&trainer(here, &format!("forward --arm {arm} {files}")));
        let (expected, found) = (named(&here.join("y.safetensors")), called(&module, &x));
        assert!(expected.keys().eq(found.keys()), "{arm}: {:?} {:?}", expected.keys(), found.keys());
        for (name, expected) in &expected {
            assert_eq!(found[name].size(), expected.size());
            assert!(found[name].allclose(expected, 1e-5, 1e-6, false), "{arm}: {name} of {count} images");
        }
        names = found.into_keys().collect();
    }
    names
}

#[test]
fn mti_net_and_its_parts_answer_alike() {
    assert_eq!(answers_alike("mti-net"), ["cls", "curve", "seg"]);
    assert_eq!(answers_alike("no-mdief"), ["cls", "curve", "seg"]);
    assert_eq!(answers_alike("no-spa"), ["cls", "curve", "seg"]);
    assert_eq!(answers_alike("seg-only"), ["seg"]);
    assert_eq!(answers_alike("seg-reg"), ["curve", "seg"]);
    assert_eq!(answers_alike("seg-cls"), ["cls", "seg"]);
}

#[test]
fn baselines_answer_alike() {
    assert_eq!(answers_alike("unet"), ["seg"]);
    assert_eq!(answers_alike("resunetpp"), ["seg"]);
    assert_eq!(answers_alike("md-ff"), ["seg"]);
    assert_eq!(answers_alike("densenet121-reg"), ["curve"]);
}

#[test]
fn what_cannot_be_exported_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    let refused = |code: i32, words: &str| {
        let output = trainer(here, "export --weights w.safetensors --out n.pt");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(code) && said.contains(words), "{said}");
        assert!(!here.join("n.pt").exists());
    };
    refused(4, "w.safetensors");
    done(&trainer(here, "init --arm unet --preset tiny64 --size 32 --out w.safetensors"));
    refused(4, "the header lacks mtinet.");
    weights(here, "ei-ddpm", "tiny64");
    refused(2, "a recorded network draws nothing");
}
