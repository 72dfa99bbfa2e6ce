//! A coordinator whose files may not grow any more, as on a full disk: it ends in words and loses nothing.
//!
//! With `MTINET_SMALL_DISK=DIR` it really is one, for example a tmpfs of 2 MB that is mounted at DIR.
#![expect(clippy::unwrap_used, reason = "a test's helpers may panic as the test may")]

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
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
    let mut acknowledged = 0;
    let refusal = loop {
        match client.submit_study(submission(acknowledged)).await {
            Ok(_) => acknowledged += 1,
            Err(refusal) => break refusal,
        }
        assert!(acknowledged < 10_000, "the limit does not hold");
    };
    assert!(acknowledged > 10, "only {acknowledged} fitted: {refusal}");
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = running.0.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "it goes on without a log");
        tokio::task::yield_now().await;
    };
    let mut words = String::new();
    running.0.stderr.take().unwrap().read_to_string(&mut words).unwrap();
    assert_eq!(status.code(), Some(1), "{words}");
    assert!(words.contains("the event log failed"), "{words}");
    assert!(small.is_none() || words.contains("free space there"), "{words}");

    // With room again it goes on.
    std::fs::remove_file(filler).unwrap();
    let (_running, url) = coordinator(&data_dir, "unlimited");
    let mut client = connected(&data_dir, &url).await;
    let studies = client.list_studies(ListStudiesRequest {}).await.unwrap().into_inner().studies;
    // The one whose answer never came may or may not be there.
    assert!(
        (acknowledged..=acknowledged + 1).contains(&studies.len()),
        "{} of {acknowledged}",
        studies.len()
    );
}
