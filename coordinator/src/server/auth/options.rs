//! How access to a coordinator is set up.

use std::time::Duration;

use mtinet_runtime::tls::Limits;

use super::QuotaLimits;

/// Whether the coordinator serves without TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plaintext {
    /// TLS alone.
    #[default]
    Never,
    /// Without TLS, to this machine alone.
    Loopback,
    /// Without TLS, to everyone who reaches it.
    Anywhere,
}

/// How access to a coordinator is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessOptions {
    /// Whether it serves without TLS.
    pub plaintext: Plaintext,
    /// Host names and addresses of its certificate, besides those it listens on.
    pub names: Vec<String>,
    /// Life of a client's certificate.
    pub certificate_life: Duration,
    /// A certificate that ended can be renewed for this long.
    pub renewal_grace: Duration,
    /// How many connections it holds.
    pub limits: Limits,
    /// What one identity may use.
    pub quotas: QuotaLimits,
}

impl Default for AccessOptions {
    fn default() -> Self {
        Self {
            plaintext: Plaintext::Never,
            names: Vec::new(),
            certificate_life: Duration::from_secs(24 * 3600),
            renewal_grace: Duration::from_secs(7 * 24 * 3600),
            limits: Limits::default(),
            quotas: QuotaLimits::default(),
        }
    }
}
