//! Puts the parts together and serves until told to stop.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mtinet_core::Core;
use mtinet_runtime::net;
use mtinet_runtime::telemetry::traces;
use mtinet_runtime::tls::{self, Role, SharedIdentity};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::artifacts::Artifacts;
use super::auth::{Access, AuthService, GateLayer, MadeToken, Quotas};
use super::data_dir::DataDir;
use super::datasets::Datasets;
use super::driver::{self, Driver};
use super::error::ServerError;
use super::fleet_log::FleetLog;
use super::logs::Logs;
use super::metrics::{Export, Metrics};
use super::options::ServerOptions;
use super::questions::Questions;
use super::services::{ClientService, DataService, WorkerService};
use super::store::{self, Reader};
use super::sweep;
use super::usage::FleetUsage;

/// Calls that are under way at the end have this long to finish.
const DRAIN: Duration = Duration::from_secs(3);

/// A coordinator serves.
#[derive(Debug)]
pub struct Ready {
    /// Where commands on this machine reach it.
    pub url: String,
    /// Their identity, kept fresh.
    pub operator: Arc<SharedIdentity>,
    /// What it serves with; for tests.
    pub access: Arc<Access>,
    /// What it exports to Prometheus.
    pub export: Export,
}

/// Makes a token of a data directory that nobody serves.
///
/// # Errors
/// [`ServerError::InUse`] where a coordinator serves it; files that cannot be written.
pub fn offline_token(
    data_dir: &Path,
    role: Role,
    ttl: Duration,
    uses: u32,
) -> Result<MadeToken, ServerError> {
    let _held = DataDir::open(data_dir)?;
    let (authority, registry) = Access::keys(data_dir)?;
    let now_ms = driver::now_ms();
    Ok(registry.create_token(role, authority.fingerprint(), (ttl, uses), "operator local", now_ms)?)
}

/// As [`serve_and_tell`], without being told.
///
/// # Errors
/// As [`serve_and_tell`].
pub async fn serve(
    options: ServerOptions,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServerError> {
    serve_and_tell(options, listener, |_| {}, shutdown).await
}

/// Serves a coordinator on `listener` until `shutdown` resolves or the event log fails.
///
/// # Errors
/// A data directory that is in use, cannot be written, or holds a log that cannot be read; a failing disk.
pub async fn serve_and_tell(
    options: ServerOptions,
    listener: TcpListener,
    ready: impl FnOnce(Ready) + Send,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServerError> {
    let dir = DataDir::open(&options.data_dir)?;
    let listen = listener.local_addr().map_err(ServerError::Listener)?;
    let access = Arc::new(Access::open(&options.data_dir, listen, &options.access)?);
    let (writer, reader) = store::open(&dir.database())?;
    let artifacts = Artifacts::local(&dir.artifacts(), options.uploads)?;
    let datasets = Datasets::open(&dir.datasets(), artifacts.clone())?;
    let fleet = FleetLog::open(&dir.fleet())?;
    let metrics = Metrics::new(artifacts.traffic());
    let core = replay(&options, &reader, &fleet, &metrics).await?;
    let stop = CancellationToken::new();
    // When this future is dropped, so is everything it started.
    let _stop_with_me = stop.clone().drop_guard();
    let Driver { handle, mut task } =
        driver::spawn(core, writer, fleet, artifacts.clone(), metrics.clone(), stop.clone());
    let export = Export { metrics, driver: handle.clone(), artifacts: artifacts.clone() };
    tokio::spawn(sweep::run(artifacts.clone(), datasets.clone(), handle.clone(), stop.clone()));
    let (usage, logs) = (FleetUsage::default(), Logs::new(dir.logs()));
    let quotas = Arc::new(Quotas::new(options.access.quotas));
    let data = DataService { datasets, questions: Questions::default(), driver: handle.clone() };
    let worker = WorkerService::new(
        handle.clone(),
        artifacts.clone(),
        data.clone(),
        logs.clone(),
        usage.clone(),
        Arc::clone(&quotas),
        &options,
    );
    let client = ClientService::new(handle, artifacts, data, reader, logs, usage, quotas);
    let (health, health_service) = tonic_health::server::health_reporter();
    let (worker, client) = (net::worker_server(worker), net::client_server(client));
    mark_serving(&health, &worker, &client).await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(mtinet_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let mut server = net::server();
    if let Some(age) = access.connection_age() {
        server = server.max_connection_age(age);
    }
    let connections = tls::incoming(listener, access.security()?, options.access.limits, access.open.clone());
    let serving = server
        .layer(export.metrics.layer())
        .layer(GateLayer::new(Arc::clone(&access.gate)))
        // Of those who are let in: strangers are to leave no traces.
        .layer(traces::calls())
        .add_service(net::auth_server(AuthService::new(Arc::clone(&access))))
        .add_service(worker)
        .add_service(client)
        .add_service(health_service)
        .add_service(reflection)
        .serve_with_incoming_shutdown(connections, stop.clone().cancelled_owned());
    let mut serving = std::pin::pin!(serving);
    let mut driven = None;
    access.publish()?;
    let (url, operator) = (access.url().to_owned(), access.operator());
    ready(Ready { url, operator, access: Arc::clone(&access), export });
    tokio::select! {
        served = &mut serving => served?,
        result = &mut task => driven = Some(result),
        () = access.upkeep() => {}
        () = shutdown => {}
    }
    access.retract();
    // The driver ends first: that ends the sessions and event streams, which would keep connections open.
    stop.cancel();
    let driven = match driven {
        Some(driven) => driven,
        None => task.await,
    };
    // A call that does not finish in time breaks off with its connection.
    let drained = tokio::time::timeout(DRAIN, serving).await;
    driven??;
    drained.unwrap_or(Ok(()))?;
    Ok(())
}

async fn replay(
    options: &ServerOptions,
    reader: &Reader,
    fleet: &FleetLog,
    metrics: &Metrics,
) -> Result<Core, ServerError> {
    let (reader, read, path) = (reader.clone(), metrics.clone(), options.data_dir.clone());
    let core = Core::new(options.core());
    let replayed = tokio::task::spawn_blocking(move || read_back(core, &reader, &read, &path));
    let (mut core, events) = replayed.await??;
    let fleet = fleet.clone();
    for event in tokio::task::spawn_blocking(move || fleet.events()).await?? {
        core.apply_fleet(&event);
    }
    // What was garbage once is mostly gone, and the sweep removes the rest: to ask for each of a million superseded
    // checkpoints would take longer than everything else.
    core.on_restarted(driver::now_ms());
    tracing::info!(events, studies = core.studies().count(), "event log replayed");
    Ok(core)
}

/// Brings a fresh scheduler to where the log is; with the number of events.
fn read_back(
    mut core: Core,
    log: &Reader,
    metrics: &Metrics,
    path: &Path,
) -> Result<(Core, u64), ServerError> {
    let mut events = 0;
    log.replay_events(|recorded| {
        events += 1;
        core.apply(&recorded).map_err(|source| ServerError::Replay { path: path.to_owned(), source })?;
        metrics.replay(&recorded);
        Ok::<_, ServerError>(())
    })?;
    for (worker, seq) in log.report_seqs()? {
        core.restore_seq(&worker, seq);
    }
    Ok((core, events))
}

async fn mark_serving<W, C>(health: &tonic_health::server::HealthReporter, _worker: &W, _client: &C)
where
    W: tonic::server::NamedService,
    C: tonic::server::NamedService,
{
    health.set_serving::<W>().await;
    health.set_serving::<C>().await;
}
