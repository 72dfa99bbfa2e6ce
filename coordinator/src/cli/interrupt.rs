//! Ctrl-C, SIGTERM and a terminal that goes away, for a command in the foreground: the first asks for an orderly end,
//! the second ends at once.

use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::error::CliError;
use mtinet_runtime::shutdown::INTERRUPTED;

/// Whether a person has asked for the end, and the child processes that must not outlive it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    token: CancellationToken,
    groups: Arc<Mutex<Vec<Pid>>>,
}

impl Interrupt {
    /// Listens from now on.
    ///
    /// # Errors
    /// Where the system refuses the handlers.
    pub fn listen() -> Result<Self, CliError> {
        let interrupt = Self::default();
        let refused = |error| CliError::failed("cannot listen for signals", &error);
        let mut int = signal(SignalKind::interrupt()).map_err(refused)?;
        let mut term = signal(SignalKind::terminate()).map_err(refused)?;
        // Without this a closed terminal would end this process alone and leave its workers behind.
        let mut hangup = match is_ignored(Signal::SIGHUP) {
            true => None,
            false => Some(signal(SignalKind::hangup()).map_err(refused)?),
        };
        let told = interrupt.clone();
        tokio::spawn(async move {
            loop {
                let hung_up = async {
                    match &mut hangup {
                        Some(hangup) => hangup.recv().await,
                        None => std::future::pending().await,
                    }
                };
                let by_a_person = tokio::select! {
                    _ = int.recv() => true,
                    _ = term.recv() => true,
                    // A terminal and its shell both say so: that is one request.
                    _ = hung_up => false,
                };
                if by_a_person && told.token.is_cancelled() {
                    told.kill_children();
                    crate::dashboard::restore();
                    std::process::exit(i32::from(INTERRUPTED));
                }
                told.token.cancel();
            }
        });
        Ok(interrupt)
    }

    /// Resolves when the end is asked for.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// Whether the end is asked for.
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Runs `work` unless the end is asked for first.
    ///
    /// # Errors
    /// [`CliError::Interrupted`], or the work's own.
    pub async fn or<T>(&self, work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
        tokio::select! {
            result = work => result,
            () = self.requested() => Err(CliError::Interrupted),
        }
    }

    /// Remembers a process group to be killed by a second signal.
    pub fn adopt(&self, group: Pid) {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).push(group);
    }

    /// Forgets a process group whose processes are over: its number may soon be another's.
    pub fn release(&self, group: Pid) {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| *other != group);
    }

    fn kill_children(&self) {
        for group in self.groups.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            // One that is over already is what is wanted.
            let _ = killpg(*group, Signal::SIGKILL);
        }
    }
}

/// Whether whoever started this process wants it to ignore the signal, as `nohup` does.
fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).map(str::trim);
    let mask = mask.and_then(|mask| u64::from_str_radix(mask, 16).ok()).unwrap_or_default();
    mask & (1 << (signal as u32 - 1)) != 0
}
