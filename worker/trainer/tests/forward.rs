//! `mtinet-trainer init` and `forward` as a user runs them, for the arm that needs more than images.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::path::Path;
use std::process::{Command, Output};

use tch::{Device, Kind, Tensor};

fn trainer(dir: &Path, arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mtinet-trainer"))
        .args(arguments.split(' '))
        .current_dir(dir)
        .output()
        .unwrap()
}

const FORWARD: &str =
    "forward --arm ei-ddpm --preset tiny64 --weights w.safetensors --input x.safetensors --out y.safetensors";

#[test]
fn ei_ddpm_answers_noise_and_mask_and_names_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let done = trainer(dir.path(), "init --arm ei-ddpm --preset tiny64 --size 32 --out w.safetensors");
    assert!(done.status.success(), "{done:?}");
    let tensor = |channels| Tensor::randn([2, channels, 32, 32], (Kind::Float, Device::Cpu));
    let t = Tensor::from_slice(&[0_i64, 999]);
    let whole = [("x", tensor(4)), ("noise", tensor(1)), ("t", t)];
    let run = |inputs: &[(&str, Tensor)]| {
        Tensor::write_safetensors(inputs, dir.path().join("x.safetensors")).unwrap();
        trainer(dir.path(), FORWARD)
    };
    let done = run(&whole);
    assert!(done.status.success(), "{done:?}");
    let answers = Tensor::read_safetensors(dir.path().join("y.safetensors")).unwrap();
    let mut shapes: Vec<_> = answers.iter().map(|(name, tensor)| (name.as_str(), tensor.size())).collect();
    shapes.sort();
    assert_eq!(shapes, [("eps", vec![2, 4, 32, 32]), ("seg", vec![2, 1, 32, 32])]);

    let refused = |inputs: &[(&str, Tensor)], code: i32, words: &str| {
        let output = run(inputs);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(words), "{text}");
    };
    let [x, noise, t] = whole;
    let copy = |(name, tensor): &(&'static str, Tensor)| (*name, tensor.shallow_clone());
    refused(&[copy(&x), copy(&t)], 2, "no tensor named noise");
    refused(&[copy(&x), copy(&noise)], 2, "no tensor named t");
    refused(&[copy(&x), ("noise", tensor(4)), copy(&t)], 4, "noise must be float32 [2, 1, 32, 32]");
    let beyond = ("t", Tensor::from_slice(&[0_i64, 1000]));
    refused(&[copy(&x), copy(&noise), beyond], 4, "t must be [2], whole numbers from 0 to 999");
}
