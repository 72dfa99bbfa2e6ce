use std::fs;

use super::{as_nnunet, quiet, small};
use crate::Dataset;
use crate::import::nnunet::{ImportOptions, import, scan_cases};
use crate::import::phase_of;

const PLAIN: [&str; 4] = ["pre", "art", "pv", "del"];

#[test]
fn an_nnunet_data_set_is_copied_with_its_voxels() {
    let (dir, phantom) = small();
    let source = as_nnunet(dir.path(), &phantom, PLAIN);
    let target = dir.path().join("imported");
    let report = import(&source, &target, &ImportOptions::default(), &quiet).unwrap();
    fs::remove_dir_all(&source).unwrap();
    let dataset = Dataset::open(&target).unwrap();
    assert_eq!(dataset, report.dataset);
    assert_eq!(dataset.cases.len(), 12);
    assert_eq!(dataset.header.classes, ["hemangioma", "hcc"]);
    assert_eq!(dataset.splits.len(), 5);
    assert!(report.bytes_copied > 0 && report.notes.is_empty());
    dataset.verify_files(&quiet).unwrap();
    for (a, b) in dataset.cases.iter().zip(&phantom.cases) {
        assert_eq!(dataset.load_mask(a).unwrap().0, phantom.load_mask(b).unwrap().0);
        for phase in PLAIN {
            assert_eq!(a.images[phase].blake3, b.images[phase].blake3);
        }
    }
}

#[test]
fn references_leave_the_files_where_they_are() {
    let (dir, phantom) = small();
    let source = as_nnunet(dir.path(), &phantom, PLAIN);
    let target = dir.path().join("imported");
    let options = ImportOptions { copy: false, ..ImportOptions::default() };
    let dataset = import(&source, &target, &options, &quiet).unwrap().dataset;
    assert!(dataset.cases[0].images["pre"].path.is_absolute());
    assert!(!target.join("images").exists());
    dataset.verify_files(&quiet).unwrap();
}

#[test]
fn channels_are_found_by_name_and_never_by_position() {
    let (dir, phantom) = small();
    let source = as_nnunet(dir.path(), &phantom, ["Arterial", "T1_delayed", "native", "portal venous phase"]);
    let dataset =
        import(&source, &dir.path().join("out"), &ImportOptions::default(), &quiet).unwrap().dataset;
    let case = &dataset.cases[0];
    // Channel 0 holds the phantom's pre, and is declared arterial.
    assert_eq!(case.images["art"].blake3, phantom.cases[0].images["pre"].blake3);
    assert_eq!(case.images["pre"].blake3, phantom.cases[0].images["pv"].blake3);
    assert!(case.images["art"].phase_evidence.contains("Arterial"));
}

#[test]
fn everything_wrong_is_listed_at_once() {
    let (dir, phantom) = small();
    let source = as_nnunet(dir.path(), &phantom, ["pre", "art", "ADC", "del"]);
    fs::remove_file(source.join("imagesTr/phantom_0002_0001.nii.gz")).unwrap();
    fs::remove_file(source.join("labelsTr/phantom_0003.nii.gz")).unwrap();
    let table = fs::read_to_string(source.join("cases.csv")).unwrap();
    fs::write(source.join("cases.csv"), table.replace("phantom_0005,phantom_0005,", "ghost,ghost,")).unwrap();
    let target = dir.path().join("out");
    let error = import(&source, &target, &ImportOptions::default(), &quiet).unwrap_err();
    let message = error.to_string();
    for part in [
        "`ADC`",
        "phase pv",
        "phantom_0002 has no image of phase art",
        "phantom_0003 has no mask",
        "phantom_0005 has images",
        "ghost",
    ] {
        assert!(message.contains(part), "{part} is not in: {message}");
    }
    assert_eq!(error.exit_code(), 4);
    assert!(!target.exists(), "nothing is half-written");
    let hidden = fs::read_dir(dir.path())
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'));
    assert_eq!(hidden.count(), 0, "the temporary directory is gone");
}

#[test]
fn a_damaged_file_stops_the_import_by_name() {
    let (dir, phantom) = small();
    let source = as_nnunet(dir.path(), &phantom, PLAIN);
    let file = source.join("imagesTr/phantom_0007_0002.nii.gz");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let message =
        import(&source, &dir.path().join("out"), &ImportOptions::default(), &quiet).unwrap_err().to_string();
    assert!(message.contains("phantom_0007_0002.nii.gz") && message.contains("truncated"), "{message}");
}

