//! Log lines on standard error, filtered by `MTINET_LOG`, and [`traces`] for a collector. Standard output belongs to the
//! program's answer.

mod bare;
mod collector;
mod json;
#[cfg_attr(not(feature = "otel"), path = "no_traces.rs")]
pub mod traces;

use std::io::IsTerminal;

use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry};

pub use json::identify;

/// The environment variable with the filter, e.g. `info` or `mtinet_worker=debug,warn`.
pub const FILTER_VARIABLE: &str = "MTINET_LOG";

/// The environment variable that tells a trainer the format of its lines: `json`, else text.
pub const FORMAT_VARIABLE: &str = "MTINET_LOG_FORMAT";

/// How a program logs.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// What the program is to a collector of traces, where `OTEL_SERVICE_NAME` says nothing else.
    pub service: &'a str,
    /// The filter where `MTINET_LOG` is not set.
    pub default_filter: &'a str,
    /// One JSON object a line, for log collectors.
    pub json: bool,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self { service: "mtinet", default_filter: "info", json: false }
    }
}

/// Logging that could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// A filter that cannot be read.
    #[error(
        "{FILTER_VARIABLE}: `{filter}` is not a log filter; write for example info or mtinet_worker=debug,warn"
    )]
    Filter {
        /// The filter as given.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// A second call in one process.
    #[error("logging is set up already")]
    Twice(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Sets up logging and traces for the whole process; call it once, first thing in `main`, and [`traces::finish`] last.
///
/// # Errors
/// An unreadable filter, or a second call. Traces that cannot be set up are only told in the log.
pub fn init(options: Options<'_>) -> Result<(), TelemetryError> {
    let filter = filter(options.default_filter)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = if options.json {
        lines.fmt_fields(JsonFields::new()).event_format(json::JsonLines).boxed()
    } else {
        lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).boxed()
    };
    let (traces, problem) = traces::layer(options.service);
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(filter)).with(traces);
    subscriber.try_init().map_err(|error| TelemetryError::Twice(Box::new(error)))?;
    if let Some(problem) = problem {
        tracing::warn!("{problem}");
    }
    Ok(())
}

/// Sets up traces alone, for a command that says everything itself; what cannot be set up is left out.
pub fn init_traces(service: &str) {
    let (traces, _) = traces::layer(service);
    if traces.is_some() {
        // Somebody else's subscriber may be there, in a test.
        let _ = tracing_subscriber::registry().with(traces).try_init();
    }
}

/// As [`init`], for a trainer: its text lines carry no time and no names, because the end of its log is told as the reason
/// of its failure, and two failures are compared by their reasons.
///
/// # Errors
/// As [`init`].
pub fn init_trainer() -> Result<(), TelemetryError> {
    let builder = tracing_subscriber::fmt().with_env_filter(filter("info")?).with_writer(std::io::stderr);
    if std::env::var(FORMAT_VARIABLE).is_ok_and(|format| format == "json") {
        builder.fmt_fields(JsonFields::new()).event_format(json::JsonLines).try_init()
    } else {
        builder.with_ansi(false).event_format(bare::BareLines).try_init()
    }
    .map_err(TelemetryError::Twice)
}

/// What `MTINET_LOG` asks for.
fn filter(default: &str) -> Result<EnvFilter, TelemetryError> {
    let text = std::env::var(FILTER_VARIABLE)
        .ok()
        .filter(|text| !text.is_empty())
        .unwrap_or_else(|| default.to_owned());
    EnvFilter::try_new(&text).map_err(|source| TelemetryError::Filter { filter: text, source })
}
