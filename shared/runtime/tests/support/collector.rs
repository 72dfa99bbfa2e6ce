//! A collector of traces that keeps what it is sent over OTLP/gRPC, for the tests of every program.
//!
//! It reads the messages by the field numbers of OTLP's own definition and shares no code with what sends them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::{Response, Status};

/// Nothing that a test waits for takes longer, unless it never comes.
const DEADLINE: Duration = Duration::from_secs(60);

/// A span as a collector sees it.
#[derive(Clone, Debug)]
pub struct Span {
    /// What `service.name` says of who sent it.
    pub service: String,
    /// The other attributes of who sent it.
    pub resource: BTreeMap<String, String>,
    pub name: String,
    /// Hexadecimal, as in a `traceparent`.
    pub trace: String,
    pub id: String,
    /// Empty for the first of a trace.
    pub parent: String,
    /// `server`, `client`, or empty.
    pub kind: &'static str,
    pub attributes: BTreeMap<String, String>,
    /// Why it failed, where it did.
    pub failure: Option<String>,
}

impl Span {
    /// Whether it belongs below another one.
    pub fn is_child_of(&self, other: &Self) -> bool {
        self.trace == other.trace && self.parent == other.id
    }

    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

#[derive(Default)]
struct Kept {
    spans: Mutex<Vec<Span>>,
    changed: Condvar,
}

/// The collector; it ends with this.
pub struct Collector {
    pub url: String,
    kept: Arc<Kept>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Collector {
    /// Its test may be asynchronous, where a runtime must not be waited for.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Collector {
    pub fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let kept = Arc::new(Kept::default());
        let service = TraceService(Arc::clone(&kept));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await
        });
        Self { url, kept, runtime: Some(runtime) }
    }

    /// Waits until the spans have something.
    pub fn until<T>(&self, what: &str, look: impl Fn(&[Span]) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        let mut spans = self.kept.spans.lock().unwrap();
        loop {
            if let Some(found) = look(&spans) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what} did not come; spans: {spans:#?}");
            spans = self.kept.changed.wait_timeout(spans, left).unwrap().0;
        }
    }

    /// Waits for a span of this name with which something is so.
    pub fn span(&self, name: &str, is: impl Fn(&Span) -> bool) -> Span {
        self.until(name, |spans| spans.iter().find(|span| span.name == name && is(span)).cloned())
    }
}

#[derive(Clone)]
struct TraceService(Arc<Kept>);

impl tonic::server::NamedService for TraceService {
    const NAME: &'static str = "opentelemetry.proto.collector.trace.v1.TraceService";
}

impl Service<http::Request<Body>> for TraceService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let export = Export(Arc::clone(&self.0));
        Box::pin(async move {
            let codec = tonic_prost::ProstCodec::<Empty, ExportRequest>::default();
            Ok(tonic::server::Grpc::new(codec).unary(export, request).await)
        })
    }
}

struct Export(Arc<Kept>);

impl tonic::server::UnaryService<ExportRequest> for Export {
    type Response = Empty;
    type Future = Ready<Result<Response<Empty>, Status>>;

    fn call(&mut self, request: tonic::Request<ExportRequest>) -> Self::Future {
        let spans = request.into_inner().of.into_iter().flat_map(OfResource::spans);
        self.0.spans.lock().unwrap().extend(spans);
        self.0.changed.notify_all();
        ready(Ok(Response::new(Empty {})))
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
struct ExportRequest {
    #[prost(message, repeated, tag = "1")]
    of: Vec<OfResource>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OfResource {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    of: Vec<OfScope>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OfScope {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Sent>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Sent {
    #[prost(bytes = "vec", tag = "1")]
    trace: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Ended>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Ended {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 2, 3, 4")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(int64, tag = "3")]
    Int(i64),
    #[prost(double, tag = "4")]
    Double(f64),
}

impl OfResource {
    fn spans(self) -> impl Iterator<Item = Span> {
        let mut resource = read(self.resource.unwrap_or_default().attributes);
        let service = resource.remove("service.name").unwrap_or_default();
        self.of.into_iter().flat_map(|of| of.spans).map(move |sent| Span {
            service: service.clone(),
            resource: resource.clone(),
            name: sent.name,
            trace: hex(&sent.trace),
            id: hex(&sent.id),
            parent: hex(&sent.parent),
            kind: match sent.kind {
                2 => "server",
                3 => "client",
                _ => "",
            },
            attributes: read(sent.attributes),
            failure: sent.status.filter(|status| status.code == 2).map(|status| status.message),
        })
    }
}

fn read(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: AnyValue| match value.value {
        Some(Value::Text(text)) => text,
        Some(Value::Bool(value)) => value.to_string(),
        Some(Value::Int(value)) => value.to_string(),
        Some(Value::Double(value)) => value.to_string(),
        None => String::new(),
    };
    attributes.into_iter().map(|pair| (pair.key, pair.value.map(text).unwrap_or_default())).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
