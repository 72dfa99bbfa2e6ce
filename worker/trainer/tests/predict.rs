//! `mtinet-trainer predict`: requests that cannot be are refused in words, with the exit codes that `mtinet` passes on.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::path::Path;
use std::process::{Command, Output};

use mtinet_domain::StudySpec;
use mtinet_domain::prediction::{CaseFiles, Member, Message, Request, VERSION};
use mtinet_domain::trial::Device;

fn trainer(here: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mtinet-trainer")).args(arguments).current_dir(here).output().unwrap()
}

/// A request for one U-Net and one case whose files are not there.
fn request(here: &Path) -> Request {
    let spec = "name = \"s\"\ndataset = \"d\"\narms = [\"unet\"]\n[model]\npreset = \"tiny64\"\n[train]\nimage_size = 64\n";
    Request {
        version: VERSION,
        spec: StudySpec::from_toml(spec).unwrap(),
        phases: ["pre", "art", "pv", "del"].map(str::to_owned).to_vec(),
        classes: ["hemangioma", "hcc"].map(str::to_owned).to_vec(),
        members: vec![Member {
            trial: "unet/0/0".parse().unwrap(),
            weights: here.join("w.safetensors"),
            normalisation: (100.0, 50.0),
        }],
        spacing: 1.0,
        device: Some(Device::Cpu),
        cases: vec![CaseFiles {
            case: "a".to_owned(),
            images: (0..4).map(|channel| here.join(format!("a_{channel:04}.nii.gz"))).collect(),
            hashes: Vec::new(),
            reference: 2,
        }],
        out: here.to_owned(),
    }
}

fn predict(here: &Path, request: &Request) -> Output {
    std::fs::write(here.join("r.json"), serde_json::to_vec(request).unwrap()).unwrap();
    trainer(here, &["predict", "--request", "r.json"])
}

fn refused(output: &Output, code: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(output.stdout.is_empty(), "nothing is answered");
    for word in words {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
}

#[test]
fn requests_and_weights_that_cannot_be_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    refused(&trainer(here, &["predict", "--request", "absent.json"]), 2, &["absent.json"]);
    std::fs::write(here.join("r.json"), "{}").unwrap();
    refused(&trainer(here, &["predict", "--request", "r.json"]), 2, &["r.json is no request"]);
    let good = request(here);
    refused(&predict(here, &Request { version: 99, ..good.clone() }), 2, &["version 99"]);
    refused(
        &predict(here, &Request { device: Some(Device::Cuda(77)), ..good.clone() }),
        2,
        &["CUDA device 77"],
    );
    refused(&predict(here, &good), 4, &["w.safetensors"]);
    let init = ["init", "--arm", "unet", "--preset", "tiny64", "--size", "64", "--phases", "3"];
    assert!(trainer(here, &[&init[..], &["--out", "w.safetensors"]].concat()).status.success());
    refused(&predict(here, &good), 4, &["inc.double_conv.0.weight", "[32, 3, 3, 3]"]);
}

#[test]
fn a_case_that_is_not_there_is_told_and_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    let init = ["init", "--arm", "unet", "--preset", "tiny64", "--size", "64", "--out", "w.safetensors"];
    assert!(trainer(here, &init).status.success());
    let done = predict(here, &request(here));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let lines = String::from_utf8(done.stdout).unwrap();
    let messages: Vec<Message> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [Message::Ready { device }, Message::Refused { case, problem }, Message::Finished] = &messages[..]
    else {
        panic!("{messages:?}");
    };
    assert_eq!((device.as_str(), case.as_str()), ("cpu", "a"));
    assert!(problem.contains("a_0002.nii.gz"), "{problem}");
}
