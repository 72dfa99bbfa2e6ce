//! The binary as scripts see it: exit codes (DESIGN.md 4.2), what stands on standard output, and what errors name.
#![expect(clippy::unwrap_used, reason = "a test ends with what went wrong")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Runs `mtinet` in `directory` with no configuration from outside.
fn mtinet(directory: &Path, arguments: &[&str]) -> Output {
    command(directory, arguments).output().unwrap()
}

fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mtinet"));
    command.args(arguments).current_dir(directory).stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MTINET_")) {
        command.env_remove(name);
    }
    command
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("ended by a signal: {}", errors(output)))
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn answer(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&answer(output)).unwrap_or_else(|error| panic!("{error}: {}", answer(output)))
}

/// A small phantom in `directory`/liver.
fn phantom(directory: &Path) -> PathBuf {
    let made = mtinet(directory, &["data", "phantom", "liver", "--subjects", "14", "--size", "32", "--json"]);
    assert_eq!(code(&made), 0, "{}", errors(&made));
    assert_eq!(json(&made)["subjects"], 14);
    directory.join("liver")
}

fn study_file(directory: &Path, text: &str) -> PathBuf {
    let path = directory.join("study.toml");
    std::fs::write(&path, text).unwrap();
    path
}

/// An address at which nothing listens.
fn nobody() -> String {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", held.local_addr().unwrap())
}

#[test]
fn wrong_usage_is_2_and_help_is_0() {
    let here = tempfile::tempdir().unwrap();
    for arguments in [&[][..], &["nonsense"], &["status", "--no-such-flag"], &["run", "f", "--workers", "0"]]
    {
        assert_eq!(code(&mtinet(here.path(), arguments)), 2, "{arguments:?}");
    }
    let help = mtinet(here.path(), &["--help"]);
    assert_eq!(code(&help), 0);
    assert!(answer(&help).contains("Exit codes"));
}

#[test]
fn the_dashboard_needs_a_terminal_and_says_what_else_there_is() {
    let here = tempfile::tempdir().unwrap();
    let output = mtinet(here.path(), &["watch"]);
    assert_eq!(code(&output), 2, "{}", errors(&output));
    assert!(errors(&output).contains("mtinet status"), "{}", errors(&output));
    assert_eq!(answer(&output), "", "not a single escape sequence");
}

#[test]
fn a_mistake_in_a_study_file_names_file_line_and_key() {
    let here = tempfile::tempdir().unwrap();
    let unknown = "name = \"x\"\ndataset = \"d\"\narms = [\"unet\"]\n\n[train]\nbatchsize = 3\n";
    let file = study_file(here.path(), unknown);
    let file = file.to_str().unwrap();
    for arguments in [&["run", file][..], &["study", "submit", file]] {
        let output = mtinet(here.path(), arguments);
        assert_eq!(code(&output), 2, "{}", errors(&output));
        assert!(errors(&output).contains(&format!("{file}:6: train.batchsize")), "{}", errors(&output));
    }
    study_file(here.path(), "name = \"x\"\ndataset = \"d\"\narms = [\n  \"mtinet\",\n]\n");
    let output = mtinet(here.path(), &["run", file]);
    assert_eq!(code(&output), 2);
    let text = errors(&output);
    assert!(text.contains("study.toml:") && text.contains("did you mean \"mti-net\"?"), "{text}");
    assert_eq!(code(&mtinet(here.path(), &["run", "absent.toml"])), 2);
}

#[test]
fn an_absent_coordinator_is_3() {
    let here = tempfile::tempdir().unwrap();
    let url = nobody();
    for arguments in [&["status"][..], &["workers"], &["study", "list"], &["study", "cancel", "1"]] {
        let output = mtinet(here.path(), &[arguments, &["--coordinator", &url]].concat());
        assert_eq!(code(&output), 3, "{arguments:?}: {}", errors(&output));
        assert!(errors(&output).contains(&url), "{}", errors(&output));
        assert_eq!(answer(&output), "");
    }
    let by_environment = command(here.path(), &["status"]).env("MTINET_COORDINATOR", &url).output().unwrap();
    assert_eq!(code(&by_environment), 3);
    assert!(errors(&by_environment).contains(&url));
    let nonsense = mtinet(here.path(), &["status", "--coordinator", "http://not an address"]);
    assert_eq!(code(&nonsense), 2);
}

/// A coordinator of another release: it refuses every call as ours refuses another version.
#[derive(Clone)]
struct OtherRelease;

impl tonic::server::NamedService for OtherRelease {
    const NAME: &'static str = "mtinet.v1.Client";
}

