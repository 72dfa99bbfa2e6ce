//! A coordinator whose disk takes no more, because it is full or turns read-only: it ends in words and loses nothing.
//!
//! The full disk is a limit on the length of files; with `MTINET_SMALL_DISK=DIR` it really is one, for example a tmpfs of
//! 2 MB that is mounted at DIR. The one that turns read-only is a file system in a file, which only root can mount.
#![expect(clippy::unwrap_used, reason = "a test's helpers may panic as the test may")]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use mtinet_domain::StudySpec;
use mtinet_proto::PROTOCOL_VERSION;
use mtinet_proto::v1::client_client::ClientClient;
use mtinet_proto::v1::{Dataset, ListStudiesRequest, SubmitStudyRequest};
use mtinet_runtime::net::{self, Channel};
use mtinet_runtime::tls::{Credentials, Identity};

const PATIENCE: Duration = Duration::from_secs(60);

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may be over already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A coordinator whose files may have so many KiB, and its address.
fn coordinator(data_dir: &Path, limit_kib: &str) -> (Running, String) {
    // The signal's default action would kill; ignored, the write fails, as it does where the disk is full.
    let script = format!("trap '' XFSZ; ulimit -f {limit_kib}; exec \"$0\" \"$@\"");
    let mut child = Command::new("bash")
        .args(["-c", &script, env!("CARGO_BIN_EXE_mtinet"), "coordinator", "--listen", "127.0.0.1:0"])
        .arg("--data-dir")
        .arg(data_dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    (Running(child), line.trim().trim_start_matches("listening on ").to_owned())
}

/// A connection with the identity that the coordinator leaves in its data directory for commands on its machine.
async fn connected(data_dir: &Path, url: &str) -> ClientClient<Channel> {
    let operator = Identity::load(&data_dir.join("tls/operator.pem")).unwrap();
    net::client_client(net::connect_as(url, &Credentials::of(operator)).await.unwrap())
}

fn submission(number: usize) -> SubmitStudyRequest {
    let text = format!("name = \"study-{number}\"\ndataset = \"d\"\narms = [\"mti-net\"]\n");
    let dataset = Dataset {
        name: "d".into(),
        path: "/d".into(),
        hash: "h".into(),
        phases: vec!["pre".into()],
        classes: vec!["hcc".into()],
    };
    SubmitStudyRequest {
        protocol_version: PROTOCOL_VERSION,
        spec_json: StudySpec::from_toml(&text).unwrap().to_json(),
        dataset: Some(dataset),
    }
}

#[tokio::test]
async fn a_full_disk_ends_the_coordinator_and_loses_nothing_acknowledged() {
    let small = std::env::var_os("MTINET_SMALL_DISK").map(std::path::PathBuf::from);
    let parent = small.clone().unwrap_or_else(std::env::temp_dir);
    let dir = tempfile::tempdir_in(parent).unwrap();
    let filler = dir.path().join("filler");
    std::fs::write(&filler, [0; 300_000]).unwrap();
    let data_dir = dir.path().join("data");
    let (mut running, url) = coordinator(&data_dir, if small.is_some() { "unlimited" } else { "512" });
    let mut client = connected(&data_dir, &url).await;
    let (acknowledged, refusal) = submit_until_refused(&mut client).await;
    assert!(acknowledged > 10, "only {acknowledged} fitted: {refusal}");
    let (status, words) = end_of(&mut running);
    assert_eq!(status.code(), Some(1), "{words}");
    assert!(words.contains("the event log failed"), "{words}");
    assert!(small.is_none() || words.contains("free space there"), "{words}");

    // With room again it goes on.
    std::fs::remove_file(filler).unwrap();
    assert_acknowledged(&data_dir, acknowledged).await;
}

#[tokio::test]
async fn a_disk_that_turns_read_only_ends_the_coordinator_and_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let disk = match Disk::mount(dir.path()) {
        Ok(disk) => disk,
        Err(reason) => {
            eprintln!("skipped: a disk that turns read-only: {reason}");
            return;
        }
    };
    let data_dir = disk.mounted.join("data");
    let (mut running, url) = coordinator(&data_dir, "unlimited");
    let mut client = connected(&data_dir, &url).await;
    for number in 0..3 {
        client.submit_study(submission(number)).await.unwrap();
    }
    disk.fail();
    client.submit_study(submission(3)).await.unwrap_err();
    let (status, words) = end_of(&mut running);
    assert_eq!(status.code(), Some(1), "{words}");
    assert!(words.contains("the event log failed") && words.contains("has become read-only"), "{words}");

    // Nor does one start there.
    let (mut running, _) = coordinator(&data_dir, "unlimited");
    let (status, words) = end_of(&mut running);
    assert_eq!(status.code(), Some(2), "{words}");
    assert!(words.contains("cannot write the data directory"), "{words}");

    disk.mount_again();
    assert_acknowledged(&data_dir, 3).await;
}

