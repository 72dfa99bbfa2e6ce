//! The way to the collector.

use std::env;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use opentelemetry::{Key, KeyValue};
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig};
use opentelemetry_otlp::{WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tokio::runtime::{Handle, Runtime};

use crate::telemetry::collector;

/// The last spans have this long to be sent when the program ends.
const FAREWELL: Duration = Duration::from_secs(2);

/// The protocols that may be asked for; that for traces alone wins.
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];

/// Files with the authorities that a collector's certificate may be of.
const CERTIFICATES: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"];

/// What sends this process's spans.
static RUNNING: OnceLock<Running> = OnceLock::new();

struct Running {
    provider: SdkTracerProvider,
    /// Its own, so that the last spans are sent when the program's is gone.
    _runtime: Runtime,
}

/// Starts sending to where the environment says.
///
/// # Errors
/// In words, for settings that cannot be used; the program then runs without traces.
pub fn start(program: &str) -> Result<Option<SdkTracerProvider>, String> {
    let Some((variable, endpoint)) = collector::endpoint() else { return Ok(None) };
    let fail = |why: String| format!("{variable}: {why}; traces are not sent");
    if let Some(protocol) = first(&PROTOCOLS).filter(|protocol| protocol != "grpc") {
        return Err(fail(format!(
            "the protocol `{protocol}` is not spoken, only `grpc` (usually port 4317)"
        )));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("traces")
        .enable_all()
        .build()
        .map_err(|error| fail(error.to_string()))?;
    let exporter = {
        // The connection, which comes about later, lives in this runtime.
        let _within = runtime.enter();
        let builder = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(&endpoint);
        let builder = match tls(&endpoint).map_err(fail)? {
            Some(tls) => builder.with_tls_config(tls),
            None => builder,
        };
        builder.build().map_err(|error| fail(error.to_string()))?
    };
    let runs = runtime.handle().clone();
    let exporter = Told { exporter: Arc::new(exporter), runs, endpoint, is_away: AtomicBool::new(false) };
    let provider =
        SdkTracerProvider::builder().with_resource(resource(program)).with_batch_exporter(exporter).build();
    let running = Running { provider: provider.clone(), _runtime: runtime };
    RUNNING.set(running).map_err(|_| fail("traces are set up already".to_owned()))?;
    Ok(Some(provider))
}

/// Sends what is not sent yet, for a short time. Call it outside of any runtime, last thing in `main`.
pub fn finish() {
    if let Some(running) = RUNNING.get()
        && let Err(error) = running.provider.shutdown_with_timeout(FAREWELL)
    {
        tracing::debug!(%error, "the last traces are not sent");
    }
}

/// The first of these variables that is set.
fn first(variables: &[&str]) -> Option<String> {
    variables.iter().find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()))
}

fn tls(endpoint: &str) -> Result<Option<ClientTlsConfig>, String> {
    if !endpoint.starts_with("https://") {
        return Ok(None);
    }
    let tls = ClientTlsConfig::new().with_enabled_roots();
    let Some(file) = first(&CERTIFICATES) else { return Ok(Some(tls)) };
    let pem =
        std::fs::read(&file).map_err(|error| format!("could not read the certificate {file}: {error}"))?;
    Ok(Some(tls.ca_certificate(Certificate::from_pem(pem))))
}

/// What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say; the program's name where they name none.
fn resource(program: &str) -> Resource {
    let named = Resource::builder().build();
    let is_named = named
        .get(&Key::from_static_str("service.name"))
        .is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let builder =
        Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if is_named { builder } else { builder.with_service_name(program.to_owned()) }.build()
}

/// Says once that the collector is away, and once that it is back.
#[derive(Debug)]
struct Told {
    exporter: Arc<opentelemetry_otlp::SpanExporter>,
    runs: Handle,
    endpoint: String,
    is_away: AtomicBool,
}

impl SpanExporter for Told {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exporter = Arc::clone(&self.exporter);
        let sending = self.runs.spawn(async move { exporter.export(batch).await });
        let sent = match sending.await {
            Ok(sent) => sent,
            Err(error) => Err(OTelSdkError::InternalFailure(error.to_string())),
        };
        let was_away = self.is_away.swap(sent.is_err(), Ordering::Relaxed);
        let collector = &self.endpoint;
        match &sent {
            Err(error) if !was_away => {
                tracing::warn!(%error, collector, "traces do not reach the collector; they are dropped until it answers");
            }
            Ok(()) if was_away => tracing::info!(collector, "traces reach the collector again"),
            _ => {}
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        // It is called before anything is sent.
        if let Some(exporter) = Arc::get_mut(&mut self.exporter) {
            exporter.set_resource(resource);
        }
    }
}
