//! The program itself: its exit codes, its secrets.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_program_tells_a_refusal_by_its_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start();
    coordinator.change(|ledger| ledger.refusal = Some("install release 9".to_owned()));
    let output = program(&coordinator, dir.path(), "finish").output().await.unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{words}");
    assert!(words.contains("install release 9"), "{words}");
    let output =
        program(&coordinator, dir.path(), "finish").args(["--devices", "tpu"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("`tpu` names no devices"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_room_for_sockets_is_no_wrong_usage() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start();
    let mut program = program(&coordinator, dir.path(), "finish");
    let output = program.env("XDG_RUNTIME_DIR", "/proc").env("TMPDIR", "/nowhere").output().await.unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains("directory for sockets"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_hides_secrets_and_ends_on_a_signal() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start();
    data_root(dir.path());
    let mut agent =
        program(&coordinator, dir.path(), "finish").env("MTINET_TOKEN_FILE", "secret").spawn().unwrap();
    coordinator.say(Message::Start(assignment(dir.path()))).await;
    assert!(coordinator.until("the end", coordinator::Ledger::exit).await.finished);
    assert_eq!(coordinator.change(|ledger| ledger.value("secrets")), Some(0.0));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(agent.id().unwrap()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let status = tokio::time::timeout(Duration::from_secs(20), agent.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_agent_left_unsaid_is_said_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start();
    data_root(dir.path());
    let mut first = program(&coordinator, dir.path(), "train").spawn().unwrap();
    coordinator.say(Message::Start(assignment(dir.path()))).await;
    coordinator.until("training", |ledger| (ledger.steps().len() > 3).then_some(())).await;
    coordinator.kill();
    let spooled = || {
        let files = std::fs::read_dir(dir.path().join("work/spool")).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>()
    };
    // The trainer goes on, and what it says goes to the disk.
    let (before, deadline) = (spooled(), tokio::time::Instant::now() + Duration::from_secs(20));
    while spooled() < before + 2000 {
        assert!(tokio::time::Instant::now() < deadline, "nothing is spooled");
        tokio::task::yield_now().await;
    }
    first.kill().await.unwrap();
    let known = coordinator.change(|ledger| ledger.last_seq());
    let mut second = program(&coordinator, dir.path(), "train").spawn().unwrap();
    coordinator.serve();
    let said = |ledger: &coordinator::Ledger| {
        let of = |worker: &str| ledger.hellos.iter().filter(|hello| hello.worker_id == worker).count();
        // Once with what there is to say, once to give the ranks back; and the new agent as itself.
        (of("worker-1") >= 3 && of("worker-2") >= 1).then(|| ledger.hellos.clone())
    };
    let hellos = coordinator.until("both agents", said).await;
    let of_first: Vec<_> = hellos.iter().filter(|hello| hello.worker_id == "worker-1").collect();
    assert!(of_first[1].running[0].exited, "its trainer is over");
    let last = of_first.last().unwrap();
    assert!(last.running.is_empty() && last.slots.is_empty(), "nothing is to be started there");
    coordinator.change(|ledger| {
        let seqs: Vec<u64> = ledger.reports.iter().map(|report| report.seq).collect();
        assert!(ledger.last_seq() > known, "what was not acknowledged is said");
        assert_eq!(
            seqs,
            (1..=seqs.len() as u64).collect::<Vec<_>>(),
            "nothing is missing, nothing comes twice"
        );
        let steps = ledger.steps();
        assert_eq!(steps, (1..=steps.len() as u64).collect::<Vec<_>>());
        assert!(ledger.exit().is_none(), "losing a worker is no failure of a trainer");
    });
    second.kill().await.unwrap();
}

/// The program at an encrypted address, to which it has to join first.
fn joining(dir: &std::path::Path) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mtinet-worker"));
    command
        // A port that nothing listens on: what is wrong shows before anything is sent.
        .args(["--coordinator", "https://127.0.0.1:1", "--trainer", "/bin/true", "--metrics", "off"])
        .arg("--data-root")
        .arg(dir)
        .arg("--work-dir")
        .arg(dir.join("work"))
        .env_remove("MTINET_TOKEN")
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_buys_no_worker_s_identity_is_wrong_usage() {
    use mtinet_runtime::tls::{Authority, Role, Token};
    use secrecy::ExposeSecret as _;
    let dir = tempfile::tempdir().unwrap();
    let fingerprint = Authority::generate().unwrap().0.fingerprint();
    let operators = Token::generate(Role::Operator, fingerprint).unwrap().expose();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    for (token, words) in [
        (Some(file("operator", operators.expose_secret())), "token of role operator, for `mtinet login`"),
        (Some(file("nonsense", "hunter2")), "is not a join token"),
        (Some(dir.path().join("absent")), "could not read the token file"),
        (None, "mtinet token create --role worker"),
    ] {
        let mut program = joining(dir.path());
        if let Some(token) = token {
            program.arg("--token-file").arg(token);
        }
        let output = program.output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(words) && !said.contains("hunter2"), "{said}");
        assert!(!dir.path().join("work/identity.pem").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_away_is_named_and_waited_for() {
    use tokio::io::{AsyncBufReadExt as _, BufReader};
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start();
    let mut program = program(&coordinator, dir.path(), "finish");
    drop(coordinator);
    let mut agent = program.spawn().unwrap();
    let mut lines = BufReader::new(agent.stderr.take().unwrap()).lines();
    let told = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("could not reach the coordinator") {
                return line;
            }
        }
        String::new()
    };
    let told = tokio::time::timeout(Duration::from_secs(30), told).await.unwrap();
    assert!(told.contains("check that it runs") && told.contains("trying again"), "{told}");
    assert!(agent.try_wait().unwrap().is_none(), "it waits");
}

pub(super) fn program(coordinator: &Coordinator, dir: &Path, script: &str) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mtinet-worker"));
    command
        .args(["--coordinator", &coordinator.url()])
        .arg("--data-root")
        .arg(data_root(dir))
        .arg("--work-dir")
        .arg(dir.join("work"))
        .arg("--trainer")
        .arg(trainer::program(dir, script))
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true);
    command
}
