//! A control group with little memory, of either version of control groups. Making one needs root.

use std::path::{Path, PathBuf};

use nix::unistd::Pid;

/// The group; removed with its owner, once it is empty.
pub struct MemoryGroup {
    dir: PathBuf,
    limit: &'static str,
    counts: &'static str,
}

impl MemoryGroup {
    /// A group without a limit so far; in words where it cannot be had.
    ///
    /// # Errors
    /// Without the right to make one.
    pub fn new() -> Result<Self, String> {
        let name = format!("mtinet-{}", std::process::id());
        let first = Path::new("/sys/fs/cgroup/memory");
        let (root, limit, counts) = if first.is_dir() {
            (first, "memory.limit_in_bytes", "memory.oom_control")
        } else {
            (Path::new("/sys/fs/cgroup"), "memory.max", "memory.events")
        };
        sweep(root);
        let dir = root.join(name);
        let problem = |error: std::io::Error| format!("memory cannot be limited: {}: {error}", dir.display());
        std::fs::create_dir(&dir).map_err(problem)?;
        let group = Self { dir: dir.clone(), limit, counts };
        match group.dir.join(limit).is_file() {
            true => Ok(group),
            false => Err(format!("memory cannot be limited: {} has no {limit}", dir.display())),
        }
    }

    /// Puts a process into it; its children follow.
    ///
    /// # Panics
    /// Where there is no such process.
    pub fn add(&self, pid: Pid) {
        self.write("cgroup.procs", &pid.to_string());
    }

    /// Limits its memory, in MiB.
    ///
    /// # Errors
    /// In words where the kernel refuses: control groups of version 1 take no memory away that is in use.
    pub fn limit(&self, mib: u64) -> Result<(), String> {
        let path = self.dir.join(self.limit);
        std::fs::write(&path, (mib << 20).to_string())
            .map_err(|error| format!("memory in use cannot be limited: {}: {error}", path.display()))
    }

    /// Processes of it that the kernel killed for memory.
    ///
    /// # Panics
    /// Where the kernel does not count them.
    pub fn kills(&self) -> u64 {
        let counts = std::fs::read_to_string(self.dir.join(self.counts)).expect("the group is there");
        let count = counts.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).expect("the kernel counts kills")
    }

    /// Memory of its processes that no file stands behind, in MiB: what the kernel cannot take back without killing.
    ///
    /// # Panics
    /// Where the kernel does not count it.
    pub fn anonymous_mib(&self) -> u64 {
        let counts = std::fs::read_to_string(self.dir.join("memory.stat")).expect("the group is there");
        let bytes = |line: &str| {
            line.strip_prefix("anon ").or_else(|| line.strip_prefix("rss "))?.parse::<u64>().ok()
        };
        counts.lines().find_map(bytes).expect("the kernel counts memory") >> 20
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.dir.join(file);
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // The last of its processes may still be on its way out.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// Removes groups of tests that were killed.
fn sweep(root: &Path) {
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix("mtinet-")?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            std::fs::remove_dir(entry.path()).ok();
        }
    }
}