impl tower::Service<http::Request<tonic::body::Body>> for OtherRelease {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<tonic::body::Body>) -> Self::Future {
        let words =
            "you speak protocol version 1, this coordinator 2; use the same release of mtinet on both sides";
        std::future::ready(Ok(tonic::Status::failed_precondition(words).into_http()))
    }
}

#[test]
fn a_coordinator_of_another_release_is_3() {
    let here = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    runtime
        .spawn(tonic::transport::Server::builder().add_service(OtherRelease).serve_with_incoming(incoming));
    for arguments in [&["status"][..], &["study", "list"], &["logs", "mti-net/0/0"]] {
        let output = mtinet(here.path(), &[arguments, &["--coordinator", &url]].concat());
        let said = errors(&output);
        assert_eq!(code(&output), 3, "{arguments:?}: {said}");
        assert!(said.contains("protocol version 1") && said.contains("the same release"), "{said}");
        assert_eq!(answer(&output), "");
    }
}

#[test]
fn shells_and_man_are_served_without_a_coordinator() {
    let here = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let output = mtinet(here.path(), &["completions", shell]);
        assert_eq!((code(&output), errors(&output).as_str()), (0, ""));
        assert!(answer(&output).contains("readmit"), "{shell}");
    }
    // What bash is given, bash understands.
    std::fs::write(here.path().join("mtinet.bash"), answer(&mtinet(here.path(), &["completions", "bash"])))
        .unwrap();
    let sourced = ["-c", "source mtinet.bash && complete -p mtinet"];
    assert!(Command::new("bash").args(sourced).current_dir(here.path()).status().unwrap().success());
    let man = mtinet(here.path(), &["man", "man1"]);
    assert_eq!((code(&man), answer(&man).as_str()), (0, "man1\n"), "{}", errors(&man));
    let page = std::fs::read_to_string(here.path().join("man1/mtinet-logs.1")).unwrap();
    assert!(page.contains("follow") && here.path().join("man1/mtinet-study-submit.1").exists());
    assert_eq!(code(&mtinet(here.path(), &["completions", "cmd.exe"])), 2);
    let both = mtinet(here.path(), &["logs", "mti-net/0/0", "--follow", "--json"]);
    assert_eq!(code(&both), 2, "one document has an end: {}", errors(&both));
}

#[test]
fn what_is_no_data_set_is_4() {
    let here = tempfile::tempdir().unwrap();
    let output = mtinet(here.path(), &["data", "check", "."]);
    assert_eq!(code(&output), 4);
    assert!(errors(&output).contains("dataset.toml"), "{}", errors(&output));
    study_file(here.path(), "name = \"x\"\ndataset = \"nowhere\"\narms = [\"unet\"]\n");
    let output = mtinet(here.path(), &["run", "study.toml"]);
    assert_eq!(code(&output), 4);
    assert!(
        errors(&output).contains("nowhere") && errors(&output).contains("data phantom"),
        "{}",
        errors(&output)
    );
    assert!(!here.path().join("runs").exists(), "a study that cannot run leaves nothing behind");
}

#[test]
fn a_failed_check_is_1_and_stops_a_study_with_4() {
    let here = tempfile::tempdir().unwrap();
    let dataset = phantom(here.path());
    let good = mtinet(here.path(), &["data", "check", "liver", "--json"]);
    assert_eq!((code(&good), &json(&good)["passes"]), (0, &Value::Bool(true)), "{}", errors(&good));

    // Train on a subject that is held out.
    let path = dataset.join("splits_final.json");
    let mut splits: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let leaked = splits[0]["val"][0].clone();
    splits[0]["train"].as_array_mut().unwrap().push(leaked);
    std::fs::write(&path, splits.to_string()).unwrap();

    let bad = mtinet(here.path(), &["data", "check", "liver", "--json"]);
    assert_eq!(code(&bad), 1, "{}", errors(&bad));
    let report = json(&bad);
    assert_eq!(report["passes"], false);
    let finding = &report["findings"][0];
    assert_eq!((&finding["severity"], &finding["fold"]), (&"error".into(), &0.into()), "{finding}");

    study_file(
        here.path(),
        "name = \"x\"\ndataset = \"liver\"\narms = [\"unet\"]\n[train]\nimage_size = 32\n",
    );
    let output = mtinet(here.path(), &["run", "study.toml"]);
    assert_eq!(code(&output), 4, "{}", errors(&output));
    assert!(errors(&output).contains("leak gate"), "{}", errors(&output));
}

