//! What a rank needs before its trainer starts: the data set, the checkpoint or weights to go on from, and its own
//! directories.

use std::path::{Path, PathBuf};

use mtinet_domain::trial::{ArtifactRef, CheckpointRef, DatasetRef, Device, RankAssignment};
use mtinet_proto::v1::{StartRank, TrainerStart};
use mtinet_runtime::convert::ToProto;
use tracing::Instrument as _;
use tracing::field::Empty;

use crate::agent::Shared;
use crate::data_cache::Lease;
use crate::dataset;
use crate::logs;
use crate::rank_dir::RankDir;
use crate::rank_log::RankLog;
use crate::retrieval::{Store, retrieve};
use crate::uplink::unhurried;

/// A rank that is ready to start.
#[derive(Debug)]
pub struct Prepared {
    /// What its trainer is told.
    pub start: TrainerStart,
    /// Its directory, empty but for the checkpoints.
    pub dir: RankDir,
    /// Its log.
    pub log: RankLog,
    /// Keeps a data set of the cache where it is, until the rank's end.
    pub lease: Option<Lease>,
}

/// Gets everything together.
///
/// # Errors
/// In words, naming what is missing and what to do.
pub async fn prepare(
    shared: &Shared,
    assignment: &RankAssignment,
    device: Device,
    start: StartRank,
) -> Result<Prepared, String> {
    let options = &shared.options;
    let (dir, log) = unhurried(|| directories(&options.work_dir, assignment))
        .map_err(|error| format!("work directory {}: {error}", options.work_dir.display()))?;
    let data = data(shared, assignment, &log).await?;
    let resume = Resume::fetch(shared, assignment, dir.path(), &log).await?;
    // A trial that has a checkpoint has left its initial weights behind.
    let initial =
        if assignment.resume.is_none() { initial(shared, assignment, dir.path()).await? } else { None };
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let optional_text = |path: &Option<PathBuf>| path.as_deref().map(text).unwrap_or_default();
    Ok(Prepared {
        start: TrainerStart {
            assignment: Some(StartRank {
                resume: resume.resume.map(ToProto::to_proto),
                fallback: resume.fallback.map(ToProto::to_proto),
                ..start
            }),
            device: Some(device.to_proto()),
            threads: options.threads,
            host: options.advertise.clone(),
            dataset_dir: text(&data.dir),
            cache_dir: text(&data.slices),
            work_dir: text(dir.path()),
            resume_path: optional_text(&resume.resume_path),
            fallback_path: optional_text(&resume.fallback_path),
            init_path: optional_text(&initial),
            hang_timeout_ms: u64::try_from(options.timings.hang.as_millis()).unwrap_or(u64::MAX),
            sharing: u32::try_from(options.devices.iter().filter(|slot| **slot == device).count())
                .unwrap_or(u32::MAX),
        },
        dir,
        log,
        lease: data.lease,
    })
}

/// Where a trainer finds its data set and keeps its slices.
struct Data {
    dir: PathBuf,
    slices: PathBuf,
    lease: Option<Lease>,
}

/// The data set under the data root; where it is not there, the one in the cache, fetched where it is not there either.
async fn data(shared: &Shared, assignment: &RankAssignment, log: &RankLog) -> Result<Data, String> {
    let options = &shared.options;
    let (root, linked, wanted) = (options.data_root.clone(), options.linked_data, assignment.dataset.clone());
    let found = tokio::task::spawn_blocking(move || dataset::find(&root, &wanted, linked))
        .await
        .map_err(|error| format!("looking for the data set broke off: {error}"))?;
    let absent = match found {
        Ok(dir) => {
            let slices = options.work_dir.join("cache/slices");
            return Ok(Data { dir, slices, lease: None });
        }
        Err(absent) => absent,
    };
    let DatasetRef { name, hash, .. } = &assignment.dataset;
    let tell = |words: &str| {
        tracing::info!(dataset = name, hash, "{words}");
        log.progress(words);
    };
    let span = tracing::trace_span!("dataset", hash);
    let acquired = shared.data.acquire(hash, &Store(shared), &tell).instrument(span).await;
    // Both, because either can be mended.
    let lease = acquired.map_err(|words| format!("{absent}, and it cannot be fetched: {words}"))?;
    Ok(Data { dir: lease.dir().to_owned(), slices: lease.slices(), lease: Some(lease) })
}

/// The rank's own directory, new and empty, and its log beside it.
fn directories(work_dir: &Path, assignment: &RankAssignment) -> std::io::Result<(RankDir, RankLog)> {
    let trial = assignment.attempt.trial;
    let key = trial.key;
    let trial_dir = work_dir
        .join(format!("study-{}-{}", trial.study, plain(&assignment.study_name)))
        .join(format!("{}-{}-{}", key.arm, key.fold, key.seed));
    logs::tidy_trial(&trial_dir, logs::Limits::default());
    let attempt = trial_dir.join(assignment.attempt.number.to_string());
    std::fs::create_dir_all(work_dir.join("cache/slices"))?;
    RankDir::create(&attempt, assignment.rank.0)
}

