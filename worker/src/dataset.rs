//! Finds the data set of a study on this machine: by content, and never outside of the data root.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use mtinet_domain::trial::DatasetRef;
use mtinet_proto::v1::{LookForDataset, TellDatasetRequest};
use mtinet_runtime::convert::required;

use crate::agent::Shared;

use crate::confinement;

/// The file that makes a directory a data set.
const HEADER: &str = "dataset.toml";

/// A data set that is not on this machine.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("data set `{name}` with hash {hash} is not under this worker's data root {root} ({found})")]
pub struct DatasetNotFound {
    name: String,
    hash: String,
    root: String,
    /// What was found instead.
    found: String,
}

/// The directory under `root` whose content is `dataset`: where the submitter saw it, under its own name, or any
/// directory directly under `root`. Links that lead out of `root` are refused, and so are files of the data set that lie outside
/// of it, unless `linked` allows those.
///
/// # Errors
/// [`DatasetNotFound`] names what was looked for and what was found instead.
pub fn find(root: &Path, dataset: &DatasetRef, linked: bool) -> Result<PathBuf, DatasetNotFound> {
    find_by(root, dataset, |dir| {
        let found = mtinet_data::Dataset::open(dir).map_err(|error| error.to_string())?;
        let hash = found.hash();
        if hash == dataset.hash && !linked {
            confinement::check(root, &found)?;
        }
        Ok(hash)
    })
}

/// Tells the coordinator whether a data set is on this machine, under the data root or in the cache.
pub async fn tell(shared: Arc<Shared>, asked: LookForDataset) {
    let LookForDataset { question, dataset } = asked;
    let Ok(wanted) = required::<DatasetRef>("dataset", dataset)
        .inspect_err(|error| tracing::warn!(%error, "asked for a data set that makes no sense"))
    else {
        return;
    };
    let Some(worker) = shared.uplink.with(|session| session.worker().cloned()) else { return };
    let of = Arc::clone(&shared);
    let look = move || {
        let options = &of.options;
        of.data.has(&wanted.hash) || find(&options.data_root, &wanted, options.linked_data).is_ok()
    };
    let Ok(here) = tokio::task::spawn_blocking(look).await else { return };
    let answer = TellDatasetRequest { worker_id: worker.0, question, here };
    if let Err(status) = shared.client.clone().tell_dataset(answer).await {
        tracing::warn!(problem = status.message(), "could not tell whether a data set is here");
    }
}

fn find_by(
    root: &Path,
    dataset: &DatasetRef,
    hash_of: impl Fn(&Path) -> Result<String, String>,
) -> Result<PathBuf, DatasetNotFound> {
    let mut seen = Vec::new();
    let mut found = Vec::new();
    for candidate in candidates(root, dataset) {
        let dir = match confined(root, &candidate) {
            Ok(Some(dir)) => dir,
            Ok(None) => continue,
            Err(outside) => {
                found.push(outside);
                continue;
            }
        };
        if seen.contains(&dir) {
            continue;
        }
        match hash_of(&dir) {
            Ok(hash) if hash == dataset.hash => return Ok(dir),
            Ok(hash) => found.push(format!("{} has hash {hash}", dir.display())),
            Err(problem) => found.push(format!("{}: {problem}", dir.display())),
        }
        seen.push(dir);
    }
    found.dedup();
    let found = if found.is_empty() { "no data set is there".to_owned() } else { found.join("; ") };
    let (name, hash) = (dataset.name.clone(), dataset.hash.clone());
    Err(DatasetNotFound { name, hash, root: root.display().to_string(), found })
}

/// Where it may be, likeliest first.
fn candidates(root: &Path, dataset: &DatasetRef) -> Vec<PathBuf> {
    let mut candidates = Vec::new();
    if Path::new(&dataset.path).is_absolute() {
        candidates.push(PathBuf::from(&dataset.path));
    }
    let mut parts = Path::new(&dataset.name).components();
    if let (Some(Component::Normal(name)), None) = (parts.next(), parts.next()) {
        candidates.push(root.join(name));
    }
    // The root may be a data set itself.
    candidates.push(root.to_owned());
    let mut children: Vec<PathBuf> =
        std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    children.sort();
    candidates.extend(children);
    candidates
}

/// The candidate without links where it is a data set under `root`; an error in words where it leads out.
fn confined(root: &Path, candidate: &Path) -> Result<Option<PathBuf>, String> {
    if !candidate.join(HEADER).is_file() {
        return Ok(None);
    }
    let (Ok(root), Ok(dir)) = (root.canonicalize(), candidate.canonicalize()) else { return Ok(None) };
    let header_inside = dir.join(HEADER).canonicalize().is_ok_and(|header| header.starts_with(&root));
    if dir.starts_with(&root) && header_inside {
        Ok(Some(dir))
    } else {
        Err(format!("{} lies outside of the data root and is not used", candidate.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dataset(path: &str) -> DatasetRef {
        DatasetRef {
            name: "liver".into(),
            path: path.into(),
            hash: "right".into(),
            phases: Vec::new(),
            classes: Vec::new(),
        }
    }

    fn write(dir: &Path, hash: &str) {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join(HEADER), hash).unwrap();
    }

    fn look(root: &Path, path: &Path) -> Result<PathBuf, String> {
        let hash = |dir: &Path| std::fs::read_to_string(dir.join(HEADER)).map_err(|error| error.to_string());
        find_by(root, &dataset(path.to_str().unwrap()), hash).map_err(|error| error.to_string())
    }

    #[test]
    fn it_is_found_by_content_wherever_it_lies_under_the_root() {
        let root = tempfile::tempdir().unwrap();
        let base = root.path().canonicalize().unwrap();
        let message = look(&base, Path::new("/elsewhere")).unwrap_err();
        assert!(message.contains("`liver`") && message.contains("right"), "{message}");
        write(&base.join("other-name"), "right");
        assert_eq!(look(&base, Path::new("/elsewhere")).unwrap(), base.join("other-name"));
        write(&base.join("liver"), "right");
        assert_eq!(look(&base, Path::new("/elsewhere")).unwrap(), base.join("liver"));
        write(&base.join("deep/down"), "right");
        assert_eq!(look(&base, &base.join("deep/down")).unwrap(), base.join("deep/down"));
    }

    #[test]
    fn other_content_is_refused_with_its_hash() {
        let root = tempfile::tempdir().unwrap();
        write(&root.path().join("liver"), "wrong");
        let message = look(root.path(), Path::new("")).unwrap_err();
        assert!(message.contains("has hash wrong") && message.contains("data root"), "{message}");
    }

    #[test]
    fn nothing_outside_of_the_root_is_used() {
        let outside = tempfile::tempdir().unwrap();
        write(&outside.path().join("liver"), "right");
        let root = tempfile::tempdir().unwrap();
        let message = look(root.path(), &outside.path().join("liver")).unwrap_err();
        assert!(message.contains("outside"), "{message}");
        std::os::unix::fs::symlink(outside.path().join("liver"), root.path().join("liver")).unwrap();
        let message = look(root.path(), Path::new("")).unwrap_err();
        assert!(message.contains("outside"), "{message}");
        let mut climbing = dataset("");
        climbing.name = "../liver".into();
        assert!(find_by(root.path(), &climbing, |_| Ok("right".into())).is_err());
    }
}
