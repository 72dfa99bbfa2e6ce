//! A disk that can be filled: a small file system in memory. Mounting needs root.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The name of all such disks; a process number follows.
const PREFIX: &str = "mtinet-disk-";

/// A small disk; unmounted with its owner.
pub struct Disk {
    dir: tempfile::TempDir,
    filler: Option<Filler>,
}

/// Keeps the disk full, whatever is deleted.
struct Filler {
    over: Arc<AtomicBool>,
    filled: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Disk {
    /// A disk of so many MiB; in words where it cannot be had.
    ///
    /// # Errors
    /// Without the right to mount.
    pub fn new(mib: u32) -> Result<Self, String> {
        sweep();
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m")])
            .arg(format!("{PREFIX}{}", std::process::id()))
            .arg(dir.path())
            .output()
            .map_err(|error| format!("a small disk cannot be mounted: {error}"))?;
        if !mounted.status.success() {
            let problem = String::from_utf8_lossy(&mounted.stderr).trim().to_owned();
            return Err(format!("a small disk cannot be mounted: {problem}"));
        }
        Ok(Self { dir, filler: None })
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("used")
    }

    /// Fills it and keeps it full; returns when the first byte did not fit.
    ///
    /// # Panics
    /// Where it does not fill.
    pub fn fill(&mut self) {
        let (over, filled) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, counted, path) = (Arc::clone(&over), Arc::clone(&filled), self.filler_path());
        let thread = std::thread::spawn(move || fill(&path, &told, &counted));
        self.filler = Some(Filler { over, filled, thread });
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.times_full() == 0 {
            assert!(Instant::now() < deadline, "the disk does not fill");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How often it was found full.
    pub fn times_full(&self) -> u64 {
        self.filler.as_ref().map_or(0, |filler| filler.filled.load(Ordering::Relaxed))
    }

    /// Makes room again.
    ///
    /// # Panics
    /// Where what fills it cannot be removed.
    pub fn free(&mut self) {
        if let Some(Filler { over, thread, .. }) = self.filler.take() {
            over.store(true, Ordering::Relaxed);
            thread.join().expect("the filling ends");
            std::fs::remove_file(self.filler_path()).expect("the filler can be removed");
        }
    }

    fn filler_path(&self) -> PathBuf {
        self.dir.path().join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.free();
        unmount(self.dir.path());
    }
}

fn fill(path: &Path, over: &AtomicBool, times_full: &AtomicU64) {
    let mut file = File::create(path).expect("the filler is made");
    let block = vec![1; 4096];
    while !over.load(Ordering::Relaxed) {
        if file.write_all(&block).is_err() {
            times_full.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn unmount(path: &Path) {
    Command::new("umount").arg("--lazy").arg(path).output().ok();
}

/// Unmounts disks of tests that were killed.
fn sweep() {
    for line in std::fs::read_to_string("/proc/mounts").unwrap_or_default().lines() {
        let mut fields = line.split(' ');
        let owner = fields.next().and_then(|source| source.strip_prefix(PREFIX)?.parse::<u32>().ok());
        if let (Some(pid), Some(path)) = (owner, fields.next())
            && !Path::new(&format!("/proc/{pid}")).exists()
        {
            unmount(Path::new(path));
        }
    }
}
