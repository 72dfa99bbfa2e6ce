//! An orderly end on SIGINT or SIGTERM; a second signal ends the process at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code after an interrupt (DESIGN.md 4.2).
pub const INTERRUPTED: u8 = 130;

/// Tells every part of the program that it is to end. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
    interrupted: Arc<AtomicBool>,
}

impl Shutdown {
    /// Listens for SIGINT and SIGTERM from now on. Call it inside the tokio runtime.
    ///
    /// # Errors
    /// Where the operating system refuses the handlers.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::default();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let told = shutdown.clone();
        tokio::spawn(async move {
            loop {
                let interrupted = tokio::select! {
                    _ = interrupt.recv() => true,
                    _ = terminate.recv() => false,
                };
                if told.token.is_cancelled() {
                    tracing::warn!("second signal: ending at once");
                    std::process::exit(i32::from(INTERRUPTED));
                }
                tracing::info!("ending in order; a second signal ends at once");
                told.interrupted.store(interrupted, Ordering::Relaxed);
                told.token.cancel();
            }
        });
        Ok(shutdown)
    }

    /// Resolves when the program is to end; at once where that has been said.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// As [`Shutdown::requested`], owned: for tonic's `serve_with_incoming_shutdown`.
    pub fn into_requested(self) -> impl Future<Output = ()> + Send + 'static {
        self.token.cancelled_owned()
    }

    /// Whether the program is to end.
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Asks for the end from within.
    pub fn request(&self) {
        self.token.cancel();
    }

    /// The process's exit code after an orderly end: 130 after SIGINT, else 0.
    pub fn exit_code(&self) -> u8 {
        if self.interrupted.load(Ordering::Relaxed) { INTERRUPTED } else { 0 }
    }
}
