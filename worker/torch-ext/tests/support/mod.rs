//! Runs a test's ranks as processes: the test binary starts itself once for each rank, with the test's name.

use mtinet_torch_ext::{Backend, ProcessGroup, TcpStore, set_num_threads};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a group waits for a peer that hangs; tests of such peers last this long.
pub const TIMEOUT: Duration = Duration::from_secs(4);
/// How long a whole test may last before its ranks are killed.
const DEADLINE: Duration = Duration::from_secs(120);
const RANK: &str = "MTINET_TEST_RANK";
const PORT: &str = "MTINET_TEST_PORT";

/// What a rank's process works with.
pub struct Rank {
    pub rank: usize,
    pub world_size: usize,
    pub store: TcpStore,
}

impl Rank {
    /// A Gloo group of all ranks.
    pub fn group(&self) -> ProcessGroup {
        ProcessGroup::new(Backend::Gloo, &self.store, self.rank, self.world_size, "127.0.0.1", TIMEOUT)
            .unwrap()
    }
}

/// Runs `body` once a rank, each in a process of its own, and fails where one fails. `test` is the calling test's name.
/// A rank that `dies` names is expected to end by SIGABRT.
pub fn on_ranks_where(test: &str, world_size: usize, dies: Option<usize>, body: impl FnOnce(&Rank)) {
    if let Ok(rank) = std::env::var(RANK) {
        set_num_threads(1).unwrap();
        let port = std::env::var(PORT).unwrap().parse().unwrap();
        let store = TcpStore::connect("127.0.0.1", port, world_size, Duration::from_secs(30)).unwrap();
        body(&Rank { rank: rank.parse().unwrap(), world_size, store });
        return;
    }
    let store = TcpStore::host("127.0.0.1", 0, world_size, Duration::from_secs(30)).unwrap();
    let mut ranks: Vec<Child> = (0..world_size).map(|rank| spawn(test, rank, store.port())).collect();
    let deadline = Instant::now() + DEADLINE;
    let mut failures = Vec::new();
    for (rank, child) in ranks.iter_mut().enumerate() {
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if Instant::now() > deadline {
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
            std::thread::park_timeout(Duration::from_millis(10));
        };
        let as_expected = match status {
            None => false,
            Some(status) if dies == Some(rank) => status.code().is_none(),
            Some(status) => status.success(),
        };
        if !as_expected {
            let mut output = String::new();
            child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
            child.stderr.take().unwrap().read_to_string(&mut output).unwrap();
            failures.push(format!("rank {rank}: {status:?}\n{output}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// As [`on_ranks_where`], with no rank that dies.
pub fn on_ranks(test: &str, world_size: usize, body: impl FnOnce(&Rank)) {
    on_ranks_where(test, world_size, None, body);
}

fn spawn(test: &str, rank: usize, port: u16) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(RANK, rank.to_string())
        .env(PORT, port.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}
