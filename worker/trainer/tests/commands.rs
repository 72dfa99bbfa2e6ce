//! `init`, `forward` and `check-init` as people and `mtinet` call them: what is refused, in which words, with which
//! exit code (DESIGN.md 4.2).
#![expect(clippy::unwrap_used, reason = "a test ends with what went wrong")]

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output};

use tch::{Device, Kind, Tensor};

const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);
const PARAMETER: &str = "inc.double_conv.0.weight";

fn trainer(here: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mtinet-trainer")).args(arguments).current_dir(here).output().unwrap()
}

fn refused(output: &Output, code: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.starts_with("error: ") && !said.contains("panicked"), "{said}");
    for word in words {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
}

fn done(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

fn write(path: &Path, tensors: &HashMap<String, Tensor>) {
    Tensor::write_safetensors(&tensors.iter().collect::<Vec<_>>(), path).unwrap();
}

fn read(path: &Path) -> HashMap<String, Tensor> {
    Tensor::read_safetensors(path).unwrap().into_iter().collect()
}

/// A directory with the weights of a small U-Net for four phases, and an image for it.
fn scene() -> tempfile::TempDir {
    let here = tempfile::tempdir().unwrap();
    let init = ["init", "--arm", "unet", "--preset", "tiny64", "--size", "64", "--out", "w.safetensors"];
    done(&trainer(here.path(), &init));
    write(
        &here.path().join("x.safetensors"),
        &HashMap::from([("x".into(), Tensor::randn([1, 4, 64, 64], FLOAT))]),
    );
    here
}

fn forward(here: &Path, weights: &str, input: &str) -> Output {
    let files = ["--weights", weights, "--input", input, "--out", "y.safetensors"];
    trainer(here, &[&["forward", "--arm", "unet", "--preset", "tiny64"], &files[..]].concat())
}

#[test]
fn good_weights_answer() {
    let here = scene();
    done(&forward(here.path(), "w.safetensors", "x.safetensors"));
    let y = read(&here.path().join("y.safetensors"));
    assert_eq!((y.len(), y["seg"].size()), (1, vec![1, 1, 64, 64]));
}

#[test]
fn bad_weights_are_4_and_the_parameter_is_named() {
    let here = scene();
    let path = here.path().join("bad.safetensors");
    let good = std::fs::read(here.path().join("w.safetensors")).unwrap();
    type Change = Box<dyn Fn(&mut HashMap<String, Tensor>)>;
    let cases: [(Change, &[&str]); 6] = [
        (Box::new(|t| drop(t.remove(PARAMETER))), &["lack", PARAMETER]),
        (
            Box::new(|t| drop(t.insert("tail.bias".into(), Tensor::zeros([1], FLOAT)))),
            &["tail.bias", "lacks"],
        ),
        (
            Box::new(|t| drop(t.insert(PARAMETER.into(), Tensor::zeros([32, 3, 3, 3], FLOAT)))),
            &[PARAMETER, "[32, 3, 3, 3]", "[32, 4, 3, 3]"],
        ),
        (
            Box::new(|t| drop(t.insert(PARAMETER.into(), Tensor::full([32, 4, 3, 3], f64::NAN, FLOAT)))),
            &[PARAMETER, "NaN"],
        ),
        (
            Box::new(|t| drop(t.insert(PARAMETER.into(), Tensor::full([32, 4, 3, 3], f64::INFINITY, FLOAT)))),
            &[PARAMETER, "infinity"],
        ),
        (
            Box::new(|t| {
                drop(t.insert(PARAMETER.into(), Tensor::zeros([32, 4, 3, 3], (Kind::Half, Device::Cpu))));
            }),
            &[PARAMETER, "F16"],
        ),
    ];
    for (change, words) in cases {
        let mut tensors = read(&here.path().join("w.safetensors"));
        change(&mut tensors);
        write(&path, &tensors);
        refused(
            &forward(here.path(), "bad.safetensors", "x.safetensors"),
            4,
            &[words, &["bad.safetensors"]].concat(),
        );
    }
    for length in [0, 7, 100, good.len() / 2, good.len() - 1] {
        std::fs::write(&path, &good[..length]).unwrap();
        refused(
            &forward(here.path(), "bad.safetensors", "x.safetensors"),
            4,
            &["bad.safetensors", "truncated"],
        );
    }
    refused(&forward(here.path(), "absent.safetensors", "x.safetensors"), 4, &["absent.safetensors"]);
    assert!(!here.path().join("y.safetensors").exists(), "nothing is written");
}

#[test]
fn bad_inputs_are_4_and_unsuitable_sizes_2() {
    let here = scene();
    let path = here.path().join("bad.safetensors");
    let poisoned = Tensor::zeros([1, 4, 64, 64], FLOAT);
    let _ = poisoned.get(0).get(2).get(5).narrow(0, 7, 1).fill_(f64::NAN);
    let try_with = |name: &str, x: Tensor, code: i32, words: &[&str]| {
        write(&path, &HashMap::from([(name.into(), x)]));
        refused(&forward(here.path(), "w.safetensors", "bad.safetensors"), code, words);
    };
    let shaped = |shape: &[i64]| Tensor::zeros(shape, FLOAT);
    try_with("x", shaped(&[1, 4, 64, 64]).to_kind(Kind::Double), 4, &["float32", "Double"]);
    try_with("x", shaped(&[1, 4, 64, 64]).to_kind(Kind::Int64), 4, &["float32", "Int64"]);
    try_with("x", shaped(&[4, 64, 64]), 4, &["[N, phases, H, W]", "[4, 64, 64]"]);
    try_with("x", shaped(&[1, 4, 64, 32]), 4, &["H = W"]);
    try_with("x", shaped(&[0, 4, 64, 64]), 4, &["empty", "[0, 4, 64, 64]"]);
    try_with("x", shaped(&[1, 0, 64, 64]), 4, &["empty"]);
    try_with("y", shaped(&[1, 4, 64, 64]), 4, &["no tensor named x"]);
    try_with("x", poisoned, 4, &["NaN or infinity at [0, 2, 5, 7]"]);
    try_with("x", shaped(&[1, 3, 64, 64]), 4, &[PARAMETER, "[32, 3, 3, 3]"]);
    try_with("x", shaped(&[1, 4, 72, 72]), 2, &["72", "multiple of 16"]);
    std::fs::write(&path, b"not safetensors").unwrap();
    refused(&forward(here.path(), "w.safetensors", "bad.safetensors"), 4, &["bad.safetensors"]);
    refused(&forward(here.path(), "w.safetensors", "absent.safetensors"), 4, &["absent.safetensors"]);
    assert!(!here.path().join("y.safetensors").exists(), "nothing is written");
}

#[test]
fn impossible_networks_are_2() {
    let here = tempfile::tempdir().unwrap();
    let init = |more: &[&str]| trainer(here.path(), &[&["init", "--out", "w.safetensors"], more].concat());
    refused(&init(&["--arm", "inception3-cls", "--size", "64"]), 2, &["75 pixels"]);
    refused(&init(&["--arm", "unet", "--size", "40"]), 2, &["40", "multiple of 16"]);
    refused(&init(&["--arm", "vgg16-cls", "--classes", "1", "--size", "32"]), 2, &["at least 2"]);
    refused(&init(&["--arm", "unet", "--phases", "0"]), 2, &["at least one phase"]);
    let unknown = init(&["--arm", "unett"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("did you mean \"unet\"?"));
    assert_eq!(std::fs::read_dir(here.path()).unwrap().count(), 0, "nothing is written");
    let nowhere =
        ["init", "--arm", "unet", "--preset", "tiny64", "--size", "32", "--out", "no/such/w.safetensors"];
    refused(&trainer(here.path(), &nowhere), 2, &["no/such/w.safetensors"]);
}

#[test]
fn initial_weights_are_held_against_the_studys_network() {
    let here = scene();
    let spec = "name = \"s\"\ndataset = \"d\"\narms = [\"unet\"]\n[model]\npreset = \"tiny64\"\n[train]\nimage_size = 64\n";
    let spec = mtinet_domain::StudySpec::from_toml(spec).unwrap();
    std::fs::write(here.path().join("s.json"), spec.to_json()).unwrap();
    let check = |weights: &str, phases: &str| {
        let arguments = ["check-init", "--spec", "s.json", "--arm", "unet", "--classes", "2"];
        trainer(here.path(), &[&arguments[..], &["--weights", weights, "--phases", phases]].concat())
    };
    let good = check("w.safetensors", "4");
    done(&good);
    assert!(good.stdout.is_empty(), "nothing is adapted");
    refused(&check("w.safetensors", "2"), 4, &[PARAMETER]);
    let mut tensors = read(&here.path().join("w.safetensors"));
    let colours = tensors[PARAMETER].narrow(1, 0, 3).contiguous();
    tensors.insert(PARAMETER.into(), colours);
    write(&here.path().join("colours.safetensors"), &tensors);
    let adapted = check("colours.safetensors", "4");
    done(&adapted);
    assert!(String::from_utf8_lossy(&adapted.stdout).contains("inc.double_conv.0.weight: 3 input channels"));
}
