//! What figures show: every series, every gap, the right numbers, and text that stays text.

use mtinet_data::{PhantomOptions, manifest, nifti_io, phantom};
use ndarray::Array3;

use super::*;
use crate::report::figures::{Figure, Group, Pictures, Sources, figures};

fn drawn(results: &StudyResults) -> Vec<Group> {
    figures(results, &Pictures::default())
}

fn find<'a>(groups: &'a [Group], name: &str) -> &'a Figure {
    let mut figures = groups.iter().flat_map(|group| &group.figures);
    figures.find(|figure| figure.name == name).unwrap_or_else(|| panic!("no figure {name}"))
}

/// The texts of a figure's file, which must be well-formed XML without a number that is none.
fn texts(figure: &Figure) -> Vec<String> {
    let (name, bytes) = figure.contents().remove(0);
    let svg = String::from_utf8(bytes).unwrap();
    assert_eq!(name, format!("figures/{}.svg", figure.name));
    assert!(!svg.contains("NaN") && !svg.contains("inf\""), "{svg}");
    let document = roxmltree::Document::parse(&svg).unwrap_or_else(|error| panic!("{name}: {error}\n{svg}"));
    let nodes = document.descendants().filter(|node| node.has_tag_name("text") || node.has_tag_name("title"));
    nodes.filter_map(|node| Some(node.text()?.to_owned())).collect()
}

/// Lines of a colour in a panel whose name begins so.
fn lines(figure: &Figure, panel: &str, dash: Option<&str>) -> usize {
    let panel = figure.panels.iter().find(|other| other.label.starts_with(panel)).unwrap();
    let svg = panel.svg(None);
    let document = roxmltree::Document::parse(&svg).unwrap();
    let series = document.descendants().filter(|node| {
        node.attribute("class").is_some_and(|class| class.starts_with("st-s"))
            && (dash.is_none() || node.attribute("stroke-dasharray") == dash)
    });
    series.count()
}

fn measured(log: &mut Log, trial: TrialKey, scope: MetricScope, values: &[(u64, &str, f64)]) {
    for (number, &(step, name, value)) in values.iter().enumerate() {
        log.push(Event::Metrics {
            trial,
            attempt: AttemptNumber(1),
            report: ReportId { worker: WorkerId("w0".into()), seq: 100 + number as u64 },
            records: vec![MetricRecord {
                scope,
                step,
                epoch: 1,
                train_seconds: 1.0,
                values: [(name.to_owned(), value)].into(),
            }],
        });
    }
}

#[test]
fn training_curves_have_a_line_a_trial_and_name_those_without() {
    let spec = spec("\"mti-net\"", "4");
    let results = study(&spec, &["mti-net/0/0", "mti-net/1/0", "mti-net/2/0", "mti-net/3/0"], |log| {
        for fold in 0..3 {
            let trial = key(&format!("mti-net/{fold}/0"));
            log.started(trial, 1);
            measured(
                log,
                trial,
                MetricScope::Epoch,
                &[(10, "loss", 3.0), (20, "loss", 2.0), (30, "loss", 1.5)],
            );
            measured(log, trial, MetricScope::HeldOut, &[(30, "dsc", 70.0)]);
        }
        let diverged = [(10, "loss", 3.0), (20, "loss", f64::NAN)];
        measured(log, key("mti-net/2/0"), MetricScope::Epoch, &diverged);
    });
    let groups = drawn(&results);
    let figure = find(&groups, "training-mti-net");
    assert_eq!(lines(figure, "Training loss", None), 2, "two lines; the third trial has one finite point");
    assert_eq!(lines(figure, "Training loss", Some("7 3")), 1, "the second fold is dashed");
    assert_eq!(lines(figure, "Held-out DSC", None), 0, "single points are markers");
    let texts = texts(figure);
    for text in ["fold 0", "fold 3", "optimiser steps", "weighted sum (no unit)", "DSC (%)"] {
        assert!(texts.iter().any(|other| other == text), "{text}: {texts:?}");
    }
    assert_eq!(figure.missing, ["mti-net/3/0 waiting, without measurements"]);
    assert_eq!(figure.from.len(), 3);
}

#[test]
fn confusion_matrices_print_every_cell_and_name_what_is_missing() {
    let results = study(&spec("\"mti-net\", \"unet\"", "3"), &["mti-net/1/0"], |_| {});
    let groups = drawn(&results);
    let figure = find(&groups, "confusion");
    assert_eq!(figure.panels.len(), 1, "U-Net does not classify");
    let texts = texts(figure);
    for text in ["MTI-Net", "hemangioma", "hcc", "predicted", "100.0 %", "0.0 %", "2", "0"] {
        assert!(texts.iter().any(|other| other == text), "{text}: {texts:?}");
    }
    assert!(texts.contains(&"2 of 3 trials; missing: mti-net/1/0 waiting".to_owned()), "{texts:?}");
    assert_eq!(figure.missing, ["mti-net/1/0 waiting"]);
}

