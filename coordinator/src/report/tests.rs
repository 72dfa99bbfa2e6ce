//! Golden reports of studies that are complete, have gaps, or have a single fold.

use mtinet_domain::evaluation::{FoldSummary, ReferenceLines, SliceResult, TrialEvaluation};
use mtinet_domain::event::{Event, MetricRecord, MetricScope, Recorded, ReportId, StudyOutcome};
use mtinet_domain::trial::{
    ArtifactRef, AttemptEnd, DatasetRef, Device, FailureCause, Placement, ProcessExit,
};
use mtinet_domain::{Arm, AttemptNumber, Rank, SlotIndex, StudyId, StudySpec, TrialKey, WorkerId};

use super::figures::Pictures;
use super::*;

mod comparisons;
mod figures;
mod fold;
mod html;
mod scale;
mod tables;
mod trial_files;

fn dataset() -> DatasetRef {
    DatasetRef {
        name: "phantom".into(),
        path: "/data/phantom".into(),
        hash: "d".repeat(64),
        phases: ["pre", "art", "pv", "del"].map(Into::into).to_vec(),
        classes: ["hemangioma", "hcc"].map(Into::into).to_vec(),
    }
}

fn spec(arms: &str, folds: &str) -> StudySpec {
    StudySpec::from_toml(&format!(
        "name = \"golden\"\ndataset = \"data/phantom\"\narms = [{arms}]\nfolds = {folds}\n[train]\nsteps = 10\n"
    ))
    .unwrap()
}

/// A fold's slices: two with tumour of one subject per class, one without.
fn evaluation(arm: Arm, fold: u32, offset: f64) -> TrialEvaluation {
    let tasks = arm.tasks();
    let slice = |subject: &str, class: Option<usize>, dice: f64| SliceResult {
        subject: format!("{subject}{fold}"),
        case: format!("{subject}{fold}_1"),
        slice: 3,
        class,
        truth_pixels: if class.is_some() { 40 } else { 0 },
        predicted_pixels: tasks.seg.then_some(12),
        dice: class.filter(|_| tasks.seg).map(|_| dice),
        iou: class.filter(|_| tasks.seg).map(|_| dice / (2.0 - dice)),
        curve: class.map(|_| vec![100.0, 200.0, 300.0, 400.0]),
        predicted_curve: class.filter(|_| tasks.reg).map(|_| vec![110.0, 190.0, 300.0 + offset, 400.0]),
        mask_curve: None,
        probabilities: class.filter(|_| tasks.cls).map(|_| vec![0.25, 0.75]),
    };
    TrialEvaluation {
        phases: dataset().phases,
        classes: dataset().classes,
        normalisation: (0.0, 1.0),
        spacing: None,
        slices: vec![
            slice("a", Some(0), 0.8 + offset / 100.0),
            slice("b", Some(1), 0.6 + offset / 100.0),
            slice("h", None, 0.0),
        ],
        reference: Some(ReferenceLines { best_constant_mae: 50.0 + offset, class_median_mae: 25.0 }),
    }
}

fn artifact(of: &str) -> ArtifactRef {
    ArtifactRef { blake3: blake3_of(of), bytes: 1 }
}

fn blake3_of(text: &str) -> String {
    text.chars().cycle().map(|c| format!("{:x}", c as u32 % 16)).take(64).collect()
}

struct Log(Vec<Recorded>);

impl Log {
    fn new(spec: &StudySpec) -> Self {
        let mut log = Self(Vec::new());
        log.push(Event::StudySubmitted {
            spec: Box::new(spec.clone()),
            spec_hash: spec.hash(),
            dataset: dataset(),
            by: None,
        });
        log
    }

    fn push(&mut self, event: Event) {
        let seq = self.0.len() as u64 + 1;
        self.0.push(Recorded { study: StudyId(7), seq, time_ms: 1_700_000_000_000 + seq * 1000, event });
    }

    fn started(&mut self, trial: TrialKey, attempt: u32) {
        let placement = |rank| Placement {
            rank: Rank(rank),
            worker: WorkerId(format!("w{rank}")),
            slot: SlotIndex(0),
            device: Device::Cpu,
        };
        self.push(Event::AttemptStarted {
            trial,
            attempt: AttemptNumber(attempt),
            placements: vec![placement(0), placement(1)],
            resume: None,
        });
    }

