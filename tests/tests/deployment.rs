//! What lies in `deploy/`, with real programs and a stand-in for the system that would run it.
#![expect(clippy::unwrap_used, reason = "a test's helpers may panic as the test may")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use mtinet_tests::cluster::Cluster;
use mtinet_tests::processes::Process;
use mtinet_tests::{phantom_dataset, program};
use nix::sys::signal::{Signal, kill};

fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(90);
    while !so() {
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The Slurm script as Slurm starts it, with a `scontrol` that only notes what it is asked for.
fn job(cluster: &Cluster, dir: &Path) -> Command {
    let bin = dir.join("prefix/bin");
    std::fs::create_dir_all(&bin).unwrap();
    for name in ["mtinet-worker", "mtinet-trainer"] {
        let link = bin.join(name);
        if !link.exists() {
            std::os::unix::fs::symlink(program(name), link).unwrap();
        }
    }
    let scontrol = dir.join("scontrol");
    std::fs::write(&scontrol, format!("#!/bin/sh\necho \"$@\" >> {}\n", dir.join("asked").display()))
        .unwrap();
    std::fs::set_permissions(&scontrol, std::fs::Permissions::from_mode(0o755)).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/slurm/mtinet-worker.sbatch");
    let mut command = Command::new("bash");
    command
        .arg(script)
        .current_dir(dir)
        .env("PATH", format!("{}:{}", dir.display(), std::env::var("PATH").unwrap_or_default()))
        .env("MTINET_COORDINATOR", cluster.url())
        .env("MTINET_TOKEN_FILE", cluster.token("worker", "slurm"))
        .env("MTINET_DATA_ROOT", phantom_dataset())
        .env("MTINET_PREFIX", dir.join("prefix"))
        .env("MTINET_ADVERTISE", "127.0.0.1")
        .env("MTINET_WORKER__DEVICES", "cpu:1")
        .env("OMP_THREAD_LIMIT", "1")
        .env("TMPDIR", dir)
        .envs([("SLURM_JOB_ID", "71"), ("SLURM_ARRAY_JOB_ID", "70"), ("SLURM_ARRAY_TASK_ID", "3")]);
    command
}

fn asked(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("asked")).unwrap_or_default()
}

fn work_dir(dir: &Path) -> PathBuf {
    dir.join("mtinet-70-3")
}

const STUDY: &str = "
arms = [\"unet\"]
folds = [0]
[model]
preset = \"tiny64\"
[train]
batch_size = 2
image_size = 64
";

#[test]
fn a_slurm_job_ends_when_nothing_is_left_to_do() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let study = format!("name = \"short\"\ndataset = \"{}\"{STUDY}steps = 4\n", phantom_dataset().display());
    let study = cluster.submit(&study);
    let mut job = Process::start(&mut job(&cluster, dir.path()), &dir.path().join("job.log"));
    cluster.wait_until_complete(study);
    let log = || std::fs::read_to_string(dir.path().join("job.log")).unwrap_or_default();
    let status =
        job.end_within(Duration::from_secs(60)).unwrap_or_else(|| panic!("the job does not end: {}", log()));
    assert!(status.success(), "{status}: {}", log());
    assert_eq!(asked(dir.path()), "", "what is done does not go back into the queue");
    assert!(work_dir(dir.path()).join("identity.pem").exists());
}

#[test]
fn a_slurm_job_saves_before_its_time_is_over_and_goes_back_into_the_queue() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let study =
        format!("name = \"long\"\ndataset = \"{}\"{STUDY}steps = 100000\n", phantom_dataset().display());
    let study = cluster.submit(&study);
    let mut first = Process::start(&mut job(&cluster, dir.path()), &dir.path().join("job.log"));
    cluster.wait_for(study, "a measurement", |event| event.kind() == "metrics");
    kill(first.pid(), Signal::SIGTERM).unwrap();
    let log = || std::fs::read_to_string(dir.path().join("job.log")).unwrap_or_default();
    let status = first
        .end_within(Duration::from_secs(60))
        .unwrap_or_else(|| panic!("the job does not end: {}", log()));
    assert!(status.success(), "{status}: {}", log());
    assert_eq!(asked(dir.path()), "requeue 71\n");
    // What it saved is stored, and no failure is counted.
    let events = cluster.wait_for(study, "a checkpoint", |event| event.kind() == "checkpoint_stored");
    assert!(events.iter().all(|recorded| recorded.event.kind() != "trial_failed"));
    let again = Process::start(&mut job(&cluster, dir.path()), &dir.path().join("job.log"));
    let attempts = |events: &[mtinet_domain::event::Recorded]| {
        events.iter().filter(|recorded| recorded.event.kind() == "attempt_started").count()
    };
    until("the second attempt", || attempts(&cluster.events(study)) == 2);
    let log_file = |attempt: u32| {
        let trial = format!("study-{study}-long/unet-0-0/{attempt}/rank0.log");
        std::fs::read_to_string(work_dir(dir.path()).join(trial)).unwrap_or_default()
    };
    until("its log", || log_file(2).contains("goes on from the checkpoint after step"));
    assert!(log_file(1).contains("starts from the beginning"));
    drop(again);
}
