//! Counts calls by method and by the code that their answer begins with.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use mtinet_runtime::metrics::{Counter, Family, Registry};
use tonic::Code;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::server::auth::table;

/// Calls of methods that nobody serves: strangers may ask for whatever they like, and each name would stay in memory.
const UNKNOWN: &str = "unknown";

type Labels = [(&'static str, &'static str); 2];

/// The counters.
#[derive(Clone, Debug)]
pub struct Calls(Family<Labels, Counter>);

impl Calls {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let calls = Family::default();
        let help = "Calls by method and by the code of their answer; a stream's is that of its beginning";
        registry.register("rpcs", help, calls.clone());
        Self(calls)
    }

    fn count(&self, method: &'static str, code: Code) {
        self.0.get_or_create(&[("method", method), ("code", name(code))]).inc();
    }
}

/// Puts the counting around a service.
#[derive(Clone, Debug)]
pub struct CountLayer(Calls);

impl CountLayer {
    pub(super) fn new(calls: Calls) -> Self {
        Self(calls)
    }
}

impl<S> Layer<S> for CountLayer {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { calls: self.0.clone(), inner }
    }
}

/// A service whose calls are counted.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    calls: Calls,
    inner: S,
}

impl<S> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Counting<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let known = table::METHODS.iter().find(|(method, _)| *method == path);
        let method = known.map_or(UNKNOWN, |(method, _)| method.trim_start_matches('/'));
        Counting { answer: Box::pin(self.inner.call(request)), calls: self.calls.clone(), method }
    }
}

/// A call that is counted when its answer begins.
pub struct Counting<F> {
    answer: Pin<Box<F>>,
    calls: Calls,
    method: &'static str,
}

impl<F, E> Future for Counting<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = Result<Response<Body>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(self.answer.as_mut().poll(cx));
        let code = match &answer {
            // A refusal is in the headers; what went well says so after the content.
            Ok(response) => response
                .headers()
                .get("grpc-status")
                .map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes())),
            Err(_) => Code::Internal,
        };
        self.calls.count(self.method, code);
        Poll::Ready(answer)
    }
}

/// The code's name as gRPC writes it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