#[test]
fn a_file_that_changed_since_the_import_stops_a_study() {
    let here = tempfile::tempdir().unwrap();
    let dataset = phantom(here.path());
    let image = std::fs::read_dir(dataset.join("images")).unwrap().next().unwrap().unwrap().path();
    let other = std::fs::read_dir(dataset.join("labels")).unwrap().next().unwrap().unwrap().path();
    std::fs::copy(other, &image).unwrap();
    study_file(
        here.path(),
        "name = \"x\"\ndataset = \"liver\"\narms = [\"unet\"]\n[train]\nimage_size = 32\n",
    );
    let output = mtinet(here.path(), &["run", "study.toml"]);
    assert_eq!(code(&output), 4, "{}", errors(&output));
    assert!(errors(&output).contains("changed"), "{}", errors(&output));
}

#[test]
fn folds_that_the_data_set_does_not_have_are_2() {
    let here = tempfile::tempdir().unwrap();
    phantom(here.path());
    for (folds, words) in [("3", "split into 5 folds, not 3"), ("[0, 7]", "has the folds 0 to 4")] {
        let text = format!("name = \"x\"\ndataset = \"liver\"\narms = [\"unet\"]\nfolds = {folds}\n");
        study_file(here.path(), &text);
        let output = mtinet(here.path(), &["run", "study.toml"]);
        assert_eq!(code(&output), 2, "{}", errors(&output));
        assert!(errors(&output).contains(words), "{}", errors(&output));
    }
    let split = mtinet(here.path(), &["data", "split", "liver", "--folds", "2", "--json"]);
    assert_eq!((code(&split), json(&split)["folds"].as_array().map(Vec::len)), (0, Some(2)));
    let table = mtinet(here.path(), &["data", "split", "liver", "--folds", "2"]);
    assert!(answer(&table).contains("hemangioma"), "{}", answer(&table));
}

#[test]
fn the_data_set_may_lie_beside_the_study_file() {
    let here = tempfile::tempdir().unwrap();
    let elsewhere = here.path().join("work");
    std::fs::create_dir(&elsewhere).unwrap();
    phantom(here.path());
    let text = "name = \"x\"\ndataset = \"liver\"\narms = [\"unet\"]\nfolds = 3\n";
    study_file(here.path(), text);
    // Found, and then refused for its folds.
    let output = mtinet(&elsewhere, &["run", "../study.toml"]);
    assert_eq!(code(&output), 2, "{}", errors(&output));
    assert!(errors(&output).contains("split into 5 folds"), "{}", errors(&output));
}

#[test]
fn nothing_is_overwritten_by_a_phantom() {
    let here = tempfile::tempdir().unwrap();
    phantom(here.path());
    let output = mtinet(here.path(), &["data", "phantom", "liver", "--subjects", "2", "--size", "32"]);
    assert_eq!(code(&output), 2, "{}", errors(&output));
}

#[test]
fn a_study_file_is_printed_alone() {
    let here = tempfile::tempdir().unwrap();
    for preset in ["smoke", "paper", "ablation", "synergy", "baselines"] {
        let output = mtinet(here.path(), &["study", "init", "--preset", preset, "--dataset", "my data"]);
        assert_eq!((code(&output), errors(&output).as_str()), (0, ""));
        // As to its shape: an arm of a preset may have no network in this release.
        let spec: mtinet_domain::StudySpec = toml::from_str(&answer(&output)).unwrap();
        assert_eq!(spec.dataset, "my data");
    }
}

#[test]
fn a_case_is_drawn_as_a_picture() {
    let here = tempfile::tempdir().unwrap();
    phantom(here.path());
    let cases = std::fs::read_to_string(here.path().join("liver/cases.jsonl")).unwrap();
    let case: Value = serde_json::from_str(cases.lines().next().unwrap()).unwrap();
    let name = case["case"].as_str().unwrap();
    let show =
        |name: &str| mtinet(here.path(), &["data", "show", name, "--dataset", "liver", "--out", "case.png"]);
    let output = show(name);
    assert_eq!((code(&output), answer(&output).as_str()), (0, "case.png\n"), "{}", errors(&output));
    assert!(errors(&output).contains("pre, art, pv, del, mask"), "{}", errors(&output));
    let file = std::io::BufReader::new(std::fs::File::open(here.path().join("case.png")).unwrap());
    let picture = png::Decoder::new(file).read_info().unwrap();
    // Five panels of 32 pixels, each twelve times as large, and four gaps.
    assert_eq!((picture.info().width, picture.info().height), (5 * 384 + 4 * 4, 384));
    let unknown = show("nobody");
    assert_eq!(code(&unknown), 4);
    assert!(errors(&unknown).contains("nobody"), "{}", errors(&unknown));
}

