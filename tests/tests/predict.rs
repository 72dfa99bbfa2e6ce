//! New cases answered by a study's networks: as the study itself answered them, together as each of them alone, and
//! what happens with cases and requests that cannot be.
#![expect(clippy::unwrap_used, reason = "a test's helpers may panic as the test may")]

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use mtinet_data::{Dataset, PHASES, nifti_io};
use mtinet_tests::processes::{children, is_alive};
use mtinet_tests::{mtinet, phantom_dataset, program, stderr};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A run of a study of two folds, trained until it finds something; the other folds of the data set are not trained.
fn trained() -> &'static Path {
    static RUN: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, run) = RUN.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("study.toml");
        let text = format!(
            "name = \"trained\"\ndataset = \"{}\"\narms = [\"mti-net\"]\nfolds = [1, 3]\n[model]\npreset = \"tiny64\"\n\
             [train]\nsteps = 80\nbatch_size = 8\nimage_size = 64\nlearning_rate = 3e-3\neval_every = 0\n",
            phantom_dataset().display()
        );
        std::fs::write(&file, text).unwrap();
        let run = dir.path().join("run");
        succeeds(&mtinet(&["run", path(&file), "--out", path(&run), "--devices", "cpu:1"]));
        (dir, run)
    });
    run
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
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

/// One process at a time uses a data directory.
fn alone() -> MutexGuard<'static, ()> {
    static DATA_DIR: Mutex<()> = Mutex::new(());
    DATA_DIR.lock().unwrap_or_else(PoisonError::into_inner)
}

fn predict(input: &Path, out: &Path, more: &[&str]) -> Output {
    let _alone = alone();
    mtinet(&[&["predict", path(input), path(out), "--data-dir", path(trained())], more].concat())
}

/// The images of some cases of the phantom, named as nnU-Net does.
fn as_nnunet(cases: &[String], into: &Path) {
    std::fs::create_dir_all(into).unwrap();
    let dataset = Dataset::open(phantom_dataset()).unwrap();
    for name in cases {
        let case = dataset.case(name).unwrap();
        for (channel, phase) in PHASES.iter().enumerate() {
            let to = into.join(format!("{name}_{channel:04}.nii.gz"));
            std::fs::copy(dataset.path(&case.images[*phase].path), to).unwrap();
        }
    }
}

fn held_out(fold: usize) -> Vec<String> {
    Dataset::open(phantom_dataset()).unwrap().splits[fold].val.clone()
}

fn rows(file: &Path) -> Vec<HashMap<String, String>> {
    csv::Reader::from_path(file).unwrap().deserialize().map(Result::unwrap).collect()
}

fn number(row: &HashMap<String, String>, column: &str) -> f64 {
    row[column].parse().unwrap_or_else(|_| panic!("{column} of {row:?}"))
}

#[test]
fn a_trials_network_answers_its_held_out_cases_as_its_study_did() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("cases"), dir.path().join("out"));
    let cases = held_out(1);
    as_nnunet(&cases, &input);
    let done = predict(&input, &out, &["--trial", "mti-net/1/0", "--device", "cpu"]);
    succeeds(&done);
    assert_eq!(String::from_utf8_lossy(&done.stdout).trim(), path(&out));

    let mut tumour = 0;
    for case in &cases {
        let file = format!("{case}.nii.gz");
        let ours = nifti_io::read(&out.join(&file)).unwrap();
        let studys = nifti_io::read(&trained().join("predictions/mti-net/1/0").join(&file)).unwrap();
        assert_eq!(ours.data, studys.data, "the mask of {case} is the study's, bit for bit");
        assert_eq!(ours.grid.affine, studys.grid.affine);
        tumour += ours.data.iter().filter(|&&pixel| pixel > 0.0).count();
        assert!(std::fs::read(out.join(format!("{case}.png"))).unwrap().starts_with(b"\x89PNG"));
    }
    assert!(tumour > 100, "only {tumour} pixels are tumour: the comparison would show little");

    let report = rows(&trained().join("report/slices.csv"));
    let (curves, classes) = (rows(&out.join("curves.csv")), rows(&out.join("classes.csv")));
    let mut compared = 0;
    for expected in report.iter().filter(|row| row["fold"] == "1" && !row["class"].is_empty()) {
        let same = |row: &&HashMap<String, String>| {
            row["case"] == expected["case"] && row["slice"] == expected["slice"]
        };
        let (curve, class) = (curves.iter().find(same).unwrap(), classes.iter().find(same).unwrap());
        let mask = if expected["mask_pre"].is_empty() { &[][..] } else { &["mask_pre", "mask_del"] };
        for column in
            [&["predicted_pixels", "predicted_pre", "predicted_art", "predicted_pv", "predicted_del"], mask]
                .concat()
        {
            let (ours, theirs) = (number(curve, column), number(expected, column));
            assert!((ours - theirs).abs() <= 1e-5 * theirs.abs().max(1.0), "{column}: {ours}, {expected:?}");
        }
        assert!((number(class, "p_1") - number(expected, "p_1")).abs() < 1e-6);
        assert_eq!(class["pred_class"], expected["pred_class"]);
        compared += 1;
    }
    assert!(compared > 3);
    let of_cases: Vec<&str> =
        curves.iter().filter(|row| row["slice"].is_empty()).map(|row| row["case"].as_str()).collect();
    assert_eq!(of_cases.iter().collect::<BTreeSet<_>>().len(), cases.len(), "a row for each case");
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 2 * cases.len() + 3, "nothing else stays");
}

