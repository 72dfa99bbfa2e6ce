//! How a coordinator is set up.

use std::path::PathBuf;

use mtinet_core::CoreConfig;

use super::auth::AccessOptions;
use super::room::UploadLimits;

/// How a coordinator is set up. Times are in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerOptions {
    /// Directory of the event log and the artifact store, on a local disk; made when it is missing.
    pub data_dir: PathBuf,
    /// A worker is taken for lost after this much silence.
    pub lease_ms: u64,
    /// Workers send a heartbeat at least this often.
    pub heartbeat_ms: u32,
    /// After a restart, workers with running attempts have this long to come back.
    pub adoption_grace_ms: u64,
    /// A cancelled attempt has this long to end at a step boundary.
    pub cancel_grace_ms: u32,
    /// What files may be stored.
    pub uploads: UploadLimits,
    /// Who may reach it, and how.
    pub access: AccessOptions,
}

impl ServerOptions {
    /// The defaults, with the data in `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        let core = CoreConfig::default();
        Self {
            data_dir: data_dir.into(),
            // Silence is to be noticed within three seconds, and leases are looked at every quarter of one.
            lease_ms: 2700,
            heartbeat_ms: 500,
            adoption_grace_ms: core.adoption_grace_ms,
            cancel_grace_ms: core.cancel_grace_ms,
            uploads: UploadLimits::default(),
            access: AccessOptions::default(),
        }
    }

    pub(super) fn core(&self) -> CoreConfig {
        CoreConfig {
            lease_ms: self.lease_ms,
            adoption_grace_ms: self.adoption_grace_ms,
            cancel_grace_ms: self.cancel_grace_ms,
            ..CoreConfig::default()
        }
    }
}
