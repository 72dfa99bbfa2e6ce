//! Brings a rank's files to the coordinator, one after the other, so that its reports keep their order.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use mtinet_domain::trial::ArtifactRef;
use mtinet_proto::v1::report::Fact;
use mtinet_proto::v1::worker_client::WorkerClient;
use mtinet_proto::v1::{self, SavedCheckpoint, TrainerEvaluated};
use mtinet_runtime::artifacts::{self, ArtifactError, Cache};
use mtinet_runtime::convert::{ToProto, optional};
use tokio::sync::mpsc::UnboundedReceiver;
use tonic::transport::Channel;

use crate::link::{chain, delays};
use crate::session::RankKey;
use crate::uplink::Uplink;

/// Local checkpoint files that are kept: the newest, and the one before in case that is damaged.
const KEPT: usize = 2;

/// Something that a trainer wrote.
#[derive(Debug)]
pub enum Job {
    /// A checkpoint.
    Checkpoint(SavedCheckpoint),
    /// The results of a finished trial.
    Evaluated(TrainerEvaluated),
}

/// The one uploader of a rank.
#[derive(Debug)]
pub struct Uploader {
    /// Whose files.
    pub key: RankKey,
    /// Where they are reported.
    pub uplink: Uplink,
    /// Where they go.
    pub client: WorkerClient<Channel>,
    /// Where the last checkpoint stays on this machine.
    pub cache: Cache,
    /// The rank's directory; nothing outside of it is deleted.
    pub dir: PathBuf,
}

impl Uploader {
    /// Works until `jobs` closes and is empty, however long the coordinator is away. Returns in words what of the
    /// results could not be stored.
    pub async fn run(mut self, mut jobs: UnboundedReceiver<Job>) -> Option<String> {
        let mut problem = None;
        let mut kept = VecDeque::new();
        let mut stored = None;
        let mut next = jobs.recv().await;
        while let Some(job) = next {
            let following = jobs.try_recv().ok();
            match job {
                Job::Checkpoint(saved) => {
                    // Only the newest counts: one that another follows already is not worth the transfer.
                    if matches!(following, Some(Job::Checkpoint(_))) {
                        tracing::debug!(step = saved.step, "checkpoint is superseded before its upload");
                    } else {
                        stored = self.checkpoint(&saved).await.or(stored);
                    }
                    kept.push_back(PathBuf::from(saved.path));
                    self.forget_old(&mut kept).await;
                }
                Job::Evaluated(evaluated) => {
                    if let Err(error) = self.evaluated(evaluated).await {
                        problem = Some(format!("could not store the results: {}", chain(&error)));
                    }
                }
            }
            next = match following {
                Some(job) => Some(job),
                None => jobs.recv().await,
            };
        }
        if let Some((path, artifact)) = stored {
            self.keep(&path, &artifact).await;
        }
        problem
    }

    /// Uploads and reports a checkpoint. One that cannot be stored costs nothing but the way back to it.
    async fn checkpoint(&mut self, saved: &SavedCheckpoint) -> Option<(PathBuf, ArtifactRef)> {
        let path = PathBuf::from(&saved.path);
        let known = optional("artifact", saved.artifact.clone()).unwrap_or_else(|error| {
            tracing::warn!(%error, "hashing the checkpoint again");
            None
        });
        match self.upload(&path, known).await {
            Ok(artifact) => {
                let checkpoint = v1::Checkpoint { step: saved.step, artifact: Some(artifact.to_proto()) };
                self.uplink.report(self.key, Fact::Checkpoint(checkpoint)).await;
                tracing::info!(step = saved.step, bytes = artifact.bytes, "checkpoint stored");
                Some((path, artifact))
            }
            Err(error) => {
                tracing::warn!(step = saved.step, error = chain(&error), "checkpoint could not be stored");
                None
            }
        }
    }

    async fn evaluated(&mut self, evaluated: TrainerEvaluated) -> Result<(), ArtifactError> {
        let TrainerEvaluated { summary_json, evaluation_path, weights_path, predictions_path } = evaluated;
        let mut stored = [None, None, None];
        for (place, path) in stored.iter_mut().zip([evaluation_path, weights_path, predictions_path]) {
            if !path.is_empty() {
                *place = Some(self.upload(Path::new(&path), None).await?.to_proto());
            }
        }
        let [evaluation, weights, predictions] = stored;
        let fact = v1::Evaluated { summary_json, evaluation, weights, predictions };
        self.uplink.report(self.key, Fact::Evaluated(fact)).await;
        tracing::info!("results stored");
        Ok(())
    }

    /// Stores a file; tries for as long as the coordinator is merely away.
    async fn upload(
        &mut self,
        path: &Path,
        known: Option<ArtifactRef>,
    ) -> Result<ArtifactRef, ArtifactError> {
        let artifact = match known {
            Some(artifact) => artifact,
            None => artifacts::describe(path).await?,
        };
        let mut said = false;
        for delay in delays() {
            match artifacts::put_known(&mut self.client, path, &artifact).await {
                Ok(()) => break,
                Err(error) if error.is_transient() => {
                    if !said {
                        tracing::warn!(error = chain(&error), path = %path.display(), "upload waits");
                        said = true;
                    }
                    tokio::time::sleep(delay).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(artifact)
    }

    async fn forget_old(&self, kept: &mut VecDeque<PathBuf>) {
        while kept.len() > KEPT {
            let Some(path) = kept.pop_front() else { return };
            // A trainer that writes to the same path again has replaced the old file itself.
            if kept.contains(&path) || !path.starts_with(&self.dir) {
                continue;
            }
            if let Err(error) = tokio::fs::remove_file(&path).await {
                tracing::debug!(%error, path = %path.display(), "could not remove an old checkpoint");
            }
        }
    }

    /// The next attempt often runs here again and then need not fetch what it goes on from.
    async fn keep(&self, path: &Path, artifact: &ArtifactRef) {
        if path.starts_with(&self.dir)
            && let Err(error) = self.cache.adopt(path, artifact).await
        {
            tracing::debug!(error = chain(&error), "the last checkpoint is not kept locally");
        }
    }
}