#[test]
fn agreement_has_bias_and_limits_in_numbers() {
    let results = study(&spec("\"mti-net\", \"unet\"", "5"), &[], |_| {});
    let groups = drawn(&results);
    let figure = find(&groups, "agreement-mti-net");
    let rows = &figure.numbers.as_ref().unwrap().rows;
    assert_eq!(rows[0][..5], ["pre", "10", "+10.0", "0.0", "+10.0 to +10.0"].map(str::to_owned));
    // Differences 0, 1, 2, 3, 4, each of two subjects: sample deviation sqrt(20 / 9).
    assert_eq!(rows[2][..5], ["pv", "10", "+2.0", "1.5", "-0.9 to +4.9"].map(str::to_owned));
    assert_eq!(rows[2][5], "2.0");
    let texts = texts(figure);
    for text in ["bias", "+2.0", "+1.96 SD", "+4.9", "-1.96 SD", "-0.9"] {
        assert!(texts.contains(&text.to_owned()), "{text}: {texts:?}");
    }
    assert!(groups.iter().flat_map(|group| &group.figures).all(|f| f.name != "agreement-unet"));
    let curves = texts_of(&groups, "enhancement-curves");
    assert!(curves.contains(&"mti-net: hemangioma (n = 5)".to_owned()), "{curves:?}");
}

fn texts_of(groups: &[Group], name: &str) -> Vec<String> {
    texts(find(groups, name))
}

#[test]
fn a_single_subject_has_a_bias_and_no_limits() {
    let mut results = study(&spec("\"mti-net\"", "[0]"), &[], |_| {});
    let mut one = evaluation(Arm::MtiNet, 0, 0.0);
    one.slices.truncate(1);
    results.set_evaluation(key("mti-net/0/0"), one);
    let groups = drawn(&results);
    let row = &find(&groups, "agreement-mti-net").numbers.as_ref().unwrap().rows[0];
    assert_eq!(row[1..5], ["1", "+10.0", "–", "–"].map(str::to_owned));
    for figure in groups.iter().flat_map(|group| &group.figures) {
        texts(figure);
    }
}

#[test]
fn a_study_without_results_has_words_in_place_of_figures() {
    let spec = spec("\"mti-net\", \"unet\"", "2");
    let results = study(&spec, &["mti-net/0/0", "mti-net/1/0", "unet/0/0", "unet/1/0"], |_| {});
    let groups = drawn(&results);
    for figure in groups.iter().flat_map(|group| &group.figures) {
        let texts = texts(figure).join(" ");
        assert!(texts.contains("mti-net/0/0 waiting"), "{}: {texts}", figure.name);
    }
    assert!(groups.iter().any(|group| group.introduction.starts_with("No trial has segmented")));
    assert!(groups.iter().any(|group| group.introduction.starts_with("No training curves")));
}

#[test]
fn names_stay_text_and_values_that_are_no_numbers_are_left_out() {
    let mut results = study(&spec("\"mti-net\"", "2"), &[], |_| {});
    results.dataset.classes[0] = "<b>\"&'\u{1}".to_owned();
    let mut broken = evaluation(Arm::MtiNet, 0, 0.0);
    broken.slices[0].predicted_curve = Some(vec![f64::NAN, f64::INFINITY, 1.0, 1.0]);
    results.set_evaluation(key("mti-net/0/0"), broken);
    let groups = drawn(&results);
    for figure in groups.iter().flat_map(|group| &group.figures) {
        texts(figure);
    }
    assert!(texts_of(&groups, "confusion").contains(&"<b>\"&' ".to_owned()));
    assert_eq!(find(&groups, "agreement-mti-net").numbers.as_ref().unwrap().rows[0][1], "3");
}

#[test]
fn without_the_data_set_the_report_says_where_it_looked() {
    let results = study(&spec("\"unet\"", "2"), &[], |_| {});
    let pictures = Pictures::read(&results, &Sources::default());
    assert!(pictures.shown.is_empty());
    assert!(
        pictures.problems[0].contains("/data/phantom") && pictures.problems[0].contains("--dataset DIR"),
        "{:?}",
        pictures.problems
    );
}

