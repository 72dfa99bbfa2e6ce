//! The command line of `mtinet`: parses arguments, asks the coordinator or works on this machine, prints answers.
//!
//! Answers go to standard output, everything said to a person to standard error. It decides nothing about
//! scheduling: that is the server's core.

mod args;
mod client;
mod coordinator;
mod data;
mod demo;
mod error;
mod export;
mod fleet;
mod follow;
mod gather;
mod initial;
mod interrupt;
mod login;
mod logs;
mod output;
mod pictures;
mod predict;
mod predictions;
mod prepare;
mod presets;
mod progress;
mod report;
mod run;
mod run_dir;
mod shell;
mod show;
mod status;
mod study;
mod target;
mod token;
mod trainer;
mod trial_files;
mod upload;
mod usage;
mod watch;

use std::process::ExitCode;

use clap::Parser as _;
use mtinet_runtime::telemetry;
use tracing::{Instrument as _, Span};

use self::args::{Cli, Command, WorkersArgs, WorkersCommand};
pub use self::error::CliError;

/// The whole program: parses the arguments, runs the command, tells what went wrong, gives the exit code
/// (DESIGN.md 4.2).
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return CliError::failed("could not start the async runtime", &error).report(),
    };
    let span = command_span(&cli.command);
    let result = runtime.block_on(dispatch(cli.command).instrument(span));
    // A blocked thread (reading a data set, say) must not hold up the end after an interrupt.
    runtime.shutdown_background();
    telemetry::traces::finish();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

/// Around a command, so that its calls are of one trace. A server's life is no such thing.
fn command_span(command: &Command) -> Span {
    // These set up their own log, and traces with it.
    if matches!(command, Command::Coordinator(_) | Command::Report(_)) {
        return Span::none();
    }
    telemetry::init_traces("mtinet");
    // There are no options before it.
    let name = std::env::args().nth(1).unwrap_or_default();
    tracing::trace_span!("command", otel.name = format!("mtinet {name}"))
}

async fn dispatch(command: Command) -> Result<(), CliError> {
    match command {
        Command::Coordinator(args) => coordinator::run(args).await,
        Command::Data(command) => data::run(command).await,
        Command::Study(command) => study::run(command).await,
        Command::Run(args) => run::run(args).await,
        Command::Status(args) => status::status(args).await,
        Command::Watch(args) => watch::run(args).await,
        Command::Workers(WorkersArgs { command: Some(WorkersCommand::Readmit(args)), .. }) => {
            fleet::readmit(args).await
        }
        Command::Workers(args) => status::workers(args).await,
        Command::Explain(args) => fleet::explain(args).await,
        Command::Drain(args) => fleet::drain(args).await,
        Command::Report(args) => report::run(args).await,
        Command::Export(args) => export::run(args).await,
        Command::Predict(args) => predict::run(args).await,
        Command::Demo(args) => demo::run(args).await,
        Command::Logs(args) => logs::run(args).await,
        Command::Login(args) => login::run(args).await,
        Command::Token(command) => token::run(command).await,
        Command::Completions(args) => shell::completions(&args),
        Command::Man(args) => shell::man(&args),
    }
}
