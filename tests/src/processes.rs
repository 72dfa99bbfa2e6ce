//! Processes that tests start, find and end. Only a test's own processes are ever ended.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process that ends with the test.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts it, with its output in `log`.
    ///
    /// # Panics
    /// Where it cannot be started.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let log = File::options().create(true).append(true).open(log).expect("the log opens");
        let errors = log.try_clone().expect("the log opens twice");
        let child =
            command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn().expect("the program starts");
        Self { child }
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Ends it as `kill -9` does, and waits until it is gone.
    ///
    /// # Panics
    /// Where it was gone already: then the fault that a test wanted did not happen.
    pub fn kill(mut self) {
        assert!(
            self.child.try_wait().expect("a child can be waited for").is_none(),
            "it had ended before the kill"
        );
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Asked first: an agent then ends its trainers itself.
        kill(self.pid(), Signal::SIGTERM).ok();
        let deadline = Instant::now() + Duration::from_secs(15);
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The children of a process, in order of their ids.
pub fn children(parent: Pid) -> Vec<Pid> {
    let mut children: Vec<Pid> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().map(Pid::from_raw))
        .filter(|pid| parent_of(*pid) == Some(parent))
        .collect();
    children.sort();
    children
}

fn parent_of(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything; state and parent follow its last bracket.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    fields.nth(1)?.parse().ok().map(Pid::from_raw)
}

/// Ends a process as `kill -9` does.
///
/// # Panics
/// Where there is no such process.
pub fn kill_now(pid: Pid) {
    kill(pid, Signal::SIGKILL).expect("the process was there to be killed");
}
