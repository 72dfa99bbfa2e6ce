//! `mtinet coordinator`: the server, configured in layers.

use std::path::PathBuf;
use std::time::Duration;

use mtinet_domain::spec::Seconds;
use mtinet_runtime::config::Layers;
use mtinet_runtime::metrics::{self, Address};
use mtinet_runtime::shutdown::Shutdown;
use mtinet_runtime::{net, telemetry};
use serde::Deserialize;

use super::args::{BackupArgs, CoordinatorArgs, CoordinatorCommand};
use super::error::CliError;
use super::output;
use crate::server::auth::{AccessOptions, Plaintext};
use crate::server::{self, ServerOptions, UploadLimits};

/// Every key with its default and a comment: the reference of the coordinator's configuration.
const DEFAULTS: &str = include_str!("coordinator.toml");

#[derive(Debug, Deserialize)]
struct Settings {
    coordinator: Section,
}

#[derive(Debug, Deserialize)]
struct Section {
    listen: String,
    data_dir: PathBuf,
    lease: Seconds,
    heartbeat: Seconds,
    adoption_grace: Seconds,
    cancel_grace: Seconds,
    insecure: bool,
    insecure_anywhere: bool,
    names: Vec<String>,
    certificate_life: Seconds,
    renewal_grace: Seconds,
    max_artifact_gb: u64,
    metrics: String,
    log: Log,
}

impl Section {
    fn options(&self) -> ServerOptions {
        ServerOptions {
            lease_ms: milliseconds(self.lease).into(),
            heartbeat_ms: milliseconds(self.heartbeat).max(1),
            adoption_grace_ms: milliseconds(self.adoption_grace).into(),
            cancel_grace_ms: milliseconds(self.cancel_grace),
            uploads: UploadLimits {
                file_bytes: self.max_artifact_gb.saturating_mul(1_000_000_000),
                ..UploadLimits::default()
            },
            access: AccessOptions {
                plaintext: match (self.insecure_anywhere, self.insecure) {
                    (true, _) => Plaintext::Anywhere,
                    (false, true) => Plaintext::Loopback,
                    (false, false) => Plaintext::Never,
                },
                names: self.names.clone(),
                certificate_life: self.certificate_life.as_duration(),
                renewal_grace: self.renewal_grace.as_duration(),
                ..AccessOptions::default()
            },
            ..ServerOptions::new(&self.data_dir)
        }
    }
}

/// Where metrics are served unless somebody says otherwise.
pub const METRICS: &str = "127.0.0.1:7078";

/// Shortest lease: the scheduler looks four times a second.
const SHORTEST_LEASE_MS: u64 = 1000;

/// Shortest life of a certificate: renewals begin at two thirds of it and take a moment.
const SHORTEST_LIFE: Duration = Duration::from_secs(60);

/// A lease that heartbeats cannot keep would lose every worker again and again.
fn check(options: &ServerOptions) -> Result<(), CliError> {
    let life = options.access.certificate_life;
    if life < SHORTEST_LIFE {
        return Err(CliError::Usage(format!(
            "coordinator.certificate_life is {life:?}: it must be at least {SHORTEST_LIFE:?}"
        )));
    }
    if options.lease_ms < SHORTEST_LEASE_MS || options.lease_ms < 2 * u64::from(options.heartbeat_ms) {
        return Err(CliError::Usage(format!(
            "coordinator.lease is {} ms: it must be at least {SHORTEST_LEASE_MS} ms and twice coordinator.heartbeat \
             ({} ms)",
            options.lease_ms, options.heartbeat_ms
        )));
    }
    Ok(())
}

