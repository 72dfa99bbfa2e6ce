//! Join tokens: `mtinet1.ROLE.ID.SECRET.FINGERPRINT`.
//!
//! The secret has 256 random bits, so a plain fast hash of it is as good as a slow one: there is nothing to guess.
//! The fingerprint lets the bearer recognise the coordinator before the secret leaves the machine.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use rustls::pki_types::CertificateDer;
use secrecy::{ExposeSecret as _, SecretString};

use super::{Role, hex, random};

/// First part of every token; another format gets another number.
const VERSION: &str = "mtinet1";

const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;

/// Longest file that is read as a token's.
const MAX_FILE_BYTES: u64 = 4096;

/// The environment variable that holds a token.
pub const VARIABLE: &str = "MTINET_TOKEN";

/// SHA-256 of an authority's certificate, DER.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is no token. The text itself is never repeated: it may be most of one.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Not of the form.
    #[error(
        "{0} is not a join token; `mtinet token create --role ROLE` on the coordinator's machine prints one"
    )]
    Format(String),
    /// A file that cannot be read.
    #[error("could not read the token file {path}")]
    File {
        /// The file.
        path: String,
        /// What the operating system said.
        source: std::io::Error,
    },
}

/// A join token.
#[derive(Clone)]
pub struct Token {
    /// The role of those who join with it.
    pub role: Role,
    /// Its public part.
    pub id: String,
    /// Proves that the bearer was given it.
    pub secret: SecretString,
    /// The authority of the coordinator that it is for.
    pub fingerprint: Fingerprint,
}

// A derived one says that there is a secret; the role and the public part are all that helps.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("role", &self.role).field("id", &self.id).finish_non_exhaustive()
    }
}

impl Token {
    /// A new token.
    ///
    /// # Errors
    /// Where the system gives no randomness.
    pub fn generate(role: Role, fingerprint: Fingerprint) -> Result<Self, super::TlsError> {
        let (id, secret) = (hex(&random::<ID_BYTES>()?), hex(&random::<SECRET_BYTES>()?));
        Ok(Self { role, id, secret: secret.into(), fingerprint })
    }

    /// The whole token, for the one time that it is shown.
    pub fn expose(&self) -> SecretString {
        let Self { role, id, secret, fingerprint } = self;
        format!("{VERSION}.{role}.{id}.{}.{fingerprint}", secret.expose_secret()).into()
    }

    /// What is stored of a secret.
    pub fn hash(secret: &SecretString) -> blake3::Hash {
        blake3::hash(secret.expose_secret().as_bytes())
    }

    /// Reads the token in a file, else in `MTINET_TOKEN`; `None` where there is neither.
    ///
    /// # Errors
    /// A file that cannot be read, text that is no token.
    pub fn from_file_or_environment(file: Option<&Path>) -> Result<Option<Self>, TokenError> {
        let (text, from) = match file {
            Some(path) => (read(path)?, path.display().to_string()),
            None => match std::env::var(VARIABLE) {
                Ok(text) if !text.is_empty() => (text.into(), format!("the value of {VARIABLE}")),
                _ => return Ok(None),
            },
        };
        let token = text.expose_secret().trim().parse();
        token.map(Some).map_err(|()| TokenError::Format(from))
    }
}

fn read(path: &Path) -> Result<SecretString, TokenError> {
    use std::io::Read as _;
    let failed = |source| TokenError::File { path: path.display().to_string(), source };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(failed)?;
    Ok(text.into())
}

impl FromStr for Token {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let parts: Vec<&str> = text.split('.').collect();
        let [VERSION, role, id, secret, fingerprint] = parts[..] else { return Err(()) };
        unhex::<ID_BYTES>(id).ok_or(())?;
        unhex::<SECRET_BYTES>(secret).ok_or(())?;
        Ok(Self {
            role: role.parse().map_err(|_| ())?,
            id: id.to_owned(),
            secret: secret.to_owned().into(),
            fingerprint: Fingerprint(unhex(fingerprint).ok_or(())?),
        })
    }
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(bytes)
}
