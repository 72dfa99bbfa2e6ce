//! Who a certificate says its holder is.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{CLOCK_SKEW, TlsError};

/// Longest name of a holder in bytes.
const MAX_NAME_BYTES: usize = 64;

/// What a holder may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Looks.
    Viewer,
    /// Looks, submits, cancels, hands out tokens.
    Operator,
    /// Runs trainers and reports.
    Worker,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Worker];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Worker => "worker",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no role.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a role; the roles are viewer, operator and worker")]
pub struct RoleError(String);

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| RoleError(text.to_owned()))
    }
}

/// Who holds a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// What it may do.
    pub role: Role,
    /// Unique for ever; stays the same over renewals.
    pub id: String,
    /// For people.
    pub name: String,
}

impl Subject {
    /// A subject whose name is made presentable: one line of at most 64 bytes.
    pub fn new(role: Role, id: String, name: &str) -> Self {
        let mut plain = String::new();
        for c in name.trim().chars().filter(|c| !c.is_control()) {
            if plain.len() + c.len_utf8() > MAX_NAME_BYTES {
                break;
            }
            plain.push(c);
        }
        if plain.is_empty() {
            plain = role.to_string();
        }
        Self { role, id, name: plain }
    }

    /// The subject alternative name of its certificates.
    pub fn uri(&self) -> String {
        format!("mtinet://{}/{}", self.role, self.id)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.role, self.name, self.id)
    }
}

/// What a certificate says: who, and from when to when, in seconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// Its holder.
    pub subject: Subject,
    /// Valid from.
    pub not_before: u64,
    /// Valid until.
    pub not_after: u64,
}

impl Certified {
    /// Reads a certificate, whose signature must have been verified.
    ///
    /// # Errors
    /// One that is not of our making.
    pub fn read(certificate: &CertificateDer<'_>) -> Result<Self, TlsError> {
        let wrong = |problem: &str| TlsError::Identity {
            what: "the certificate".to_owned(),
            problem: problem.to_owned(),
        };
        let (_, certificate) =
            X509Certificate::from_der(certificate).map_err(|error| wrong(&error.to_string()))?;
        let names = certificate.subject_alternative_name().map_err(|error| wrong(&error.to_string()))?;
        let uri = names.and_then(|names| {
            names.value.general_names.iter().find_map(|name| match name {
                GeneralName::URI(uri) => uri.strip_prefix("mtinet://"),
                _ => None,
            })
        });
        let (role, id) =
            uri.and_then(|uri| uri.split_once('/')).ok_or_else(|| wrong("it names no role and id"))?;
        let role = role.parse().map_err(|error: RoleError| wrong(&error.to_string()))?;
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err(wrong("its id is empty or has unusual characters"));
        }
        let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
        let validity = certificate.validity();
        Ok(Self {
            subject: Subject::new(role, id.to_owned(), name.unwrap_or_default()),
            not_before: seconds(validity.not_before),
            not_after: seconds(validity.not_after),
        })
    }

    /// Whether two thirds of its life are over, so that the next certificate is to be fetched.
    pub fn is_due(&self, now: u64) -> bool {
        let made = self.not_before + CLOCK_SKEW.as_secs();
        now >= made + self.not_after.saturating_sub(made) * 2 / 3
    }
}
