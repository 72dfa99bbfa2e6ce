//! A process that is killed while it saves checkpoints always leaves a usable one.
//!
//! The saver is this test's own executable, started again; it writes as a trainer does, with
//! [`mtinet_data::write_durably`]. `MTINET_KILLS` says how often it is killed.
#![expect(clippy::unwrap_used, reason = "a test's helpers may panic as the test may")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use mtinet_data::write_durably;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A checkpoint's size: large enough for a kill to fall into the writing of it.
const BYTES: usize = 1 << 20;

/// Longest time from a saver's first checkpoint to its end, in microseconds: a few checkpoints.
const LONGEST_LIFE_US: u64 = 20_000;

const DIR: &str = "MTINET_SAVER_DIR";

#[test]
#[ignore = "it is the saving process of the other test"]
fn saver() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    let mut step = newest(&dir).unwrap_or(0);
    loop {
        step += 1;
        write_durably(&path(&dir, step), &content(step)).unwrap();
        // The latest and the one before are kept.
        if step > 2 {
            std::fs::remove_file(path(&dir, step - 2)).unwrap();
        }
        // It is told only when it is safe.
        println!("saved {step}");
        std::io::stdout().flush().unwrap();
    }
}

#[test]
fn kills_while_saving_leave_a_usable_checkpoint() {
    let kills: u32 = std::env::var("MTINET_KILLS").map_or(50, |kills| kills.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut interrupted = 0;
    for kill in 1..=kills {
        let told = kill_one(dir.path(), random.next_u64() % LONGEST_LIFE_US);
        let newest = newest(dir.path()).unwrap();
        assert!(newest >= told, "kill {kill}: checkpoint {told} was told and {newest} is the newest");
        let found = std::fs::read(path(dir.path(), newest)).unwrap();
        assert!(found == content(newest), "kill {kill}: checkpoint {newest} is damaged");
        interrupted += u32::from(remove_unfinished(dir.path()));
    }
    assert!(interrupted > kills / 20, "only {interrupted} of {kills} kills fell into a write");
}

/// Starts a saver and kills it `life_us` after its first checkpoint; returns the last one that it told.
fn kill_one(dir: &Path, life_us: u64) -> u64 {
    let mut saver = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "saver"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(saver.stdout.take().unwrap()).lines();
    let last = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for line in lines.map_while(Result::ok) {
                if let Some((_, step)) = line.split_once("saved ") {
                    last.store(step.parse().unwrap(), SeqCst);
                }
            }
        });
        let deadline = Instant::now() + Duration::from_secs(60);
        while last.load(SeqCst) == 0 {
            assert!(Instant::now() < deadline, "the saver saves nothing");
            std::thread::yield_now();
        }
        let end = Instant::now() + Duration::from_micros(life_us);
        while Instant::now() < end {
            std::thread::yield_now();
        }
        assert!(saver.try_wait().unwrap().is_none(), "it had ended before the kill");
        saver.kill().unwrap();
        saver.wait().unwrap();
    });
    last.load(SeqCst)
}

fn path(dir: &Path, step: u64) -> PathBuf {
    dir.join(format!("step-{step:09}.safetensors"))
}

/// What the checkpoint of a step holds, to the bit. Cheap, so that a saver spends its life writing.
fn content(step: u64) -> Vec<u8> {
    let mut bytes = vec![step.to_le_bytes()[0]; BYTES];
    bytes[..8].copy_from_slice(&step.to_le_bytes());
    bytes
}

/// The newest checkpoint, as it is found: by its name.
fn newest(dir: &Path) -> Option<u64> {
    let step = |name: String| name.strip_prefix("step-")?.strip_suffix(".safetensors")?.parse().ok();
    names(dir).filter_map(step).max()
}

/// Whether the saver was in the middle of a write.
fn remove_unfinished(dir: &Path) -> bool {
    let unfinished: Vec<String> = names(dir).filter(|name| name.starts_with('.')).collect();
    for name in &unfinished {
        std::fs::remove_file(dir.join(name)).unwrap();
    }
    !unfinished.is_empty()
}

fn names(dir: &Path) -> impl Iterator<Item = String> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap())
}
