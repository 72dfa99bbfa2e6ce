//! A coordinator inside this process, on a free port of the loopback interface.

use std::path::Path;
use std::sync::Mutex;

use mtinet_runtime::metrics::{self, Address, Serving};
use mtinet_runtime::net;
use mtinet_runtime::telemetry::FILTER_VARIABLE;
use mtinet_runtime::tls::Credentials;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::cli::client::Coordinator;
use crate::cli::coordinator::METRICS;
use crate::cli::error::CliError;
use crate::server::{self, Export, Ready, ServerOptions};

/// The running server; [`Embedded::stop`] ends it in order.
pub struct Embedded {
    ready: oneshot::Receiver<Ready>,
    stop: CancellationToken,
    serving: Option<JoinHandle<Result<(), CliError>>>,
    export: Option<Export>,
    metrics: Option<Serving>,
}

impl Embedded {
    /// Serves a data directory.
    ///
    /// # Errors
    /// Where no port of the loopback interface can be had.
    pub async fn start(options: ServerOptions) -> Result<Self, CliError> {
        let listener = net::bind("127.0.0.1:0").await?;
        let (tell, ready) = oneshot::channel();
        // Whoever started it may be gone.
        let tell = |serving| drop(tell.send(serving));
        let stop = CancellationToken::new();
        let shutdown = stop.clone().cancelled_owned();
        let serving =
            tokio::spawn(async move { Ok(server::serve_and_tell(options, listener, tell, shutdown).await?) });
        Ok(Self { ready, stop, serving: Some(serving), export: None, metrics: None })
    }

    /// A connection to it, as its operator; once.
    ///
    /// # Errors
    /// The server's own error where it ended at once, for example because its data directory is in use.
    pub async fn connect(&mut self) -> Result<Coordinator, CliError> {
        let Ok(Ready { url, operator, export, .. }) = (&mut self.ready).await else {
            self.stop().await?;
            return Err(CliError::NotSo("the coordinator ended of itself; this is a bug".to_owned()));
        };
        self.export = Some(export);
        match Coordinator::connect_as(&url, &Credentials::Identity(operator)).await {
            Ok(coordinator) => Ok(coordinator),
            Err(error) => {
                self.stop().await?;
                Err(error)
            }
        }
    }

    /// Serves its metrics where `mtinet coordinator` does, when that port is free.
    pub async fn serve_metrics(&mut self) {
        let Ok(listener) = Address::Auto.bind(METRICS).await else { return };
        self.metrics = listener.zip(self.export.clone()).map(|(listener, export)| {
            metrics::serve(listener, move || {
                let export = export.clone();
                async move { export.text().await }
            })
        });
    }

    /// Resolves when it ends without having been told to: its disk is full, for example.
    pub async fn ended(&mut self) -> CliError {
        let Some(serving) = &mut self.serving else { return std::future::pending().await };
        let ended = serving.await;
        self.serving = None;
        match ended {
            Ok(Err(error)) => error,
            Ok(Ok(())) => CliError::NotSo("the coordinator ended of itself; this is a bug".to_owned()),
            Err(error) => CliError::failed("the coordinator broke off", &error),
        }
    }

    /// Ends it and waits until all is written.
    ///
    /// # Errors
    /// What it ended with.
    pub async fn stop(&mut self) -> Result<(), CliError> {
        self.stop.cancel();
        match self.serving.take() {
            Some(serving) => serving
                .await
                .unwrap_or_else(|error| Err(CliError::failed("the coordinator broke off", &error))),
            None => Ok(()),
        }
    }
}

/// Sends this process's log lines to a file: standard error belongs to the progress display.
///
/// # Errors
/// Where the file cannot be opened or `MTINET_LOG` is no filter.
pub fn log_to_file(path: &Path) -> Result<(), CliError> {
    let refused = |error| CliError::failed(format_args!("cannot write {}", path.display()), &error);
    let file = std::fs::File::options().create(true).append(true).open(path).map_err(refused)?;
    let filter = std::env::var(FILTER_VARIABLE).ok().filter(|filter| !filter.is_empty());
    let filter = EnvFilter::try_new(filter.as_deref().unwrap_or("info"))
        .map_err(|error| CliError::Usage(format!("{FILTER_VARIABLE}: {error}")))?;
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(Mutex::new(file));
    // Only a test runs two commands in one process; the first one's log then serves both.
    let _ = subscriber.try_init();
    Ok(())
}
