use super::*;

const MINIMAL: &str = "name = \"s\"\ndataset = \"data\"\narms = [\"mti-net\", \"unet\"]\n";

fn error_of(extra: &str) -> SpecError {
    StudySpec::from_toml(&format!("{MINIMAL}{extra}")).expect_err(extra)
}

#[test]
fn defaults_are_the_documented_ones() {
    let spec = StudySpec::from_toml(MINIMAL).unwrap();
    assert_eq!(spec.folds.indices(), [0, 1, 2, 3, 4]);
    assert_eq!((spec.train.batch_size, spec.train.image_size, spec.train.learning_rate), (8, 256, 1e-4));
    assert_eq!((spec.retry.max_attempts, spec.checkpoint.every), (5, Seconds(60.0)));
    assert_eq!(spec.trials().len(), 10);
    assert_eq!(spec.train.total_steps(17), 300);
}

#[test]
fn an_unknown_key_names_its_path_its_line_and_what_is_allowed() {
    let error = error_of("[train]\nbatch_size = 4\nbatchsize = 2\n");
    assert_eq!((error.key.as_str(), error.line), ("train.batchsize", Some(6)));
    assert!(error.message.contains("batchsize") && error.message.contains("batch_size"), "{error}");
}

#[test]
fn a_wrong_type_names_its_path_and_line() {
    let error = error_of("[train]\nbatch_size = \"many\"\n");
    assert_eq!((error.key.as_str(), error.line), ("train.batch_size", Some(5)));
    let error = error_of("[checkpoint]\nevery = \"now and then\"\n");
    assert_eq!((error.key.as_str(), error.line), ("checkpoint.every", Some(5)));
    let error = error_of("[resources]\nranks = \"many\"\n");
    assert!(error.message.contains("\"auto\" or a number of ranks"), "{error}");
}

#[test]
fn impossible_values_are_refused_with_the_line_of_the_key_or_its_table() {
    for (extra, key, line) in [
        ("[train]\nimage_size = 0\n", "train.image_size", Some(5)),
        ("[train]\nepochs = 1\nsteps = 2\n", "train.steps", Some(6)),
        ("[train]\nlearning_rate = -1.0\n", "train.learning_rate", Some(5)),
        ("[train]\nlearning_rate = nan\n", "train.learning_rate", Some(5)),
        ("[train]\nreplicas = 3\n[resources]\nranks = 2\n", "resources.ranks", Some(7)),
        ("seeds = []\n", "seeds", Some(4)),
        ("folds = 1\n", "folds", Some(4)),
        ("folds = [0, 0]\n", "folds", Some(4)),
        ("[preprocess]\nhealthy_fraction = 2.0\n", "preprocess.healthy_fraction", Some(5)),
        ("[train]\nimage_size = 50\n", "model", None),
        ("[train]\nd_steps = 0\n", "train.d_steps", Some(5)),
        ("[train]\nselect = \"val\"\n", "train.select", Some(5)),
        ("[model]\nddim_steps = 1\nproj_dim = 100\n", "model", Some(4)),
    ] {
        let error = error_of(extra);
        assert_eq!((error.key.as_str(), error.line), (key, line), "{error}");
    }
}

#[test]
fn a_study_has_an_end() {
    let seeds = |count: u32| format!("seeds = {:?}\n", (0..count).collect::<Vec<_>>());
    let error = error_of(&seeds(10_001));
    assert!(error.key == "seeds" && error.message.contains("at most 10000 seeds"), "{error}");
    let error = error_of(&format!("folds = 100\n{}", seeds(1001)));
    assert!(error.message.contains("2 arms x 100 folds x 1001 seeds are 200200 trials"), "{error}");
    assert!(StudySpec::from_toml(&format!("{MINIMAL}folds = 100\n{}", seeds(1000))).is_ok());
}

#[test]
fn an_arm_that_does_not_exist_is_named() {
    let text = MINIMAL.replace("\"unet\"", "\"unett\"");
    let error = StudySpec::from_toml(&text).unwrap_err();
    assert_eq!(error.line, Some(3));
    assert!(error.message.contains("unett") && error.message.contains("unet"), "{error}");
}

#[test]
fn broken_syntax_names_the_line() {
    let error = error_of("[train\n");
    assert_eq!(error.line, Some(4), "{error}");
}

#[test]
fn a_spec_survives_json_and_keeps_its_hash() {
    let spec = StudySpec::from_toml(&format!("{MINIMAL}folds = [1]\n[resources]\nranks = 1\n")).unwrap();
    let again = StudySpec::from_json(&spec.to_json()).unwrap();
    assert_eq!((&again, again.hash()), (&spec, spec.hash()));
    let other = StudySpec::from_toml(&format!("{MINIMAL}folds = [2]\n")).unwrap();
    assert_ne!(other.hash(), spec.hash());
}

#[test]
fn a_key_that_came_later_leaves_the_hashes_of_older_specs_alone() {
    let train = |extra: &str| StudySpec::from_toml(&format!("{MINIMAL}[train]\n{extra}")).unwrap();
    let (absent, off) = (train(""), train("cuda_graphs = false\n"));
    assert!(!absent.to_json().contains("cuda_graphs"));
    assert_eq!(absent.hash(), off.hash());
    let on = train("cuda_graphs = true\nprecision = \"tf32\"\n");
    assert_ne!(on.hash(), off.hash());
    assert_eq!(StudySpec::from_json(&on.to_json()).unwrap(), on);
}
