//! Traces for an OpenTelemetry collector, over OTLP/gRPC; compiled with the feature `otel`.
//!
//! What is traced is what the crates of this project open spans for; of their log lines, warnings and errors become events
//! of the span they fall into. Spans that are of no use in log lines have the level TRACE. Where the collector cannot be
//! reached, traces are dropped and the log says so once; nothing else is held up.

mod calls;
mod exporter;

use std::collections::HashMap;

use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{Status, TracerProvider as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::{Level, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

pub use calls::{CallLayer, Channel, calls, channel};
pub use exporter::finish;

/// The header of the W3C Trace Context recommendation.
const HEADER: &str = "traceparent";

/// The present span as a `traceparent`; empty where there is none.
pub fn here() -> String {
    let mut headers = HashMap::new();
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut headers);
    headers.remove(HEADER).unwrap_or_default()
}

/// Makes a span, before it is entered, a part of the trace that a `traceparent` names.
pub fn follow(span: &Span, traceparent: &str) {
    if traceparent.is_empty() {
        return;
    }
    let headers = HashMap::from([(HEADER.to_owned(), traceparent.to_owned())]);
    // A span that nobody takes has no parent either.
    let _ = span.set_parent(TraceContextPropagator::new().extract(&headers));
}

/// Adds an attribute to a span's trace.
pub fn note(span: &Span, name: &'static str, value: &dyn std::fmt::Display) {
    span.set_attribute(name, value.to_string());
}

/// Marks a span as failed.
pub fn failed(span: &Span, why: &str) {
    span.set_status(Status::error(why.to_owned()));
}

/// What sends spans to the collector that the environment names, and what there is to say about it.
pub(super) fn layer<S>(program: &str) -> (Option<impl Layer<S> + use<S>>, Option<String>)
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let provider = match exporter::start(program) {
        Ok(provider) => provider,
        Err(problem) => return (None, Some(problem)),
    };
    let layer = provider.map(|provider| {
        let ours = filter_fn(|metadata| {
            metadata.target().starts_with("mtinet")
                && (metadata.is_span() || *metadata.level() <= Level::WARN)
        });
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("mtinet"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(ours)
    });
    (layer, None)
}
