//! Weights in and out: a study starts from a file, and its trained weights come out and answer as the trial did.
#![expect(clippy::unwrap_used, reason = "a test's helpers may panic as the test may")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mtinet_data::{Dataset, PreprocessOptions, SliceCache, Spacing};
use mtinet_tests::{phantom_dataset, program, stderr};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

const PARAMETER: &str = "inc.double_conv.0.weight";

fn run(name: &str, here: &Path, arguments: &[&str]) -> Output {
    Command::new(program(name)).args(arguments).current_dir(here).output().unwrap()
}

fn succeeds(output: &Output) {
    assert!(output.status.success(), "{}", stderr(output));
}

fn fails(output: &Output, code: i32, words: &[&str]) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
}

/// A study of two steps so small that its weights stay what they began as, up to rounding.
fn study(here: &Path) -> PathBuf {
    let file = here.join("study.toml");
    let text = format!(
        "name = \"weights\"\ndataset = \"{}\"\narms = [\"mti-net\", \"unet\"]\nfolds = [1]\n[model]\npreset = \"tiny64\"\n\
         [train]\nsteps = 2\nbatch_size = 2\nimage_size = 64\nlearning_rate = 1e-9\neval_every = 0\n\
         [output]\npredictions = false\n[init]\nunet = \"unet.safetensors\"\n",
        phantom_dataset().display()
    );
    std::fs::write(&file, text).unwrap();
    file
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect()
}

fn values(path: &Path, name: &str) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    floats(SafeTensors::deserialize(&bytes).unwrap().tensor(name).unwrap().data())
}

fn write(path: &Path, name: &str, shape: Vec<usize>, values: &[f32]) {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, shape, &bytes).unwrap();
    std::fs::write(path, safetensors::serialize([(name, view)], None).unwrap()).unwrap();
}

fn metadata(path: &Path) -> HashMap<String, String> {
    let bytes = std::fs::read(path).unwrap();
    SafeTensors::read_metadata(&bytes).unwrap().1.metadata().clone().unwrap()
}

#[test]
fn a_study_starts_from_a_file_and_its_weights_answer_as_its_trials_did() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    study(here);
    let init = ["init", "--arm", "unet", "--preset", "tiny64", "--size", "64", "--seed", "77"];
    succeeds(&run("mtinet-trainer", here, &[&init[..], &["--out", "unet.safetensors"]].concat()));
    succeeds(&run("mtinet", here, &["run", "study.toml", "--out", "run", "--devices", "cpu:1"]));

    // U-Net started from its file: two steps of a billionth have not moved it, and no random start is so close.
    let export = |trial: &str, more: &[&str]| {
        run("mtinet", here, &[&["export", trial, "--data-dir", "run"], more].concat())
    };
    succeeds(&export("unet/1/0", &["unet-out.safetensors"]));
    let (begun, ended) = (
        values(&here.join("unet.safetensors"), PARAMETER),
        values(&here.join("unet-out.safetensors"), PARAMETER),
    );
    assert!(begun.iter().zip(&ended).all(|(a, b)| (a - b).abs() < 1e-6));
    assert_ne!(begun, ended, "it was trained");
    let log = std::fs::read_to_string(find(&here.join("run/work"), "unet-1-0/1/rank0.log")).unwrap();
    assert!(log.contains("starts from the weights that [init] of the study names"), "{log}");

    // What is there is not replaced, and what is not there is named.
    let named = ["--study", "weights", "unet-out.safetensors"];
    fails(&export("unet/1/0", &named), 2, &["unet-out.safetensors exists", "--force"]);
    succeeds(&export("unet/1/0", &[&named[..], &["--force"]].concat()));
    fails(&export("unet/0/0", &["none.safetensors"]), 1, &["no trial unet/0/0"]);
    assert!(!here.join("none.safetensors").exists());

    succeeds(&export("mti-net/1/0", &["mti.safetensors"]));
    answers_as_the_trial(here, &here.join("mti.safetensors"));
}

