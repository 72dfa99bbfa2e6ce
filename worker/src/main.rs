//! The program `mtinet-worker`: settings in, exit code out.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use mtinet_runtime::shutdown::Shutdown;
use mtinet_runtime::telemetry;
use mtinet_worker::settings::{Cli, Settings};
use mtinet_worker::{AgentError, Options, shell};

/// What was right to ask for did not work.
const FAILED: u8 = 1;
/// Usage or configuration.
const USAGE: u8 = 2;
/// Refused by the coordinator.
const REFUSED: u8 = 3;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (code, result) = match &cli.command {
        Some(command) => (FAILED, shell::run(command).map(|()| 0)),
        None => match configure(&cli) {
            Ok(options) => (FAILED, run(options)),
            Err(error) => (USAGE, Err(error)),
        },
    };
    let code = result.unwrap_or_else(|error| {
        eprintln!("mtinet-worker: {error:#}");
        match error.downcast_ref() {
            Some(AgentError::Refused(_)) => REFUSED,
            Some(
                AgentError::Address(_)
                | AgentError::NoIdentity(_)
                | AgentError::Token(_)
                | AgentError::TokenRole(_)
                | AgentError::Identity(_),
            ) => USAGE,
            Some(AgentError::Sockets(_)) | None => code,
        }
    });
    telemetry::traces::finish();
    ExitCode::from(code)
}

fn configure(cli: &Cli) -> anyhow::Result<Options> {
    let settings = Settings::load(cli)?;
    let (service, json) = ("mtinet-worker", settings.log.json);
    telemetry::init(telemetry::Options { service, json, ..Default::default() })?;
    Ok(Options { json_logs: settings.log.json, ..settings.worker.resolve()? })
}

fn run(options: Options) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("could not start the worker's threads")?;
    let code = runtime.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        mtinet_worker::run(options, &shutdown).await?;
        Ok(shutdown.exit_code())
    });
    // Blocking work (hashing a data set) must not hold up the end.
    runtime.shutdown_background();
    code
}
