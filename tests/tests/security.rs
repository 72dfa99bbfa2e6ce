//! Joining and being refused, with real programs: what their users see.
#![expect(clippy::unwrap_used, reason = "a test's helpers may panic as the test may")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use mtinet_tests::cluster::Cluster;
use mtinet_tests::processes::Process;
use mtinet_tests::{phantom_dataset, program, stderr};

/// Runs `mtinet` as a person with a home of their own.
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

fn assert_says(output: &Output, code: i32, words: &[&str]) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
}

/// An agent that has nothing to do; its trainer is never started.
fn worker(cluster: &Cluster, work: &Path, token: Option<&Path>) -> Command {
    let mut command = Command::new(program("mtinet-worker"));
    command.arg("--coordinator").arg(cluster.url()).args(["--name", "box", "--devices", "cpu:1"]);
    command.arg("--data-root").arg(phantom_dataset()).arg("--work-dir").arg(work);
    command.args(["--trainer", "/bin/true"]).env_remove("MTINET_TOKEN");
    if let Some(token) = token {
        command.arg("--token-file").arg(token);
    }
    command
}

fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !so() {
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn workers_ready(cluster: &Cluster, home: &Path) -> usize {
    let listed = mtinet(home, &["workers", "--json", "--coordinator", cluster.data_dir().to_str().unwrap()]);
    let answer = String::from_utf8_lossy(&listed.stdout).into_owned();
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap_or_default();
    answer["workers"].as_array().into_iter().flatten().filter(|worker| worker["status"] == "ready").count()
}

#[test]
fn a_worker_joins_once_and_comes_back_with_its_stored_identity() {
    let cluster = Cluster::start();
    let home = tempfile::tempdir().unwrap();
    let work = home.path().join("work");
    let log = home.path().join("worker.log");
    let none = worker(&cluster, &work, None).output().unwrap();
    assert_says(&none, 2, &["no identity", "--token-file", "mtinet token create --role worker"]);
    let token = cluster.token("worker", "w");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&token), 0o600);
    let first = Process::start(&mut worker(&cluster, &work, Some(&token)), &log);
    until("the worker", || workers_ready(&cluster, home.path()) == 1);
    assert_eq!(mode(&work.join("identity.pem")), 0o600);
    first.kill();
    // The token is used up, for this machine and for every other.
    let elsewhere = worker(&cluster, &home.path().join("other"), Some(&token)).output().unwrap();
    assert_says(&elsewhere, 3, &["was used at", "by box"]);
    until("the loss", || workers_ready(&cluster, home.path()) == 0);
    let second = Process::start(&mut worker(&cluster, &work, Some(&token)), &log);
    until("the worker's return", || workers_ready(&cluster, home.path()) == 1);
    // And once more without the token's file.
    second.kill();
    std::fs::remove_file(&token).unwrap();
    until("the loss", || workers_ready(&cluster, home.path()) == 0);
    let _third = Process::start(&mut worker(&cluster, &work, Some(&token)), &log);
    until("the worker's second return", || workers_ready(&cluster, home.path()) == 1);
}

#[test]
fn a_person_logs_in_with_a_token_and_the_role_decides() {
    let cluster = Cluster::start();
    let home = tempfile::tempdir().unwrap();
    let (url, data) = (cluster.url(), cluster.data_dir());
    let data = data.to_str().unwrap();
    assert_says(&mtinet(home.path(), &["status", "--coordinator", &url]), 3, &["mtinet login"]);
    assert_says(&mtinet(home.path(), &["status"]), 3, &["which coordinator", "mtinet login"]);
    let token = cluster.token("viewer", "someone");
    let secret = std::fs::read_to_string(&token).unwrap();
    let login =
        mtinet(home.path(), &["login", &url, "--token-file", token.to_str().unwrap(), "--name", "ada"]);
    assert_says(&login, 0, &["viewer ada"]);
    assert!(!stderr(&login).contains(secret.trim()));
    for left in ["identities", "login"] {
        assert!(home.path().join(".config/mtinet").join(left).exists(), "{left}");
    }
    // From now on without an address.
    assert_says(&mtinet(home.path(), &["status"]), 0, &[]);
    assert_says(&mtinet(home.path(), &["token", "list"]), 3, &["for role operator", "is viewer"]);
    let listed = mtinet(home.path(), &["token", "list", "--json", "--data-dir", data]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("\"ada\"") && listed.contains("\"used\""), "{listed}");
    let parts: Vec<&str> = secret.trim().split('.').collect();
    assert!(!listed.contains(parts[3]), "a secret is told once");
    assert_says(
        &mtinet(home.path(), &["token", "revoke", parts[2], "--data-dir", data]),
        0,
        &["1 that joined"],
    );
    assert_says(&mtinet(home.path(), &["status"]), 3, &["revoked", "mtinet login URL --token-file"]);
    assert!(!cluster.log("coordinator").contains(parts[3]), "a secret is never logged");
    assert!(cluster.log("coordinator").contains("joined"));
}

#[test]
fn a_token_can_be_made_before_the_coordinator_s_first_start() {
    let home = tempfile::tempdir().unwrap();
    let made =
        mtinet(home.path(), &["token", "create", "--role", "operator", "--ttl", "1h", "--data-dir", "data"]);
    assert_says(&made, 0, &["one use"]);
    assert!(String::from_utf8_lossy(&made.stdout).starts_with("mtinet1.operator."));
    let create = ["token", "create", "--role", "viewer", "--data-dir", "data", "--json"];
    assert_says(&mtinet(home.path(), &create), 2, &["--out"]);
    let made = mtinet(home.path(), &[&create[..], &["--out", "token"]].concat());
    let document: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!((&document["role"], &document["uses"]), (&"viewer".into(), &1.into()));
    assert!(!document.to_string().contains("mtinet1."), "a secret is never in a document");
    assert_says(
        &mtinet(home.path(), &["token", "create", "--role", "root", "--data-dir", "data"]),
        2,
        &["viewer"],
    );
    let insecure = ["coordinator", "--data-dir", "data", "--listen", "0.0.0.0:0", "--insecure"];
    assert_says(&mtinet(home.path(), &insecure), 2, &["--insecure-anywhere"]);
}
