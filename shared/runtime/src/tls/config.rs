//! rustls's settings for both sides. TLS 1.3 alone: both ends are ours.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, SignatureScheme, version};

use super::verify::{ClientVerifier, Pinned, roots};
use super::{Fingerprint, Identity, TlsError, provider};

const H2: &[u8] = b"h2";

/// A server's certificate, which can be replaced while the server runs: new connections get the new one.
pub struct ServerCertificate(RwLock<Arc<CertifiedKey>>);

impl ServerCertificate {
    /// With its first certificate.
    pub fn new(certificate: Arc<CertifiedKey>) -> Self {
        Self(RwLock::new(certificate))
    }

    /// Takes the next one.
    pub fn replace(&self, certificate: Arc<CertifiedKey>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = certificate;
    }
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerCertificate")
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// A client's identity, which can be replaced while it is in use: new connections use the new one, old ones go on.
#[derive(Debug)]
pub struct SharedIdentity(RwLock<Arc<Identity>>);

impl SharedIdentity {
    /// With the first identity.
    pub fn new(identity: Identity) -> Self {
        Self(RwLock::new(Arc::new(identity)))
    }

    /// The present one.
    pub fn current(&self) -> Arc<Identity> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the next one.
    pub fn replace(&self, identity: Identity) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(identity);
    }
}

impl ResolvesClientCert for SharedIdentity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.current().key()))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// What a client shows and demands.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// Nothing: the address must be plaintext.
    Plaintext,
    /// Its identity; demands its authority.
    Identity(Arc<SharedIdentity>),
    /// No identity yet; demands the authority with this fingerprint.
    Pinned(Fingerprint),
}

impl Credentials {
    /// An identity that nobody replaces.
    pub fn of(identity: Identity) -> Self {
        Self::Identity(Arc::new(SharedIdentity::new(identity)))
    }
}

/// The server's side.
///
/// # Errors
/// An authority that rustls does not take.
pub fn server_config(
    authority: &CertificateDer<'static>,
    certificate: Arc<ServerCertificate>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(Arc::new(ClientVerifier::new(authority)?))
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![H2.to_vec()];
    // A resumed session would stand for the certificate that it began with, also after a renewal or revocation.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The client's side; none for plaintext.
///
/// # Errors
/// An authority that rustls does not take.
pub fn client_config(credentials: &Credentials) -> Result<Option<Arc<ClientConfig>>, TlsError> {
    let builder =
        ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&version::TLS13])?;
    let mut config = match credentials {
        Credentials::Plaintext => return Ok(None),
        Credentials::Identity(identity) => builder
            .with_root_certificates(roots(identity.current().authority())?)
            .with_client_cert_resolver(Arc::clone(identity) as Arc<dyn ResolvesClientCert>),
        Credentials::Pinned(fingerprint) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned::new(*fingerprint)))
            .with_no_client_auth(),
    };
    config.alpn_protocols = vec![H2.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Some(Arc::new(config)))
}
