//! Whether the files that a data set names lie where this worker's owner allows data to be read.
//!
//! A manifest may name any path, also an absolute one where an import refers to its source (`--link`). Who may write below the
//! data root shall not thereby choose what trainers read elsewhere. What a file holds is not looked at: its hash is pinned.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use mtinet_data::Dataset;
use mtinet_data::manifest::Case;

/// Checks that the files of all cases that take part lie under `root` when links are followed. Files that are not there are
/// nobody's: whoever needs them says so.
///
/// # Errors
/// In words, naming the first case and file outside and what to do.
pub fn check(root: &Path, dataset: &Dataset) -> Result<(), String> {
    let root = root.canonicalize().map_err(|error| format!("data root {}: {error}", root.display()))?;
    // Most files share a few directories, of which each is followed once.
    let mut inside = BTreeSet::new();
    for case in dataset.included() {
        for path in files(case).map(|path| dataset.path(path)) {
            let within = is_inside(&root, &path, &mut inside)
                .map_err(|error| format!("case {}: {}: {error}", case.case, path.display()))?;
            if !within {
                return Err(format!(
                    "case {} names {}, which lies outside of the data root; copy the data (`mtinet data import` without \
                     --link), or start this worker with --linked-data",
                    case.case,
                    path.display()
                ));
            }
        }
    }
    Ok(())
}

fn files(case: &Case) -> impl Iterator<Item = &Path> {
    case.images.values().map(|image| image.path.as_path()).chain([case.label.path.as_path()])
}

fn is_inside(root: &Path, path: &Path, inside: &mut BTreeSet<PathBuf>) -> io::Result<bool> {
    let present = |result: io::Result<PathBuf>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    };
    let link = match path.symlink_metadata() {
        Ok(metadata) => metadata.is_symlink(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    let (Some(parent), false) = (path.parent(), link) else {
        return Ok(present(path.canonicalize())?.is_none_or(|path| path.starts_with(root)));
    };
    if inside.contains(parent) {
        return Ok(true);
    }
    let within = present(parent.canonicalize())?.is_none_or(|parent| parent.starts_with(root));
    if within {
        inside.insert(parent.to_owned());
    }
    Ok(within)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use mtinet_data::phantom::{self, PhantomOptions};

    use super::*;

    /// A data set under a root, with one of its files moved out of the root.
    fn scene() -> (tempfile::TempDir, PathBuf, Dataset, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let options = PhantomOptions { subjects: 5, size: 32, seed: 1, ..PhantomOptions::default() };
        phantom::write(&root.join("liver"), &options, &|_, _| {}).unwrap();
        let dataset = Dataset::open(&root.join("liver")).unwrap();
        let moved = dir.path().join("elsewhere.nii.gz");
        fs::rename(dataset.path(&dataset.cases[1].label.path), &moved).unwrap();
        (dir, root, dataset, moved)
    }

    #[test]
    fn files_under_the_root_and_missing_ones_are_fine() {
        let (_dir, root, mut dataset, moved) = scene();
        assert_eq!(check(&root, &dataset), Ok(()), "one file is missing");
        // Inside again by another way: an absolute path, and a link within the root.
        let kept = root.canonicalize().unwrap().join("kept.nii.gz");
        fs::rename(moved, &kept).unwrap();
        symlink(&kept, dataset.path(&dataset.cases[1].label.path)).unwrap();
        dataset.cases[2].label.path.clone_from(&kept);
        dataset.cases[3].label.path = "../kept.nii.gz".into();
        assert_eq!(check(&root, &dataset), Ok(()));
    }

    #[test]
    fn no_way_leads_out_of_the_root() {
        let (dir, root, dataset, moved) = scene();
        let label = dataset.cases[1].label.path.clone();
        let refused = |dataset: &Dataset| {
            let words = check(&root, dataset).unwrap_err();
            assert!(words.contains(&dataset.cases[1].case) && words.contains("--linked-data"), "{words}");
        };
        for path in
            [moved.clone(), "../../elsewhere.nii.gz".into(), "images/../../../elsewhere.nii.gz".into()]
        {
            let mut climbing = dataset.clone();
            climbing.cases[1].label.path = path;
            fs::create_dir_all(root.join("liver/images")).unwrap();
            refused(&climbing);
            // What takes no part is not read.
            climbing.cases[1].exclude = Some("broken".into());
            assert_eq!(check(&root, &climbing), Ok(()));
        }
        symlink(&moved, dataset.path(&label)).unwrap();
        refused(&dataset);
        fs::remove_file(dataset.path(&label)).unwrap();
        symlink(dir.path(), root.join("liver/out")).unwrap();
        let mut around = dataset.clone();
        around.cases[1].label.path = "out/elsewhere.nii.gz".into();
        refused(&around);
    }
}