    fn evaluated(&mut self, trial: TrialKey, attempt: u32, summary: FoldSummary) {
        let report = |seq| ReportId { worker: WorkerId("w0".into()), seq };
        self.push(Event::Metrics {
            trial,
            attempt: AttemptNumber(attempt),
            report: report(1),
            records: vec![MetricRecord {
                scope: MetricScope::Epoch,
                step: 10,
                epoch: 1,
                train_seconds: 12.5,
                values: [("loss".to_owned(), 0.5)].into(),
            }],
        });
        self.push(Event::TrialEvaluated {
            trial,
            attempt: AttemptNumber(attempt),
            report: report(2),
            summary: Box::new(summary),
            evaluation: artifact("evaluation"),
            weights: Some(artifact("weights")),
            predictions: None,
        });
    }

    fn ended(&mut self, trial: TrialKey, attempt: u32, end: AttemptEnd) {
        self.push(Event::AttemptEnded { trial, attempt: AttemptNumber(attempt), end, retry_at_ms: None });
    }

    fn done(&mut self, trial: TrialKey, summary: FoldSummary) {
        self.started(trial, 1);
        self.evaluated(trial, 1, summary);
        self.ended(trial, 1, AttemptEnd::Completed);
    }
}

/// Runs every trial but those in `except`, which stay as the log has them.
fn study(spec: &StudySpec, except: &[&str], after: impl FnOnce(&mut Log)) -> StudyResults {
    let mut log = Log::new(spec);
    let offset = |trial: TrialKey| f64::from(trial.fold) + if trial.arm == Arm::Unet { -5.0 } else { 0.0 };
    let kept: Vec<TrialKey> =
        spec.trials().into_iter().filter(|trial| !except.contains(&trial.to_string().as_str())).collect();
    for &trial in &kept {
        log.done(trial, evaluation(trial.arm, trial.fold, offset(trial)).summary());
    }
    after(&mut log);
    let mut results = StudyResults::from_events(&log.0).unwrap();
    for trial in kept {
        results.set_evaluation(trial, evaluation(trial.arm, trial.fold, offset(trial)));
    }
    results
}

fn key(text: &str) -> TrialKey {
    text.parse().unwrap()
}

fn failure(message: &str) -> AttemptEnd {
    AttemptEnd::Failed(FailureCause {
        rank: Some(Rank(0)),
        exit: ProcessExit::Signal(9),
        step: Some(4),
        message: message.into(),
        hang: None,
    })
}

fn markdown(results: &StudyResults) -> String {
    tables_markdown(results, Options::default())
}

fn section<'a>(tables: &'a str, heading: &str) -> &'a str {
    let start = tables.find(heading).unwrap_or_else(|| panic!("no section {heading}\n{tables}"));
    let rest = &tables[start..];
    rest[2..].find("\n## ").map_or(rest, |end| &rest[..end + 2]).trim_end()
}

#[test]
fn a_complete_study_fills_the_papers_tables() {
    let spec = spec("\"mti-net\", \"unet\"", "5");
    let results = study(&spec, &[], |log| log.push(Event::StudyFinished { outcome: StudyOutcome::Complete }));
    assert!(results.is_complete());
    let tables = markdown(&results);
    assert_eq!(
        section(&tables, "## Table 1."),
        "## Table 1. Segmentation\n\n\
         |  | U-Net | MTI-Net |\n| --- | --- | --- |\n\
         | DSC (%) | 67.00 ± 1.58[^1] | **72.00 ± 1.58**[^2] |\n\
         | IoU (%) | 51.25 ± 1.82[^1] | **57.23 ± 1.97**[^2] |"
    );
    let regression = section(&tables, "## Table 2.");
    assert!(
        regression.contains(
            "|  | MTI-Net | best constant (no image) | class median (told the class) |\n\
             | --- | --- | --- | --- |\n\
             | MAE | 5.50 ± 0.40[^2] | 52.00 ± 1.58 | 25.00 ± 0.00 |"
        ),
        "{regression}"
    );
    assert!(regression.contains("| MAE pv | 2.00 ± 1.58[^2] |"), "{regression}");
    assert!(!tables.contains("Table 3") && !tables.contains("Table 4"), "no such arms in the study");
    let classes = section(&tables, "## Classification");
    assert!(
        classes.contains(
            "| MTI-Net | 50.00 ± 0.00[^2] | 50.00 ± 0.00[^2] | 100.00 ± 0.00[^2] | 0.00 ± 0.00[^2] |"
        ),
        "{classes}"
    );
    assert!(
        classes.contains("Sensitivity is the recall of hcc, specificity that of hemangioma"),
        "{classes}"
    );
    assert!(
        classes.contains(
            "| MTI-Net | hemangioma | 0.0 (0) | 100.0 (5) |\n| MTI-Net | hcc | 0.0 (0) | 100.0 (5) |"
        ),
        "{classes}"
    );
    assert!(
        section(&tables, "## False positives").contains("| U-Net | 100.00 ± 0.00[^1] | 12.00 ± 0.00[^1] |")
    );
    let pooled = section(&tables, "## Pooled");
    assert!(pooled.contains("| MTI-Net | slices | 10 | 72.00 ± "), "{pooled}");
    assert!(tables.contains("[^1]: From unet/0/0, unet/1/0, unet/2/0, unet/3/0, unet/4/0.\n"), "{tables}");
    assert!(tables.contains(&results.spec_hash) && tables.contains(&results.dataset.hash));
    assert!(tables.contains("over 5 folds"), "the deviation is labelled with its n");
    assert!(tables.contains("| mti-net/0/0 | done | 1 | 0 | 0 | 2 ranks: cpu | 10 | 12.5 s |"), "{tables}");
    assert!(tables.contains("learning_rate = 0.0001"), "{tables}");
}

