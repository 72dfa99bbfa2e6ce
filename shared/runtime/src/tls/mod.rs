//! Identities and mutual TLS: a coordinator's private authority, the certificates that it signs, the tokens that buy
//! them, and both ends of a connection.
//!
//! Every coordinator has an authority of its own, and only its coordinator holds a server certificate. A client
//! therefore checks the authority and one fixed name ([`SERVER_NAME`]), not the address that it dialled: tunnels,
//! address translation and a head node that moves need no new certificate. Keys are ECDSA P-256, all randomness and
//! cryptography `ring`'s.

mod authority;
mod client;
mod config;
mod connection;
mod files;
mod identity;
mod renewal;
mod subject;
mod token;
mod verify;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use authority::{Authority, Validity};
pub use client::{AccessError, enrol, renew};
pub use config::{Credentials, ServerCertificate, SharedIdentity, client_config, server_config};
pub use connection::{Connection, Limits, OpenConnections, Peer, Security, incoming};
pub use files::{write_private, write_public};
pub use identity::{Identity, NewKey};
pub use renewal::{keep_fresh, renew_and_store};
pub use subject::{Certified, Role, RoleError, Subject};
pub use token::{Fingerprint, Token, TokenError, VARIABLE as TOKEN_VARIABLE};

/// The name that every coordinator's certificate carries and every client asks for.
pub const SERVER_NAME: &str = "coordinator.mtinet.internal";

/// Clocks of peers may differ by this much: certificates are valid from this long before they are made.
pub const CLOCK_SKEW: Duration = Duration::from_secs(24 * 3600);

/// Most bytes of a signing request; ours have about 250.
pub const MAX_CSR_BYTES: usize = 4096;

/// An identity, a token or an authority that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read or written.
    #[error("could not use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A private key that others can read.
    #[error(
        "{} can be read by other users of this machine; run `chmod 600 {}`, and get a new identity if someone may have",
        path.display(), path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// A file or message that is no identity.
    #[error("{what} is not an identity: {problem}; get a new one with a token")]
    Identity {
        /// Where it was read.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A signing request that is none.
    #[error("the signing request is refused: {0}")]
    Request(String),
    /// A certificate that could not be made.
    #[error("could not make a certificate")]
    Sign(#[from] rcgen::Error),
    /// Keys and certificates that TLS does not take.
    #[error("TLS refuses the certificate or its key")]
    Rustls(#[from] rustls::Error),
}

/// Seconds since the Unix epoch, now.
pub fn unix_now() -> u64 {
    unix_seconds(SystemTime::now())
}

/// Seconds since the Unix epoch; 0 before it.
pub fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A time for people, e.g. `2026-03-01 17:05 UTC`.
pub fn utc(unix_seconds: u64) -> String {
    let time =
        i64::try_from(unix_seconds).ok().and_then(|s| time::OffsetDateTime::from_unix_timestamp(s).ok());
    let Some(time) = time else { return format!("{unix_seconds} s after 1970") };
    let (date, clock) = (time.date(), time.time());
    format!(
        "{}-{:02}-{:02} {:02}:{:02} UTC",
        date.year(),
        u8::from(date.month()),
        date.day(),
        clock.hour(),
        clock.minute()
    )
}

fn provider() -> std::sync::Arc<rustls::crypto::CryptoProvider> {
    std::sync::Arc::new(rustls::crypto::ring::default_provider())
}

/// Random bytes from the operating system.
///
/// # Errors
/// Where the system has none to give.
pub fn random<const N: usize>() -> Result<[u8; N], TlsError> {
    let mut bytes = [0; N];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| rustls::Error::FailedToGetRandomBytes)?;
    Ok(bytes)
}

/// Bytes as lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
