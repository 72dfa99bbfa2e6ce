//! Brings a rank's files to the coordinator, one after the other, so that its reports keep their order.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mtinet_domain::trial::ArtifactRef;
use mtinet_proto::v1::report::Fact;
use mtinet_proto::v1::worker_client::WorkerClient;
use mtinet_proto::v1::{self, SavedCheckpoint, TrainerEvaluated};
use mtinet_runtime::artifacts::{self, ArtifactError, Cache};
use mtinet_runtime::convert::{ToProto, optional};
use mtinet_runtime::net::Channel;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use crate::access::Access;
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

impl Job {
    fn words(&self) -> String {
        match self {
            Self::Checkpoint(saved) => format!("the checkpoint of step {}", saved.step),
            Self::Evaluated(_) => "the results".to_owned(),
        }
    }
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
    /// What it shows there, when the client's certificate is not taken any more.
    pub access: Arc<Access>,
    /// Where the last checkpoint stays on this machine.
    pub cache: Cache,
    /// The rank's directory; nothing outside of it is deleted.
    pub dir: PathBuf,
    /// What is being stored, in words, while something is.
    pub storing: watch::Sender<String>,
}

/// What a trainer wrote and is not dealt with yet. Only the newest checkpoint counts: while the coordinator is away for
/// hours, the disk holds no more than [`KEPT`] of them.
#[derive(Debug)]
struct Intake {
    jobs: UnboundedReceiver<Job>,
    waiting: VecDeque<Job>,
    /// Checkpoint files on disk, oldest first.
    kept: VecDeque<PathBuf>,
    dir: PathBuf,
}

impl Intake {
    /// The next job; none when the trainer is gone and everything is dealt with.
    async fn next(&mut self) -> Option<Job> {
        while let Ok(job) = self.jobs.try_recv() {
            self.admit(job);
        }
        if self.waiting.is_empty() {
            let job = self.jobs.recv().await?;
            self.admit(job);
        }
        self.waiting.pop_front()
    }

    /// Takes in what comes, forever. Safe to drop at any time.
    async fn listen(&mut self) -> Infallible {
        loop {
            match self.jobs.recv().await {
                Some(job) => self.admit(job),
                None => std::future::pending().await,
            }
        }
    }

    /// Resolves when a newer checkpoint waits. Safe to drop at any time.
    async fn superseded(&mut self) {
        while !self.has_newer() {
            match self.jobs.recv().await {
                Some(job) => self.admit(job),
                None => std::future::pending().await,
            }
        }
    }

    fn has_newer(&self) -> bool {
        self.waiting.iter().any(|job| matches!(job, Job::Checkpoint(_)))
    }

    fn admit(&mut self, job: Job) {
        if let Job::Checkpoint(saved) = &job {
            self.waiting.retain(|job| !matches!(job, Job::Checkpoint(_)));
            self.kept.push_back(PathBuf::from(&saved.path));
            self.forget_old();
        }
        self.waiting.push_back(job);
    }

    fn forget_old(&mut self) {
        while self.kept.len() > KEPT {
            let Some(path) = self.kept.pop_front() else { return };
            // A trainer that writes to the same path again has replaced the old file itself.
            if self.kept.contains(&path) || !path.starts_with(&self.dir) {
                continue;
            }
            // One that is being sent stays readable for its sender.
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::debug!(%error, path = %path.display(), "could not remove an old checkpoint");
            }
        }
    }
}

impl Uploader {
    /// Works until `jobs` closes and is empty, however long the coordinator is away. Returns in words what of the
    /// results could not be stored.
    pub async fn run(mut self, jobs: UnboundedReceiver<Job>) -> Option<String> {
        let (waiting, kept) = (VecDeque::new(), VecDeque::new());
        let mut intake = Intake { jobs, waiting, kept, dir: self.dir.clone() };
        let mut problem = None;
        let mut stored = None;
        while let Some(job) = intake.next().await {
            self.storing.send_replace(job.words());
            match job {
                Job::Checkpoint(saved) => {
                    stored = self.checkpoint(&saved, &mut intake).await.or(stored);
                }
                Job::Evaluated(evaluated) => {
                    if let Err(error) = self.evaluated(evaluated, &mut intake).await {
                        problem = Some(format!("could not store the results: {}", chain(&error)));
                    }
                }
            }
        }
        self.storing.send_replace(String::new());
        if let Some((path, artifact)) = stored {
            self.keep(&path, &artifact).await;
        }
        problem
    }

