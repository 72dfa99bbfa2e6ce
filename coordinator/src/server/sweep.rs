//! Removes what the artifact store holds and nothing refers to: files of attempts that were over before their report
//! came, checkpoints of trials that will never go on, what an interrupted upload left.
//!
//! Mark and sweep: the scheduler's references are the mark, and the data sets that studies name. A file younger than [`AGE`], or than an attempt that runs,
//! stays, because its report may be on the way: the results of a trial are reported when the last of them is stored. And a
//! coordinator that found running attempts in its log waits that long before the first sweep, because agents that were
//! away may yet report what they stored long ago.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mtinet_core::Core;
use tokio_util::sync::CancellationToken;

use super::artifacts::Artifacts;
use super::datasets::Datasets;
use super::driver::Handle;

/// A file that nothing refers to is kept this long.
pub const AGE: Duration = Duration::from_secs(3600);

/// Between two sweeps.
const EVERY: Duration = Duration::from_secs(600);

/// Longest tick of the clock that files are stamped with.
const TICK: Duration = Duration::from_millis(20);

/// What a sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Files.
    pub files: usize,
    /// Their length.
    pub bytes: u64,
}

/// Sweeps now and then until `stop`. At once where no attempt runs: then nobody can report a file any more.
pub async fn run(artifacts: Artifacts, datasets: Datasets, driver: Handle, stop: CancellationToken) {
    // Nothing that is stored from here on is looked at in the first sweep. Files carry the time of the last clock tick.
    let began = SystemTime::now() - TICK;
    let (mut pause, mut guard) = match driver.look(|core, _| core.is_running_any()).await {
        Ok(false) => (Duration::ZERO, None),
        Ok(true) => (AGE, Some(AGE)),
        Err(_) => return,
    };
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let Ok(oldest) = driver.look(|core, _| core.oldest_attempt_ms()).await else { return };
        let oldest = oldest.map(|ms| UNIX_EPOCH + Duration::from_millis(ms));
        let before = limit(guard.map_or(began, |age| SystemTime::now() - age), oldest);
        match sweep(&artifacts, &datasets, &driver, before).await {
            Ok(Swept { files: 0, .. }) => {}
            Ok(Swept { files, bytes }) => {
                tracing::info!(files, bytes, "removed artifacts that nothing refers to");
            }
            Err(error) => tracing::warn!(error = error.message(), "could not sweep the artifact store"),
        }
        (pause, guard) = (EVERY, Some(AGE));
    }
}

/// Up to when files count as forgotten: what an attempt that runs has stored may yet be reported, however long ago.
fn limit(before: SystemTime, oldest_attempt: Option<SystemTime>) -> SystemTime {
    oldest_attempt.map_or(before, |oldest| before.min(oldest))
}

/// Removes files that were stored before a time and that nothing refers to.
///
/// # Errors
/// A store that does not answer, a driver that ended.
pub async fn sweep(
    artifacts: &Artifacts,
    datasets: &Datasets,
    driver: &Handle,
    before: SystemTime,
) -> Result<Swept, tonic::Status> {
    let listed = artifacts.stored_before(before).await?;
    // Asked after listing: what is not referred to by now was listed before anybody could begin to.
    let hashes: Vec<String> = listed.iter().map(|file| file.hash.clone()).collect();
    let look = move |core: &Core, _| -> (Vec<bool>, BTreeSet<String>) {
        let needed = hashes.iter().map(|hash| core.refers_to(hash)).collect();
        (needed, core.studies().map(|study| study.dataset.hash.clone()).collect())
    };
    let (needed, named) = driver.look(look).await?;
    datasets.forget(&named, SystemTime::now());
    let mut swept = Swept::default();
    for (file, _) in listed.iter().zip(needed).filter(|(_, needed)| !needed) {
        // Whoever offers a data set relies on the files that it is told to be here.
        let _nobody_looks = datasets.looking.write().await;
        if datasets.refers_to(&file.hash) {
            continue;
        }
        if artifacts.remove_unchanged(file).await? {
            tracing::debug!(artifact = file.hash, bytes = file.bytes, "removed");
            swept.files += 1;
            swept.bytes += file.bytes;
        }
    }
    Ok(swept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_younger_than_a_running_attempt_is_looked_at() {
        let now = UNIX_EPOCH + 100 * AGE;
        let before = now - AGE;
        assert_eq!(limit(before, None), before);
        assert_eq!(limit(before, Some(now)), before, "a young attempt protects nothing that is old");
        let old = now - 7 * AGE;
        assert_eq!(limit(before, Some(old)), old, "an old one protects all that it may have stored");
    }
}
