//! A coordinator's keys and files for access, and their upkeep while it serves.
//!
//! In the data directory: `tls/authority.pem` (the authority's key and certificate, 0600), `tls/ca.crt` (its certificate
//! alone, 0644), `tls/operator.pem` (the identity of commands on this machine, 0600), `tls/registry.db` (tokens and
//! identities, 0600) and, while it serves, `address` (its URL). The directory `tls` is 0700.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mtinet_runtime::tls::{
    Authority, Identity, OpenConnections, Role, Security, ServerCertificate, SharedIdentity, Subject,
    Validity, server_config, write_private, write_public,
};

use super::{AccessOptions, Gate, Plaintext, Registry};
use crate::server::driver::now_ms;
use crate::server::error::ServerError;

/// Holds the URL of the coordinator that serves a data directory.
pub const ADDRESS: &str = "address";

/// The identity of commands on the coordinator's machine.
pub const OPERATOR: &str = "tls/operator.pem";

/// The operator's identity in a data directory.
pub fn operator_file(data_dir: &Path) -> PathBuf {
    data_dir.join(OPERATOR)
}

/// Life of the server's certificate. Nobody stores it, so it may be short; it is made again at a third of it.
const SERVER_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// How often certificates are looked after at least.
const UPKEEP: Duration = Duration::from_secs(3600);

/// Everything about access to one coordinator.
#[derive(Debug)]
pub struct Access {
    /// Signs certificates.
    pub authority: Authority,
    /// Tokens and identities.
    pub registry: Registry,
    /// Decides who may call what.
    pub gate: Arc<Gate>,
    /// Connections to end when an identity is revoked.
    pub open: OpenConnections,
    /// Life of a client's certificate.
    pub certificate_life: Duration,
    operator: Arc<SharedIdentity>,
    certificate: Arc<ServerCertificate>,
    names: Vec<String>,
    plaintext: Plaintext,
    data_dir: PathBuf,
    url: String,
}

impl Access {
    /// Opens or makes the authority and its files in a data directory that the caller holds, for a coordinator that
    /// listens at `listen`.
    ///
    /// # Errors
    /// Files that cannot be read or written; plaintext at an address where others could listen in.
    pub fn open(data_dir: &Path, listen: SocketAddr, options: &AccessOptions) -> Result<Self, ServerError> {
        if options.plaintext == Plaintext::Loopback && !listen.ip().is_loopback() {
            return Err(ServerError::PlaintextAbroad { listen });
        }
        let (authority, registry) = Self::keys(data_dir)?;
        let names = names(listen, &options.names);
        let certificate = authority.server(&names, Validity::from_now(SERVER_LIFE))?;
        let operator = issue_operator(&authority, options.certificate_life)?;
        let gate = Gate::new(registry.revoked()?, options.renewal_grace);
        Ok(Self {
            authority,
            registry,
            gate: Arc::new(gate),
            open: OpenConnections::default(),
            certificate_life: options.certificate_life,
            operator: Arc::new(SharedIdentity::new(operator)),
            certificate: Arc::new(ServerCertificate::new(certificate)),
            names,
            plaintext: options.plaintext,
            data_dir: data_dir.to_owned(),
            url: url(listen, options.plaintext),
        })
    }

    /// The authority and the registry of a data directory that the caller holds.
    ///
    /// # Errors
    /// Files that cannot be read or written.
    pub fn keys(data_dir: &Path) -> Result<(Authority, Registry), ServerError> {
        let dir = data_dir.join("tls");
        let authority = Authority::open(&dir)?;
        let path = dir.join("registry.db");
        if !path.exists() {
            // An empty file is an empty database, and SQLite's other files take its permissions on.
            write_private(&path, b"")?;
        }
        Ok((authority, Registry::open(&path)?))
    }

    /// Whether it serves without TLS, and so knows no identities.
    pub fn is_plaintext(&self) -> bool {
        self.plaintext != Plaintext::Never
    }