#[test]
fn a_table_is_needed_and_may_stand_elsewhere() {
    let (dir, phantom) = small();
    let source = as_nnunet(dir.path(), &phantom, PLAIN);
    let table = dir.path().join("mine.csv");
    let text = fs::read_to_string(source.join("cases.csv")).unwrap();
    fs::remove_file(source.join("cases.csv")).unwrap();
    let message =
        import(&source, &dir.path().join("a"), &ImportOptions::default(), &quiet).unwrap_err().to_string();
    assert!(message.contains("case,subject,class"), "{message}");
    // A spreadsheet's byte order mark, capitals, and a healthy subject that has two cases.
    let text = text.replace("case,subject,class", "\u{feff}Case,Subject,Class").replace("hcc", "HCC");
    let text = text
        .replace("phantom_0001,phantom_0001,HCC", "phantom_0001,p,healthy")
        .replace("phantom_0003,phantom_0003", "phantom_0003,p");
    fs::write(&table, text).unwrap();
    let options = ImportOptions { cases_csv: Some(table), ..ImportOptions::default() };
    let dataset = import(&source, &dir.path().join("b"), &options, &quiet).unwrap().dataset;
    assert_eq!((dataset.cases[0].class.as_str(), dataset.cases[0].subject.as_str()), ("healthy", "p"));
    assert_eq!(dataset.class_index(&dataset.cases[0]), None);
}

#[test]
fn an_occupied_destination_is_refused_and_an_empty_one_is_used() {
    let (dir, phantom) = small();
    let source = as_nnunet(dir.path(), &phantom, PLAIN);
    let target = dir.path().join("out");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("precious"), "x").unwrap();
    let error = import(&source, &target, &ImportOptions::default(), &quiet).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(target.join("precious").exists());
    fs::remove_file(target.join("precious")).unwrap();
    import(&source, &target, &ImportOptions::default(), &quiet).unwrap();
    assert!(target.join("dataset.toml").exists());
}

#[test]
fn named_tumour_labels_leave_the_others_background() {
    let (dir, phantom) = small();
    let source = as_nnunet(dir.path(), &phantom, PLAIN);
    let json = fs::read_to_string(source.join("dataset.json")).unwrap();
    let json = json.replace(r#""tumor":1"#, r#""liver":1,"tumor":2,"vessel":[3]"#);
    fs::write(source.join("dataset.json"), json).unwrap();
    let options = ImportOptions { tumour_labels: Some(vec!["tumor".into()]), ..ImportOptions::default() };
    let dataset = import(&source, &dir.path().join("a"), &options, &quiet).unwrap().dataset;
    let expected = [("1", 0), ("2", 1), ("3", 0)].map(|(k, v)| (k.to_owned(), v));
    assert_eq!(dataset.cases[0].label.remap, expected.into());
    assert!(dataset.load_mask(&dataset.cases[0]).unwrap().0.iter().all(|&v| v == 0));
    let all = import(&source, &dir.path().join("b"), &ImportOptions::default(), &quiet).unwrap().dataset;
    assert!(all.cases[0].label.remap.values().all(|&v| v == 1));
}

#[test]
fn cases_to_predict_need_no_labels() {
    let (dir, phantom) = small();
    let source = as_nnunet(dir.path(), &phantom, PLAIN);
    fs::rename(source.join("imagesTr"), source.join("imagesTs")).unwrap();
    let phases = crate::PHASES.map(str::to_owned);
    let cases = scan_cases(&source, &phases).unwrap();
    assert_eq!((cases.len(), cases[0].images.as_ref().unwrap().len()), (12, 4));
    // A bare folder of files: channels 0 to 3 are the phases in order.
    fs::remove_file(source.join("dataset.json")).unwrap();
    let bare = scan_cases(&source.join("imagesTs"), &phases).unwrap();
    assert!(bare[0].images.as_ref().unwrap()[3].ends_with("phantom_0001_0003.nii.gz"));
}

#[test]
fn phase_names_are_known_and_others_are_not_guessed() {
    for (name, phase) in [
        ("C-pre", "pre"),
        ("C+A", "art"),
        ("C+V", "pv"),
        ("C+Delay", "del"),
        ("T1w_Arterial", "art"),
        ("Portal-Venous Phase", "pv"),
        ("DEL", "del"),
    ] {
        assert_eq!(phase_of(name), Some(phase), "{name}");
    }
    for name in ["T2", "ADC", "DWI", "HBP", "T1", "", "in phase"] {
        assert_eq!(phase_of(name), None, "{name}");
    }
}
