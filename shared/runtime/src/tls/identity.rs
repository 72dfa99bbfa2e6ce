//! A client's key, its certificate and the authority that it trusts, as one file.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use secrecy::{ExposeSecret as _, SecretString};

use super::files::read_private;
use super::{Certified, Fingerprint, TlsError, provider, write_private};

/// Who a program is, and the proof of it.
#[derive(Clone)]
pub struct Identity {
    pem: SecretString,
    certified: Certified,
    authority: CertificateDer<'static>,
    key: Arc<CertifiedKey>,
}

// A derived one would print the key.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("certified", &self.certified).finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads key, certificate and authority, in this order, from PEM.
    ///
    /// # Errors
    /// Anything else.
    pub fn from_pem(pem: SecretString, what: &str) -> Result<Self, TlsError> {
        let wrong = |problem: String| TlsError::Identity { what: what.to_owned(), problem };
        let text = pem.expose_secret().as_bytes();
        let key = PrivatePkcs8KeyDer::from_pem_slice(text)
            .map_err(|error| wrong(format!("no private key ({error})")))?;
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
        let certificates = certificates.map_err(|error| wrong(error.to_string()))?;
        let [certificate, authority] = <[_; 2]>::try_from(certificates)
            .map_err(|found| wrong(format!("{} certificates instead of 2", found.len())))?;
        let certified = Certified::read(&certificate)?;
        let key = CertifiedKey::from_der(vec![certificate], PrivateKeyDer::Pkcs8(key), &provider())?;
        Ok(Self { pem, certified, authority, key: Arc::new(key) })
    }

    /// Reads an identity's file, which only its owner may be able to read.
    ///
    /// # Errors
    /// A file that is missing, exposed or something else.
    pub fn load(path: &Path) -> Result<Self, TlsError> {
        Self::from_pem(read_private(path)?, &path.display().to_string())
    }

    /// Writes the identity's file: whole or not at all, for its owner alone (0600).
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn store(&self, path: &Path) -> Result<(), TlsError> {
        write_private(path, self.pem.expose_secret().as_bytes())
    }

    /// What its certificate says.
    pub fn certified(&self) -> &Certified {
        &self.certified
    }

    /// The authority that it trusts.
    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    /// What tokens of its coordinator name the authority by.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.authority)
    }

    pub(super) fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }
}

/// A key that has no certificate yet.
pub struct NewKey(KeyPair);

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewKey")
    }
}

impl NewKey {
    /// A new ECDSA P-256 key.
    ///
    /// # Errors
    /// Where the system gives no randomness.
    pub fn generate() -> Result<Self, TlsError> {
        Ok(Self(KeyPair::generate()?))
    }

    /// The key that waits in `path` for its certificate, else a new one, which is on disk (0600) when this returns. With
    /// the same key a token buys the same identity again, also for a program that was ended before it could store it.
    ///
    /// # Errors
    /// Where the system gives no randomness, or the file cannot be written.
    pub fn kept(path: &Path) -> Result<Self, TlsError> {
        // One that others may have read, or half a one, is worth nothing.
        if let Ok(pem) = read_private(path)
            && let Ok(key) = KeyPair::from_pem(pem.expose_secret())
        {
            return Ok(Self(key));
        }
        let key = KeyPair::generate()?;
        write_private(path, key.serialize_pem().as_bytes())?;
        Ok(Self(key))
    }

    /// The signing request, DER.
    ///
    /// # Errors
    /// Where signing fails.
    pub fn csr(&self) -> Result<Vec<u8>, TlsError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        Ok(params.serialize_request(&self.0)?.der().to_vec())
    }

    /// The identity, with the certificate that the authority made.
    ///
    /// # Errors
    /// A certificate of another key, or none at all.
    pub fn certified(&self, certificate: &str, authority: &str) -> Result<Identity, TlsError> {
        let pem = format!("{}{certificate}{authority}", self.0.serialize_pem());
        Identity::from_pem(pem.into(), "the coordinator's answer")
    }
}
