//! How the agent is let in: its stored identity, else what its token buys; renewed for as long as it runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use mtinet_proto::v1::worker_client::WorkerClient;
use mtinet_runtime::net::{self, Channel, NetError};
use mtinet_runtime::tls::{
    AccessError, Credentials, Identity, NewKey, Role, SharedIdentity, Token, enrol, keep_fresh,
    renew_and_store, unix_now, utc,
};

use crate::agent::AgentError;
use crate::link::{chain, delays};
use crate::options::Options;

/// The identity's file in the work directory.
const FILE: &str = "identity.pem";

/// The file of a key that waits for its certificate.
const KEY_FILE: &str = "identity.key";

/// Refusals of one call for its certificate before it is given up: with [`patient_delays`] about half an hour.
const REFUSALS: u32 = 64;

/// Between tries of what a person may have to put right, at most.
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// Delays between tries of what a person may have to put right.
fn patient_delays() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_secs(1))
        .with_max_delay(LONGEST_DELAY)
        .without_max_times()
        .with_jitter()
        .build()
}

/// What the agent shows to the coordinator.
#[derive(Debug)]
pub struct Access {
    url: String,
    name: String,
    file: PathBuf,
    key_file: PathBuf,
    token_file: Option<PathBuf>,
    credentials: Credentials,
    /// One at a time gets the next identity; whoever waited for it uses that one.
    recovering: tokio::sync::Mutex<()>,
}

impl Access {
    /// The identity that is stored, where it is of the coordinator that the token names; else what the token buys. A
    /// coordinator that is away is waited for.
    ///
    /// # Errors
    /// No usable identity and no token, or a token that is refused.
    pub async fn obtain(options: &Options) -> Result<Arc<Self>, AgentError> {
        let mut access = Self {
            url: options.coordinator.clone(),
            name: options.name.clone(),
            file: options.work_dir.join(FILE),
            key_file: options.work_dir.join(KEY_FILE),
            token_file: options.token_file.clone(),
            credentials: Credentials::Plaintext,
            recovering: tokio::sync::Mutex::default(),
        };
        if !net::is_plaintext(&access.url) {
            let identity = access.first_identity().await?;
            let certified = identity.certified();
            tracing::info!(identity = certified.subject.id, until = utc(certified.not_after), "identity");
            access.credentials = Credentials::of(identity);
        }
        Ok(Arc::new(access))
    }

    /// For connections to the coordinator.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// A client whose connection comes about at its first call, with the identity of then.
    ///
    /// # Errors
    /// An address that is none.
    pub fn worker_client(&self) -> Result<WorkerClient<Channel>, NetError> {
        Ok(net::worker_client(net::connect_lazy_as(&self.url, &self.credentials)?))
    }

    async fn first_identity(&self) -> Result<Identity, AgentError> {
        let stored = if self.file.exists() { Some(Identity::load(&self.file)?) } else { None };
        let token = match Token::from_file_or_environment(self.token_file.as_deref()) {
            Ok(token) => token,
            // The token is used up by then, and may be gone.
            Err(error) if stored.is_some() => {
                tracing::debug!(error = chain(&error), "no token; the stored identity is used");
                None
            }
            Err(error) => return Err(error.into()),
        };
        match (stored, token) {
            (None, None) => Err(AgentError::NoIdentity(self.file.clone())),
            (None, Some(token)) => self.join(&token).await,
            (Some(stored), Some(token)) if stored.fingerprint() != token.fingerprint => {
                tracing::info!("the token is another coordinator's than the stored identity: joining anew");
                self.join(&token).await
            }
            (Some(stored), token) if !stored.certified().is_due(unix_now()) => {
                drop(token);
                Ok(stored)
            }
            (Some(stored), token) => self.renewed(stored, token.as_ref()).await,
        }
    }

    async fn renewed(&self, stored: Identity, token: Option<&Token>) -> Result<Identity, AgentError> {
        let shared = Arc::new(SharedIdentity::new(stored));
        match (renew_and_store(&self.url, &shared, &self.file).await, token) {
            (Ok(()), _) => {}
            // It is tried again while the agent runs.
            (Err(error), _) if error.is_transient() => {
                tracing::warn!(error = chain(&error), "not renewed yet");
            }
            (Err(_), Some(token)) => return self.join(token).await,
            (Err(error), None) => return Err(AgentError::Refused(error.to_string())),
        }
        Ok(Identity::clone(&shared.current()))
    }