#[test]
fn missing_trials_are_named_in_their_cell_and_never_best() {
    let spec = spec("\"mti-net\", \"unet\", \"no-tim\"", "3");
    let results = study(&spec, &["unet/1/0", "unet/2/0", "no-tim/0/0", "no-tim/1/0", "no-tim/2/0"], |log| {
        let failed = key("unet/1/0");
        log.started(failed, 1);
        log.ended(failed, 1, failure("loss is NaN"));
        log.started(failed, 2);
        log.ended(failed, 2, failure("loss is NaN"));
        log.push(Event::TrialFailed { trial: failed, reason: "loss is NaN | twice\nat step 4".into() });
        log.started(key("no-tim/0/0"), 1);
    });
    assert!(!results.is_complete());
    let tables = markdown(&results);
    assert!(tables.contains("**Not complete: 4 of 9 trials are done. Cells with missing trials name them;"));
    let table = section(&tables, "## Table 1.");
    // U-Net's one fold is worse here, but MTI-Net must not be called best of one either.
    assert!(
        table.contains(
            "| DSC (%) | 65.00 (n = 1) over 1 of 3 folds; missing: unet/1/0 (failed: loss is NaN \\| twice at step 4), \
             unet/2/0 (waiting)[^1] | 71.00 ± 1.00[^2] |"
        ),
        "{table}"
    );
    assert!(tables.contains("[^1]: From unet/0/0.\n"));
    let ablation = section(&tables, "## Table 3.");
    assert!(
        ablation.contains(
            "| MAE | missing: no-tim/0/0 (running), no-tim/1/0 (waiting), no-tim/2/0 (waiting) | 5.25 ± "
        ),
        "{ablation}"
    );
    assert!(tables.contains("| unet/1/0 | failed | 2 | loss is NaN \\| twice at step 4 |"), "{tables}");

    let summary = summary_json(&results);
    assert_eq!(summary["complete"], false);
    let unet = &summary["arms"][1];
    assert_eq!(unet["mean"]["dsc"], serde_json::Value::Null, "a partial mean must not pass for the mean");
    assert!((unet["partial"]["mean"]["dsc"].as_f64().unwrap() - 65.0).abs() < 1e-9);
    assert_eq!(unet["partial"]["n_folds"]["dsc"], 1.0);
    assert_eq!(unet["missing"][0]["trial"], "unet/1/0");
    assert_eq!(unet["missing"][0]["reason"], "loss is NaN | twice\nat step 4");
    assert_eq!(unet["trials"][1]["status"], "failed");
    assert_eq!(unet["trials"][1]["dsc"], serde_json::Value::Null);
    assert!((summary["arms"][0]["mean"]["dsc"].as_f64().unwrap() - 71.0).abs() < 1e-9);
}

#[test]
fn a_trial_that_is_done_without_a_finite_value_is_a_gap() {
    let spec = spec("\"mti-net\", \"unet\"", "2");
    let diverged = key("mti-net/1/0");
    let results = study(&spec, &["mti-net/1/0"], |log| {
        log.done(diverged, FoldSummary { mae: Some(f64::NAN), ..FoldSummary::default() });
    });
    let table = markdown(&results);
    assert!(table.contains("over 1 of 2 folds; missing: mti-net/1/0 (no value)"), "{table}");
}

