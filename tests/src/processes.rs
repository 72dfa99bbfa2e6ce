//! Processes that tests start, find and end. Only a test's own processes are ever ended.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
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

    /// Waits for its own end; none where it still runs after that time.
    ///
    /// # Panics
    /// Where the operating system does not let it be waited for.
    pub fn end_within(&mut self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            let status = self.child.try_wait().expect("a child can be waited for");
            if status.is_some() || Instant::now() > deadline {
                return status;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
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
        // Once it is collected its number may be another's.
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // Asked first: an agent then ends its trainers itself.
        kill(self.pid(), Signal::SIGTERM).ok();
        kill(self.pid(), Signal::SIGCONT).ok();
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
    stat(pid)?.get(1)?.parse().ok().map(Pid::from_raw)
}

/// State, parent and what follows them.
fn stat(pid: Pid) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything.
    Some(stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

/// Whether there is a process of this number that is not merely waiting to be collected.
pub fn is_alive(pid: Pid) -> bool {
    stat(pid).is_some_and(|fields| fields[0] != "Z")
}

/// A process that is stopped, as by SIGSTOP, until this is dropped.
#[must_use = "it goes on when this is dropped"]
pub struct Stopped(Pid);

/// Stops a process, and waits until it is.
///
/// # Panics
/// Where there is no such process, or it does not stop.
pub fn stop(pid: Pid) -> Stopped {
    kill(pid, Signal::SIGSTOP).expect("the process was there to be stopped");
    let stopped = Stopped(pid);
    let deadline = Instant::now() + Duration::from_secs(10);
    while stat(pid).is_none_or(|fields| fields[0] != "T") {
        assert!(Instant::now() < deadline, "process {pid} does not stop");
        std::thread::sleep(Duration::from_millis(1));
    }
    stopped
}

impl Stopped {
    /// Whether it still is there and stopped.
    pub fn holds(&self) -> bool {
        stat(self.0).is_some_and(|fields| fields[0] == "T")
    }

    /// Lets it go on.
    pub fn go_on(self) {}
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        kill(self.0, Signal::SIGCONT).ok();
    }
}

/// Ends a process as `kill -9` does.
///
/// # Panics
/// Where there is no such process.
pub fn kill_now(pid: Pid) {
    kill(pid, Signal::SIGKILL).expect("the process was there to be killed");
}
