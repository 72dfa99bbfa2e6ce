//! Predicted masks of finished trials, from the artifact store to `ARM/FOLD/SEED/CASE.nii.gz`.

use std::fs::File;
use std::path::{Component, Path, PathBuf};

use mtinet_domain::TrialKey;

use super::client::{Coordinator, makes_no_sense};
use super::error::CliError;
use super::progress::Counter;
use super::study::blocking;
use crate::report::{StudyResults, TrialOutcome, write_atomically};

/// Writes the masks of every finished trial that has some. Those that are there already are left as they are; those of
/// another study or attempt are replaced.
///
/// # Errors
/// Exit code 3 where the coordinator does not give them, 1 where they cannot be written, 2 where something else is in
/// their place.
pub async fn fetch(
    coordinator: &mut Coordinator,
    results: &StudyResults,
    below: &Path,
) -> Result<(), CliError> {
    fetch_of(coordinator, results, below, |_| true).await
}

/// As [`fetch`], of some trials alone.
///
/// # Errors
/// As [`fetch`].
pub async fn fetch_of(
    coordinator: &mut Coordinator,
    results: &StudyResults,
    below: &Path,
    wanted: impl Fn(TrialKey) -> bool,
) -> Result<(), CliError> {
    let trials: Vec<_> = results.trials.iter().filter(|trial| wanted(trial.key)).collect();
    let counter = Counter::new("fetching masks, trials");
    for (place, trial) in trials.iter().enumerate() {
        counter.set(place as u64, trials.len() as u64);
        let TrialOutcome::Done(evaluated) = &trial.outcome else { continue };
        let Some(artifact) = &evaluated.predictions else { continue };
        let directory = below.join(trial.key.to_string());
        if directory.is_dir()
            && std::fs::read_to_string(origin(&directory)).is_ok_and(|o| o == artifact.blake3)
        {
            continue;
        }
        refuse_others(&directory)?;
        let archive = directory.with_extension("tar.part");
        coordinator.artifact_to(artifact, &archive).await?;
        let hash = artifact.blake3.clone();
        let unpacked = blocking(move || {
            let unpacked = unpack(&archive, &directory)
                .and_then(|()| Ok(write_atomically(&origin(&directory), hash.as_bytes())?));
            // What was unpacked is what counts; a leftover would only take room.
            let _ = std::fs::remove_file(&archive);
            unpacked
        });
        unpacked.await?;
    }
    Ok(())
}

/// Beside a trial's directory: the hash of the archive that its masks are from.
fn origin(directory: &Path) -> PathBuf {
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    directory.with_file_name(format!(".{name}.blake3"))
}

/// Only masks are replaced.
fn refuse_others(directory: &Path) -> Result<(), CliError> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Ok(()) };
    let other =
        entries.flatten().map(|entry| entry.path()).find(|path| !path.to_string_lossy().ends_with(".nii.gz"));
    match other {
        None => Ok(()),
        Some(other) => Err(CliError::Usage(format!(
            "{} is in the place of a trial's masks; move it away, or give another directory",
            other.display()
        ))),
    }
}

/// The directory appears only when all its files are in it.
fn unpack(archive: &Path, directory: &Path) -> Result<(), CliError> {
    let refused = |error| CliError::failed(format_args!("cannot write {}", directory.display()), &error);
    let parent = directory.parent().unwrap_or(Path::new("."));
    let staging = tempfile::Builder::new().prefix(".masks-").tempdir_in(parent).map_err(refused)?;
    let mut entries = tar::Archive::new(File::open(archive).map_err(refused)?);
    for entry in entries.entries().map_err(refused)? {
        let mut entry = entry.map_err(refused)?;
        let name = entry.path().map_err(refused)?.into_owned();
        let name =
            plain_name(&name).ok_or_else(|| makes_no_sense(&format!("a mask named {}", name.display())))?;
        let mut file = File::create(staging.path().join(name)).map_err(refused)?;
        std::io::copy(&mut entry, &mut file).map_err(refused)?;
    }
    set_readable(staging.path()).map_err(refused)?;
    if directory.is_dir() {
        std::fs::remove_dir_all(directory).map_err(refused)?;
    }
    std::fs::rename(staging.path(), directory).map_err(refused)
}

/// The name, where it is nothing but a file's name: an archive must not write anywhere else.
fn plain_name(path: &Path) -> Option<PathBuf> {
    let mut parts = path.components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(name)), None) => Some(name.into()),
        _ => None,
    }
}

/// Temporary directories are private; results are to be shared like any other file.
fn set_readable(directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(directory: &Path, name: &str) -> PathBuf {
        let path = directory.join("a.tar");
        let mut tar = tar::Builder::new(File::create(&path).unwrap());
        let mut header = tar::Header::new_gnu();
        header.set_size(4);
        // `set_path` refuses what an attacker would write.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        tar.append(&header, &b"mask"[..]).unwrap();
        tar.finish().unwrap();
        path
    }

    #[test]
    fn masks_are_unpacked_whole() {
        let here = tempfile::tempdir().unwrap();
        let target = here.path().join("0");
        unpack(&archive(here.path(), "case_1.nii.gz"), &target).unwrap();
        assert_eq!(std::fs::read(target.join("case_1.nii.gz")).unwrap(), b"mask");
    }

    #[test]
    fn masks_of_another_study_are_replaced_and_other_files_are_not() {
        let here = tempfile::tempdir().unwrap();
        let target = here.path().join("0");
        unpack(&archive(here.path(), "old.nii.gz"), &target).unwrap();
        refuse_others(&target).unwrap();
        unpack(&archive(here.path(), "new.nii.gz"), &target).unwrap();
        assert!(target.join("new.nii.gz").exists() && !target.join("old.nii.gz").exists());
        std::fs::write(target.join("notes.txt"), "").unwrap();
        assert_eq!(refuse_others(&target).unwrap_err().exit_code(), 2);
        assert_eq!(origin(&target), here.path().join(".0.blake3"));
    }

    #[test]
    fn an_archive_cannot_write_elsewhere() {
        let here = tempfile::tempdir().unwrap();
        for name in ["../evil", "/tmp/evil", "a/b"] {
            let target = here.path().join("out");
            assert!(unpack(&archive(here.path(), name), &target).is_err(), "{name}");
            assert!(!target.exists() && !here.path().join("evil").exists());
        }
    }
}
