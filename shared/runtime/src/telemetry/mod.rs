//! Log lines on standard error, filtered by `MTINET_LOG`. Standard output belongs to the program's answer.

mod bare;
mod json;

use std::io::IsTerminal;

use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::fmt::format::JsonFields;

pub use json::identify;

/// The environment variable with the filter, e.g. `info` or `mtinet_worker=debug,warn`.
pub const FILTER_VARIABLE: &str = "MTINET_LOG";

/// The environment variable that tells a trainer the format of its lines: `json`, else text.
pub const FORMAT_VARIABLE: &str = "MTINET_LOG_FORMAT";

/// How a program logs.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The filter where `MTINET_LOG` is not set.
    pub default_filter: &'a str,
    /// One JSON object a line, for log collectors.
    pub json: bool,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self { default_filter: "info", json: false }
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

/// Sets up logging for the whole process; call it once, first thing in `main`.
///
/// # Errors
/// An unreadable filter, or a second call.
pub fn init(options: Options<'_>) -> Result<(), TelemetryError> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(options.default_filter)?)
        .with_writer(std::io::stderr);
    if options.json {
        builder.fmt_fields(JsonFields::new()).event_format(json::JsonLines).try_init()
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init()
    }
    .map_err(TelemetryError::Twice)
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
