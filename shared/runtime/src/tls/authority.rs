//! The private authority of one coordinator.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use secrecy::{ExposeSecret as _, SecretString};

use super::files::{private_dir, read_private};
use super::{
    CLOCK_SKEW, Fingerprint, Identity, MAX_CSR_BYTES, NewKey, SERVER_NAME, Subject, TlsError, provider,
    random, write_private, write_public,
};

/// Key and certificate of the authority, in its directory.
const AUTHORITY: &str = "authority.pem";

/// The certificate alone, for whoever wants to look.
const PUBLIC: &str = "ca.crt";

/// The authority outlives its coordinator's hardware; everything that it signs is short-lived.
const LIFE: Duration = Duration::from_secs(20 * 365 * 86_400);

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From.
    pub not_before: SystemTime,
    /// Until.
    pub not_after: SystemTime,
}

impl Validity {
    /// From now on, with an allowance for clocks that are behind.
    pub fn from_now(life: Duration) -> Self {
        let now = SystemTime::now();
        Self { not_before: now - CLOCK_SKEW, not_after: now + life }
    }
}

/// Signs the certificates of one coordinator's fleet.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

// A derived one would print the key.
impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("fingerprint", &self.fingerprint()).finish_non_exhaustive()
    }
}

impl Authority {
    /// The authority in a directory; made at the first call. The directory is 0700, the key's file 0600.
    ///
    /// # Errors
    /// Files that cannot be read or written, or hold something else.
    pub fn open(dir: &Path) -> Result<Self, TlsError> {
        private_dir(dir)?;
        let path = dir.join(AUTHORITY);
        let authority = if path.exists() {
            Self::from_pem(&read_private(&path)?, &path)?
        } else {
            let (authority, pem) = Self::generate()?;
            write_private(&path, pem.expose_secret().as_bytes())?;
            authority
        };
        write_public(&dir.join(PUBLIC), authority.pem.as_bytes())?;
        Ok(authority)
    }

    /// A new authority that lives in memory, and its key and certificate as PEM.
    ///
    /// # Errors
    /// Where the system gives no randomness.
    pub fn generate() -> Result<(Self, SecretString), TlsError> {
        let key = KeyPair::generate()?;
        let mut params = params(Validity::from_now(LIFE))?;
        // The number tells authorities apart in other programs' lists.
        let name = format!("mtinet authority {}", super::hex(&random::<4>()?));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        let pem = certificate.pem();
        let both: SecretString = format!("{}{pem}", key.serialize_pem()).into();
        Ok((Self::new(key, certificate.der().clone(), pem)?, both))
    }

    fn new(key: KeyPair, certificate: CertificateDer<'static>, pem: String) -> Result<Self, TlsError> {
        Ok(Self { issuer: Issuer::from_ca_cert_der(&certificate, key)?, certificate, pem })
    }

    fn from_pem(text: &SecretString, path: &Path) -> Result<Self, TlsError> {
        let wrong = |problem: String| TlsError::Identity { what: path.display().to_string(), problem };
        let text = text.expose_secret();
        let key =
            PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(|error| wrong(error.to_string()))?;
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_ECDSA_P256_SHA256)?;
        let certificate =
            CertificateDer::from_pem_slice(text.as_bytes()).map_err(|error| wrong(error.to_string()))?;
        let start = text.find("-----BEGIN CERTIFICATE").unwrap_or_default();
        Self::new(key, certificate, text[start..].to_owned())
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its certificate as PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// What a token names it by.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// A server's certificate and new key, for the fixed name and these addresses and host names besides.
    ///
    /// # Errors
    /// A name that no certificate can carry.
    pub fn server(&self, names: &[String], validity: Validity) -> Result<Arc<CertifiedKey>, TlsError> {
        let key = KeyPair::generate()?;
        let mut params = params(validity)?;
        params.distinguished_name.push(DnType::CommonName, "mtinet coordinator");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for name in names.iter().map(String::as_str).chain([SERVER_NAME]) {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.try_into()?),
            });
        }
        let certificate = params.signed_by(&key, &self.issuer)?;
        // The authority goes along, for those who know its fingerprint alone.
        let chain = vec![certificate.der().clone(), self.certificate.clone()];
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Ok(Arc::new(CertifiedKey::from_der(chain, key, &provider())?))
    }

    /// Signs the key of a request, as PEM. What the request says of itself counts for nothing.
    ///
    /// # Errors
    /// A request that is too long, malformed, not signed by its key, or has a key that is not ECDSA P-256.
    pub fn sign(&self, csr: &[u8], subject: &Subject, validity: Validity) -> Result<String, TlsError> {
        let request = checked(csr)?;
        let signed = client_params(subject, validity)?.signed_by(&request.public_key, &self.issuer)?;
        Ok(signed.pem())
    }

    /// A client's identity with a new key.
    ///
    /// # Errors
    /// Where the system gives no randomness.
    pub fn issue(&self, subject: &Subject, validity: Validity) -> Result<Identity, TlsError> {
        let key = NewKey::generate()?;
        let certificate = self.sign(&key.csr()?, subject, validity)?;
        key.certified(&certificate, &self.pem)
    }

    /// The key of a request, to recognise it by.
    ///
    /// # Errors
    /// As [`Authority::sign`].
    pub fn requested_key(csr: &[u8]) -> Result<Vec<u8>, TlsError> {
        Ok(checked(csr)?.public_key.der_bytes().to_vec())
    }
}

fn checked(csr: &[u8]) -> Result<CertificateSigningRequestParams, TlsError> {
    if csr.len() > MAX_CSR_BYTES {
        return Err(TlsError::Request(format!("it has {} bytes, more than {MAX_CSR_BYTES}", csr.len())));
    }
    let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr))
        .map_err(|error| TlsError::Request(error.to_string()))?;
    if request.public_key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
        return Err(TlsError::Request("its key is not ECDSA P-256".to_owned()));
    }
    Ok(request)
}

fn client_params(subject: &Subject, validity: Validity) -> Result<CertificateParams, TlsError> {
    let mut params = params(validity)?;
    params.distinguished_name.push(DnType::CommonName, subject.name.as_str());
    params.subject_alt_names.push(SanType::URI(subject.uri().as_str().try_into()?));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

fn params(validity: Validity) -> Result<CertificateParams, TlsError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = validity.not_before.into();
    params.not_after = validity.not_after.into();
    let mut serial = random::<16>()?;
    // A certificate's number is positive.
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    Ok(params)
}