#[test]
fn networks_together_answer_the_mean_of_what_they_answer_alone() {
    let dir = tempfile::tempdir().unwrap();
    let out = |name: &str| dir.path().join(name);
    succeeds(&predict(phantom_dataset(), &out("1"), &["--trial", "mti-net/1/0"]));
    succeeds(&predict(phantom_dataset(), &out("3"), &["--trial", "mti-net/3/0"]));
    let both = predict(phantom_dataset(), &out("both"), &["--study", "trained", "--arm", "mti-net"]);
    succeeds(&both);
    assert!(stderr(&both).contains("12 of 12 cases were among the training cases"), "{}", stderr(&both));
    let (mut averaged, mut decided) = (0, 0);
    for table in ["curves.csv", "classes.csv"] {
        let [one, three, both] = ["1", "3", "both"].map(|name| rows(&out(name).join(table)));
        assert_eq!((one.len(), three.len()), (both.len(), both.len()));
        for ((one, three), both) in one.iter().zip(&three).zip(&both) {
            assert_eq!(both["fold"], "1;3");
            if both["slice"].is_empty() {
                continue;
            }
            for column in both.keys().filter(|name| name.starts_with("predicted_p") || name.starts_with("p_"))
            {
                if column != "predicted_pixels" {
                    let mean = f64::midpoint(number(one, column), number(three, column));
                    assert!((number(both, column) - mean).abs() <= 1e-9 * mean.abs().max(1.0), "{column}");
                    averaged += 1;
                }
            }
        }
    }
    // Where both networks agree, they agree together; where they do not, the surer one has it, now and then.
    let dataset = Dataset::open(phantom_dataset()).unwrap();
    for case in &dataset.cases {
        let mask =
            |name: &str| nifti_io::read(&out(name).join(format!("{}.nii.gz", case.case))).unwrap().data;
        let (one, three, both) = (mask("1"), mask("3"), mask("both"));
        for ((one, three), both) in one.iter().zip(&three).zip(&both) {
            assert!(one != three || one == both);
            decided += usize::from(one != three);
        }
    }
    assert!(averaged > 100 && decided > 10, "{averaged} values, {decided} pixels");
    let about: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out("both").join("prediction.json")).unwrap()).unwrap();
    assert_eq!(about["members"][1]["trial"], "mti-net/3/0");
    assert_eq!((about["cases"].as_u64(), about["interrupted"].as_bool()), (Some(12), Some(false)));
}

#[test]
fn what_a_study_does_not_have_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let refused = |more: &[&str], code: i32, words: &[&str]| {
        fails(&predict(phantom_dataset(), &out, more), code, words);
    };
    refused(&["--arm", "no-tim"], 2, &["no arm no-tim", "its arms are mti-net"]);
    refused(&["--trial", "mti-net/0/0"], 2, &["no trial mti-net/0/0", "mti-net/1/0, mti-net/3/0"]);
    refused(&["--arm", "unet", "--trial", "mti-net/1/0"], 2, &["mti-net/1/0 is not of arm unet"]);
    refused(&["--arm", "mti-net", "--study", "other"], 1, &["other"]);
    refused(&["--arm", "mti-net", "--device", "cuda:99"], 2, &["no CUDA device 99"]);
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    fails(&predict(&empty, &out, &["--arm", "mti-net"]), 4, &["has no images", "CASE_0000.nii.gz"]);
    assert!(!out.exists(), "nothing is left of what was refused");
}

