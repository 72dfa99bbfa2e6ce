//! Spans around calls, which a call carries from the client to the server in its headers.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tonic::Code;
use tonic::body::Body;
use tower::{Layer, Service};
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The services whose calls are worth a span.
const OURS: &str = "/mtinet.";

/// Comes every few seconds from each rank, and tells an operator nothing.
const UNTRACED: &str = "/PutLog";

/// A connection to a coordinator whose calls are traced.
#[derive(Clone, Debug)]
pub struct Channel(tonic::transport::Channel);

/// What traces calls over a connection.
pub fn channel(channel: tonic::transport::Channel) -> Channel {
    Channel(channel)
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = tonic::transport::Error;
    type Future = Call<<tonic::transport::Channel as Service<Request<Body>>>::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let span = span(request.uri().path(), "client");
        TraceContextPropagator::new().inject_context(&span.context(), &mut Headers(request.headers_mut()));
        let answer = span.in_scope(|| self.0.call(request));
        Call { answer: Box::pin(answer), span, is_server: false }
    }
}

/// Puts the tracing of calls around a server's services.
#[derive(Clone, Debug)]
pub struct CallLayer;

/// What traces a server's calls.
pub fn calls() -> CallLayer {
    CallLayer
}

impl<S> Layer<S> for CallLayer {
    type Service = Calls<S>;

    fn layer(&self, inner: S) -> Calls<S> {
        Calls(inner)
    }
}

/// A service whose calls are traced.
#[derive(Clone, Debug)]
pub struct Calls<S>(S);

impl<S> Service<Request<Body>> for Calls<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Error: std::fmt::Display,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Call<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let span = span(request.uri().path(), "server");
        let parent = TraceContextPropagator::new().extract(&Headers(request.headers_mut()));
        // A span that nobody takes has no parent either.
        let _ = span.set_parent(parent);
        let answer = span.in_scope(|| self.0.call(request));
        Call { answer: Box::pin(answer), span, is_server: true }
    }
}

fn span(path: &str, kind: &'static str) -> Span {
    if !path.starts_with(OURS) || path.ends_with(UNTRACED) {
        return Span::none();
    }
    let name = path.trim_start_matches('/');
    let (service, method) = name.split_once('/').unwrap_or((name, ""));
    tracing::trace_span!(
        "call",
        otel.name = name,
        otel.kind = kind,
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = method,
        rpc.grpc.status_code = Empty,
        otel.status_code = Empty,
        otel.status_description = Empty,
    )
}

/// A call on its way; its span ends when its answer begins.
#[derive(Debug)]
pub struct Call<F> {
    answer: Pin<Box<F>>,
    span: Span,
    is_server: bool,
}

impl<F, E> Future for Call<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
    E: std::fmt::Display,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let answer = {
            let _within = this.span.enter();
            ready!(this.answer.as_mut().poll(cx))
        };
        match &answer {
            Ok(response) => end(&this.span, response.headers(), this.is_server),
            Err(error) => fail(&this.span, &error.to_string()),
        }
        Poll::Ready(answer)
    }
}

/// A refusal is in the headers; what went well says so after the content.
fn end(span: &Span, headers: &HeaderMap, is_server: bool) {
    let code = headers.get("grpc-status").map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()));
    span.record("rpc.grpc.status_code", i64::from(i32::from(code)));
    // A server that refuses what is wrong does its work.
    let is_fault = matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    );
    if code != Code::Ok && (is_fault || !is_server) {
        let words = tonic::Status::from_header_map(headers);
        fail(span, words.as_ref().map_or("", |status| status.message()));
    }
}

fn fail(span: &Span, why: &str) {
    span.record("otel.status_code", "ERROR");
    span.record("otel.status_description", why);
}

struct Headers<'a>(&'a mut HeaderMap);

impl Injector for Headers<'_> {
    fn set(&mut self, name: &str, value: String) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

impl Extractor for Headers<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}