#[test]
fn a_single_fold_has_no_deviation() {
    let spec = spec("\"mti-net\"", "[3]");
    let results = study(&spec, &[], |_| {});
    let tables = markdown(&results);
    assert!(section(&tables, "## Table 1.").contains("| DSC (%) | 73.00 (n = 1)[^1] |"), "{tables}");
    assert!(tables.contains("Values are the value of 1 fold"));
    let summary = summary_json(&results);
    assert_eq!(summary["arms"][0]["std"]["dsc"], serde_json::Value::Null);
    assert!((summary["arms"][0]["mean"]["dsc"].as_f64().unwrap() - 73.0).abs() < 1e-9);
}

#[test]
fn the_summary_has_the_contracts_keys() {
    let spec = spec("\"mti-net\", \"unet\"", "5");
    let summary = summary_json(&study(&spec, &[], |_| {}));
    assert_eq!(summary["study"], "golden");
    assert_eq!(summary["dataset_hash"], "d".repeat(64));
    assert_eq!(summary["spec_hash"], spec.hash());
    assert_eq!(summary["complete"], true);
    assert_eq!(summary["comparisons"].as_array().unwrap().len(), 2, "DSC and IoU: U-Net has no more");
    for name in ["a", "b", "metric", "test", "n", "p", "p_holm", "effect", "ci_low", "ci_high"] {
        assert!(!summary["comparisons"][0][name].is_null(), "{name}");
    }
    assert_eq!(summary["reference"]["best_constant_mae"], 52.0);
    assert_eq!(summary["reference"]["class_median_mae"], 25.0);
    let arm = &summary["arms"][0];
    assert_eq!((&arm["arm"], &arm["n_folds"]), (&"mti-net".into(), &5.into()));
    let trial = &arm["trials"][2];
    for name in ["fold", "seed", "dsc", "iou", "mae", "accuracy", "confusion", "n_slices", "n_subjects"] {
        assert!(!trial[name].is_null(), "{name}: {trial}");
    }
    assert_eq!(trial["confusion"], serde_json::json!([[0, 1], [0, 1]]));
    assert_eq!((&trial["n_slices"], &trial["n_subjects"]), (&2.into(), &3.into()));
    assert_eq!(summary["arms"][1]["mean"]["mae"], serde_json::Value::Null, "U-Net does not regress");
    let deviation = arm["std"]["dsc"].as_f64().unwrap();
    assert!((deviation - 2.5_f64.sqrt()).abs() < 1e-9, "the sample deviation of 70..74: {deviation}");
}

#[test]
fn seeds_are_averaged_within_their_fold() {
    let mut spec = spec("\"unet\"", "2");
    spec.seeds = vec![0, 1];
    let mut log = Log::new(&spec);
    for (trial, dsc) in [("unet/0/0", 60.0), ("unet/1/0", 70.0), ("unet/0/1", 62.0), ("unet/1/1", 74.0)] {
        log.done(key(trial), FoldSummary { dsc: Some(dsc), ..FoldSummary::default() });
    }
    let results = StudyResults::from_events(&log.0).unwrap();
    let cell = Cell::of(&results, Arm::Unet, Metric::Dsc);
    let stats = cell.value().unwrap().over_folds.unwrap();
    assert_eq!((stats.n, stats.mean), (2, 66.5));
    assert!((stats.std.unwrap() - 11.0 / 2.0_f64.sqrt()).abs() < 1e-12, "of 61 and 72");
    assert!(markdown(&results).contains("a fold's value being the mean over 2 seeds"));
}

#[test]
fn an_evaluation_counts_only_when_its_attempt_completed() {
    let spec = spec("\"unet\"", "[0]");
    let trial = key("unet/0/0");
    let mut log = Log::new(&spec);
    log.started(trial, 1);
    log.evaluated(trial, 1, FoldSummary { dsc: Some(10.0), ..FoldSummary::default() });
    let lost = AttemptEnd::WorkerLost { worker: WorkerId("w1".into()), reason: "silent for 3 s".into() };
    log.ended(trial, 1, lost);
    assert!(!StudyResults::from_events(&log.0).unwrap().is_complete());
    log.started(trial, 2);
    log.evaluated(trial, 2, FoldSummary { dsc: Some(20.0), ..FoldSummary::default() });
    log.ended(trial, 2, AttemptEnd::Completed);
    let results = StudyResults::from_events(&log.0).unwrap();
    let only = &results.trials[0];
    assert_eq!(only.summary().unwrap().dsc, Some(20.0));
    assert_eq!((only.attempts, only.failures, only.workers_lost), (2, 0, 1));
}

