//! Which coordinator a person means, and the identity to show there.
//!
//! `mtinet login` keeps identities in `$XDG_CONFIG_HOME/mtinet` (`~/.config/mtinet`): `identities/HOST_PORT.pem`, each
//! 0600, and `login`, the address logged in to last.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mtinet_runtime::net::{self, NetError};
use mtinet_runtime::tls::{Credentials, Identity, SharedIdentity, keep_fresh, renew_and_store, unix_now};

use super::error::{CliError, chain};
use crate::server::DATABASE;
use crate::server::auth::{ADDRESS, operator_file};

/// Where `mtinet coordinator` keeps its data unless told otherwise.
const DEFAULT_DATA_DIR: &str = "mtinet-data";

/// How often a command that goes on looks for the operator's next identity: often enough for the shortest certificates.
const LOOK: Duration = Duration::from_secs(15);

/// A coordinator and how to be let in there.
#[derive(Debug)]
pub struct Target {
    /// Its address.
    pub url: String,
    /// What to show and demand there.
    pub credentials: Credentials,
}

/// The coordinator that is meant by an address, by a data or run directory on this machine, or by nothing: then the one
/// that serves ./mtinet-data, else the one logged in to last.
///
/// # Errors
/// Exit code 3 where there is no identity for it, or it refuses to renew it.
pub async fn resolve(given: &str) -> Result<Target, CliError> {
    if !given.is_empty() {
        let path = Path::new(given);
        if !given.contains("://") && (path.is_dir() || given.contains('/')) {
            return local(&data_directory(path));
        }
        return at(given).await;
    }
    let here = Path::new(DEFAULT_DATA_DIR);
    if here.join(ADDRESS).is_file() {
        return local(here);
    }
    match std::fs::read_to_string(config_dir()?.join("login")) {
        Ok(url) => at(url.trim()).await,
        Err(_) => Err(CliError::Coordinator(format!(
            "which coordinator? None serves ./{DEFAULT_DATA_DIR}, and there was no login; give --coordinator DIR (its \
             data directory, on its machine), or log in with `mtinet login URL --token-file FILE`"
        ))),
    }
}

/// A run's directory holds its coordinator's data below it.
pub fn data_directory(given: &Path) -> PathBuf {
    let below = given.join("coordinator");
    let is_data = |dir: &Path| dir.join("tls").is_dir() || dir.join(DATABASE).is_file();
    if !is_data(given) && is_data(&below) { below } else { given.to_owned() }
}

/// The coordinator of a data directory on this machine, as its operator.
fn local(data_dir: &Path) -> Result<Target, CliError> {
    let Ok(url) = std::fs::read_to_string(data_dir.join(ADDRESS)) else {
        return Err(CliError::Coordinator(format!(
            "no coordinator serves {}; `mtinet coordinator --data-dir {0}` starts one",
            data_dir.display()
        )));
    };
    let url = url.trim().to_owned();
    let credentials = if net::is_plaintext(&url) {
        Credentials::Plaintext
    } else {
        let file = operator_file(data_dir);
        let identity = Arc::new(SharedIdentity::new(Identity::load(&file)?));
        tokio::spawn(follow_file(Arc::clone(&identity), file));
        Credentials::Identity(identity)
    };
    Ok(Target { url, credentials })
}

/// Takes up what the coordinator writes to its operator's file, for commands that wait for days.
async fn follow_file(identity: Arc<SharedIdentity>, file: PathBuf) {
    loop {
        tokio::time::sleep(LOOK).await;
        // A coordinator that is being replaced writes it again soon.
        if let Ok(newer) = Identity::load(&file) {
            identity.replace(newer);
        }
    }
}

/// The coordinator at an address, with the identity of the login there, renewed where that is due.
async fn at(url: &str) -> Result<Target, CliError> {
    net::check_url(url)?;
    let url = url.to_owned();
    if net::is_plaintext(&url) {
        return Ok(Target { url, credentials: Credentials::Plaintext });
    }
    let file = identity_file(&url)?;
    if !file.exists() {
        return Err(NetError::NoIdentity { url }.into());
    }
    let identity = Arc::new(SharedIdentity::new(Identity::load(&file)?));
    if identity.current().certified().is_due(unix_now()) {
        match renew_and_store(&url, &identity, &file).await {
            Ok(()) => {}
            // The present one may still do; where it does not, the coordinator says so.
            Err(error) if error.is_transient() => tracing::debug!("not renewed: {}", chain(&error)),
            Err(error) => return Err(error.into()),
        }
    }
    let (kept, at) = (Arc::clone(&identity), url.clone());
    // For commands that wait for days. One that ends sooner ends this too.
    tokio::spawn(async move {
        let ended = keep_fresh(&at, &kept, &file).await;
        tracing::warn!("the identity is not renewed any more: {}", chain(&ended));
    });
    Ok(Target { url, credentials: Credentials::Identity(identity) })
}

/// Keeps an identity for later commands, which mean this coordinator from now on.
///
/// # Errors
/// A directory that cannot be written.
pub fn remember(url: &str, identity: &Identity) -> Result<PathBuf, CliError> {
    let file = identity_file(url)?;
    let dir = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)
        .map_err(|error| CliError::failed(format_args!("cannot make {}", dir.display()), &error))?;
    identity.store(&file)?;
    mtinet_runtime::tls::write_public(&config_dir()?.join("login"), url.as_bytes())?;
    Ok(file)
}

fn identity_file(url: &str) -> Result<PathBuf, CliError> {
    let host = url.split_once("://").map_or(url, |(_, host)| host);
    let plain: String = host
        .trim_end_matches('/')
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '_' })
        .collect();
    Ok(config_dir()?.join("identities").join(format!("{plain}.pem")))
}

fn config_dir() -> Result<PathBuf, CliError> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("XDG_CONFIG_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".config")))
        .map(|dir| dir.join("mtinet"))
        .ok_or_else(|| CliError::Usage("set HOME or XDG_CONFIG_HOME: identities are kept there".to_owned()))
}
