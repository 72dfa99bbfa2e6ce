//! One trainer process: how it is started, how it is ended, and what its end looks like in words.

use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use mtinet_domain::trial::ProcessExit;
use mtinet_runtime::telemetry::FORMAT_VARIABLE;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::options::Options;

/// Variables that no trainer needs and no log may show.
const SECRET_PREFIX: &str = "MTINET_TOKEN";

/// What a trainer finds in its environment unless somebody wants it otherwise.
const DEFAULTS: [(&str, &str); 2] = [
    // CUDA counts as nvidia-smi does: what is measured is what is used.
    ("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
    // Rounds for which OpenMP's threads wait awake at the end of each parallel loop. By default they do so 30 times longer, and
    // where another program has one of their cores, a step takes 35 times as long as alone, against 3 times with this.
    ("GOMP_SPINCOUNT", "10000"),
];

/// A running trainer, the leader of its own process group. Dropping it kills it.
#[derive(Debug)]
pub struct Trainer {
    child: Child,
    group: Pid,
    out_of_memory_kills: Option<u64>,
}

impl Trainer {
    /// Starts `program run --socket SOCKET` with its output in `log`, and of `options` its threads and format of logs.
    ///
    /// # Errors
    /// Where the program cannot be executed.
    pub fn spawn(program: &Path, socket: &Path, log: File, options: &Options) -> io::Result<Self> {
        let mut command = Command::new(program);
        command
            .args(["run", "--socket"])
            .arg(socket)
            .env("OMP_NUM_THREADS", options.threads.to_string())
            .env(FORMAT_VARIABLE, if options.json_logs { "json" } else { "text" })
            // What cuBLAS asks for to compute the same bits each time.
            .env("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            // Warnings of libtorch would push a trainer's own last words out of the end of its log.
            .env("TORCH_CPP_LOG_LEVEL", "ERROR")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true);
        for (name, value) in DEFAULTS {
            if std::env::var_os(name).is_none() {
                command.env(name, value);
            }
        }
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with(SECRET_PREFIX) {
                command.env_remove(name);
            }
        }
        let out_of_memory_kills = out_of_memory_kills();
        let child = command.spawn()?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.ok_or_else(|| io::Error::other("the trainer has no process id"))?;
        Ok(Self { child, group: Pid::from_raw(pid), out_of_memory_kills })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.group.as_raw().unsigned_abs()
    }

    /// Kills the whole process group.
    pub fn kill(&self) {
        // ESRCH: it is gone already.
        if let Err(error) = killpg(self.group, Signal::SIGKILL)
            && error != nix::errno::Errno::ESRCH
        {
            tracing::warn!(%error, pid = self.pid(), "could not kill the trainer");
        }
    }

    /// Waits for its end; whatever it started itself is then ended too.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.kill();
        Ok(status)
    }

    /// Whether the kernel has killed a process of this control group for memory since the trainer started.
    pub fn memory_ran_out(&self) -> Option<bool> {
        Some(out_of_memory_kills()? > self.out_of_memory_kills?)
    }
}

/// How a process ended, as the domain has it.
pub fn exit_of(status: ExitStatus) -> ProcessExit {
    match (status.code(), status.signal()) {
        (Some(code), _) => ProcessExit::Code(code),
        (None, Some(signal)) => ProcessExit::Signal(signal),
        (None, None) => ProcessExit::Code(-1),
    }
}

/// The end of a process in words, e.g. `killed by signal 9 (SIGKILL); possibly out of memory`.
pub fn exit_words(exit: ProcessExit, memory_ran_out: Option<bool>) -> String {
    let ProcessExit::Signal(number) = exit else { return format!("ended with {exit}") };
    let name = Signal::try_from(number).map_or("unknown", Signal::as_str);
    let memory = match (name, memory_ran_out) {
        ("SIGKILL", Some(true)) => "; the kernel ended a process here because memory ran out",
        ("SIGKILL", None) => "; possibly out of memory",
        ("SIGKILL", Some(false)) => "; possibly out of memory, though the control group counts no such kill",
        _ => "",
    };
    format!("killed by signal {number} ({name}){memory}")
}

/// Kills for lack of memory that this process's control group counts; none where that cannot be read.
fn out_of_memory_kills() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let counts = memory_files(&groups).find_map(|file| std::fs::read_to_string(file).ok())?;
    oom_kills_in(&counts)
}

/// Where the kernel counts: version 2 of control groups, or version 1, where a line names its controllers.
fn memory_files(groups: &str) -> impl Iterator<Item = PathBuf> {
    groups.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, group) = rest.split_once(":/")?;
        let root = Path::new("/sys/fs/cgroup");
        match controllers {
            "" => Some(root.join(group).join("memory.events")),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                Some(root.join("memory").join(group).join("memory.oom_control"))
            }
            _ => None,
        }
    })
}

fn oom_kills_in(counts: &str) -> Option<u64> {
    counts.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|count| count.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_in_words() {
        assert_eq!(exit_words(ProcessExit::Code(3), None), "ended with exit code 3");
        let killed = exit_words(ProcessExit::Signal(9), None);
        assert_eq!(killed, "killed by signal 9 (SIGKILL); possibly out of memory");
        assert_eq!(exit_words(ProcessExit::Signal(11), Some(true)), "killed by signal 11 (SIGSEGV)");
        assert!(exit_words(ProcessExit::Signal(9), Some(true)).contains("memory ran out"));
    }

    #[test]
    fn kills_for_memory_are_counted_by_both_versions_of_control_groups() {
        let files: Vec<_> = memory_files("9:name=systemd:/x\n4:memory:/a/b\n0::/c\n").collect();
        let names: Vec<_> = files.iter().map(|file| file.to_string_lossy().into_owned()).collect();
        assert_eq!(names, ["/sys/fs/cgroup/memory/a/b/memory.oom_control", "/sys/fs/cgroup/c/memory.events"]);
        assert_eq!(oom_kills_in("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), Some(3));
        assert_eq!(oom_kills_in("low 0\noom 4\noom_kill 2\noom_group_kill 0\n"), Some(2));
    }
}
