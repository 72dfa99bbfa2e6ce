//! What stands for traces where they are not compiled in (feature `otel`): nothing, and a word for whoever asks for them.

use tower::layer::util::Identity;
use tracing::Span;

use super::collector;

/// A connection to a coordinator.
pub type Channel = tonic::transport::Channel;

/// Puts the tracing of calls around a server's services.
pub type CallLayer = Identity;

/// What traces calls over a connection.
pub fn channel(channel: tonic::transport::Channel) -> Channel {
    channel
}

/// What traces a server's calls.
pub fn calls() -> CallLayer {
    Identity::new()
}

/// The present span as a `traceparent`; empty where there is none.
pub fn here() -> String {
    String::new()
}

/// Makes a span, before it is entered, a part of the trace that a `traceparent` names.
pub fn follow(_span: &Span, _traceparent: &str) {}

/// Adds an attribute to a span's trace.
pub fn note(_span: &Span, _name: &'static str, _value: &dyn std::fmt::Display) {}

/// Marks a span as failed.
pub fn failed(_span: &Span, _why: &str) {}

/// Sends what is not sent yet, for a short time.
pub fn finish() {}

pub(super) fn layer(_program: &str) -> (Option<tracing_subscriber::layer::Identity>, Option<String>) {
    let asked = collector::endpoint().map(|(variable, _)| {
        format!("{variable} is set, but this program is built without traces; `make install OTEL=1` installs one with them")
    });
    (None, asked)
}
