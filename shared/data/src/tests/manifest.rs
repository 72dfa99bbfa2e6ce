use super::{edit_image, quiet, small};
use crate::Dataset;

#[test]
fn a_data_set_reads_back_as_written() {
    let (_dir, dataset) = small();
    let reopened = Dataset::open(&dataset.dir).unwrap();
    assert_eq!(reopened, dataset);
    assert_eq!(reopened.hash(), dataset.hash());
    dataset.verify_files(&quiet).unwrap();
    assert_eq!(dataset.class_index(&dataset.cases[0]), Some(1));
    for name in ["dataset.toml", "cases.jsonl", "splits_final.json", "images", "labels"] {
        assert!(dataset.dir.join(name).exists(), "{name}");
    }
}

#[test]
fn the_hash_follows_content_and_not_place() {
    let (dir, dataset) = small();
    let elsewhere = dir.path().join("moved");
    std::fs::rename(&dataset.dir, &elsewhere).unwrap();
    let mut moved = Dataset::open(&elsewhere).unwrap();
    assert_eq!(moved.hash(), dataset.hash());
    moved.cases[0].images.get_mut("art").unwrap().path = elsewhere.join("images/phantom_0001_art.nii.gz");
    assert_eq!(moved.hash(), dataset.hash(), "an absolute path names the same content");
    moved.cases[0].subject = "someone else".into();
    assert_ne!(moved.content_hash(), dataset.content_hash());
}

#[test]
fn a_changed_file_is_named() {
    let (_dir, mut dataset) = small();
    edit_image(&mut dataset, 3, "pv", true, |v| v[[0, 0, 0]] += 1);
    let error = dataset.verify_files(&quiet).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("phantom_0004_pv.nii.gz") && message.contains("phantom_0004"), "{message}");
    assert_eq!(error.exit_code(), 4);
    assert!(dataset.load_image(&dataset.cases[3], "pv").is_err());
    assert!(dataset.load_image(&dataset.cases[3], "art").is_ok());
}

#[test]
fn a_manifest_that_contradicts_itself_is_refused() {
    let (_dir, dataset) = small();
    let cases = std::fs::read_to_string(dataset.dir.join("cases.jsonl")).unwrap();
    let header = std::fs::read_to_string(dataset.dir.join("dataset.toml")).unwrap();
    let first = cases.lines().next().unwrap();
    let faults = [
        ("cases.jsonl", cases.replace("\"class\":\"hcc\"", "\"class\":\"cyst\""), "cyst"),
        ("cases.jsonl", format!("{first}\n{first}\n"), "twice"),
        ("cases.jsonl", format!("{first}\n{{\"case\":\n"), "line 2"),
        ("cases.jsonl", first.replace("\"subject\":\"phantom_0001\"", "\"subject\":\"\""), "subject"),
        ("dataset.toml", header.replace("mtinet-dataset/1", "mtinet-dataset/9"), "mtinet-dataset/9"),
        ("dataset.toml", format!("surprise = 1\n{header}"), "surprise"),
        ("splits_final.json", "{}".to_owned(), "train"),
    ];
    for (file, text, part) in faults {
        let path = dataset.dir.join(file);
        let before = std::fs::read(&path).unwrap();
        std::fs::write(&path, text).unwrap();
        let error = Dataset::open(&dataset.dir).unwrap_err();
        assert!(error.to_string().contains(part) && error.to_string().contains(file), "{error}");
        std::fs::write(&path, before).unwrap();
    }
    let error = Dataset::open(std::path::Path::new("/nonexistent")).unwrap_err();
    assert!(error.to_string().contains("not a data set"), "{error}");
}
