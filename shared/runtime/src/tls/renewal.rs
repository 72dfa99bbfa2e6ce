//! Keeps an identity fresh for as long as a program runs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{AccessError, SharedIdentity, TlsError, renew, unix_now};

/// How often the clock is looked at: certificates live hours.
const LOOK: Duration = Duration::from_secs(30);

/// Shortest pause between looks, for certificates that live seconds.
const SHORTEST: Duration = Duration::from_millis(100);

/// Fetches the next certificate whenever two thirds of the present one's life are over by the system's clock, and
/// stores it. Ends only when the coordinator refuses: then the present one is of no more use than it is.
pub async fn keep_fresh(url: &str, identity: &Arc<SharedIdentity>, file: &Path) -> AccessError {
    let mut said = String::new();
    loop {
        let certified = identity.current().certified().clone();
        let now = unix_now();
        if !certified.is_due(now) {
            // Not one long sleep: the system's clock may be set meanwhile.
            let left = Duration::from_secs(certified.not_after.saturating_sub(now));
            tokio::time::sleep((left / 8).clamp(SHORTEST, LOOK)).await;
            continue;
        }
        match renew_and_store(url, identity, file).await {
            Ok(()) => said.clear(),
            Err(error) if error.is_transient() => {
                let problem = error.to_string();
                if problem != said {
                    tracing::warn!(problem, "could not renew the certificate; trying again");
                }
                said = problem;
                let left = Duration::from_secs(certified.not_after.saturating_sub(now));
                tokio::time::sleep((left / 8).clamp(SHORTEST, LOOK)).await;
            }
            Err(error) => return error,
        }
    }
}

/// Fetches and stores the next certificate.
///
/// # Errors
/// A coordinator that is away or refuses; a disk that takes nothing.
pub async fn renew_and_store(
    url: &str,
    identity: &Arc<SharedIdentity>,
    file: &Path,
) -> Result<(), AccessError> {
    let next = renew(url, identity).await?;
    let until = super::utc(next.certified().not_after);
    // The present one is still good where the disk is full, and the next one serves this process in any case.
    let stored = next.store(file);
    identity.replace(next);
    tracing::info!(until, "the certificate is renewed");
    stored.map_err(|error: TlsError| AccessError::Away(error.to_string()))
}