/// MTI-Net's exported weights, with nothing but what their header says, give the figures of the report.
fn answers_as_the_trial(here: &Path, weights: &Path) {
    let says = metadata(weights);
    assert_eq!((says["mtinet.arm"].as_str(), says["mtinet.preset"].as_str()), ("mti-net", "tiny64"));
    assert_eq!((says["mtinet.fold"].as_str(), says["mtinet.study"].as_str()), ("1", "weights"));
    assert_eq!(says["mtinet.phases"], r#"["pre","art","pv","del"]"#);
    let dataset = Dataset::open(phantom_dataset()).unwrap();
    assert_eq!(says["mtinet.dataset_hash"], dataset.hash());
    let [mean, std]: [f32; 2] =
        ["mean", "std"].map(|name| says[&format!("mtinet.normalisation_{name}")].parse().unwrap());

    let options = PreprocessOptions { image_size: 64, spacing: Spacing::Auto, healthy_fraction: 1.0 };
    let cache = find(&here.join("run/work"), "cache/slices");
    let cache = SliceCache::open_or_build(&dataset, &options, Some(&cache), &|_, _| {}).unwrap();
    let held_out = cache.fold(1, &dataset).unwrap().val;
    let tumours: Vec<usize> =
        held_out.into_iter().filter(|&slice| cache.slices()[slice].class.is_some()).collect();
    let mut x = Vec::new();
    for &slice in &tumours {
        x.extend(cache.image(slice).unwrap().iter().map(|raw| (raw - mean) / std));
    }
    write(&here.join("x.safetensors"), "x", vec![tumours.len(), 4, 64, 64], &x);
    let files = ["--input", "x.safetensors", "--out", "y.safetensors", "--weights", "mti.safetensors"];
    succeeds(&run("mtinet-trainer", here, &[&["forward", "--arm", "mti-net"], &files[..]].concat()));

    let y = here.join("y.safetensors");
    let (curves, logits) = (values(&y, "curve"), values(&y, "cls"));
    let mut rows = csv::Reader::from_path(here.join("run/report/slices.csv")).unwrap();
    let rows: Vec<HashMap<String, String>> = rows.deserialize().map(Result::unwrap).collect();
    assert!(tumours.len() > 3);
    for (n, &slice) in tumours.iter().enumerate() {
        let record = &cache.slices()[slice];
        let is_it = |row: &&HashMap<String, String>| {
            row["arm"] == "mti-net" && row["case"] == record.case && row["slice"] == record.z.to_string()
        };
        let row = rows.iter().find(is_it).unwrap();
        let told = |name: &str| -> f64 { row[name].parse().unwrap() };
        let truth = record.curve.as_ref().unwrap();
        let error = curves[4 * n..4 * n + 4].iter().zip(truth.iter());
        let error = error.map(|(y, truth)| f64::from((y * std + mean - truth).abs())).sum::<f64>() / 4.0;
        assert!((error - told("mae")).abs() < 1e-2, "{error} {row:?}");
        let probability = 1.0 / (1.0 + f64::from(logits[2 * n] - logits[2 * n + 1]).exp());
        assert!((probability - told("p_1")).abs() < 1e-3, "{probability} {row:?}");
    }
}

#[test]
fn weights_that_fit_no_network_stop_a_study_before_it_begins() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    study(here);
    let start = ["run", "study.toml", "--out", "run"];
    fails(&run("mtinet", here, &start), 4, &["study.toml: init.unet", "cannot be read"]);
    write(&here.join("unet.safetensors"), PARAMETER, vec![1], &[1.0]);
    fails(&run("mtinet", here, &start), 4, &["init.unet", "lack"]);
    let init = ["init", "--arm", "unet", "--preset", "tiny64", "--phases", "5", "--size", "64"];
    succeeds(&run("mtinet-trainer", here, &[&init[..], &["--out", "unet.safetensors"]].concat()));
    fails(&run("mtinet", here, &start), 4, &["init.unet", PARAMETER, "[32, 5, 3, 3]", "[32, 4, 3, 3]"]);
    write(&here.join("unet.safetensors"), PARAMETER, vec![1], &[f32::NAN]);
    fails(&run("mtinet", here, &start), 4, &["init.unet", PARAMETER, "NaN"]);
    assert!(!here.join("run").exists(), "nothing was begun");
}

/// The path below `root` that ends with `tail`.
fn find(root: &Path, tail: &str) -> PathBuf {
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        if path.ends_with(tail) {
            return path;
        }
        if let Ok(entries) = std::fs::read_dir(&path) {
            waiting.extend(entries.map(|entry| entry.unwrap().path()));
        }
    }
    panic!("there is no {tail} below {}", root.display());
}