/// Submits studies until one is refused: how many were not, and the refusal.
async fn submit_until_refused(client: &mut ClientClient<Channel>) -> (usize, tonic::Status) {
    for acknowledged in 0..10_000 {
        if let Err(refusal) = client.submit_study(submission(acknowledged)).await {
            return (acknowledged, refusal);
        }
    }
    panic!("the limit does not hold");
}

/// Waits for a coordinator's end, and what it said.
fn end_of(running: &mut Running) -> (ExitStatus, String) {
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = running.0.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "it goes on without a log");
        std::thread::sleep(Duration::from_millis(10));
    };
    let mut words = String::new();
    running.0.stderr.take().unwrap().read_to_string(&mut words).unwrap();
    (status, words)
}

/// A coordinator that is started again has every study that was acknowledged. The one whose answer never came may or may
/// not be there.
async fn assert_acknowledged(data_dir: &Path, acknowledged: usize) {
    let (_running, url) = coordinator(data_dir, "unlimited");
    let mut client = connected(data_dir, &url).await;
    let studies = client.list_studies(ListStudiesRequest {}).await.unwrap().into_inner().studies;
    assert!(
        (acknowledged..=acknowledged + 1).contains(&studies.len()),
        "{} of {acknowledged}",
        studies.len()
    );
}

/// A file system in a file that becomes read-only at its first error, as most are set up to.
struct Disk {
    image: PathBuf,
    mounted: PathBuf,
}

impl Disk {
    fn mount(dir: &Path) -> Result<Self, String> {
        let disk = Self { image: dir.join("image"), mounted: dir.join("mounted") };
        std::fs::create_dir(&disk.mounted).unwrap();
        std::fs::File::create(&disk.image).unwrap().set_len(64 << 20).unwrap();
        run("mkfs.ext4", &["-q", "-F", disk.image.to_str().unwrap()])?;
        disk.try_mount()?;
        Ok(disk)
    }

    fn try_mount(&self) -> Result<(), String> {
        let (image, mounted) = (self.image.to_str().unwrap(), self.mounted.to_str().unwrap());
        run("mount", &["-o", "loop,errors=remount-ro", image, mounted])
    }

    /// An error is found in it.
    fn fail(&self) {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let mounted = format!(" {} ", self.mounted.display());
        let device = mounts.lines().find(|line| line.contains(&mounted)).unwrap().split(' ').next().unwrap();
        let name = device.trim_start_matches("/dev/");
        std::fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "a test").unwrap();
        let refused = std::fs::write(self.mounted.join("probe"), "x").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "the fault did not happen");
    }

    fn mount_again(&self) {
        run("umount", &[self.mounted.to_str().unwrap()]).unwrap();
        self.try_mount().unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: what a failed test left running must not keep it. It may not be mounted at all.
        let _ = Command::new("umount").arg("--lazy").arg(&self.mounted).stderr(Stdio::null()).status();
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output =
        Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