/// A name as one plain path component.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '_' }).collect()
}

/// The checkpoints that a trainer is given.
#[derive(Debug, Default)]
struct Resume<'a> {
    resume: Option<&'a CheckpointRef>,
    resume_path: Option<PathBuf>,
    fallback: Option<&'a CheckpointRef>,
    fallback_path: Option<PathBuf>,
}

impl<'a> Resume<'a> {
    /// Fetches and checks both. Where the newer one is lost the older takes its place, and the log says so; an
    /// attempt that has checkpoints never starts from the beginning in silence.
    async fn fetch(
        shared: &Shared,
        assignment: &'a RankAssignment,
        dir: &Path,
        log: &RankLog,
    ) -> Result<Self, String> {
        let Some(resume) = &assignment.resume else { return Ok(Self::default()) };
        let fallback = assignment.fallback.as_ref();
        let resume_path = checkpoint(shared, resume, &dir.join("resume.safetensors")).await;
        let fallback_path = match fallback {
            Some(fallback) => Some(checkpoint(shared, fallback, &dir.join("fallback.safetensors")).await),
            None => None,
        };
        match (resume_path, fallback_path) {
            (Ok(path), fallback_path) => {
                let fallback_path = fallback_path.and_then(|path| {
                    path.inspect_err(|error| tracing::warn!(error, "the older checkpoint is lost")).ok()
                });
                let fallback = fallback.filter(|_| fallback_path.is_some());
                Ok(Self { resume: Some(resume), resume_path: Some(path), fallback, fallback_path })
            }
            (Err(error), Some(Ok(path))) => {
                let step = fallback.map_or(0, |fallback| fallback.step);
                let line = format!(
                    "the checkpoint of step {} is lost ({error}); going on from that of step {step}",
                    resume.step
                );
                tracing::warn!("{line}");
                log.note(&line);
                Ok(Self { resume: fallback, resume_path: Some(path), fallback: None, fallback_path: None })
            }
            (Err(error), None) => Err(format!(
                "the checkpoint of step {} is lost and there is none before it: {error}",
                resume.step
            )),
            (Err(error), Some(Err(older))) => Err(format!(
                "both checkpoints are lost: step {}: {error}; the one before: {older}",
                resume.step
            )),
        }
    }
}

/// The weights that the trial's network starts from, where the study names some.
async fn initial(
    shared: &Shared,
    assignment: &RankAssignment,
    dir: &Path,
) -> Result<Option<PathBuf>, String> {
    let arm = assignment.attempt.trial.key.arm;
    let Some(artifact) = assignment.spec.initial_weights(arm) else { return Ok(None) };
    match bring(shared, &artifact, &dir.join("init.safetensors")).await {
        Ok(path) => Ok(Some(path)),
        Err(error) => Err(format!("the initial weights of {arm} cannot be had: {error}")),
    }
}

async fn checkpoint(shared: &Shared, checkpoint: &CheckpointRef, dest: &Path) -> Result<PathBuf, String> {
    bring(shared, &checkpoint.artifact, dest).await
}

/// Brings an artifact to `dest`, checked; waits while the coordinator is merely away.
async fn bring(shared: &Shared, artifact: &ArtifactRef, dest: &Path) -> Result<PathBuf, String> {
    let (hash, bytes) = (&artifact.blake3, artifact.bytes);
    let span = tracing::trace_span!("download", artifact = hash, bytes, tries = Empty);
    download(shared, artifact, dest).instrument(span).await
}

async fn download(shared: &Shared, artifact: &ArtifactRef, dest: &Path) -> Result<PathBuf, String> {
    let cached = retrieve(shared, &artifact.blake3, |mut client| async move {
        shared.cache.get_or_fetch(&mut client, artifact).await
    })
    .await?;
    // The rank's own link to it: the cache may drop its name at any time.
    let linked = tokio::fs::hard_link(&cached, dest).await;
    if linked.is_err() {
        tokio::fs::copy(&cached, dest).await.map_err(|error| error.to_string())?;
    }
    Ok(dest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_study_s_name_cannot_lead_out_of_the_work_directory() {
        for name in ["../../etc", "/etc/passwd", "..", "a/../../b", "\0", "x\\..\\y", "über/../.."] {
            let dir = Path::new("/work").join(format!("study-1-{}", plain(name)));
            assert_eq!(dir.parent(), Some(Path::new("/work")), "{name}");
            assert!(dir.components().all(|part| part != std::path::Component::ParentDir), "{name}");
        }
    }
}
