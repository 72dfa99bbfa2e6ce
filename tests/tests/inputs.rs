//! Real files in, and what happens with bad ones: a clear message, the right exit code, nothing half-written.
#![expect(clippy::unwrap_used, reason = "a test's helpers may panic as the test may")]

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Output;

use mtinet_tests::{mtinet, phantom_dataset, stderr};

/// Abdominal MRI of one volunteer with implanted lesions, in the nnU-Net v2 layout: see the README beside it.
fn real_mr() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/realmr")
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn import(source: &Path, target: &Path) -> Output {
    mtinet(&["data", "import", "nnunet", source.to_str().unwrap(), target.to_str().unwrap()])
}

fn assert_fails(output: &Output, code: i32, words: &[&str]) {
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr(output));
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
}

/// Imports a copy of the real files with one of them changed.
fn import_with(change: impl Fn(&Path)) -> (Output, bool) {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    copy_tree(&real_mr(), &source);
    change(&source);
    let output = import(&source, &dir.path().join("data"));
    let left = std::fs::read_dir(dir.path()).unwrap().count() - 1;
    (output, left == 0)
}

fn rewrite(path: &Path, change: impl Fn(&mut Vec<u8>)) {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
    change(&mut bytes);
    let mut encoder =
        flate2::write::GzEncoder::new(std::fs::File::create(path).unwrap(), flate2::Compression::fast());
    encoder.write_all(&bytes).unwrap();
    encoder.finish().unwrap();
}

#[test]
fn a_missing_phase_is_refused_with_its_case() {
    let (output, nothing_left) =
        import_with(|source| std::fs::remove_file(source.join("imagesTr/REALMR_003_0002.nii.gz")).unwrap());
    assert_fails(&output, 4, &["REALMR_003", "pv"]);
    assert!(nothing_left, "something was left behind");
}

#[test]
fn a_truncated_gzip_is_refused_with_its_file() {
    let (output, nothing_left) = import_with(|source| {
        let path = source.join("imagesTr/REALMR_005_0001.nii.gz");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    });
    assert_fails(&output, 4, &["REALMR_005_0001.nii.gz"]);
    assert!(nothing_left, "something was left behind");
}

#[test]
fn nifti_2_is_called_by_its_name() {
    let (output, nothing_left) = import_with(|source| {
        rewrite(&source.join("imagesTr/REALMR_000_0000.nii.gz"), |bytes| {
            // sizeof_hdr and magic of the second version, which is all that identifies it.
            bytes[..4].copy_from_slice(&540_i32.to_le_bytes());
            bytes[4..12].copy_from_slice(b"n+2\0\r\n\x1a\n");
        });
    });
    assert_fails(&output, 4, &["REALMR_000_0000.nii.gz", "NIfTI-2"]);
    assert!(nothing_left, "something was left behind");
}

#[test]
fn a_study_file_with_a_mistake_names_line_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("study.toml");
    let run = |text: &str| {
        std::fs::write(&file, text).unwrap();
        mtinet(&["run", file.to_str().unwrap(), "--out", dir.path().join("run").to_str().unwrap()])
    };
    let dataset = format!("name = \"x\"\ndataset = \"{}\"\n", phantom_dataset().display());
    let output = run(&format!("{dataset}arms = [\"unet\"]\n[train]\nbatchsize = 3\n"));
    assert_fails(&output, 2, &["study.toml:5", "train.batchsize", "batch_size"]);
    let output = run(&format!("{dataset}arms = [\"mtinet\"]\n"));
    assert_fails(&output, 2, &["study.toml:3", "mtinet", "mti-net"]);
    let output = run("name = \"x\"\ndataset = \"nowhere\"\narms = [\"unet\"]\n");
    assert_fails(&output, 4, &["nowhere"]);
    assert!(!dir.path().join("run").exists(), "a study that never started left a run behind");
}

#[test]
fn a_data_set_that_changed_since_import_does_not_start_a_study() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    assert!(import(&real_mr(), &data).status.success());
    let image = std::fs::read_dir(data.join("images")).unwrap().next().unwrap().unwrap().path();
    rewrite(&image, |bytes| *bytes.last_mut().unwrap() ^= 1);
    let study = dir.path().join("study.toml");
    let text = format!(
        "name = \"changed\"\ndataset = \"{}\"\narms = [\"unet\"]\n[model]\npreset = \"tiny64\"\n[train]\nimage_size = 96\nsteps = 1\n",
        data.display()
    );
    std::fs::write(&study, text).unwrap();
    let output = mtinet(&["run", study.to_str().unwrap(), "--out", dir.path().join("run").to_str().unwrap()]);
    assert_fails(&output, 4, &[image.file_name().unwrap().to_str().unwrap()]);
    let output = mtinet(&["data", "check", data.to_str().unwrap()]);
    assert_fails(&output, 1, &[image.file_name().unwrap().to_str().unwrap()]);
}

#[test]
fn real_files_go_from_import_to_tables() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let imported = import(&real_mr(), &data);
    assert!(imported.status.success(), "{}", stderr(&imported));
    let study = dir.path().join("study.toml");
    let text = format!(
        "name = \"real\"\ndataset = \"{}\"\narms = [\"mti-net\", \"unet\"]\n[model]\npreset = \"tiny64\"\n[train]\n\
         image_size = 96\nsteps = 2\nbatch_size = 2\n",
        data.display()
    );
    std::fs::write(&study, text).unwrap();
    let out = dir.path().join("run");
    let output = mtinet(&["run", study.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    assert!(output.status.success(), "{}", stderr(&output));

    let summary: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("report/summary.json")).unwrap()).unwrap();
    assert_eq!(summary["complete"], true);
    for arm in summary["arms"].as_array().unwrap() {
        assert_eq!(arm["trials"].as_array().unwrap().len(), 5);
    }
    let mut subjects = csv::Reader::from_path(out.join("report/subjects.csv")).unwrap();
    let column = subjects.headers().unwrap().iter().position(|name| name == "subject").unwrap();
    let mut seen: Vec<String> = subjects.records().map(|record| record.unwrap()[column].to_owned()).collect();
    assert_eq!(seen.len(), 2 * 14, "each arm has every subject once, over its folds");
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 14);
    for arm in ["mti-net", "unet"] {
        let masks: Vec<_> = (0..5)
            .flat_map(|fold| std::fs::read_dir(out.join(format!("predictions/{arm}/{fold}/0"))).unwrap())
            .collect();
        assert_eq!(masks.len(), 14, "{arm}: one mask a held-out case");
    }
}
