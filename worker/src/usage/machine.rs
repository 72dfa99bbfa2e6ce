//! Memory and cores, as the kernel tells them under `/proc` and, for a container, under `/sys/fs/cgroup`.

use std::path::{Path, PathBuf};

/// Main memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What another could not have at once.
    pub used: u64,
    /// What there is.
    pub total: u64,
}

/// This machine's memory; where a control group allows the agent less, that group's.
pub fn memory() -> Option<Memory> {
    let machine = memory_in(&std::fs::read_to_string("/proc/meminfo").ok()?)?;
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = memory_groups(&groups).into_iter().find_map(|files| files.read());
    Some(group.filter(|group| group.total < machine.total).unwrap_or(machine))
}

/// The load average of the last minute.
pub fn load() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

/// Counts what the cores did between two looks.
#[derive(Debug, Default)]
pub struct Cores {
    before: Option<Ticks>,
}

/// Time of all cores since the start of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticks {
    busy: u64,
    all: u64,
}

impl Cores {
    /// The busy share since the last look, in percent; none at the first.
    pub fn busy_percent(&mut self) -> Option<f64> {
        let now = ticks_in(&std::fs::read_to_string("/proc/stat").ok()?)?;
        let before = self.before.replace(now)?;
        let all = now.all.checked_sub(before.all).filter(|all| *all > 0)?;
        let busy = now.busy.saturating_sub(before.busy);
        Some((100.0 * busy as f64 / all as f64).clamp(0.0, 100.0))
    }
}

/// The line `cpu user nice system idle iowait irq softirq steal guest guest_nice`; guests are counted in user already.
fn ticks_in(stat: &str) -> Option<Ticks> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let times: Vec<u64> = line.split_whitespace().take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
    let all: u64 = times.iter().sum();
    let idle = times.get(3)? + times.get(4).unwrap_or(&0);
    Some(Ticks { busy: all - idle, all })
}

fn memory_in(meminfo: &str) -> Option<Memory> {
    let kilobytes = |name: &str| {
        let rest = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    let total = kilobytes("MemTotal:")? * 1024;
    let available = kilobytes("MemAvailable:")? * 1024;
    Some(Memory { used: total.saturating_sub(available), total })
}

/// Where a control group tells its memory.
struct GroupFiles {
    limit: PathBuf,
    used: PathBuf,
    stat: PathBuf,
    /// What of `used` is a cache of files that the kernel drops first.
    cache: &'static str,
}

impl GroupFiles {
    fn new(dir: &Path, [limit, used]: [&str; 2], cache: &'static str) -> Self {
        Self { limit: dir.join(limit), used: dir.join(used), stat: dir.join("memory.stat"), cache }
    }

    /// None where there is no limit (version 2 says `max`, version 1 a number above all memory).
    fn read(&self) -> Option<Memory> {
        let number = |path: &Path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let (total, used) = (number(&self.limit)?, number(&self.used)?);
        let stat = std::fs::read_to_string(&self.stat).unwrap_or_default();
        let cache = stat.lines().find_map(|line| line.strip_prefix(self.cache));
        let cache = cache.and_then(|rest| rest.trim().parse::<u64>().ok()).unwrap_or(0);
        Some(Memory { used: used.saturating_sub(cache), total })
    }
}

/// The group as the machine names it and, as a container sees its own, the root.
fn memory_groups(groups: &str) -> Vec<GroupFiles> {
    let root = Path::new("/sys/fs/cgroup");
    let mut files = Vec::new();
    for line in groups.lines() {
        let Some((controllers, group)) = line.split_once(':').and_then(|(_, rest)| rest.split_once(":/"))
        else {
            continue;
        };
        if controllers.is_empty() {
            for dir in [root.join(group), root.to_owned()] {
                files.push(GroupFiles::new(&dir, ["memory.max", "memory.current"], "inactive_file "));
            }
        } else if controllers.split(',').any(|controller| controller == "memory") {
            for dir in [root.join("memory").join(group), root.join("memory")] {
                let names = ["memory.limit_in_bytes", "memory.usage_in_bytes"];
                files.push(GroupFiles::new(&dir, names, "total_inactive_file "));
            }
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let meminfo = "MemTotal:        8000 kB\nMemFree:  100 kB\nMemAvailable:   2000 kB\n";
        assert_eq!(memory_in(meminfo), Some(Memory { used: 6000 << 10, total: 8000 << 10 }));
        assert_eq!(memory_in("MemTotal: 8000 kB\n"), None);
        let stat = "cpu  10 1 4 80 5 0 0 0 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(ticks_in(stat), Some(Ticks { busy: 15, all: 100 }));
        assert_eq!(ticks_in("intr 1 2 3"), None);
    }

    #[test]
    fn a_control_groups_limit_counts_and_its_file_cache_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let files = GroupFiles::new(dir.path(), ["memory.max", "memory.current"], "inactive_file ");
        write("memory.max", "max\n");
        write("memory.current", "700\n");
        write("memory.stat", "anon 1\ninactive_file 200\n");
        assert_eq!(files.read(), None);
        write("memory.max", "1000\n");
        assert_eq!(files.read(), Some(Memory { used: 500, total: 1000 }));
    }
}