    /// Buys an identity and stores it. One key for all tries, which is on disk before the first: where the answer was lost,
    /// or the disk did not take it, the token buys it again.
    async fn join(&self, token: &Token) -> Result<Identity, AgentError> {
        if token.role != Role::Worker {
            return Err(AgentError::TokenRole(token.role));
        }
        let mut said = String::new();
        for delay in delays() {
            match self.enrol(token).await {
                Ok(identity) => return Ok(identity),
                Err(error) if error.is_transient() => {
                    let reason = chain(&error);
                    if reason != said {
                        tracing::warn!(reason, url = self.url, "could not join yet; trying again");
                    }
                    said = reason;
                }
                Err(error) => return Err(refused(error)),
            }
            tokio::time::sleep(delay).await;
        }
        Err(AgentError::Refused(said))
    }

    async fn enrol(&self, token: &Token) -> Result<Identity, AccessError> {
        let key = NewKey::kept(&self.key_file)?;
        let identity = enrol(&self.url, token, &key, &self.name).await?;
        identity.store(&self.file)?;
        if let Err(error) = std::fs::remove_file(&self.key_file) {
            tracing::debug!(%error, path = %self.key_file.display(), "could not remove a key that is certified");
        }
        Ok(identity)
    }

    /// The coordinator does not take the present certificate: it may have ended while a clock was set or this machine
    /// slept. Renews it, else joins with the token once more.
    ///
    /// # Errors
    /// The coordinator's words, where it refuses both; `None` where it is away, or something else answers there.
    pub async fn recover(&self) -> Result<(), Option<String>> {
        let Credentials::Identity(identity) = &self.credentials else { return Err(None) };
        let refused = identity.current();
        let _alone = self.recovering.lock().await;
        if !Arc::ptr_eq(&refused, &identity.current()) {
            return Ok(());
        }
        let words = match renew_and_store(&self.url, identity, &self.file).await {
            Ok(()) => return Ok(()),
            Err(AccessError::Refused(words)) => words,
            Err(error) => {
                tracing::debug!(error = chain(&error), "the certificate is not renewed");
                return Err(None);
            }
        };
        let token = Token::from_file_or_environment(self.token_file.as_deref()).ok().flatten();
        let Some(token) = token.filter(|token| token.role == Role::Worker) else {
            return Err(Some(words));
        };
        match self.enrol(&token).await {
            Ok(joined) => {
                tracing::warn!(words, "the token bought another identity");
                identity.replace(joined);
                Ok(())
            }
            Err(error) if error.is_transient() => Err(None),
            Err(error) => Err(Some(format!("{words}; with the token: {error}"))),
        }
    }

    /// For a call that was refused for its certificate: a client with another one. `refusals` counts over the tries of the
    /// call; none after so many that no renewal will help it, or where there is no identity to renew.
    pub async fn readmit(&self, refusals: &mut u32) -> Option<WorkerClient<Channel>> {
        let Credentials::Identity(identity) = &self.credentials else { return None };
        *refusals += 1;
        if *refusals > REFUSALS {
            return None;
        }
        // The first time it may only be the connection that is older than the identity.
        if *refusals > 1 || identity.current().certified().is_due(unix_now()) {
            let recovered = self.recover().await;
            if let Err(words) = &recovered {
                let words = words.as_deref().unwrap_or("the coordinator gives none now");
                tracing::warn!(words, refusals, "no certificate that the coordinator takes; trying again");
            }
            if recovered.is_err() || *refusals > 2 {
                let delay = patient_delays().nth(*refusals as usize - 1);
                tokio::time::sleep(delay.unwrap_or(LONGEST_DELAY)).await;
            }
        }
        self.worker_client().ok()
    }

    /// Renews the identity in time, for as long as the agent runs: whatever answers at the coordinator's address now, it
    /// may be the coordinator again in a minute, and without a certificate no result can be stored.
    pub async fn keep_fresh(self: Arc<Self>) {
        let Credentials::Identity(identity) = &self.credentials else { return };
        let mut said = String::new();
        let mut delays = patient_delays();
        loop {
            let present = identity.current();
            let error = keep_fresh(&self.url, identity, &self.file).await;
            if !Arc::ptr_eq(&present, &identity.current()) {
                said.clear();
                delays = patient_delays();
            }
            let words = chain(&error);
            if words != said {
                tracing::error!(
                    error = words,
                    url = self.url,
                    "the identity cannot be renewed; trying again"
                );
            }
            said = words;
            tokio::time::sleep(delays.next().unwrap_or(LONGEST_DELAY)).await;
            // What the coordinator refuses to renew, the token may still buy anew; the words are those above.
            if matches!(error, AccessError::Refused(_)) && self.recover().await.is_ok() {
                tracing::info!("the worker has an identity again");
            }
        }
    }
}

fn refused(error: AccessError) -> AgentError {
    match error {
        AccessError::Tls(error) => error.into(),
        error => AgentError::Refused(chain(&error)),
    }
}

#[cfg(test)]
mod tests;
