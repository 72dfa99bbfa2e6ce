//! How the agent is let in: its stored identity, else what its token buys; renewed for as long as it runs.

use std::path::PathBuf;
use std::sync::Arc;

use mtinet_runtime::net;
use mtinet_runtime::tls::{
    AccessError, Credentials, Identity, NewKey, SharedIdentity, Token, enrol, keep_fresh, renew_and_store,
    unix_now, utc,
};

use crate::agent::AgentError;
use crate::link::{chain, delays};
use crate::options::Options;

/// The identity's file in the work directory.
const FILE: &str = "identity.pem";

/// What the agent shows to the coordinator.
#[derive(Debug)]
pub struct Access {
    url: String,
    name: String,
    file: PathBuf,
    token_file: Option<PathBuf>,
    credentials: Credentials,
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
            token_file: options.token_file.clone(),
            credentials: Credentials::Plaintext,
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

    /// Buys an identity and stores it. One key for all tries: where only the answer was lost, the token buys it again.
    async fn join(&self, token: &Token) -> Result<Identity, AgentError> {
        let key = NewKey::generate()?;
        let mut said = String::new();
        for delay in delays() {
            match enrol(&self.url, token, &key, &self.name).await {
                Ok(identity) => {
                    identity.store(&self.file)?;
                    return Ok(identity);
                }
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

    /// The coordinator does not take the present certificate: it may have ended while a clock was set or this machine
    /// slept. Renews it, else joins with the token once more.
    ///
    /// # Errors
    /// The coordinator's words, where neither helps; `None` where it is away.
    pub async fn recover(&self) -> Result<(), Option<String>> {
        let Credentials::Identity(identity) = &self.credentials else { return Err(None) };
        let words = match renew_and_store(&self.url, identity, &self.file).await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_transient() => return Err(None),
            Err(error) => error.to_string(),
        };
        let Ok(Some(token)) = Token::from_file_or_environment(self.token_file.as_deref()) else {
            return Err(Some(words));
        };
        let joined = async {
            let joined = enrol(&self.url, &token, &NewKey::generate()?, &self.name).await?;
            joined.store(&self.file)?;
            identity.replace(joined);
            Ok::<_, AccessError>(())
        };
        match joined.await {
            Ok(()) => Ok(()),
            Err(error) if error.is_transient() => Err(None),
            Err(error) => Err(Some(format!("{words}; with the token: {error}"))),
        }
    }

    /// Renews the identity in time, for as long as the agent runs.
    pub async fn keep_fresh(self: Arc<Self>) {
        if let Credentials::Identity(identity) = &self.credentials {
            let error = keep_fresh(&self.url, identity, &self.file).await;
            // The session goes on; what the coordinator refuses, it says there.
            tracing::error!(error = chain(&error), "the identity is not renewed any more");
        }
    }
}

fn refused(error: AccessError) -> AgentError {
    match error {
        AccessError::Tls(error) => error.into(),
        error => AgentError::Refused(chain(&error)),
    }
}
