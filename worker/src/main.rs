//! The program `mtinet-worker`: settings in, exit code out.

use std::process::ExitCode;

use clap::Parser;
use mtinet_runtime::shutdown::Shutdown;
use mtinet_runtime::telemetry;
use mtinet_worker::AgentError;
use mtinet_worker::settings::{Cli, Settings};

/// Usage or configuration.
const USAGE: u8 = 2;
/// Refused by the coordinator.
const REFUSED: u8 = 3;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(&cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("mtinet-worker: {error:#}");
            ExitCode::from(USAGE)
        }
    }
}

fn start(cli: &Cli) -> anyhow::Result<u8> {
    let settings = Settings::load(cli)?;
    telemetry::init(telemetry::Options { json: settings.log.json, ..Default::default() })?;
    let options = settings.worker.resolve()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let code = runtime.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        match mtinet_worker::run(options, &shutdown).await {
            Ok(()) => Ok(shutdown.exit_code()),
            Err(AgentError::Refused(message)) => {
                eprintln!("mtinet-worker: the coordinator refuses this worker: {message}");
                Ok(REFUSED)
            }
            Err(error) => Err(anyhow::Error::from(error)),
        }
    });
    // Blocking work (hashing a data set) must not hold up the end.
    runtime.shutdown_background();
    code
}