/// A study of a phantom: U-Net finds every lesion, MTI-Net's masks are lost.
fn of_phantom(directory: &std::path::Path) -> (StudyResults, Sources) {
    let options = PhantomOptions {
        subjects: 8,
        size: 32,
        slices_per_subject: 3,
        folds: 2,
        ..PhantomOptions::default()
    };
    let dataset = phantom::write(&directory.join("data"), &options, &|_, _| {}).unwrap();
    let spec = spec("\"unet\", \"mti-net\", \"no-tim\"", "2");
    let mut results = study(&spec, &["no-tim/0/0", "no-tim/1/0"], |_| {});
    results.dataset.path = directory.join("data").display().to_string();
    results.dataset.hash = dataset.hash();
    let predictions = directory.join("predictions");
    for trial in &mut results.trials {
        let TrialOutcome::Done(evaluated) = &mut trial.outcome else { continue };
        evaluated.predictions = Some(artifact("masks"));
        let mut found = evaluation(trial.key.arm, trial.key.fold, 0.0);
        let like = found.slices.remove(0);
        found.slices.clear();
        for id in &dataset.splits[trial.key.fold as usize].val {
            let case = dataset.case(id).unwrap();
            let (mask, grid) = dataset.load_mask(case).unwrap();
            found.slices.extend(slices(&dataset, case, &mask, &like));
            if trial.key.arm == Arm::Unet {
                let folder = predictions.join(trial.key.to_string());
                std::fs::create_dir_all(&folder).unwrap();
                nifti_io::write_mask(&folder.join(format!("{id}.nii.gz")), &mask, &grid).unwrap();
            }
        }
        trial.evaluation = Some(found);
    }
    (results, Sources { dataset: None, predictions: Some(predictions) })
}

fn slices(
    dataset: &mtinet_data::Dataset,
    case: &manifest::Case,
    mask: &Array3<u8>,
    like: &SliceResult,
) -> Vec<SliceResult> {
    let slices = mask.outer_iter().enumerate().map(|(z, plane)| {
        let truth_pixels = plane.iter().filter(|&&pixel| pixel != 0).count() as u64;
        SliceResult {
            subject: case.subject.clone(),
            case: case.case.clone(),
            slice: z as u32,
            class: dataset.class_index(case).filter(|_| truth_pixels > 0),
            truth_pixels,
            dice: Some(1.0),
            ..like.clone()
        }
    });
    slices.collect()
}

#[test]
fn segmentations_stand_beside_the_truth_and_lost_ones_are_named() {
    let here = tempfile::tempdir().unwrap();
    let (results, sources) = of_phantom(here.path());
    let pictures = Pictures::read(&results, &sources);
    assert_eq!(pictures.problems, Vec::<String>::new());
    assert!((2..=6).contains(&pictures.shown.len()), "{}", pictures.shown.len());
    for picture in &pictures.shown {
        assert_eq!(picture.predicted[&Arm::Unet].as_ref().unwrap(), &picture.truth, "its perfect mask");
        let largest = results.trials[0].evaluation.iter().chain(&results.trials[1].evaluation);
        let area = largest
            .flat_map(|evaluation| &evaluation.slices)
            .filter(|slice| slice.subject == picture.chosen.subject)
            .map(|slice| slice.truth_pixels)
            .max();
        assert_eq!(Some(picture.truth.iter().filter(|&&pixel| pixel != 0).count() as u64), area);
    }
    let groups = figures(&results, &pictures);
    let comparison = find(&groups, "segmentation-comparison");
    let words = texts(comparison).join(" ");
    assert!(
        words.contains("U-Net") && words.contains("DSC 100.0 %") && words.contains("mti-net/0/0"),
        "{words}"
    );
    assert!(texts_of(&groups, "segmentation-ablation").join(" ").contains("no-tim/0/0 waiting"));
    let png = comparison.png.as_ref().unwrap();
    let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    let yellow = pixels.as_chunks::<3>().0.iter().filter(|pixel| **pixel == [0xf0, 0xe4, 0x42]).count();
    let blue = pixels.as_chunks::<3>().0.iter().filter(|pixel| **pixel == [0x56, 0xb4, 0xe9]).count();
    assert!(yellow > 100 && blue > 100, "outlines of truth and prediction: {yellow}, {blue}");
    assert_eq!(
        Pictures::read(&results, &sources).shown[0].chosen,
        pictures.shown[0].chosen,
        "the same again"
    );
}

#[test]
fn another_data_set_is_not_shown() {
    let here = tempfile::tempdir().unwrap();
    let (mut results, sources) = of_phantom(here.path());
    results.dataset.hash = "0".repeat(64);
    let pictures = Pictures::read(&results, &sources);
    assert!(pictures.shown.is_empty() && pictures.problems[0].contains("another data set"), "{pictures:?}");
}
