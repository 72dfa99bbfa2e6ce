use std::path::PathBuf;

use super::small;
use crate::manifest::Dataset;
use crate::portable::PortableDataset;

#[test]
fn a_data_set_arrives_as_it_left_under_names_of_its_content() {
    let (_dir, dataset) = small();
    let (portable, sources) = PortableDataset::of(&dataset).unwrap();
    assert_eq!(portable.hash(), dataset.hash());
    assert_eq!(portable.total_bytes(), portable.files().values().sum::<u64>());
    let there = tempfile::tempdir().unwrap();
    let arrived = PortableDataset::from_json(&portable.to_json().unwrap(), &dataset.hash()).unwrap();
    assert_eq!(arrived, portable);
    arrived.write_manifest(there.path()).unwrap();
    std::fs::create_dir(there.path().join(crate::portable::FILES)).unwrap();
    assert_eq!(sources.len(), portable.files().len());
    for (hash, source) in sources {
        assert_eq!(std::fs::metadata(&source).unwrap().len(), portable.files()[&hash]);
        std::fs::copy(source, there.path().join(PortableDataset::place(&hash))).unwrap();
    }
    let received = Dataset::open(there.path()).unwrap();
    assert_eq!(received.hash(), dataset.hash());
    received.verify_files(&|_, _| {}).unwrap();
    let case = &dataset.cases[0];
    assert_eq!(received.load_mask(&received.cases[0]).unwrap(), dataset.load_mask(case).unwrap());
}

#[test]
fn a_manifest_that_leads_elsewhere_or_is_anothers_is_refused() {
    let (_dir, dataset) = small();
    let (portable, _) = PortableDataset::of(&dataset).unwrap();
    let hash = dataset.hash();
    let refusal = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut document: serde_json::Value = serde_json::to_value(&portable).unwrap();
        change(&mut document);
        PortableDataset::from_json(document.to_string().as_bytes(), &hash).unwrap_err().to_string()
    };
    let file = portable.files().keys().next().unwrap().clone();
    for outside in ["../../etc/passwd", "/etc/passwd", "files/../../x", "files/./x", ""] {
        let words = refusal(&|document| document["cases"][0]["label"]["path"] = outside.into());
        assert!(words.contains("not where its file lies"), "{outside}: {words}");
    }
    // A hash becomes a file's name too.
    let words = refusal(&|document| {
        document["cases"][0]["label"]["blake3"] = "../x".into();
        document["cases"][0]["label"]["path"] = "files/../x".into();
    });
    assert!(words.contains("no BLAKE3 hash"), "{words}");
    let words = refusal(&|document| document["bytes"]["../x"] = 1.into());
    assert!(words.contains("no BLAKE3 hash"), "{words}");
    let words = refusal(&|document| drop(document["bytes"].as_object_mut().unwrap().remove(&file)));
    assert!(words.contains("length"), "{words}");
    let words = refusal(&|document| document["cases"][0]["case"] = "../x".into());
    assert!(words.contains("cannot be a file name"), "{words}");
    let words = refusal(&|document| document["schema"] = "mtinet-dataset-files/2".into());
    assert!(words.contains("mtinet-dataset-files/2"), "{words}");
    let words = refusal(&|document| document["cases"][0]["subject"] = "somebody-else".into());
    assert!(words.contains(&hash) && words.contains("not"), "{words}");
    assert!(PortableDataset::from_json(b"{", &hash).is_err());
}

#[test]
fn a_file_that_is_gone_is_named() {
    let (_dir, dataset) = small();
    let gone: PathBuf = dataset.path(&dataset.cases[3].label.path);
    std::fs::remove_file(&gone).unwrap();
    let words = PortableDataset::of(&dataset).unwrap_err().to_string();
    assert!(words.contains(gone.to_str().unwrap()), "{words}");
}