    /// Where commands on this machine reach the coordinator.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How its connections are secured.
    ///
    /// # Errors
    /// Keys that TLS does not take.
    pub fn security(&self) -> Result<Security, ServerError> {
        if self.is_plaintext() {
            tracing::warn!("serving without TLS: whoever reaches {} may do everything", self.url);
            return Ok(Security::Plaintext);
        }
        Ok(Security::Tls(server_config(self.authority.certificate(), Arc::clone(&self.certificate))?))
    }

    /// A connection is renewed after this time, gently, so that its calls come with a certificate that is in its time:
    /// clients renew theirs at two thirds of its life.
    pub fn connection_age(&self) -> Option<Duration> {
        (!self.is_plaintext()).then_some(self.certificate_life / 6)
    }

    /// Writes the operator's identity and the address, for commands on this machine.
    ///
    /// # Errors
    /// A directory that takes nothing.
    pub fn publish(&self) -> Result<(), ServerError> {
        self.operator.current().store(&operator_file(&self.data_dir))?;
        Ok(write_public(&self.data_dir.join(ADDRESS), self.url.as_bytes())?)
    }

    /// The identity of commands on this machine, kept fresh as long as the coordinator serves.
    pub fn operator(&self) -> Arc<SharedIdentity> {
        Arc::clone(&self.operator)
    }

    /// The coordinator serves no more.
    pub fn retract(&self) {
        if let Err(error) = std::fs::remove_file(self.data_dir.join(ADDRESS)) {
            tracing::debug!(%error, "could not remove the address");
        }
    }

    /// Renews the server's certificate and the operator's identity in time, for ever. A certificate that could not be
    /// renewed is tried again long before its end.
    pub async fn upkeep(self: &Arc<Self>) {
        let pause = UPKEEP.min(self.certificate_life / 3);
        let mut since = Duration::ZERO;
        loop {
            tokio::time::sleep(pause).await;
            since += pause;
            let this = Arc::clone(self);
            match tokio::task::spawn_blocking(move || this.renew_own(since)).await {
                Ok(Ok(true)) => since = Duration::ZERO,
                Ok(Ok(false)) => {}
                Err(error) => tracing::error!(%error, "the upkeep of certificates broke off"),
                Ok(Err(error)) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "could not renew the coordinator's own certificates; trying again"
                ),
            }
        }
    }

    /// Whether the server's certificate was renewed.
    fn renew_own(&self, since: Duration) -> Result<bool, ServerError> {
        let operator = issue_operator(&self.authority, self.certificate_life)?;
        operator.store(&operator_file(&self.data_dir))?;
        self.operator.replace(operator);
        self.registry.prune(now_ms())?;
        if since < SERVER_LIFE / 3 {
            return Ok(false);
        }
        self.certificate.replace(self.authority.server(&self.names, Validity::from_now(SERVER_LIFE))?);
        tracing::info!("the server's certificate is renewed");
        Ok(true)
    }
}

fn issue_operator(authority: &Authority, life: Duration) -> Result<Identity, ServerError> {
    let subject = Subject::new(Role::Operator, uuid::Uuid::new_v4().to_string(), "local");
    Ok(authority.issue(&subject, Validity::from_now(life))?)
}

/// What the server's certificate names: for other programs, ours ask for a fixed name.
fn names(listen: SocketAddr, others: &[String]) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    // A host may have a name that no certificate can carry.
    names.extend(
        host.filter(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))),
    );
    if !listen.ip().is_unspecified() {
        names.push(listen.ip().to_string());
    }
    names.extend_from_slice(others);
    names.sort();
    names.dedup();
    names
}

fn url(listen: SocketAddr, plaintext: Plaintext) -> String {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let scheme = if plaintext == Plaintext::Never { "https" } else { "http" };
    format!("{scheme}://{}", SocketAddr::new(ip, listen.port()))
}