    /// Uploads and reports a checkpoint. One that cannot be stored costs nothing but the way back to it.
    async fn checkpoint(
        &mut self,
        saved: &SavedCheckpoint,
        intake: &mut Intake,
    ) -> Option<(PathBuf, ArtifactRef)> {
        let path = PathBuf::from(&saved.path);
        let known = optional("artifact", saved.artifact.clone()).unwrap_or_else(|error| {
            tracing::warn!(%error, "hashing the checkpoint again");
            None
        });
        let (what, step) = ("checkpoint", saved.step);
        let span = tracing::trace_span!("upload", what, step, artifact = Empty, bytes = Empty, tries = Empty);
        match self.upload(&path, known, intake, true).instrument(span).await {
            Ok(Some(artifact)) => {
                let checkpoint = v1::Checkpoint { step: saved.step, artifact: Some(artifact.to_proto()) };
                self.uplink.report(self.key, Fact::Checkpoint(checkpoint)).await;
                tracing::info!(step = saved.step, bytes = artifact.bytes, "checkpoint stored");
                Some((path, artifact))
            }
            Ok(None) => {
                tracing::debug!(step = saved.step, "checkpoint is superseded before it could be stored");
                None
            }
            Err(error) => {
                tracing::warn!(step = saved.step, error = chain(&error), "checkpoint could not be stored");
                None
            }
        }
    }

    async fn evaluated(
        &mut self,
        evaluated: TrainerEvaluated,
        intake: &mut Intake,
    ) -> Result<(), ArtifactError> {
        let TrainerEvaluated { summary_json, evaluation_path, weights_path, predictions_path } = evaluated;
        let mut stored = [None, None, None];
        let files =
            [("evaluation", evaluation_path), ("weights", weights_path), ("predictions", predictions_path)];
        for (place, (what, path)) in stored.iter_mut().zip(files) {
            if !path.is_empty() {
                let span =
                    tracing::trace_span!("upload", what, artifact = Empty, bytes = Empty, tries = Empty);
                let uploading = self.upload(Path::new(&path), None, intake, false);
                let artifact = uploading.instrument(span).await?;
                *place = artifact.map(|artifact| artifact.to_proto());
            }
        }
        let [evaluation, weights, predictions] = stored;
        let fact = v1::Evaluated { summary_json, evaluation, weights, predictions };
        self.uplink.report(self.key, Fact::Evaluated(fact)).await;
        tracing::info!("results stored");
        Ok(())
    }

    /// Stores a file; tries for as long as the coordinator is merely away, or, where it `may_be_superseded`, until a
    /// newer checkpoint waits: then it is not worth another try, and none is returned. A try that is under way is
    /// never broken off, or a slow link would never see the end of one.
    async fn upload(
        &mut self,
        path: &Path,
        known: Option<ArtifactRef>,
        intake: &mut Intake,
        may_be_superseded: bool,
    ) -> Result<Option<ArtifactRef>, ArtifactError> {
        let artifact = match known {
            Some(artifact) => artifact,
            None => artifacts::describe(path).await?,
        };
        let span = Span::current();
        span.record("artifact", &artifact.blake3).record("bytes", artifact.bytes);
        let (mut said, mut refusals) = (false, 0);
        for (delay, tries) in delays().zip(1_u32..) {
            span.record("tries", tries);
            let sent = tokio::select! {
                sent = artifacts::put_known(&mut self.client, path, &artifact) => sent,
                never = intake.listen() => match never {},
            };
            match sent {
                Ok(()) => break,
                Err(error) if error.is_transient() => {
                    if !said {
                        tracing::warn!(error = chain(&error), path = %path.display(), "upload waits");
                        said = true;
                    }
                    tokio::select! {
                        () = tokio::time::sleep(delay) => {}
                        () = intake.superseded(), if may_be_superseded => return Ok(None),
                    }
                }
                Err(error) if error.is_unauthenticated() => match self.access.readmit(&mut refusals).await {
                    Some(client) => self.client = client,
                    None => return Err(error),
                },
                // It went because newer ones came.
                Err(_) if may_be_superseded && intake.has_newer() => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(artifact))
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