fn milliseconds(seconds: Seconds) -> u32 {
    u32::try_from(seconds.as_duration().as_millis()).unwrap_or(u32::MAX)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Log {
    Text,
    Json,
}

pub async fn run(args: CoordinatorArgs) -> Result<(), CliError> {
    if let Some(CoordinatorCommand::Backup(args)) = args.command {
        return backup(args).await;
    }
    if args.show_config {
        output::print_raw(DEFAULTS);
        return Ok(());
    }
    let settings = load(&args, Layers::new(DEFAULTS))?.coordinator;
    check(&settings.options())?;
    let (service, json) = ("mtinet-coordinator", settings.log == Log::Json);
    telemetry::init(telemetry::Options { service, json, ..telemetry::Options::default() })?;
    raise_open_files();
    let place = settings
        .metrics
        .parse::<Address>()
        .map_err(|error| CliError::Usage(format!("coordinator.metrics: {error}")))?;
    let listener = net::bind(&settings.listen).await?;
    let scraped = place.bind(METRICS).await?;
    let shutdown =
        Shutdown::on_signals().map_err(|error| CliError::failed("cannot listen for signals", &error))?;
    let mut serving = None;
    let ready = |ready: server::Ready| {
        serving = scraped.map(|listener| {
            metrics::serve(listener, move || {
                let export = ready.export.clone();
                async move { export.text().await }
            })
        });
        // On standard output for whoever started it with port 0; from then on commands on this machine have an identity.
        output::print(format_args!("listening on {}", ready.url));
    };
    let served =
        server::serve_and_tell(settings.options(), listener, ready, shutdown.clone().into_requested()).await;
    drop(serving);
    served?;
    match shutdown.exit_code() {
        0 => Ok(()),
        _ => Err(CliError::Interrupted),
    }
}

async fn backup(args: BackupArgs) -> Result<(), CliError> {
    log_to_stderr("warn")?;
    let BackupArgs { file, data_dir, with_artifacts, json } = args;
    let target = file.clone();
    let copying = move || server::backup(&data_dir, &file, with_artifacts.as_deref());
    let found = tokio::task::spawn_blocking(copying)
        .await
        .map_err(|error| CliError::failed("the backup broke off", &error))??;
    if json {
        output::print_json(&serde_json::json!({
            "file": target,
            "fleet_file": found.fleet,
            "studies": found.studies,
            "events": found.events,
            "artifacts_copied": found.copied,
            "artifacts_present": found.present,
            "artifacts_missing": found.missing,
        }));
    } else {
        output::say(format_args!(
            "{}: {} studies; {} files copied, {} were there{}",
            target.display(),
            found.studies,
            found.copied,
            found.present,
            found.fleet.map_or_else(String::new, |fleet| format!("; workers' marks: {}", fleet.display()))
        ));
    }
    match found.missing.len() {
        0 => Ok(()),
        missing => Err(CliError::NotSo(format!(
            "{missing} files that the log refers to are not in the store or damaged, for example {}",
            found.missing[0]
        ))),
    }
}

/// Every worker holds two connections, and the soft limit is often 1024.
fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, soft, "could not raise the limit of open files; a large fleet may not fit");
    }
}

fn load(args: &CoordinatorArgs, layers: Layers) -> Result<Settings, CliError> {
    let data_dir = args.data_dir.as_ref().map(|path| path.to_string_lossy().into_owned());
    let settings = layers
        .file(args.config.as_deref())
        .flag("--listen", "coordinator.listen", args.listen.clone())
        .flag("--data-dir", "coordinator.data_dir", data_dir)
        .flag("--metrics", "coordinator.metrics", args.metrics.clone())
        .flag("--log-format", "coordinator.log", args.log_format.clone())
        .flag("--insecure", "coordinator.insecure", args.insecure.then_some(true))
        .flag("--insecure-anywhere", "coordinator.insecure_anywhere", args.insecure_anywhere.then_some(true))
        .load()?;
    Ok(settings)
}

/// Logging of a command that is no server.
pub fn log_to_stderr(default_filter: &str) -> Result<(), CliError> {
    Ok(telemetry::init(telemetry::Options { default_filter, ..telemetry::Options::default() })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments() -> CoordinatorArgs {
        CoordinatorArgs {
            command: None,
            config: None,
            data_dir: None,
            listen: None,
            metrics: None,
            log_format: None,
            insecure: false,
            insecure_anywhere: false,
            show_config: false,
        }
    }

    #[test]
    fn the_reference_file_is_complete_and_flags_win() {
        let layers = || Layers::new(DEFAULTS).environment(Vec::new());
        let settings = load(&arguments(), layers()).unwrap().coordinator;
        assert_eq!((settings.listen.as_str(), settings.log), ("127.0.0.1:7077", Log::Text));
        assert_eq!(settings.options(), ServerOptions::new("mtinet-data"), "the file tells the true defaults");
        let flags = CoordinatorArgs { listen: Some("0.0.0.0:1".into()), ..arguments() };
        let variables = vec![
            ("MTINET_COORDINATOR__LISTEN".to_owned(), "0.0.0.0:2".to_owned()),
            ("MTINET_COORDINATOR__DATA_DIR".to_owned(), "/srv/x".to_owned()),
        ];
        let settings = load(&flags, layers().environment(variables)).unwrap().coordinator;
        assert_eq!((settings.listen.as_str(), settings.data_dir), ("0.0.0.0:1", PathBuf::from("/srv/x")));
    }

    #[test]
    fn a_lease_that_heartbeats_cannot_keep_is_refused() {
        let options =
            |lease_ms, heartbeat_ms| ServerOptions { lease_ms, heartbeat_ms, ..ServerOptions::new("d") };
        assert!(check(&options(3000, 500)).is_ok());
        for (lease, heartbeat) in [(0, 500), (400, 10), (3000, 2000)] {
            let error = check(&options(lease, heartbeat)).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains("coordinator.lease"), "{error}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_path() {
        let variables = vec![("MTINET_COORDINATOR__PORT".to_owned(), "1".to_owned())];
        let error = load(&arguments(), Layers::new(DEFAULTS).environment(variables)).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("coordinator.port"), "{error}");
    }
}