#[test]
fn bad_cases_are_named_at_the_end_and_the_others_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("cases"), dir.path().join("out"));
    let cases: Vec<String> =
        Dataset::open(phantom_dataset()).unwrap().cases.iter().map(|c| c.case.clone()).collect();
    as_nnunet(&cases[..7], &input);
    let file = |case: usize, channel: u32| input.join(format!("{}_{channel:04}.nii.gz", cases[case]));
    std::fs::remove_file(file(1, 2)).unwrap();
    std::fs::copy(file(2, 0), file(2, 4)).unwrap();
    std::fs::write(file(3, 1), b"no image").unwrap();
    let whole = std::fs::read(file(4, 3)).unwrap();
    std::fs::write(file(4, 3), &whole[..whole.len() / 2]).unwrap();
    // A volume with fewer slices than the others.
    let volume = nifti_io::read(&file(5, 0)).unwrap();
    let shape = volume.grid.source_shape;
    let small = mtinet_data::Grid::new([shape[0], shape[1], shape[2] - 1], volume.grid.affine, Vec::new());
    let [z, y, x] = small.shape;
    let data = ndarray::Array3::<i16>::zeros((z, y, x));
    nifti_io::write_volume(&file(5, 0), &data, &small).unwrap();

    let done = predict(&input, &out, &["--arm", "mti-net"]);
    fails(
        &done,
        4,
        &[
            "2 of 7 cases are done",
            "5 of 7 cases cannot be predicted",
            &format!("{}: case {0}: has no image of phase pv", cases[1]),
            &format!("{}: case {0}: has 5 images", cases[2]),
            "is not a NIfTI-1 file",
            "truncated",
            "phase `pre` lies on another grid than phase `pv`",
        ],
    );
    let written = |extension: &str| {
        let names =
            std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(extension)).collect::<BTreeSet<_>>()
    };
    let good = [0, 6].map(|case: usize| format!("{}.nii.gz", cases[case]));
    assert_eq!(written(".nii.gz"), BTreeSet::from(good));
    let in_table: BTreeSet<String> =
        rows(&out.join("classes.csv")).into_iter().map(|row| row["case"].clone()).collect();
    assert_eq!(in_table, BTreeSet::from([cases[0].clone(), cases[6].clone()]));
    fails(&predict(&input, &out, &["--arm", "mti-net"]), 2, &["already exists"]);
}

#[test]
fn an_interrupt_leaves_whole_cases_and_no_process() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("cases"), dir.path().join("out"));
    let one = held_out(1);
    as_nnunet(&one[..1], &input);
    for copy in 0..600 {
        for channel in 0..4 {
            let from = input.join(format!("{}_{channel:04}.nii.gz", one[0]));
            std::fs::hard_link(from, input.join(format!("copy{copy:03}_{channel:04}.nii.gz"))).unwrap();
        }
    }
    let mut command = Command::new(program("mtinet"));
    command.args(["predict", path(&input), path(&out), "--arm", "mti-net", "--data-dir", path(trained())]);
    let _alone = alone();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_raw(child.id().cast_signed());
    let deadline = Instant::now() + PATIENCE;
    let masks = || {
        let names = std::fs::read_dir(&out).into_iter().flatten();
        names.filter(|name| name.as_ref().unwrap().path().to_string_lossy().ends_with(".nii.gz")).count()
    };
    while masks() < 2 {
        assert!(Instant::now() < deadline && is_alive(pid), "no case was answered");
        std::thread::sleep(Duration::from_millis(5));
    }
    let trainers = children(pid);
    assert_eq!(trainers.len(), 1);
    kill(pid, Signal::SIGINT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert!(!trainers.into_iter().any(is_alive), "the trainer is gone");

    let masks = masks();
    assert!((2..600).contains(&masks), "{masks} of 601 cases were answered before the interrupt");
    let answered: BTreeSet<String> =
        rows(&out.join("curves.csv")).into_iter().map(|row| row["case"].clone()).collect();
    assert_eq!(answered.len(), masks, "the tables hold what is there");
    for case in answered {
        nifti_io::read(&out.join(format!("{case}.nii.gz"))).unwrap();
    }
    let hidden = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with('.');
    assert!(!std::fs::read_dir(&out).unwrap().any(|entry| hidden(entry.unwrap())), "nothing half-made stays");
}

#[test]
fn with_json_standard_output_is_one_document() {
    let _alone = alone();
    let (dir, run) = (tempfile::tempdir().unwrap(), path(trained()));
    let document = |args: &[&str]| -> serde_json::Value {
        let output = mtinet(&[args, &["--json"]].concat());
        succeeds(&output);
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let (case, out) = (&held_out(1)[..1], |name: &str| dir.path().join(name).to_str().unwrap().to_owned());
    let written = document(&["report", "trained", "--data-dir", run, "--out", &out("report")]);
    assert_eq!((&written["complete"], &written["directory"]), (&true.into(), &out("report").into()));
    assert!(written["files"].as_array().unwrap().contains(&"report.html".into()), "{written}");
    let exported = document(&["export", "mti-net/1/0", &out("weights"), "--data-dir", run]);
    let length = std::fs::metadata(dir.path().join("weights")).unwrap().len();
    assert_eq!((&exported["format"], &exported["bytes"]), (&"safetensors".into(), &length.into()));
    as_nnunet(case, &dir.path().join("cases"));
    let chosen = ["--trial", "mti-net/1/0", "--device", "cpu", "--data-dir", run];
    let answered = document(&[&["predict", &out("cases"), &out("masks")], &chosen[..]].concat());
    assert_eq!((&answered["cases"], &answered["done"]), (&1.into(), &1.into()));
    let shown = document(&[
        "data",
        "show",
        &case[0],
        "--dataset",
        path(phantom_dataset()),
        "--out",
        &out("case.png"),
    ]);
    assert_eq!(shown["case"], case[0].as_str());
    let study = trained().with_file_name("study.toml");
    assert_eq!(document(&["run", path(&study), "--out", run])["complete"], true);
}
