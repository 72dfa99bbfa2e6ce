//! What a rank needs before its trainer starts: the data set, the checkpoint or weights to go on from, and its own
//! directories.

use std::path::{Path, PathBuf};

use mtinet_domain::trial::{ArtifactRef, CheckpointRef, Device, RankAssignment};
use mtinet_proto::v1::{StartRank, TrainerStart};
use mtinet_runtime::artifacts::ArtifactError;
use mtinet_runtime::convert::ToProto;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use crate::agent::Shared;
use crate::dataset;
use crate::link::{chain, delays};
use crate::logs;
use crate::rank_log::RankLog;
use crate::uplink::unhurried;

/// Downloads of a file that arrive damaged before it is given up.
const DAMAGED_TRIES: usize = 3;

/// A rank that is ready to start.
#[derive(Debug)]
pub struct Prepared {
    /// What its trainer is told.
    pub start: TrainerStart,
    /// Its directory, empty but for the checkpoints.
    pub dir: RankDir,
    /// Its log.
    pub log: RankLog,
}

/// A rank's own directory, which goes with it: what is worth keeping is stored by then, or in the cache.
#[derive(Debug)]
pub struct RankDir(PathBuf);

impl RankDir {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for RankDir {
    fn drop(&mut self) {
        // Gigabytes of checkpoints, on a disk that may be slow.
        if let Err(error) = unhurried(|| std::fs::remove_dir_all(&self.0)) {
            tracing::warn!(%error, dir = %self.0.display(), "could not remove the rank's directory");
        }
    }
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
    let (root, wanted) = (options.data_root.clone(), assignment.dataset.clone());
    let dataset_dir = tokio::task::spawn_blocking(move || dataset::find(&root, &wanted))
        .await
        .map_err(|error| format!("looking for the data set broke off: {error}"))?
        .map_err(|error| error.to_string())?;
    let (dir, log) = unhurried(|| directories(&options.work_dir, assignment))
        .map_err(|error| format!("work directory {}: {error}", options.work_dir.display()))?;
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
            dataset_dir: text(&dataset_dir),
            cache_dir: text(&options.work_dir.join("cache/slices")),
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
    })
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
    let dir = attempt.join(format!("rank{}", assignment.rank));
    // Left over where this attempt's number was used before, by an agent of another coordinator.
    match std::fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        // Again, where the directory above was empty and has just been tidied away.
        _ => std::fs::create_dir_all(&dir).or_else(|_| std::fs::create_dir_all(&dir))?,
    }
    std::fs::create_dir_all(work_dir.join("cache/slices"))?;
    let log = attempt.join(format!("rank{}.log", assignment.rank));
    Ok((RankDir(dir), RankLog::new(log)))
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
    let (mut damaged, mut refusals) = (0, 0);
    let mut client = shared.client.clone();
    for (delay, tries) in delays().zip(1_u32..) {
        Span::current().record("tries", tries);
        match shared.cache.get_or_fetch(&mut client, artifact).await {
            Ok(cached) => {
                // The rank's own link to it: the cache may drop its name at any time.
                let linked = tokio::fs::hard_link(&cached, dest).await;
                if linked.is_err() {
                    tokio::fs::copy(&cached, dest).await.map_err(|error| error.to_string())?;
                }
                return Ok(dest.to_owned());
            }
            Err(ArtifactError::Damaged { hash, problem }) => {
                damaged += 1;
                tracing::warn!(hash, problem, "a file arrived damaged");
                if damaged == DAMAGED_TRIES {
                    return Err(format!("artifact {hash} is damaged: {problem}"));
                }
            }
            Err(error) if error.is_transient() => {
                let hash = &artifact.blake3;
                tracing::warn!(error = chain(&error), hash, "fetching a file waits");
            }
            Err(error) if error.is_unauthenticated() => match shared.access.readmit(&mut refusals).await {
                Some(other) => {
                    client = other;
                    continue;
                }
                None => return Err(chain(&error)),
            },
            Err(error) => return Err(chain(&error)),
        }
        tokio::time::sleep(delay).await;
    }
    Err("gave up fetching".to_owned())
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