#[test]
fn initial_weights_that_nothing_could_start_from_stop_a_study() {
    let here = tempfile::tempdir().unwrap();
    let study = |init: &str| {
        let text = format!("name = \"x\"\ndataset = \"nowhere\"\narms = [\"unet\"]\n[init]\n{init}\n");
        study_file(here.path(), &text);
        mtinet(here.path(), &["run", "study.toml"])
    };
    std::fs::write(here.path().join("w.pth"), b"PK a pickle").unwrap();
    for (init, exit, words) in [
        ("vgg16-cls = \"w\"", 2, "study.toml:4: init: names weights for vgg16-cls"),
        (
            "unet = \"absent.safetensors\"",
            4,
            "study.toml: init.unet: the weights absent.safetensors cannot be read",
        ),
        ("unet = \"w.pth\"", 4, "are not a complete safetensors file"),
    ] {
        let output = study(init);
        assert_eq!(code(&output), exit, "{}", errors(&output));
        assert!(errors(&output).contains(words), "{}", errors(&output));
    }
}

#[test]
fn an_export_that_cannot_be_is_refused_before_anybody_is_asked() {
    let here = tempfile::tempdir().unwrap();
    let export = |arguments: &[&str]| {
        mtinet(here.path(), &[&["export", "--coordinator", &nobody()], arguments].concat())
    };
    std::fs::write(here.path().join("there"), "mine").unwrap();
    for (arguments, exit, words) in [
        (&["mti-net/0", "w"][..], 2, "write ARM/FOLD/SEED"),
        (&["ei-ddpm/0/0", "w", "--format", "torchscript"], 2, "a recorded network draws nothing"),
        (&["unet/0/0", "there"], 2, "there exists"),
        (&["unet/0/0", ".", "--force"], 2, ". exists"),
        (&["unet/0/0", "w", "--data-dir", "."], 2, "not a coordinator's data directory"),
        (&["unet/0/0", "w"], 3, "could not reach"),
    ] {
        let output = export(arguments);
        assert_eq!(code(&output), exit, "{arguments:?}: {}", errors(&output));
        assert!(errors(&output).contains(words), "{}", errors(&output));
    }
    assert_eq!(std::fs::read(here.path().join("there")).unwrap(), b"mine");
}

#[test]
fn a_prediction_that_cannot_be_is_refused_before_anybody_is_asked() {
    let here = tempfile::tempdir().unwrap();
    for directory in ["cases", "taken"] {
        std::fs::create_dir(here.path().join(directory)).unwrap();
        std::fs::write(here.path().join(directory).join("file"), "mine").unwrap();
    }
    for (arguments, exit, words) in [
        (&["cases", "out"][..], 2, "--arm"),
        (&["cases", "out", "--arm", "unett"], 2, "did you mean \"unet\"?"),
        (&["cases", "out", "--trial", "unet"], 2, "write ARM/FOLD/SEED"),
        (&["cases", "out", "--arm", "unet", "--device", "tpu"], 2, "write auto, cpu, or cuda:N"),
        (&["cases", "taken", "--arm", "unet"], 2, "taken already exists"),
        (&["cases", "cases/file", "--arm", "unet"], 2, "cases/file already exists"),
        (&["absent", "out", "--arm", "unet"], 4, "absent is not a directory"),
        (&["cases", "out", "--arm", "unet", "--data-dir", "."], 2, "not a coordinator's data directory"),
        (&["cases", "out", "--arm", "unet", "--coordinator", &nobody()], 3, "could not reach"),
    ] {
        let output = mtinet(here.path(), &[&["predict"], arguments].concat());
        assert_eq!(code(&output), exit, "{arguments:?}: {}", errors(&output));
        assert!(errors(&output).contains(words), "{}", errors(&output));
    }
    assert!(!here.path().join("out").exists());
}

#[test]
fn an_interrupt_is_130() {
    let here = tempfile::tempdir().unwrap();
    let mut child = command(here.path(), &["data", "phantom", "big", "--subjects", "9999"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    let deadline = Instant::now() + Duration::from_secs(60);
    while !listens_for_interrupts(pid) {
        assert!(Instant::now() < deadline, "it never listened for SIGINT");
        std::thread::yield_now();
    }
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let left: Vec<_> =
        std::fs::read_dir(here.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "half a data set must not stay: {left:?}");
}

/// The system's list of signals that a process catches.
fn listens_for_interrupts(pid: nix::unistd::Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).map(str::trim);
    let mask = caught.and_then(|mask| u64::from_str_radix(mask, 16).ok()).unwrap_or_default();
    mask & (1 << (nix::sys::signal::Signal::SIGINT as u64 - 1)) != 0
}