#[test]
fn events_without_a_submission_are_refused() {
    assert!(StudyResults::from_events([]).is_err());
}

fn read(bytes: &[u8]) -> (Vec<String>, Vec<Vec<String>>) {
    let mut reader = csv::Reader::from_reader(bytes);
    let header = reader.headers().unwrap().iter().map(str::to_owned).collect();
    let rows = reader.records().map(|row| row.unwrap().iter().map(str::to_owned).collect()).collect();
    (header, rows)
}

#[test]
fn csv_files_have_the_contracts_columns_and_empty_cells() {
    let spec = spec("\"mti-net\", \"unet\"", "2");
    let results = study(&spec, &["unet/1/0"], |_| {});
    let directory = tempfile::tempdir().unwrap();
    let files = write(&results, Options::default(), &Pictures::default(), directory.path()).unwrap();
    for name in ["tables.md", "tables.tex", "tables-standalone.tex", "tables/table1.csv"] {
        assert!(files.names.iter().any(|written| written == name), "{name}: {:?}", files.names);
    }
    let file = |name: &str| read(&std::fs::read(directory.path().join(name)).unwrap());

    let contract =
        "arm,fold,seed,subject,case,slice,class,dsc,iou,mae,mae_pre,mae_art,mae_pv,mae_del,pred_class,p_1";
    let (header, rows) = file("slices.csv");
    assert_eq!(header[..16].join(","), contract);
    assert_eq!(rows.len(), 9, "three trials of three slices");
    assert_eq!(rows[0][..6].join(","), "mti-net,0,0,a0,a0_1,3");
    assert_eq!(rows[0][6..16].join(","), "hemangioma,80,66.66666666666667,5,10,10,0,0,hcc,0.75");
    assert_eq!(rows[2][6..16].join(","), ",,,,,,,,,", "a slice without tumour has no values");
    let unet = rows.iter().find(|row| row[0] == "unet").unwrap();
    assert!(unet[9..16].iter().all(String::is_empty), "U-Net neither regresses nor classifies: {unet:?}");
    let column = |name: &str| header.iter().position(|column| column == name).unwrap();
    assert_eq!(rows[0][column("predicted_pixels")], "12");
    assert_eq!(rows[0][column("predicted_art")], "190");
    assert_eq!(rows[0][column("true_art")], "200");
    assert_eq!(rows[0][column("class_index")], "0");

    let (header, rows) = file("subjects.csv");
    assert_eq!(header[..15].join(","), contract.replace(",slice,", ","));
    assert_eq!(rows.len(), 9);
    assert!(header.iter().any(|column| column == "n_healthy_slices"));

    let (header, rows) = file("trials.csv");
    assert_eq!(rows.len(), 4, "one row a trial, missing ones too");
    let column = |name: &str| header.iter().position(|column| column == name).unwrap();
    assert_eq!((rows[3][column("status")].as_str(), rows[3][column("dsc")].as_str()), ("waiting", ""));
    assert_eq!(rows[0][column("n_hcc_as_hcc")], "1");
    let left = std::fs::read_dir(directory.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".writing"));
    assert_eq!(left.count(), 0, "no temporary file is left");
}

#[test]
fn a_subjects_row_is_the_mean_over_its_tumour_slices() {
    let spec = spec("\"mti-net\"", "[0]");
    let mut results = study(&spec, &[], |_| {});
    let mut evaluation = evaluation(Arm::MtiNet, 0, 0.0);
    evaluation.slices.truncate(1);
    let mut second = evaluation.slices[0].clone();
    (second.slice, second.dice) = (4, Some(0.4));
    second.case = "a0_2".into();
    let healthy = SliceResult { class: None, dice: None, iou: None, slice: 5, ..second.clone() };
    evaluation.slices.extend([second, healthy]);
    results.set_evaluation(key("mti-net/0/0"), evaluation);
    let (header, rows) = read(&csv_files::subjects(&results).unwrap());
    let column = |name: &str| header.iter().position(|column| column == name).unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0][column("case")].as_str(), rows[0][column("n_slices")].as_str()), ("a0_1;a0_2", "2"));
    let dsc: f64 = rows[0][column("dsc")].parse().unwrap();
    assert!((dsc - 60.0).abs() < 1e-9);
}
