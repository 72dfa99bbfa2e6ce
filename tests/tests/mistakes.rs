//! What a person is told who mistypes, comes to the wrong place or too early, with the real programs.
#![expect(clippy::unwrap_used, reason = "a test's helpers may panic as the test may")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use mtinet_tests::cluster::Cluster;
use mtinet_tests::{phantom_dataset, program, stderr};

fn mtinet(home: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(program("mtinet"));
    command
        .args(arguments)
        .current_dir(home)
        .env("HOME", home)
        .env_remove("XDG_CONFIG_HOME")
        .stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MTINET_")) {
        command.env_remove(name);
    }
    command.output().unwrap()
}

#[test]
fn a_name_that_is_not_there_is_met_with_what_may_be_meant_and_what_to_do() {
    let cluster = Cluster::start();
    let dataset = phantom_dataset().display();
    cluster.submit(&format!(
        "name = \"ablation\"\ndataset = \"{dataset}\"\narms = [\"mti-net\"]\nfolds = [0]\n"
    ));
    let home = tempfile::tempdir().unwrap();
    let data = cluster.data_dir();
    let data = data.to_str().unwrap();
    for (arguments, exit, words) in [
        (
            &["status", "ablatoin"][..],
            1,
            &["no study `ablatoin`", "did you mean `ablation`?", "mtinet study list"][..],
        ),
        (&["study", "cancel", "77"], 1, &["no study `77`", "mtinet study list"]),
        (&["logs", "mti-nt/0/0"], 2, &["did you mean \"mti-net\"?"]),
        (&["logs", "mti-net/0"], 2, &["write ARM/FOLD/SEED"]),
        (&["logs", "mti-net/9/0"], 1, &["no study has a trial mti-net/9/0", "mtinet status"]),
        (&["logs", "mti-net/0/0", "--study", "1"], 1, &["has not started yet", "mtinet explain mti-net/0/0"]),
        (&["explain", "unet/0/0", "--study", "ablation"], 1, &["study 1 has no trial unet/0/0"]),
        (&["drain", "nobody"], 1, &["no worker `nobody`", "mtinet workers"]),
        (&["export", "unet/0/0", "w"], 1, &["study ablation has no trial unet/0/0"]),
    ] {
        let output = mtinet(home.path(), &[arguments, &["--coordinator", data]].concat());
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(exit), "{arguments:?}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_token_that_is_none_or_another_coordinator_s_is_refused_in_words() {
    let (cluster, other) = (Cluster::start(), Cluster::start());
    let home = tempfile::tempdir().unwrap();
    let login = |url: &str, token: &Path| {
        mtinet(home.path(), &["login", url, "--token-file", token.to_str().unwrap()])
    };
    let nonsense = cluster.write("nonsense", "hunter2");
    for (output, exit, words) in [
        (login(&cluster.url(), &nonsense), 2, "is not a join token"),
        (login(&cluster.url(), Path::new("absent")), 2, "could not read the token file absent"),
        (login(&cluster.url(), &other.token("viewer", "v")), 3, "another authority"),
        (login(&cluster.url(), &cluster.token("worker", "w")), 2, "this is a worker's token"),
    ] {
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(exit), "{said}");
        assert!(said.contains(words) && !said.contains("hunter2"), "{said}");
    }
}
