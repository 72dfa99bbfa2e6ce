//! The trainer beside this program, started for work that needs libtorch, which this program does not link.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, ChildStdout, Command};

use super::error::CliError;
use super::interrupt::Interrupt;

/// Variables that no trainer needs.
const SECRET_PREFIX: &str = "MTINET_TOKEN";

/// How much of a trainer's last words a message repeats.
const WORDS: usize = 2000;

/// A running trainer, the leader of its own process group. Dropping it kills it.
#[derive(Debug)]
pub struct Trainer {
    child: Child,
    group: Pid,
    log: PathBuf,
    interrupt: Interrupt,
}

impl Trainer {
    /// Starts the trainer beside this program; what it says on standard error goes to `log`.
    ///
    /// # Errors
    /// Exit code 2 where there is none, 1 where it cannot be started.
    pub fn start(arguments: &[&str], log: &Path, interrupt: &Interrupt) -> Result<Self, CliError> {
        let program = program()?;
        let failed = |error| CliError::failed(format_args!("cannot start {}", program.display()), &error);
        let out = std::fs::File::create(log).map_err(failed)?;
        let mut command = Command::new(&program);
        command
            .args(arguments)
            // What cuBLAS asks for to compute the same bits each time.
            .env("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            .env("TORCH_CPP_LOG_LEVEL", "ERROR")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(out)
            .process_group(0)
            .kill_on_drop(true);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with(SECRET_PREFIX) {
                command.env_remove(name);
            }
        }
        let child = command.spawn().map_err(failed)?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.ok_or_else(|| failed(std::io::Error::other("it ended at once")))?;
        let group = Pid::from_raw(pid);
        interrupt.adopt(group);
        Ok(Self { child, group, log: log.to_owned(), interrupt: interrupt.clone() })
    }

    /// What it answers; can be taken once.
    pub fn answers(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Ends it at once.
    pub async fn kill(mut self) {
        // One that is over already is what is wanted.
        let _ = killpg(self.group, Signal::SIGKILL);
        let _ = self.child.wait().await;
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Its own words, with the exit code that it ended with.
    pub async fn wait(mut self) -> Result<(), CliError> {
        let status = self.child.wait().await;
        let status = status.map_err(|error| CliError::failed("cannot wait for the trainer", &error))?;
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        judge(status, &said)
    }
}

impl Drop for Trainer {
    fn drop(&mut self) {
        self.interrupt.release(self.group);
    }
}

/// The trainer beside this program.
fn program() -> Result<PathBuf, CliError> {
    let this = std::env::current_exe()
        .map_err(|error| CliError::failed("cannot find this program's directory", &error))?;
    let program = this.with_file_name("mtinet-trainer");
    if program.is_file() {
        return Ok(program);
    }
    Err(CliError::Usage(format!(
        "{} is missing: this command needs the trainer beside mtinet (`make build` makes both)",
        program.display()
    )))
}

fn judge(status: ExitStatus, said: &str) -> Result<(), CliError> {
    let said = said.trim();
    let start = said.len().saturating_sub(WORDS);
    let start = (start..=said.len()).find(|&at| said.is_char_boundary(at)).unwrap_or(0);
    // Its last message is the error; whatever libtorch warned of before is not.
    let last = said.rfind("error: ").map_or(start, |at| at + "error: ".len()).max(start);
    let words = said[last..].to_owned();
    match status.code() {
        Some(0) => Ok(()),
        Some(2) => Err(CliError::Usage(words)),
        Some(4) => Err(CliError::BadData(words)),
        Some(_) if !words.is_empty() => Err(CliError::NotSo(format!("the trainer failed: {words}"))),
        _ => Err(CliError::NotSo(format!("the trainer ended with {status}; possibly out of memory"))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn a_trainers_end_is_told_in_its_own_words() {
        let exit = |code: i32| ExitStatus::from_raw(code << 8);
        assert!(judge(exit(0), "a warning").is_ok());
        let refused = judge(exit(4), "warning: x\nerror: weights w lack a.b\n").unwrap_err();
        assert_eq!((refused.exit_code(), refused.to_string().as_str()), (4, "weights w lack a.b"));
        assert_eq!(judge(exit(2), "error: no").unwrap_err().exit_code(), 2);
        let crash = judge(ExitStatus::from_raw(9), "").unwrap_err();
        assert!(crash.exit_code() == 1 && crash.to_string().contains("out of memory"), "{crash}");
        let long = format!("é{}error: end", "x".repeat(WORDS));
        assert!(judge(exit(1), &long).unwrap_err().to_string().ends_with("failed: end"));
    }
}
